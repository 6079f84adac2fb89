"""Benchmarks are run by hand; what is tested here is that they are found, and what they refuse."""

import ast
import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def load(name):
    """A file of benchmarks/, which is not installed."""
    file = ROOT / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


benchmarks = load("__main__")
turns = load("turns")


def test_the_list_names_files_that_are_there():
    command = [sys.executable, "-m", "benchmarks", "--list"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [line.split("benchmarks/")[1].split()[0] for line in listed.splitlines()]
    assert len(files) == len(benchmarks.WORKS)
    assert all((ROOT / "benchmarks" / file).is_file() for file in files)


def names_of_vidrec(file):
    """Each `module.name` that a file uses of vidrec's modules, with the module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vidrec"):
            parent = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(parent, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                if inspect.ismodule(getattr(parent, alias.name)):
                    modules[alias.asname or alias.name] = getattr(parent, alias.name)
    shadowed = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    } | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            if name in modules and name not in shadowed:
                yield modules[name], node.attr


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda f: f.stem)
def test_what_benchmarks_use_of_vidrec_is_there(file):
    missing = {
        f"{module.__name__}.{name}"
        for module, name in names_of_vidrec(file)
        if not hasattr(module, name) and not importlib.util.find_spec(f"{module.__name__}.{name}")
    }
    assert not missing


def test_one_that_fails_is_shown_with_its_reason(tmp_path):
    (tmp_path / "bad.py").write_text("raise SystemExit('no torch here')")
    work = benchmarks.Work("bad", ("bad.py",), {"PyTorch": lambda printed: [1.0]}, {}, 1)
    found = benchmarks.run(work, tmp_path)
    assert (found["reason"], found["ratios"]) == ("no torch here", {})
    assert benchmarks.rows(work, found) == [("bad", "PyTorch", "not measured here", "")]


def test_ratios_are_read_and_a_missed_one_is_marked(tmp_path):
    printed = {"sides": {"torch": {"times_ours": [0.5, 0.8, 0.9]}}}
    (tmp_path / "good.py").write_text(f"print({json.dumps(json.dumps(printed))})")
    beside = {"PyTorch": benchmarks.turns("torch"), "Keras": benchmarks.turns("keras")}
    work = benchmarks.Work("good", ("good.py",), beside, {"PyTorch": 1.0}, 1)
    found = benchmarks.run(work, tmp_path)
    assert found["ratios"] == {"PyTorch": 0.8, "Keras": None}
    assert benchmarks.rows(work, found)[0] == (
        *("good", "PyTorch"),
        *("0.80 (0.50 – 0.90)", "at least 1.00 (missed)"),
    )


def earlier(root, program):
    """A worktree of an earlier commit with one benchmark."""
    (root / "benchmarks").mkdir()
    (root / "benchmarks" / "step.py").write_text(program)
    (root / "row.txt").write_text("2.0 3.0 8.0")  # as ablations are: beside benchmarks/
    return root


def test_ours_before_is_run_in_its_own_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parent)
    program = (
        "import json\n"
        "least, seconds, most = map(float, open('row.txt').read().split())\n"
        "ours = {'least': least, 'seconds': seconds, 'most': most}\n"
        "print(json.dumps({'sides': {'vidrec': ours}}))\n"
    )
    checkout = earlier(tmp_path, program)
    work = benchmarks.Work("step", ("step.py",), {}, {}, 1)
    now = {"sides": {"vidrec": {"least": 0.5, "seconds": 2.0, "most": 4.0}}}
    assert benchmarks.ours_before(work, now, checkout) == [1.0, 1.5, 4.0]
    whole = benchmarks.Work("step", ("step.py",), {}, {}, 1, lambda printed: {"seconds": 2.0})
    assert benchmarks.ours_before(whole, {}, checkout) == [1.0]
    (checkout / "row.txt").unlink()
    assert benchmarks.ours_before(work, now, checkout) == []
    assert "row.txt" in capsys.readouterr().err
    assert (
        benchmarks.ours_before(benchmarks.Work("new", ("new.py",), {}, {}, 1), now, checkout) == []
    )


def test_sides_that_compute_something_else_are_refused():
    assert turns.compare("same", [1.0, 2.0], [1.0, 2.001], 1e-3) == pytest.approx(5e-4, rel=1e-3)
    for wrong in ([1.0, 2.1], [1.0, float("nan")], [1.0]):
        with pytest.raises(SystemExit, match="wrong"):
            turns.compare("wrong", wrong, [1.0, 2.0], 1e-3)


def test_versions_leave_out_a_side_that_is_not_installed():
    found = turns.versions("optax", "not-installed")
    assert "optax" in found
    assert "not-installed" not in found


def test_ratios_are_taken_round_by_round():
    figures = turns.figures({"vidrec": [1.0, 2.0, 4.0], "torch": [2.0, 2.0, 2.0]})
    assert figures["torch"]["times_ours"] == [0.75, 1.0, 1.5]
    assert (figures["vidrec"]["least"], figures["vidrec"]["most"]) == (1.0, 4.0)


# What the GPU's benchmark compares with: a wrong side, a missing one and not-a-number are refused.


@pytest.fixture
def gpu(monkeypatch):
    """The package of the GPU's benchmark, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.gpu.harness")


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_side_that_computes_something_else_is_not_timed(gpu, tmp_path):
    truth = {"w": np.arange(1.0, 5.0, dtype=np.float32)}
    wrong = {
        "right": truth["w"] * (1 + 1e-5),
        "off": truth["w"] * 1.01,
        "nan": truth["w"] * np.float32("nan"),
        "short": truth["w"][:2],
    }
    sides = {
        name: gpu.Side(lambda _, found=found: found, lambda out: out, lambda out: {"w": out})
        for name, found in wrong.items()
    }
    sides["other names"] = gpu.Side(lambda _: truth, lambda out: out, lambda _: {"v": truth["w"]})
    record = gpu.Record("test", tmp_path / "rows.jsonl", 60, tiny=True)
    kept = gpu.compare(record, "work", "float32", sides, truth)
    assert list(kept) == ["right"]
    assert {row["side"] for row in rows(record.file) if "failed" in row} == set(sides) - {"right"}


def test_a_part_that_fails_is_a_row_and_the_next_goes_on(gpu, tmp_path):
    record = gpu.Record("test", tmp_path / "rows.jsonl", 60)
    with record.part("breaks", "torch"):
        raise RuntimeError("no card\nmore lines")
    record.row("goes on", seconds=1.0)
    first, second = rows(record.file)
    assert (first["side"], first["failed"]) == ("torch", "RuntimeError: no card")
    assert second["seconds"] == 1.0


def test_figures_beyond_their_bound_are_failures(gpu, tmp_path):
    right = importlib.import_module("benchmarks.gpu.right")
    record = gpu.Record("test", tmp_path / "rows.jsonl", 60)
    right.expect(record, "near", 1e-6, 1e-5)
    right.expect(record, "far", 1e-4, 1e-5)
    right.expect(record, "nan", float("nan"), 1e-5)
    assert ["failed" in row for row in rows(record.file)] == [False, True, True]


def test_ratios_are_of_the_same_work_precision_and_trials(gpu):
    main = importlib.import_module("benchmarks.gpu.__main__")
    row = {"work": "step", "side": "vidrec", "precision": "tf32", "seconds": 2.0}
    found = main.ratios(
        [
            row,
            {**row, "side": "torch", "seconds": 3.0},
            {**row, "side": "torch", "precision": "float32"},
            {**row, "side": "torch", "trials": 4},
        ]
    )
    assert [each["ratio"] for each in found] == [1.5]
    assert "1.50" in main.table([row, {**row, "side": "torch", "seconds": 3.0}])


def test_the_gpus_table_says_frames_a_second_and_the_share_of_the_peak(gpu):
    main = importlib.import_module("benchmarks.gpu.__main__")
    peak = {"work": "bfloat16 product", "side": "vidrec", "teraflops": 400.0, "seconds": 1.0}
    row = {"work": "features", "side": "vidrec", "precision": "bfloat16", "seconds": 0.5}
    row |= {"frames": 256, "operations_a_frame": 3e11}
    found = main.pace(row, [peak, row])
    assert found == {"frames a second": 512.0, "share of the bfloat16 product": 0.384}
    assert "share of the bfloat16 product 0.384" in main.table([peak, row])


def test_a_section_that_dies_or_hangs_leaves_its_rows_and_a_reason(gpu, tmp_path, monkeypatch):
    main = importlib.import_module("benchmarks.gpu.__main__")
    section = main.Section("nothing", 1, "")
    line = json.dumps({"section": "nothing", "work": "w", "side": "vidrec", "seconds": 1.0})
    for code, told in (
        ("raise SystemExit('no memory')", "no memory"),
        ("import time; time.sleep(60)", "time"),
    ):
        script = f"import sys; open(sys.argv[1], 'w').write('''{line}\\n'''); {code}"

        def start(section, file, seconds, *words, script=script):
            with file.with_suffix(".err").open("w") as said:
                return subprocess.Popen([sys.executable, "-c", script, str(file)], stderr=said)

        monkeypatch.setattr(main, "start", start)
        monkeypatch.setattr(main, "START", 2.0)
        found = main.outside(section, tmp_path / "rows.jsonl", 1.0)
        assert found[0]["seconds"] == 1.0
        assert told in found[-1]["failed"]


@pytest.mark.slow  # some minutes, so it begins before those below
def test_the_gpus_benchmark_runs_at_tiny_sizes_on_a_cpu(tmp_path):
    """Every section, with both sides where PyTorch is; its minutes are no limit for a slow hour."""
    file = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--cold", "--minutes", "60"]
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"}
    command += ["--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    found = json.loads(file.read_text())
    assert not [row for row in found if "failed" in row], done.stderr
    assert done.returncode == 0
    main = load("gpu/__main__")
    assert {section.name for section in main.SECTIONS} <= {row["section"] for row in found}


def uncompiled_but_wrong(function, **_):
    """In place of torch.compile: other results."""
    return lambda *inputs: 1.2 * function(*inputs)


def wrong_weights(true):
    """Weights for PyTorch's side that are not ours."""
    return lambda *given: {name: 1.2 * np.asarray(each) for name, each in true(*given).items()}


def break_recurrent(module, monkeypatch):
    monkeypatch.setattr(module.interop, "to_torch", wrong_weights(module.interop.to_torch))
    return module.run


def break_maps(module, monkeypatch):
    def scaled(params, *rest, true=module.conv_torch):
        cell = {name: 1.2 * each for name, each in params["layer_0_forward"].items()}
        return true({"layer_0_forward": cell}, *rest)

    monkeypatch.setattr(module, "conv_torch", scaled)
    return lambda record: module.maps(record, 4)


def break_recurrent_compiled(module, monkeypatch):
    monkeypatch.setattr("torch.compile", uncompiled_but_wrong)
    return module.compiled


def break_candidates(module, monkeypatch):
    true = module.fused.scan_cell
    monkeypatch.setattr(
        module.fused,
        "scan_cell",
        lambda cell, weights, x, *rest, **more: true(cell, weights, 1.2 * x, *rest, **more),
    )
    return module.candidates


def break_table(module, monkeypatch):
    from vidrec.models import interop

    monkeypatch.setattr(interop, "to_torch", wrong_weights(interop.to_torch))
    return module.check


def break_features(module, monkeypatch):
    networks = importlib.import_module("benchmarks.encoders")
    monkeypatch.setattr(networks, "pixels_of", lambda kind: ([90.0] * 3, [90.0] * 3))
    return module.run


def break_features_compiled(module, monkeypatch):
    monkeypatch.setattr("torch.compile", uncompiled_but_wrong)
    return module.compiled


def break_pixels(module, monkeypatch):
    training = importlib.import_module("pixels_training")
    monkeypatch.setattr(
        training, "pooled", lambda x, first, true=training.pooled: 2 * true(x, first)
    )
    return module.run


def break_right(module, monkeypatch):
    true = module.truths

    def other():
        found = true()
        plain = found.stack_clip
        found.stack_clip = lambda *given: (1.2 * plain(*given)[0], None)
        return found

    monkeypatch.setattr(module, "truths", other)
    return lambda record: (module.truth(record), module.kernel_truth(record))


BROKEN = {
    "recurrent": (break_recurrent, {"torch"}),
    "recurrent.maps": (break_maps, {"torch", "torch hoisted"}),
    "recurrent.compiled": (break_recurrent_compiled, {"torch compiled"}),
    "recurrent.candidates": (break_candidates, {"kernel, rule"}),
    "table.check": (break_table, {"vidrec"}),
    "features": (break_features, {"torch"}),
    "features.compiled": (break_features_compiled, {"torch compiled"}),
    "pixels": (break_pixels, {"torch"}),
    "right": (break_right, {"vidrec"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("section", BROKEN)
def test_every_comparison_of_the_gpus_benchmark_can_fail(section, gpu, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    name = section.partition(".")[0]
    module = importlib.import_module(f"benchmarks.gpu.{name}")
    break_it, sides = BROKEN[section]
    record = gpu.Record(name, tmp_path / "rows.jsonl", 600, tiny=True)
    break_it(module, monkeypatch)(record)
    found = rows(record.file)
    failed = {row["side"].partition(" (")[0] for row in found if "failed" in row}
    assert failed == sides, found
    wrong = {(row["work"], row["side"]) for row in found if "failed" in row}
    assert not [row for row in found if (row["work"], row["side"]) in wrong and "seconds" in row]
