"""What a run is: everything that its result rests on is in its id, by content."""

import contextlib
import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.small_datasets import settings
from helpers.system_errors import TRANSIENT_CODES

from vidrec import config
from vidrec.cli import experiments, main
from vidrec.cli.commands.training import Train
from vidrec.config import Data, override
from vidrec.data import datasets, hashing, remembered, split_text, splits
from vidrec.errors import TransientError, UserError
from vidrec.io import files, runs
from vidrec.report import comparison
from vidrec.sweeps import plan, runner
from vidrec.sweeps.ablation import Ablation
from vidrec.sweeps.planned_data import DataChanged
from vidrec.training import loop, prepare


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "_known", {})  # as in a process of its own


def lay(root: Path, clips: int = 8, seed: int = 0) -> Path:
    """Features in two classes; a groups.csv puts two clips into each group."""
    rng = np.random.default_rng(seed)
    lines = ["path,group"]
    for place, label in enumerate("ab"):
        (root / label).mkdir(parents=True)
        for clip in range(clips):
            values = rng.normal(place, 0.5, (6, 4)).astype(np.float32)
            np.save(root / label / f"{clip}.npy", values)
            lines.append(f"{label}/{clip}.npy,{label}{clip // 2}")
    (root / "groups.csv").write_text("\n".join(lines) + "\n")
    return root


def features(root: Path, **changes):
    """Settings of a tiny trial on such a folder."""
    named = {"data__kind": "features", "data__root": str(root), "scanner__kind": "mean"}
    return settings(**named, **{"train__epochs": 1, **changes})


def identity(root: Path, **changes) -> str:
    """The id of the trial that these settings would train now."""
    hashing._known.clear()
    cfg = features(root, **changes)
    return prepare.trial_id(cfg, prepare.data_fingerprint(cfg))


def replace_quietly(file: Path, content: bytes) -> None:
    """Other bytes of the same number in the same file, under the old time of change."""
    status = file.stat()
    assert len(content) == status.st_size
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def corrected_groups(root: Path) -> None:
    file = root / "groups.csv"
    file.write_text(file.read_text().replace("a/1.npy,a0", "a/1.npy,a1"))


def regenerated(root: Path) -> None:
    file = root / "a" / "0.npy"
    replace_quietly(file, file.read_bytes()[:-4] + np.float32(9).tobytes())


def exchanged(root: Path) -> None:
    """Two files with each other's content: the same names, the same contents."""
    for one, other in (("a/0.npy", "b/0.npy"),):
        (root / one).rename(root / "held")
        (root / other).rename(root / one)
        (root / "held").rename(root / other)


def relabelled(root: Path) -> None:
    (root / "a" / "7.npy").rename(root / "b" / "7a.npy")
    file = root / "groups.csv"
    file.write_text(file.read_text().replace("a/7.npy", "b/7a.npy"))


@pytest.mark.parametrize("change", [corrected_groups, regenerated, exchanged, relabelled])
@pytest.mark.parametrize("settled", [True, False])
def test_other_data_under_the_same_names_is_another_trial(tmp_path, monkeypatch, change, settled):
    # Also where hashes are kept of files that have just been written.
    monkeypatch.setattr(hashing, "SETTLED", -60 if settled else 3600)
    root = lay(tmp_path / "data")
    before = identity(root)
    assert identity(root) == before
    change(root)
    changed = identity(root)
    assert changed != before
    assert identity(Path(shutil.move(root, tmp_path / "moved"))) == changed


def test_the_split_column_is_part_of_a_trial_only_where_it_is_used(tmp_path):
    root = lay(tmp_path / "data")
    (root / "groups.csv").unlink()

    def write(test: int, size: int = 1) -> None:
        lines = ["path,label,split,group"]
        for label in "ab":
            for clip in range(8):
                part = "test" if clip == test else "train"
                group = f"{label}{(clip + 1) // size}"
                lines.append(f"{label}/{clip}.npy,{label},{part},{group}")
        (root / "labels.csv").write_text("\n".join(lines))

    given = {"data__split": "given", "data__val": 0}
    write(test=0)
    first, by_group = identity(root, **given), identity(root)
    write(test=1)
    assert identity(root) == by_group
    second = identity(root, **given)
    assert second != first
    # Recordings count also where they do not move the split: intervals rest on them.
    write(test=0, size=2)
    assert identity(root, **given) not in (first, second)
    data = features(root, **given).data
    assert set(splits.make(datasets.load(data), data).test) == {0, 8}


