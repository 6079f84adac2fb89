"""Run a command line, in this process or in one of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from vidrec.cli import main

ROOT = Path(__file__).parents[2]


def launch(*words, **options):
    """Runs launch.py as a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        **options,
    )


def fails(capsys, *words) -> str:
    """The one line that a mistake gets."""
    with pytest.raises(SystemExit) as left:
        main.main(list(words))
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err
