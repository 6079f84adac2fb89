"""The commands of docs/how-to/labels.md run as they are printed, on folders that they name."""

import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.label_folders import gtea_like
from vidrec import report
from vidrec.cli import main
from vidrec.data import video
from vidrec.io import files

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "labels.md"
CLASSES = ("jump", "run")


def commands(heading: str = "") -> list[list[str]]:
    """Words of each command, of the whole page or below a heading."""
    page = PAGE.read_text(encoding="utf-8")
    below = page.partition(f"\n## {heading}")[2].partition("\n## ")[0] if heading else page
    blocks = re.findall(r"^```\n(.*?)^```$", below, re.MULTILINE | re.DOTALL)
    lines = (line for block in blocks for line in block.splitlines())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("vidrec ")]


def write_video(file: Path, label: tuple[int, ...], rng: np.random.Generator) -> None:
    """A bright square that moves down for the first class and right for the second."""
    frames = rng.integers(0, 60, (12, 36, 48, 3)).astype(np.uint8)
    for time, frame in enumerate(frames):
        top, left = 2 + 2 * time * label[0], 2 + 3 * time * label[1]
        frame[top : top + 8, left : left + 8] = 230
    video.write(file, frames, fps=25)


def write_folders(root: Path) -> None:
    """Eight recordings of every set of labels; those of one label in folders of their own."""
    rng, lines = np.random.default_rng(0), ["path,label,group"]
    (root / "several_labels").mkdir()
    sets = list(itertools.product((0, 1), repeat=2))
    for number, label in enumerate(sets * 8):
        name = f"{number:02d}.mp4"
        write_video(root / "several_labels" / name, label, rng)
        said = "|".join(np.array(CLASSES)[np.array(label) > 0])
        lines.append(f"{name},{said},rec{number}")
        if sum(label) == 1:
            (root / "one_label" / said).mkdir(parents=True, exist_ok=True)
            write_video(root / "one_label" / said / name, label, rng)
    (root / "several_labels" / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow  # four minutes
@pytest.mark.parametrize("heading", ["One label a clip", "Several labels a clip"])
def test_the_page_runs(heading, tmp_path, monkeypatch, capsys):
    write_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = commands(heading)
    for words in given:
        with pytest.raises(SystemExit) as left:
            main.main(words)
        assert left.value.code == 0, words
    out = capsys.readouterr().out
    if heading == "One label a clip":
        return
    assert "mean average precision" in out
    assert (tmp_path / "seen.csv").read_text().startswith("path,label,jump,run,error\n")
    [run] = (tmp_path / "runs").glob("gym-*/result.json")
    assert files.read_json(run)["metrics"]["test"]["map"] > 0.6
    [table] = (tmp_path / "runs").glob("several-*/ablation.json")
    maps = {row["scanner.kind"]: row["test_map"] for row in report.table(table.parent).rows}
    assert 0.4 <= maps["mean"] <= 0.6
    assert maps["gru"] >= 0.9


def write_labelled_folders(root: Path) -> None:
    """Sixteen videos of a square that moves or rests, one after another; and features as GTEA's."""
    rng, lines = np.random.default_rng(1), ["path,start,end,label,group"]
    (root / "labelled").mkdir()
    for number in range(16):
        numbers = np.repeat(rng.integers(0, 3, 6), rng.integers(8, 16, 6))
        frames = rng.integers(0, 60, (len(numbers), 36, 48, 3)).astype(np.uint8)
        down, right = (np.cumsum(numbers == label) for label in (1, 2))
        for frame, top, left in zip(frames, down % 24, right % 36, strict=True):
            frame[top : top + 8, left : left + 8] = 230
        video.write(root / "labelled" / f"{number:02d}.mp4", frames, fps=10)
        for frame, label in enumerate(numbers):
            said = ("rest", *CLASSES)[label]
            lines.append(f"{number:02d}.mp4,{frame / 10:g},{(frame + 1) / 10:g},{said},rec{number}")
    (root / "labelled" / "segments.csv").write_text("\n".join(lines) + "\n")
    gtea_like(root / "gtea")


@pytest.mark.slow  # four minutes
def test_the_section_of_frames_runs(tmp_path, monkeypatch, capsys):
    write_labelled_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    for words in commands("Labels of frames"):
        with pytest.raises(SystemExit) as left:
            main.main(words)
        assert left.value.code == 0, words
    assert "F1@50" in capsys.readouterr().out
    seen = (tmp_path / "seen.csv").read_text()
    assert seen.startswith("path,start,end,label,unit,confidence,error\n")
    assert (tmp_path / "seen.mp4").stat().st_size
    [table] = (tmp_path / "runs").glob("segment_scanners-*")
    f1 = {row["scanner.kind"]: row["test_f1_50"] for row in report.table(table).rows}
    assert f1["gru"] - f1["none"] >= 0.2


def test_every_command_of_the_page_is_under_a_heading():
    parts = [
        commands(heading) for heading in re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    ]
    assert list(itertools.chain(*parts)) == commands()
    assert len(commands("Several labels a clip")) == 7
    assert len(commands("Labels of frames")) == 8