def test_hashes_are_kept_while_files_stay_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "SETTLED", -60)
    root, seen, real = lay(tmp_path / "data"), [], hashing.hash_path
    monkeypatch.setattr(hashing, "hash_path", lambda path: seen.append(path.name) or real(path))
    first = identity(root)
    assert len(seen) == 16
    assert identity(root) == first
    assert len(seen) == 16
    regenerated(root)
    assert identity(root) != first
    assert seen[16:] == ["0.npy"]
    # What was written a moment ago may be written again in the same tick of the clock.
    monkeypatch.setattr(hashing, "SETTLED", 3600)
    regenerated(root)
    for _ in range(2):
        identity(root)
    assert seen[17:] == ["0.npy"] * 2


def test_a_flipped_byte_in_a_kept_index_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "SETTLED", -60)
    root = lay(tmp_path / "data")
    first = identity(root)
    [file] = (tmp_path / "cache" / "data" / "index").glob("*.json")
    whole = file.read_bytes()
    key = datasets.load(features(root).data).key(0).encode()
    place = whole.index(key) + 3
    for byte in (whole[place] ^ 1, 0xFF):
        file.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        assert identity(root) == first
        assert file.read_bytes() == whole
    made = remembered.remembered("value", lambda: ["group 1"])
    file = file.with_name("value.json")
    file.write_bytes(file.read_bytes().replace(b"group 1", b"group 2"))
    assert remembered.remembered("value", lambda: made) == ["group 1"]


def test_what_cannot_be_read_now_is_no_content(tmp_path, monkeypatch):
    root = lay(tmp_path / "data")

    def full(*_, **__):
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(hashing.hashlib, "file_digest", full)
    with pytest.raises(TransientError, match=r"0\.npy now: Too many open files"):
        identity(root)


def test_a_file_that_changes_while_it_is_used_is_refused(tmp_path):
    root = lay(tmp_path / "data")
    found = datasets.load(features(root).data)
    held = found.features(0)
    assert found.keys
    os.utime(root / "a" / "0.npy")  # touched, and the same
    np.testing.assert_array_equal(found.features(0), held)
    regenerated(root)
    with pytest.raises(UserError, match=r"a/0\.npy was changed while it was used"):
        found.features(0)


def test_copies_on_both_sides_of_a_split_leak(tmp_path):
    root = lay(tmp_path / "data")
    data = features(root).data
    split = splits.make(datasets.load(data), data)
    assert split.leaked is False
    assert split.copies == ()
    found = datasets.load(data)
    one, other = (Path(found.path(int(part[0]))) for part in (split.train, split.test))
    shutil.copyfile(one, other)
    found = datasets.load(data)
    split = splits.make(found, data)
    assert split.leaked is True
    names = {f"{each.parent.name}/{each.name}": p for each, p in ((one, "train"), (other, "test"))}
    assert split.copies == (names,)
    told = " ".join(split_text.describe(found, split))
    assert "leaks (the same content in two parts" in told
    assert all(f"{name} ({part})" in told for name, part in names.items())
    # The same error page in place of two files teaches nothing.
    for file in (one, other):
        file.write_bytes(b"<html>404")
    assert splits.make(datasets.load(data), data).leaked is False


@pytest.mark.usefixtures("unread")
def test_the_result_says_that_copies_leak(tmp_path):
    root = lay(tmp_path / "data")
    data = features(root).data
    found = datasets.load(data)
    split = splits.make(found, data)
    shutil.copyfile(found.path(int(split.train[0])), found.path(int(split.test[0])))
    result = runner.run(features(root), tmp_path / "runs")
    assert result["split"]["leaked"] is True
    assert len(result["split"]["copies"]) == 1


