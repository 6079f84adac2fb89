"""A search finds settings on validation clips alone, stops the worse part, and survives kills."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import fails
from helpers.pages import Page
from helpers.small_datasets import ArrayDataset, features, group_of, settings
from helpers.trackers import Recorder

import vidrec
from vidrec.config import override
from vidrec.data import splits
from vidrec.errors import UserError
from vidrec.evaluation import metrics
from vidrec.io import files
from vidrec.io.machine import how_to_install
from vidrec.sweeps import runner
from vidrec.sweeps.search import halving, space
from vidrec.training import devices, loop, prepare, runtime

ROOT = Path(__file__).parents[2]
SPACE = {
    "optim.learning_rate": "log:1e-3:1",
    "scanner.units": [2, 4],
    "scanner.dropout": "0:0.6",
}


# --- The space ------------------------------------------------------------------------------------


def test_intervals_and_choices_are_read_by_the_type_of_the_setting():
    found = space.parse(
        [
            "optim.learning_rate=log:1e-4:1e-2",
            "scanner.units=16:64",
            "scanner.layers=1,3",
            "--scanner.dropout=0:0.6",
            "scanner.kind=lstm,mine.py:Cell",
            "scanner.batch-norm=True,False",
            "scanner.forget_bias=-1:5",
            "head.dense=(8 4),(2)",
        ]
    )
    assert found == {
        "optim.learning_rate": space.Interval(1e-4, 1e-2, log=True),
        "scanner.units": space.Interval(16, 64, whole=True),
        "scanner.layers": space.Choices((1, 3)),
        "scanner.dropout": space.Interval(0, 0.6),
        "scanner.kind": space.Choices(("lstm", os.path.abspath("mine.py:Cell"))),
        "scanner.batch_norm": space.Choices((True, False)),
        "scanner.forget_bias": space.Interval(-1, 5),
        "head.dense": space.Choices(((8, 4), (2,))),
    }
    assert space.of({"optim.learning_rate": "log:1e-4:1e-2", "scanner.units": (8, 9)}) == {
        "optim.learning_rate": space.Interval(1e-4, 1e-2, log=True),
        "scanner.units": space.Choices((8, 9)),
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optim.learning_rate", "should be like"),
        ("optim.learning_rat=1:2", "did you mean 'optim.learning_rate'"),
        ("optim.learning_rate=1e-2:1e-4", "the first number should be the smaller"),
        ("optim.learning_rate=log:0:1", "above 0"),
        ("optim.learning_rate=log:1e-4", "log:LOW:HIGH"),
        ("optim.learning_rate=a:b", "two numbers"),
        ("optim.learning_rate=-1:1", "at least 0"),
        ("scanner.units=8:9.5", "two whole numbers"),
        ("scanner.units=8,0", "at least 1"),
        ("scanner.units=8,8", "names a value twice"),
        ("scanner.kind=lstn,gru", "lstm"),
        ("scanner.kind=log:lstm", "is for a setting that is a number"),
        ("data.val=0.1,0.2", "the same clips"),
        ("eval.inference=single,vote", "the same clips"),
        ("seed=1,2", "--seeds"),
        ("train.parallel=trials,batch", "changes no result"),
        ("train.epochs=3,9", "--halving decides"),
    ],
)
def test_a_wrong_space_is_refused_in_a_line(text, told):
    with pytest.raises(UserError) as refused:
        space.check(settings(), space.parse([text]), halving=True)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_setting_that_is_named_twice_and_an_empty_space_are_refused():
    with pytest.raises(UserError, match="twice"):
        space.parse(["scanner.units=1,2", "scanner.units=3,4"])
    with pytest.raises(UserError, match="needs a space"):
        space.check(settings(), {}, halving=False)


# --- Halving --------------------------------------------------------------------------------------


def test_rungs_as_given_and_as_they_follow_from_the_epochs():
    assert halving.rungs(30, 3) == (3, 10)
    assert halving.rungs(27, 3, [1, 3, 9]) == (1, 3, 9)
    assert halving.rungs(4, 3) == (1,)
    assert halving.rungs(30, 0) == ()
    for wrong in ([3, 1], [1, 1], [0, 2], [3, 30], [40]):
        with pytest.raises(UserError, match="rise"):
            halving.rungs(30, 3, wrong)
    with pytest.raises(UserError, match="needs --halving"):
        halving.rungs(30, 0, [3])
    with pytest.raises(UserError, match="nothing to stop"):
        halving.rungs(1, 3)


def test_the_better_part_is_what_sorting_by_hand_gives():
    rng = np.random.default_rng(4)
    for _ in range(50):
        count = int(rng.integers(1, 12))
        accuracy = rng.integers(0, 4, count) / 4
        loss = np.where(rng.random(count) < 0.2, np.nan, rng.integers(0, 3, count))
        standings = {
            i: halving.Standing(float(a), float(x))
            for i, (a, x) in enumerate(zip(accuracy, loss, strict=True))
        }
        wanted = min(count, halving.kept(count, int(rng.integers(2, 5)), int(rng.integers(3))))
        found = halving.better_part(standings, wanted)
        assert len(found) == wanted
        for inside in found:
            for out in standings.keys() - found:
                a, b = standings[inside], standings[out]
                assert a.accuracy >= b.accuracy
                if a.accuracy == b.accuracy and not math.isnan(b.loss):
                    assert a.loss < b.loss or (a.loss == b.loss and inside < out)


def test_of_a_round_a_third_then_a_ninth_and_at_least_one_trains_on():
    assert [halving.kept(64, 3, rung) for rung in range(4)] == [21, 7, 2, 1]
    assert [halving.kept(16, 3, rung) for rung in range(3)] == [5, 2, 1]
    assert halving.kept(2, 4, 5) == 1


def test_without_optuna_the_message_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = fails(capsys, "search", "motion", "--space", "scanner.units=8,16")
    assert how_to_install("search") in line


USES = {
    "predict": ("predict", "{folder}", "clip.mp4"),
    "evaluate": ("evaluate", "{folder}"),
    "export": ("export", "{folder}", "out"),
    "compare": ("compare", "{folder}", "{folder}"),
    "more epochs": ("train", "--more-epochs", "2", "{folder}"),
}


@pytest.mark.parametrize("use", USES)
def test_a_search_is_no_model_and_the_line_names_the_folder_that_is(use, tmp_path, capsys):
    folder = tmp_path / "runs" / "search-motion-0123abcd"
    folder.mkdir(parents=True)
    plan = {"name": "search-motion", "id": "0123abcd" * 4, "config": {}, "space": {}, "clips": {}}
    plan |= {"halving": 3, "rungs": [1], "at_once": 7, "figure": "accuracy", "found": []}
    table = folder.parent / "search-motion-chosen-4567cdef"
    chosen = {"number": 0, "params": {}, "accuracy": 0.5, "table": table.name, "seeds": 1}
    chosen |= dict.fromkeys(("test_accuracy", "low", "high"), 0.5)
    told = {"it has not chosen a setting yet": {}, f"name that folder: {table}": {"chosen": chosen}}
    for words, more in told.items():
        files.write_json(folder / "search.json", {**plan, "more": more})
        line = fails(capsys, *(word.format(folder=folder) for word in USES[use]))
        assert f"{folder} is a search" in line
        assert words in line


# --- The search -----------------------------------------------------------------------------------


class Spy(ArrayDataset):
    """Remembers which clips are read, whatever part of it they are read from."""

    seen: set = set()  # noqa: RUF012

    def features(self, clip):
        self.seen.add(self.names[clip])
        return super().features(clip)


def spied(**changes) -> Spy:
    own = features(**changes)
    return Spy(**{name: getattr(own, name) for name in own.__dataclass_fields__})


def run(folder, cfg=None, dataset=None, axes=None, **how):
    """A small search: 14 trials in rounds of 7."""
    how = {"trials": 14, "halving": 3, "at_once": 7, "seeds": 2} | how
    cfg = cfg or settings(train__epochs=9, train__patience=4)
    return vidrec.search(cfg, axes or SPACE, folder, dataset=dataset or features(), **how)


def facts(found):
    """What has to be the same of two searches."""
    return json.dumps(found.trials)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    pytest.importorskip("optuna", reason="a search needs Optuna (vidrec[search])")
    return run(tmp_path_factory.mktemp("search"))


@pytest.mark.slow
def test_a_search_reads_no_test_clip_until_the_setting_is_chosen(tmp_path, monkeypatch):
    """Neither what test clips hold nor their labels can change what is found: there are none."""
    pytest.importorskip("optuna", reason="a search needs Optuna (vidrec[search])")

    class ChosenError(Exception):
        pass

    def stop(*_, **__):
        raise ChosenError

    monkeypatch.setattr(runner, "ablate", stop)
    dataset, cfg = spied(), settings(train__epochs=9)
    split = splits.make(dataset, cfg.data)
    tests = {dataset.names[clip] for clip in split.test}
    rest = {dataset.names[clip] for clip in (*split.train, *split.val)}
    Spy.seen = set()
    with pytest.raises(ChosenError):
        run(tmp_path / "a", cfg, dataset)
    assert tests
    assert Spy.seen == rest
    assert not Spy.seen & tests
    other = spied()
    rng = np.random.default_rng(1)
    arrays = [
        rng.normal(size=array.shape).astype(np.float32) if clip in split.test else array
        for clip, array in enumerate(other.arrays)
    ]
    other.arrays = tuple(arrays)
    other.labels = other.labels.copy()
    other.labels[split.test] = (other.labels[split.test] + 1) % 3
    with pytest.raises(ChosenError):
        run(tmp_path / "b", cfg, other)
    [a], [b] = (list((tmp_path / name).glob("search-*/search.json")) for name in "ab")
    assert a.parent.name == b.parent.name, "a test clip is part of the search's id"
    trials = [files.read_json(each)["found"] for each in (a, b)]
    assert trials[0] == trials[1]


@pytest.mark.slow
def test_without_test_clips_a_data_set_has_the_same_others():
    dataset, cfg = features(), settings()
    whole = splits.make(dataset, cfg.data)
    kept, split = splits.without_test(dataset, whole)
    assert len(split.test) == 0
    for part in ("train", "val"):
        ours, theirs = getattr(split, part), getattr(whole, part)
        assert [kept.names[i] for i in ours] == [dataset.names[i] for i in theirs]
        assert np.array_equal(kept.labels[ours], dataset.labels[theirs])
        assert all(
            np.array_equal(kept.features(a), dataset.features(b))
            for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)
        )


@pytest.mark.slow
def test_a_trial_is_what_it_is_alone_and_the_worse_part_is_stopped(found):
    """Beside a slow truth: each setting trained alone, and the trials of a round sorted by hand."""
    meta = files.read_json(found.folder / "search.json")
    assert meta["rungs"] == [1, 3]
    cfg = settings(train__epochs=9, train__patience=4)
    kept, split = splits.without_test(features(), splits.make(features(), cfg.data))
    data = prepare.prepare(cfg, dataset=kept, split=split)
    val = data.clips("val")
    steps = [*meta["rungs"], 9]
    states = set()
    for trial in found.trials:
        group = group_of([override(cfg, trial["params"])], data)
        group.initialize()
        group.compile()
        group.judge_untrained()
        stands = {}
        while group.active[0] and group.epoch < trial["epochs"]:
            group.train_epoch()
            scores = group.score(val)
            right = metrics.predictions(scores.scores_BK[0]) == data.dataset.labels[val]
            stands[group.epoch] = (right.mean(), scores.losses_B[0].mean(dtype=np.float64))
        assert group.epoch == trial["epochs"]
        assert trial["end"] == pytest.approx(stands[group.epoch], rel=1e-4)
        for epoch, *standing in trial["rungs"]:
            assert standing == pytest.approx(stands[epoch], rel=1e-4)
        states.add(trial["state"])
    assert states == {"done", "stopped"}
    for number in (0, 1):
        members = [trial for trial in found.trials if trial["round"] == number]
        left = members
        for place, step in enumerate(steps[:-1]):
            at = {t["number"]: {e: (-a, x) for e, a, x in t["rungs"]}.get(step) for t in left}
            assert all(at[t["number"]] for t in left if t["epochs"] >= step)
            count = max(1, int(len(members) / 3 ** (place + 1) + 0.5))
            order = sorted((standing, n) for n, standing in at.items() if standing)
            go_on = {n for _, n in order[:count]}
            stopped = [t for t in left if t["state"] == "stopped" and t["epochs"] == step]
            assert {t["number"] for t in stopped} == at.keys() - go_on
            left = [t for t in left if t["number"] in go_on]


@pytest.mark.slow
def test_the_chosen_is_the_best_on_validation_and_is_trained_with_fresh_seeds(found):
    done = [trial for trial in found.trials if trial["state"] == "done"]
    best = min(done, key=lambda t: (-t["end"][0], t["end"][1], t["number"]))
    assert found.chosen["number"] == best["number"]
    assert found.chosen["params"] == best["params"]
    assert [trial["seed"] for trial in found.table.trials] == [1, 2]
    accuracies = [trial["metrics"]["test"]["accuracy"] for trial in found.table.trials]
    assert found.chosen["test_accuracy"] == pytest.approx(np.mean(accuracies))
    assert found.epochs == sum(trial["epochs"] for trial in found.trials)
    assert found.of_epochs == 14 * 9
    assert found.chosen["table"] == found.table.folder.name
    assert found.table.folder.name.startswith("search-chosen-")
    assert not list(found.folder.rglob("checkpoints"))


@pytest.mark.slow
def test_the_study_is_optunas(found):
    optuna = pytest.importorskip("optuna")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(found.folder / "study.log")))
    study = optuna.load_study(study_name="search", storage=storage)
    assert len(study.trials) == 14
    assert study.best_value == found.chosen["accuracy"]
    for ours, theirs in zip(found.trials, study.trials, strict=True):
        assert theirs.params == ours["params"]
        assert theirs.intermediate_values == {epoch: value for epoch, value, _ in ours["rungs"]}
        assert theirs.state.name == {"done": "COMPLETE", "stopped": "PRUNED"}[ours["state"]]
    first = study.trials[0].params  # the experiment's own settings lie in the space
    assert first["optim.learning_rate"] == 0.05
    assert (first["scanner.units"], first["scanner.dropout"]) == (4, 0.0)


@pytest.mark.slow
def test_rounds_share_compiled_programs(tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="a search needs Optuna (vidrec[search])")
    compiled, once = [], devices.compiled
    monkeypatch.setattr(
        devices, "compiled", lambda *a, **level: compiled.append(1) or once(*a, **level)
    )

    class ChosenError(Exception):
        pass

    monkeypatch.setattr(runner, "ablate", lambda *_, **__: (_ for _ in ()).throw(ChosenError))
    with pytest.raises(ChosenError):
        run(tmp_path, trials=28, axes={"optim.learning_rate": "log:1e-3:1"})
    assert len(compiled) == 2  # the programs of the first state and of an epoch, each once


@pytest.mark.slow
def test_a_search_over_many_programs_frees_them_and_finds_the_same(found, tmp_path, monkeypatch):
    freed = []
    monkeypatch.setattr(runtime, "GROUPS_KEPT", 1)
    monkeypatch.setattr(runtime, "free_programs", lambda: freed.append(1))
    assert facts(run(tmp_path)) == facts(found)
    assert freed


@pytest.mark.slow
def test_a_finished_search_trains_nothing_and_more_trials_and_seeds_go_on(found, monkeypatch):
    folder = found.folder.parent

    def refuse(*_, **__):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(loop.GroupRun, "train_to", refuse)
        patch.setattr(loop.GroupRun, "run", refuse)
        again = run(folder)
        assert facts(again) == facts(found)
        assert again.chosen == found.chosen
    more = run(folder, trials=21, seeds=3)
    assert more.folder == found.folder
    assert len(more.trials) == 21
    assert json.dumps(more.trials[:14]) == facts(found)
    assert [trial["seed"] for trial in more.table.trials] == [1, 2, 3]


@pytest.mark.slow
def test_settings_that_come_again_cost_nothing_and_ones_that_cannot_be_are_recorded(tmp_path):
    pytest.importorskip("optuna", reason="a search needs Optuna (vidrec[search])")
    axes = {"scanner.kind": ["gru", "transformer"], "scanner.bidirectional": ["no", "concat"]}
    found = run(tmp_path, settings(train__epochs=3), axes=axes, trials=12, halving=0, at_once=6)
    by_settings = {}
    for trial in found.trials:
        key = tuple(trial["params"].values())
        if trial["state"] == "failed":
            assert trial["why"]
            continue
        first = by_settings.setdefault(key, trial)
        assert trial["same_as"] == (None if first is trial else first["number"])
        assert trial["end"] == first["end"]
    assert len(by_settings) < 12
    assert found.epochs == 3 * len(by_settings)


@pytest.mark.slow
def test_a_page_shows_history_importance_and_parallel_coordinates(found):
    page = Page(found.folder / "report.html")
    for word in ("History", "Importance", "Parallel coordinates", "no test clip", "chosen"):
        assert word in page.text, word
    assert f"{100 * found.chosen['accuracy']:.1f}" in page.text
    for name in ("history", "importance", "parallel"):
        assert (found.folder / "figures" / f"{name}.svg").exists()
    (found.folder / "report.html").unlink()
    vidrec.report.build(found.folder)
    lines = (found.folder / "table.csv").read_text().splitlines()
    assert len(lines) >= 15
    assert lines[0].startswith("number,round,state,why,epochs,val_accuracy,val_loss,optim.")


@pytest.mark.slow
def test_trackers_are_told_of_each_trial_while_it_trains_and_afterwards(found, tmp_path):
    """Of a search that tells them from the start, and of one that was finished without them."""
    first, later = Recorder(), Recorder()
    told = run(tmp_path, track=[first])
    assert facts(told) == facts(found)
    run(found.folder.parent, track=[later])
    for recorder, folder in ((first, told.folder), (later, found.folder)):
        [top] = [one for one in recorder.of("table") if one["subject"].top == folder]
        assert top["state"] == "finished"
        assert folder / "report.html" in top["outcome"].files
        for trial in found.trials:
            [one] = recorder.of(trial["id"])
            assert recorder.runs[one["parent"]] is top
            epochs = [line["epoch"] for line in one["lines"]]
            assert epochs == list(range(1, trial["epochs"] + 1))
            outcome = one["outcome"]
            assert (one["state"], outcome.status) == ("finished", "done")
            assert ("not among the" in outcome.why) == (trial["state"] == "stopped")
            assert outcome.figures["val_accuracy"] == trial["end"][0]
            assert one["subject"].parameters["scanner.units"] == trial["params"]["scanner.units"]
        assert [len(recorder.of(trial["id"])) for trial in told.table.trials] == [1, 1]


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
moment, count = int(sys.argv[1]), 0

def watch(event, arguments):
    global count
    if event != "os.rename":
        return
    path = os.fsdecode(arguments[0])
    if path.startswith({folder!r}):
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

from helpers.small_datasets import features, settings
import vidrec
sys.addaudithook(watch)
cfg = settings(train__epochs=9, train__patience=4)
how = dict(trials=14, halving=3, at_once=7, seeds=2, dataset=features())
vidrec.search(cfg, {axes!r}, {folder!r}, **how)
print(count)
"""


