"""Benchmarks are run by hand; what is tested here is that they are found, and what they refuse."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

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


def test_one_that_fails_is_shown_with_its_reason(tmp_path):
    (tmp_path / "bad.py").write_text("raise SystemExit('no torch here')")
    work = benchmarks.Work("bad", ("bad.py",), {"PyTorch": lambda printed: 1.0}, {}, 1)
    found = benchmarks.run(work, tmp_path)
    assert (found["reason"], found["ratios"]) == ("no torch here", {})
    assert benchmarks.rows(work, found) == [("bad", "PyTorch", "not measured here", "")]


def test_ratios_are_read_and_a_missed_one_is_marked(tmp_path):
    printed = {"sides": {"torch": {"times_ours": [0.5, 0.8, 0.9]}}}
    (tmp_path / "good.py").write_text(f"print({json.dumps(json.dumps(printed))})")
    beside = {"PyTorch": benchmarks.median("torch"), "Keras": benchmarks.median("keras")}
    work = benchmarks.Work("good", ("good.py",), beside, {"PyTorch": 1.0}, 1)
    found = benchmarks.run(work, tmp_path)
    assert found["ratios"] == {"PyTorch": 0.8, "Keras": None}
    assert benchmarks.rows(work, found)[0] == ("good", "PyTorch", "0.80", "at least 1.00 (missed)")


def test_sides_that_compute_something_else_are_refused():
    assert turns.compare("same", [1.0, 2.0], [1.0, 2.001], 1e-3) == pytest.approx(5e-4, rel=1e-3)
    for wrong in ([1.0, 2.1], [1.0, float("nan")], [1.0]):
        with pytest.raises(SystemExit, match="wrong"):
            turns.compare("wrong", wrong, [1.0, 2.0], 1e-3)


def test_ratios_are_taken_round_by_round():
    figures = turns.figures({"vidrec": [1.0, 2.0, 4.0], "torch": [2.0, 2.0, 2.0]})
    assert figures["torch"]["times_ours"] == [0.75, 1.0, 1.5]
    assert (figures["vidrec"]["least"], figures["vidrec"]["most"]) == (1.0, 4.0)