def test_an_official_list_is_part_of_a_trial(tmp_path):
    root = tmp_path / "UCF-101"
    for label in ("Archery", "Biking"):
        (root / label).mkdir(parents=True)
        for group in range(1, 7):
            (root / label / f"v_{label}_g{group:02d}_c01.avi").write_bytes(
                f"{label}{group}".encode()
            )
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")

    def write(tested: int) -> str:
        for part in ("train", "test"):
            lines = [
                f"{label}/v_{label}_g{group:02d}_c01.avi"
                for label in ("Archery", "Biking")
                for group in range(1, 7)
                if (group == tested) == (part == "test")
            ]
            (lists / f"{part}list01.txt").write_text("\n".join(lines) + "\n")
        named = {"data.kind": "ucf101", "data.root": str(root), "data.split": "given"}
        cfg = override(settings(), {**named, "data.fold": 1})
        return prepare.trial_id(cfg, prepare.data_fingerprint(cfg))

    assert write(tested=1) == write(tested=1) != write(tested=2)


def test_counted_lengths_are_of_content_and_name_no_other_copy(tmp_path, monkeypatch):
    from helpers.video_files import clip

    here, there = tmp_path / "here", tmp_path / "there"
    for place, label in enumerate("ab"):
        for number in range(3):
            (here / label).mkdir(parents=True, exist_ok=True)
            clip(f"{number}.mp4", 4 + 3 * place + number)(here / label)
    whole = (here / "a" / "1.mp4").read_bytes()
    replace_quietly(here / "a" / "1.mp4", bytes(len(whole)))
    shutil.copytree(here, there)
    cfg = settings(encoder__trainable="all", encoder__size=16, data__kind="videos")

    def counted(root: Path):
        hashing._known.clear()
        data = datasets.load(Data(kind="videos", root=str(root)))
        return data, prepare._counted(cfg, data, None)

    _, first = counted(here)
    assert [path for _, path, _ in first.unreadable] == [str(here / "a" / "1.mp4")]
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "stream_clips", None)
        _, again = counted(there)
    assert [path for _, path, _ in again.unreadable] == [str(there / "a" / "1.mp4")]
    assert again.lengths.tolist() == first.lengths.tolist()
    strict = override(cfg, {"data.strict": True})
    with pytest.raises(UserError, match=r"there/a/1\.mp4 cannot be read"):
        prepare._counted(strict, datasets.load(Data(kind="videos", root=str(there))), None)
    replace_quietly(here / "a" / "1.mp4", whole)
    _, mended = counted(here)
    assert mended.unreadable == []
    assert mended.lengths.tolist() == [4, 5, 6, 7, 8, 9]


def test_a_tfds_set_is_its_frames_not_its_sizes():
    def load(seed: int):
        hashing._known.clear()
        return datasets.load(Data(kind="tfds", tfds=f"motion/clips=30,frames=4,size=8,seed={seed}"))

    def records(data) -> list[Path]:
        return sorted(
            each for each in Path(data.builder.data_path).iterdir() if "record" in each.name
        )

    first, other = load(0), load(1)
    assert not set(first.keys) & set(other.keys)
    assert load(0).fingerprint() == first.fingerprint()
    for ours, theirs in zip(records(first), records(other), strict=True):
        assert ours.stat().st_size == theirs.stat().st_size
        shutil.copyfile(theirs, ours)
    assert load(0).keys == other.keys


# --- Trials by id, runs by name, anywhere --------------------------------------------------------


class Reporter(runner.Reporter):
    """Remembers which trials were trained."""

    def __init__(self):
        self.trained = set()

    def group(self, name, members):
        self.trained |= {member.id for member in members}
        return super().group(name, members)


def fill(root: Path, workdir: Path, rows=({},), **more):
    """A finished table, and the ids of what was trained for it."""
    screen, name = Reporter(), more.pop("name", "table")
    ablation = Ablation(name, features(root), rows, seeds=more.pop("seeds", 1))
    return runner.ablate(ablation, workdir, screen=screen, **more), screen.trained


