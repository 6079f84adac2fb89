"""The commands of docs/how-to/imbalance.md run as printed, on few clips and for one epoch."""

import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from vidrec.cli import main
from vidrec.data import video

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "imbalance.md"
SMALL = ["--data.tfds", "motion/plain/clips=100", "--train.epochs", "1"]


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def test_the_page_has_commands():
    assert {words[0] for words in commands()} == {"train", "ablate"}


def write_folder(root: Path) -> None:
    """Two classes of twelve short videos, for the commands of one's own."""
    rng = np.random.default_rng(0)
    for name, number in itertools.product(("jump", "run"), range(12)):
        (root / name).mkdir(parents=True, exist_ok=True)
        frames = rng.integers(0, 255, (8, 36, 48, 3)).astype(np.uint8)
        video.write(root / name / f"{number:02d}.mp4", frames, fps=25)


@pytest.mark.slow(minutes=1)
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "FOLDER")
    for words in commands():
        more, said = SMALL, "report.html"
        if words[0] == "ablate":
            more, said = ["--dry-run"], "trials in"
        with pytest.raises(SystemExit) as left:
            main.main([*words, *more])
        assert left.value.code == 0, words
        assert said in capsys.readouterr().out
