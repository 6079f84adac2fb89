"""The commands of docs/how-to/imbalance.md run as printed, on few clips and for one epoch."""

import re
import shlex
from pathlib import Path

import pytest

from vidrec.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "imbalance.md"
SMALL = ["--data.tfds", "motion/plain/clips=100", "--train.epochs", "1"]


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def test_the_page_has_commands():
    assert {words[0] for words in commands()} == {"train", "ablate"}


@pytest.mark.slow  # three minutes
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in commands():
        if words[0] == "ablate":
            main.main([*words, "--dry-run"])
            assert "trials in" in capsys.readouterr().out
            continue
        main.main([*words, *SMALL])
        assert "report.html" in capsys.readouterr().out
