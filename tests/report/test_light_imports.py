"""Statistics and reports need neither a data set library, nor a decoder, nor JAX."""

import subprocess
import sys

from helpers import result_folders

HEAVY = ("tensorflow_datasets", "tensorflow", "av", "jax", "jaxlib", "flax")
SCRIPT = """
import sys
import vidrec.evaluation.statistics
import vidrec.report
{work}
print([name for name in {heavy} if name in sys.modules])
"""


def imported(work: str, heavy: tuple[str, ...] = HEAVY) -> str:
    """Run some lines in a fresh interpreter and return which heavy packages it then has."""
    script = SCRIPT.format(work=work, heavy=heavy)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]


def test_statistics_and_reports_import_nothing_heavy():
    assert imported("") == "[]"
    assert imported("import av") == "['av']", "the check must see what is there"


def test_a_table_needs_only_special_functions_of_scipy(tmp_path):
    """scipy.stats and scipy.optimize take longer to import than all that the table computes."""
    table = str(result_folders.ablation(tmp_path / "table"))
    work = f"vidrec.report.terminal({table!r})"
    slow = [f"scipy.{name}" for name in ("stats", "optimize")]
    assert imported(work, (*HEAVY, *slow)) == "[]"


def test_pages_and_comparisons_are_made_without_jax(tmp_path):
    table = str(result_folders.ablation(tmp_path / "table"))
    run = str(result_folders.run(tmp_path / "run"))
    out = str(tmp_path / "out")
    work = f"vidrec.report.build({table!r}); vidrec.report.compare({run!r}, {table!r}, {out!r})"
    assert imported(work) == "[]"


def test_the_command_line_starts_without_what_is_slow_to_import():
    slow = (*HEAVY, "numpy", "scipy", "matplotlib", "optax")
    script = f"import sys, vidrec.cli.main; print([x for x in {slow} if x in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