@pytest.mark.slow(minutes=2)
def test_a_search_that_is_killed_three_times_ends_with_the_same_study(found, tmp_path):
    """At a rename of a file: of a save, of a round's plan, of a rung's decision, or of a result."""
    folder = tmp_path / "runs"
    script = SCRIPT.format(tests=str(ROOT / "tests"), folder=str(folder), axes=SPACE)

    def started(moment):
        words = [sys.executable, "-c", script, str(moment)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)

    seed = int(os.environ.get("VIDREC_TEST_SEED", "3"))
    for moment in np.random.default_rng(seed).integers(2, 30, 3):
        assert started(int(moment)).returncode == -signal.SIGKILL
    done = started(0)
    assert done.returncode == 0, done.stderr[-2000:]
    [file] = folder.glob("search-*/search.json")
    trials = files.read_json(file)["found"]
    wanted = [trial for trial in found.trials if trial["number"] < 14]
    assert json.dumps(trials) == json.dumps(wanted)
    assert files.read_json(file)["more"]["chosen"] == found.chosen


@pytest.mark.slow(minutes=1)
def test_the_commands_of_its_page_do_what_it_says(tmp_path):
    """The first block of docs/how-to/search.md, as it is printed."""
    pytest.importorskip("optuna", reason="a search needs Optuna (vidrec[search])")
    page = (ROOT / "docs" / "how-to" / "search.md").read_text(encoding="utf-8")
    block = page.split("```\n")[1]
    assert block.count("\n") == 2
    for line in block.splitlines():
        words = [sys.executable, str(ROOT / "launch.py"), *line.split()[1:]]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.rstrip().endswith("report.html")
    assert "is the best on validation" in " ".join(done.stdout.split())
    assert list((tmp_path / "runs").glob("search-motion-chosen-*/report.html"))