def ids(table) -> list[str]:
    return [trial["id"] for trial in table.trials]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A data set and a workdir with a table of two rows with one seed; copied, never changed."""
    base = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDREC_CACHE", str(base / "cache"))
        patch.setattr(runner, "_write_report", lambda *_: None)
        fill(lay(base / "data"), base / "runs", RATES)
    return base


RATES = ({"optim.learning_rate": 0.1}, {"optim.learning_rate": 0.2})


@pytest.fixture
def unread(monkeypatch):
    """Nobody looks at the reports."""
    monkeypatch.setattr(runner, "_write_report", lambda *_: None)


@pytest.fixture
def place(filled, tmp_path):
    """A copy of it: `data` and `runs`."""
    for name in ("data", "runs"):
        shutil.copytree(filled / name, tmp_path / name)
    return tmp_path


@pytest.mark.usefixtures("unread")
def test_more_seeds_rows_and_other_names_train_what_is_new_alone(place):
    root, workdir = place / "data", place / "runs"
    before = written(workdir)
    first, trained = fill(root, workdir, RATES)
    assert not trained
    assert written(workdir) == before
    both, trained = fill(root, workdir, RATES, seeds=2)
    assert trained == set(ids(both)) - set(ids(first))
    assert len(trained) == 2
    assert both.folder != first.folder
    more, trained = fill(root, workdir, [*RATES, {"optim.learning_rate": 0.3}], name="other")
    assert trained == {ids(more)[2]}
    same = {trial["id"]: trial for trial in both.trials}
    for trial in (*first.trials, *more.trials[:2]):
        kept = ("metrics", "seconds", "epochs", "weights", "seed", "status", "split")
        assert {n: trial[n] for n in kept} == {n: same[trial["id"]][n] for n in kept}
        assert (Path(trial["dir"]) / "model").is_dir()
    assert {trial["name"] for trial in more.trials} == {"other"}
    # A row on its own, and back from a run to a table.
    alone = runner.run(
        features(root, optim__learning_rate=0.1), workdir, name="alone", screen=Refuse()
    )
    assert alone["id"] == ids(first)[0]
    assert (alone["name"], "row" in alone, "group" in alone) == ("alone", False, False)
    shutil.rmtree(first.folder)
    shutil.rmtree(both.folder)
    shutil.rmtree(more.folder)
    again, trained = fill(root, workdir, RATES)
    assert trained == {ids(again)[1]}
    assert again.trials[0]["row"] == 0
    # Both are read and reported as any other.
    assert [row["row"] for row in again.rows] == [0, 1]
    assert runner.run(features(root, optim__learning_rate=0.1), workdir, name="alone") == alone


def written(folder: Path) -> dict[str, int]:
    """When each file below was written: a finished table may be only looked at."""
    return {str(each): each.stat().st_mtime_ns for each in folder.rglob("*")}


class Refuse(runner.Reporter):
    def group(self, name, members):
        raise AssertionError("a finished trial is trained again")


@pytest.mark.parametrize("code", TRANSIENT_CODES)
def test_a_finished_run_that_cannot_be_read_now_is_not_trained_again(tmp_path, monkeypatch, code):
    (tmp_path / "renamed").mkdir()
    files.write_json(tmp_path / "renamed" / "result.json", {"id": "a" * 16, "name": "mine"})

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    looked = (
        lambda: runs.finished(tmp_path, ["a" * 16]),
        lambda: runs.place_of_run(tmp_path, "mine", "a" * 16),
    )
    for place, name in ((Path, "read_bytes"), (os, "scandir")):
        for look in looked:
            with monkeypatch.context() as patch:
                patch.setattr(place, name, refuse)
                if code == errno.EACCES:  # of another user, perhaps
                    assert look() in ({}, tmp_path / f"mine-{'a' * 8}")
                    continue
                with pytest.raises(TransientError, match=os.strerror(code)):
                    look()
    assert looked[1]() == tmp_path / "renamed"


@pytest.mark.usefixtures("unread")
def test_a_trial_that_is_not_whole_is_trained(place):
    root, workdir = place / "data", place / "runs"
    [table] = workdir.iterdir()
    first, second = sorted((table / "trials").iterdir())
    file = first / "predictions.npz"
    file.write_bytes(file.read_bytes()[:-999])
    result = files.read_json(second / "result.json")
    files.write_json(second / "result.json", result | {"status": "failed"})
    _, trained = fill(root, workdir, RATES, name="again")
    assert trained == {first.name, second.name}


@pytest.mark.usefixtures("unread")
def test_a_copy_that_was_cut_short_is_made_anew(place, monkeypatch):
    root, workdir = place / "data", place / "runs"
    real = runs.files.write_json

    def full(file, content):
        if file.name == "result.json":
            raise UserError("the disk is full")
        return real(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(runs.files, "write_json", full)
        with pytest.raises(UserError, match="the disk is full"):
            fill(root, workdir, RATES, name="again")
    assert not list(workdir.glob("again-*/trials/*"))
    _, trained = fill(root, workdir, RATES, name="again")
    assert not trained


def test_a_workdir_may_be_moved_renamed_copied_and_looked_at_from_elsewhere(
    place, monkeypatch, capsys
):
    root, (table,) = place / "data", (place / "runs").iterdir()
    monkeypatch.chdir(place)
    run = runner.run(features(Path("data")), "runs", name="mine")
    assert Path(run["dir"]).is_absolute()
    assert files.read_json(Path(run["dir"]) / "config.json")["data"]["root"] == str(root)
    moved = Path(shutil.move("runs", "elsewhere")).rename(place / "kept runs")
    (moved / table.name).rename(moved / "my table")
    (moved / Path(run["dir"]).name).rename(moved / "my run")
    before = sorted(each.name for each in moved.iterdir())
    monkeypatch.chdir(tmp := moved.parent / "data")
    assert tmp.is_dir()
    again = runner.run(features(root), moved, name="mine", screen=Refuse())
    assert again["dir"] == str(moved / "my run")
    assert {**again, "dir": ""} == {**run, "dir": ""}
    filled, trained = fill(root, Path("../kept runs"), RATES)
    assert not trained
    assert {Path(trial["dir"]).parent.parent for trial in filled.trials} == {
        Path("../kept runs/my table").absolute()
    }
    assert sorted(each.name for each in moved.iterdir()) == before
    shutil.rmtree(moved / "my run" / "figures", ignore_errors=True)
    for words in (
        ["report", "mine", "table", "my run"],
        ["compare", "mine", "table"],
        ["status", "my table"],
        ["evaluate", "mine", "--part", "val"],
        ["export", "table", str(place / "exported")],
        ["predict", "mine", str(root / "a" / "0.npy")],
    ):
        with pytest.raises(SystemExit) as left:
            main.main([*words, "--workdir", "../kept runs"])
        out = capsys.readouterr()
        assert left.value.code == 0, (words, out)


def test_a_run_is_found_by_its_name_where_only_one_has_it(place):
    workdir = place / "runs"
    [table] = workdir.iterdir()
    for given in (table, table.name, "table", workdir / "table", str(table) + "/"):
        assert runs.find(given, workdir) == table
    (workdir / "table-again-0123abcd").mkdir()
    shutil.copytree(table, workdir / "table-0123456")  # no ID: renamed by someone
    assert runs.find("table", workdir) == table
    with pytest.raises(UserError, match=r"there is no run tabel in .*runs; did you mean .*table-"):
        runs.find("tabel", workdir)
    other = workdir / "table-01234567"
    shutil.copytree(table, other)
    with pytest.raises(
        UserError, match=f"table may be .*{other.name} or .*{table.name}: say which"
    ):
        runs.find("table", workdir)
    assert runs.find(other.name, workdir) == other
    for name in ("x", "x" * 999, "x\0", "~nobody-of-this-name/x"):
        with pytest.raises(UserError, match="there is no run"):
            runs.find(name, place / "nowhere")


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", ".hidden", "a\nb", "x" * 241])
def test_what_cannot_name_a_folder_names_no_run(tmp_path, name):
    with pytest.raises(UserError, match="cannot name a run"):
        runner.run(settings(), tmp_path, name=name)
    assert not list(tmp_path.iterdir())


def test_runs_are_named_on_the_command_line(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    words = ["train", "my_videos", "--data.kind", "features", "--data.root", "data"]
    words += ["--encoder.pca", "0", "--encoder.standardize", "False"]
    words += ["--train.epochs", "1", "--scanner.kind", "mean"]
    for name in ("mine and yours", "ours"):
        with pytest.raises(SystemExit) as left:
            main.main([*words, "--name", name, "--json"])
        assert left.value.code == 0
        told = json.loads(capfd.readouterr().out)
        assert re.fullmatch(rf"{name}-[0-9a-f]{{8}}", Path(told["dir"]).name)
        assert (Path(told["dir"]) / "report.html").is_file()
    with pytest.raises(SystemExit):
        main.main(["ablate", "my_videos", "--name", "a/b"])
    assert "'a/b' cannot name a run" in capfd.readouterr().err


@pytest.mark.usefixtures("unread")
def test_weights_of_a_run_are_its_arrays_and_may_be_named_plainly(place, monkeypatch):
    workdir = place / "runs"
    [table] = workdir.iterdir()
    first, second = sorted((table / "trials").iterdir())
    results = [files.read_json(each / "result.json") for each in (first, second)]

    def known(folder) -> str:
        return config.identifying_settings(override(settings(), {"encoder.weights": str(folder)}))[
            "encoder.weights"
        ]

    assert [known(first), known(second)] == [result["weights"] for result in results]
    # Trained anew by another machine, which adds up in another order.
    files.write_json(first / "result.json", results[0] | {"weights": "other"})
    assert known(first) == "other"
    shutil.copytree(second, workdir / "frames-01234567")
    monkeypatch.chdir(place)
    find = Train(experiment="motion", workdir=Path("runs")).find_run
    given = {"encoder.weights": config.parse("encoder.weights", "frames")}
    named = experiments.find_weights(given, find)["encoder.weights"]
    assert named == str(workdir / "frames-01234567")
    assert experiments.find_weights({"seed": 1}, find) == {"seed": 1}
    nothing = {"encoder.weights": config.parse("encoder.weights", "nothing")}
    assert experiments.find_weights(nothing, find) == nothing


@pytest.mark.usefixtures("unread")
def test_a_folder_with_the_files_of_another_trial_is_refused(place):
    root, workdir = place / "data", place / "runs"
    other = features(root, optim__learning_rate=0.3)
    id_ = prepare.trial_id(other, prepare.data_fingerprint(other))
    [trial, _] = workdir.glob("*/trials/*")
    shutil.copytree(trial, workdir / f"mine-{id_[:8]}")
    with pytest.raises(UserError, match="belongs to other trials"):
        runner.run(other, workdir, name="mine")


@pytest.mark.usefixtures("unread")
def test_a_new_name_may_end_like_an_id(place):
    root, workdir = place / "data", place / "runs"
    [table] = workdir.iterdir()
    table.rename(workdir / "table-20261127")
    run = runner.run(features(root), workdir, name="mine")
    Path(run["dir"]).rename(workdir / "mine-20261128")
    filled, trained = fill(root, workdir, RATES)
    assert not trained
    assert filled.folder == workdir / "table-20261127"
    again = runner.run(features(root), workdir, name="mine", screen=Refuse())
    assert again["dir"] == str(workdir / "mine-20261128")
    _, trained = fill(root, workdir, ({},), name="other")
    assert not trained


@pytest.mark.usefixtures("unread")
def test_runs_that_exchanged_their_names_are_found(place):
    root, workdir = place / "data", place / "runs"
    one = runner.run(features(root), workdir, name="mine")
    two = runner.run(features(root, optim__learning_rate=0.3), workdir, name="mine")
    Path(one["dir"]).rename(workdir / "between")
    Path(two["dir"]).rename(one["dir"])
    (workdir / "between").rename(two["dir"])
    for rate, now, was in (({}, two, one), ({"optim__learning_rate": 0.3}, one, two)):
        again = runner.run(features(root, **rate), workdir, name="mine", screen=Refuse())
        assert (again["id"], again["dir"]) == (was["id"], now["dir"])


def test_a_refused_run_leaves_no_folder(tmp_path):
    root, workdir = lay(tmp_path / "data"), tmp_path / "runs"
    patient = features(root, train__patience=3)
    source = datasets.load(patient.data)
    for clip in splits.make(source, patient.data).val:
        source.paths[clip].write_bytes(b"cut")
    refused = {
        "a classifier needs two": features(root, data__classes=("a",)),
        "watches validation clips": patient,
    }
    for why, cfg in refused.items():
        with pytest.raises(UserError, match=why):
            runner.run(cfg, workdir, name="mine")
        assert not workdir.exists()


UNITS = ({"scanner.units": 4}, {"scanner.units": 6})


@pytest.mark.usefixtures("unread")
def test_a_group_that_another_command_trains_is_left_to_it(tmp_path):
    root, workdir = lay(tmp_path / "data"), tmp_path / "runs"
    folder, members = plan.plan_table(Ablation("table", features(root), UNITS), workdir)
    first, second = (folder / "groups" / member.about["group"] for member in members)
    first.mkdir(parents=True)
    with contextlib.closing(loop.claim(first)), pytest.raises(loop.FolderLocked, match=first.name):
        fill(root, workdir, UNITS)
    assert (members[1].folder / "result.json").exists()
    assert not (members[0].folder / "result.json").exists()
    _, trained = fill(root, workdir, UNITS)
    assert trained == {members[0].id}
    assert second.is_dir()


@pytest.mark.usefixtures("unread")
def test_what_another_command_finished_meanwhile_is_not_trained_again(tmp_path, monkeypatch):
    root, workdir = lay(tmp_path / "data"), tmp_path / "runs"
    ready, others = loop.GroupRun.ready, []

    def late(group):
        if not others:  # while this one still prepares its data
            others.append(None)
            others.append(fill(root, workdir, UNITS)[1])
        ready(group)

    monkeypatch.setattr(loop.GroupRun, "ready", late)
    monkeypatch.setattr(runner, "AHEAD", 0)
    table, trained = fill(root, workdir, UNITS)
    assert others[1] == set(ids(table))
    assert not trained


# --- Going on by folder, on data that changed ----------------------------------------------------


CHANGES = {
    corrected_groups: "the recording of a/1.npy was a0 and is a1",
    regenerated: "the content of a/0.npy changed",
    exchanged: "the content of a/0.npy changed and 1 more",
    relabelled: "a/7.npy is gone; b/7a.npy is new",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_group_is_not_trained_on_other_data_than_it_was_planned_on(tmp_path, change):
    root, workdir = lay(tmp_path / "data"), tmp_path / "runs"
    ablation = Ablation("table", features(root), [{}])
    planned = plan.plan_table(ablation, workdir)
    [(name, _, _)], folder = plan.hold_groups(planned), planned.folder
    change(root)
    with pytest.raises(DataChanged) as refused:
        runner.train_group(folder, name)
    assert CHANGES[change] in str(refused.value)
    assert "give the command that began it again" in str(refused.value)
    assert not list(folder.glob("trials/*/result.json"))
    assert "\n" not in str(refused.value)


def test_settings_that_were_changed_in_a_folder_are_refused(tmp_path):
    root, workdir = lay(tmp_path / "data"), tmp_path / "runs"
    planned = plan.plan_table(Ablation("table", features(root), [{}]), workdir)
    [(name, _, _)], folder = plan.hold_groups(planned), planned.folder
    file = folder / "groups" / name / "group.json"
    content = files.read_json(file)
    content["trials"][0]["config"]["optim"]["learning_rate"] = 0.4
    files.write_json(file, content)
    with pytest.raises(DataChanged, match="its settings or the code that they name were changed"):
        runner.train_group(folder, name)


def test_a_damaged_record_of_a_tfds_set_is_named():
    name = "motion/clips=30,frames=4,size=8,seed=2"
    folder = Path(datasets.load(Data(kind="tfds", tfds=name)).builder.data_path)
    for file in folder.glob("*record*"):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    hashing._known.clear()
    with pytest.raises(UserError, match=r"damaged: clip|cannot be") as refused:
        datasets.load(Data(kind="tfds", tfds=name))
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_runs_on_corrected_data_are_not_compared_without_a_word(place):
    [table] = (place / "runs").iterdir()
    first, second = sorted((table / "trials").iterdir())

    def page() -> str:
        return str(comparison.render(first, second, place / "figures"))

    assert "not of the same data" not in page()
    arrays = files.read_arrays(second / "predictions.npz")
    arrays["test_groups"][0] = "another"
    arrays["test_labels"][:2] = 1 - arrays["test_labels"][:2]
    files.write_arrays(second / "predictions.npz", arrays)
    told = "of 4 clips of the same names 2 have another class and 1 have another recording"
    assert told in page()
