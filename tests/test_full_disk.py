"""A disk that is full costs one line, and nothing that was there; with room the command goes on."""

import os
import re
import shutil
import subprocess

import pytest
from helpers.outputs import check_whole, outcome, temporary_files
from helpers.trained_folder import TrainedFolder

pytestmark = pytest.mark.slow(minutes=8)
MEGABYTES = 20
# Shares of what a command writes that there is room for.
SHARES = (0.0, 0.35, 0.8)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """Trained runs on a file system of its own, small enough to be filled."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    kept = tmp_path_factory.mktemp("kept")
    programs = tmp_path_factory.mktemp("programs")
    try:
        trained = TrainedFolder(folder, kept=kept / "trained", programs=programs)
        for words in (["export", str(trained.single), "exported"], *trained.outputs()):
            status, _, said = trained.run(words)
            assert status == 0, said
        shutil.rmtree(trained.kept)
        trained.keep()
        yield trained
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def clear(trained, *names):
    for name in names:
        for each in trained.folder.glob(name):
            shutil.rmtree(each) if each.is_dir() else each.unlink()


# What is taken away beforehand, so that the command has its work to do; and its words.
CASES = {
    "train": (["runs/single-*", "cache/features"], "train"),
    "ablate": (["runs/question-*", "cache/features"], "ablate"),
    "extract": (["cache/features"], "extract"),
    "export": ([], "export"),
    "predict": ([], "csv and overlay"),
    "report": ([], "report"),
    "report table": (["runs/question-*/report.html"], "report table"),
    "evaluate": ([], "evaluate"),
    "compare": ([], "compare"),
    "prepare": (["cache/data"], "prepare"),
}


def used(folder):
    return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if not each.is_symlink())


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", CASES)
def test_a_full_disk_is_one_line_and_costs_nothing(disk, name, share):
    taken, command = CASES[name]
    words = disk.commands()[command]
    ballast = disk.folder.parent / "ballast"
    disk.restore()
    clear(disk, *taken)
    before, older = used(disk.folder), outcome(disk.folder)
    status, expected, said = disk.run(words)
    assert status == 0, said
    whole, written = outcome(disk.folder), used(disk.folder) - before
    disk.restore()
    clear(disk, *taken)
    room = os.statvfs(disk.folder)
    free = room.f_bavail * room.f_frsize
    try:
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(0, free - max(0, int(share * written))))
        status, answer, said = disk.run(words)
        if status == 0:  # what is written anew took the place of what was there
            assert answer == expected
        else:
            [line] = [line for line in said.splitlines() if line.startswith("error: ")]
            assert status == 2
            # Of a set that it prepares TFDS asks beforehand.
            assert re.search("No space left on device|Not enough disk space", line)
        check_whole(disk.folder)
        now = outcome(disk.folder)
        for file, content in older.items():
            assert now.get(file) in (content, whole[file]), file
    finally:
        ballast.unlink(missing_ok=True)
    status, answer, said = disk.run(words)
    assert (status, answer) == (0, expected), said
    assert outcome(disk.folder) == whole
    assert temporary_files(disk.folder) == []
