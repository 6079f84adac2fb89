"""What results say where clips name no recording: below every table, beside every verdict."""

import io
import json
import shutil

import numpy as np
import pytest
from helpers import result_folders
from helpers.pages import Page
from rich.console import Console

from vidrec import report
from vidrec.report import page, tables, wording
from vidrec.report.results import read, rows_and_control
from vidrec.report.table_model import as_markdown

UNKNOWN = "Recordings unknown:"
# What a result says about its split, and what its table says.
SPLITS = {
    "unknown": ({"leaked": "unknown", "recordings_known": False}, [UNKNOWN]),
    "known": ({"leaked": False, "recordings_known": True}, []),
    "of an earlier version": ({"leaked": False}, []),
    "unknown to an earlier version": ({"leaked": "unknown"}, [UNKNOWN]),
    "of a trial that failed before": ({"id": "", "leaked": "unknown"}, []),
    "copies": (
        {"leaked": True, "copied_tests": 1, "leaks_into_test": True, "recordings_known": True},
        [
            "Leaked: 1 test clip has a copy in another part of the split; "
            "apart from that, no recording is in two parts."
        ],
    ),
    "copies and unknown": (
        {"leaked": True, "copied_tests": 2, "leaks_into_test": True, "recordings_known": False},
        ["Leaked: 2 test clips have copies in another part of the split. This", UNKNOWN],
    ),
    "copies, of an earlier version": (
        {"leaked": True, "copied_tests": 2},
        ["Leaked: 2 test clips have copies in another part of the split. This"],
    ),
    "copies in validation": (
        {"leaked": True, "copied_tests": 0, "leaks_into_test": False, "recordings_known": False},
        ["Leaked: training and validation have clips", UNKNOWN],
    ),
    "by clip": (
        {"leaked": True, "copied_tests": 0, "leaks_into_test": True, "recordings_known": False},
        ["Leaked: clips of one recording stand in training and in test."],
    ),
}


def with_split(folder, split):
    """Write into every result below a folder what it says of its split."""
    for file in [*folder.glob("result.json"), *folder.glob("trials/*/result.json")]:
        result = json.loads(file.read_text())
        file.write_text(json.dumps(result | {"split": {"id": "5f0c1d2e"} | split}))
    return folder


def printed(shown) -> str:
    out = io.StringIO()
    Console(file=out, width=300, force_terminal=False).print(shown)
    return out.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    rows = (("a", 3.0, 10), ("b", 0.5, 10))
    table = result_folders.ablation(
        root / "table", rows=rows, control="a", seeds=1, samples=0, per_class=4
    )
    return result_folders.run(root / "run", samples=0, per_class=4), table


@pytest.mark.parametrize("kind", SPLITS)
def test_every_table_says_what_is_known_of_its_recordings(kind, made, tmp_path):
    split, says = SPLITS[kind]
    for source in made:
        folder = with_split(shutil.copytree(source, tmp_path / source.name), split)
        found = read(folder)
        written = as_markdown(tables.summary_table(found))
        for text in (printed(report.terminal(folder)), written):
            assert all(text.count(line) == 1 for line in says)
            assert text.count(UNKNOWN) == (UNKNOWN in says)
            assert text.count("Leaked: ") == len(set(says) - {UNKNOWN})
        several = source.name == "table"
        words = f"{'these figures' if several else 'this figure'} can be far too high"
        assert (words in written) is (UNKNOWN in says)
        rows, _ = rows_and_control(found)
        above = " ".join(wording.warnings(rows))
        assert ("The recordings of the clips are unknown." in above) is (UNKNOWN in says)
        [facts] = {page._leak(run) for row in rows for run in row.runs}
        assert ("recordings unknown" in facts) is (UNKNOWN in says or split.get("id") == "")
        assert ("no recording in two parts" in facts) is (
            split["leaked"] is False or "no recording is in two parts" in "".join(says)
        )


def test_the_page_has_both_above_and_below_the_table(made, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "run")
    with_split(folder, SPLITS["copies and unknown"][0])
    above, _, below = Page(report.build(folder)).text.partition("means over seeds")
    assert UNKNOWN in below
    assert "The recordings of the clips are unknown." in above
    for text in (above, below):
        assert text.count("2 test clips have copies in another part") == 1


def test_a_comparison_has_the_interval_and_the_caveat_beside_its_verdict(made, tmp_path):
    run = with_split(shutil.copytree(made[0], tmp_path / "run"), SPLITS["unknown"][0])
    other = result_folders.run(tmp_path / "other", samples=0, per_class=4, skill=1.0, row="gru")
    with_split(other, SPLITS["unknown"][0])
    arrays = [np.load(folder / "predictions.npz") for folder in (run, other)]
    right = [each["test_logits"].argmax(1) == each["test_labels"] for each in arrays]
    mean = 100 * (right[1].mean() - right[0].mean())
    compared = Page(report.compare(run, other, tmp_path / "page")).text
    told = printed(report.terminal_of_two(run, other))
    [line] = [line for line in told.splitlines() if "points below" in line]
    assert line.startswith(f"gru is {-mean:.1f} points below lstm on the same clips (−")
    interval = line.partition("(")[2].partition(")")[0]
    assert f"{mean:.1f} ({interval})".replace("-", "−") in compared.replace("\u00a0", " ")
    for text in (told, compared):
        assert UNKNOWN in text
        assert "One seed: the interval covers only" in text
    known = report.terminal_of_two(made[0], made[0])
    assert UNKNOWN not in printed(known)
