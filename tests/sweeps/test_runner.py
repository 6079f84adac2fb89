"""A table fills itself: one program a group, nothing lost to a kill, a failure or a bad row."""

import csv
import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import trained_runs
from helpers.small_datasets import features, settings

import vidrec
from vidrec.config import override
from vidrec.errors import UserError
from vidrec.io import files
from vidrec.sweeps import ablation as tables
from vidrec.sweeps import plan, preview, runner
from vidrec.sweeps.ablation import Ablation, Row, product
from vidrec.training import loop, prepare, results, runtime
from vidrec.training.group import TrialGroup

HERE = Path(__file__).parent
FAST = {"scanner__kind": "mean", "head__kind": "per_frame", "train__epochs": 2}


class Reporter(runner.Reporter):
    """Remembers what was trained: (group, trial) to the epochs of it; may ask to stop."""

    def __init__(self, stop_after=None):
        self.epochs, self.lines, self.stop_after = {}, [], stop_after

    def say(self, line):
        self.lines.append(line)

    def group(self, name, members):
        screen = self

        class Watch(loop.Silent):
            def epoch(self, number, records):
                for trial in records:
                    screen.epochs.setdefault((name, trial), []).append(number)

            def should_stop(self):
                return sum(map(len, screen.epochs.values())) == screen.stop_after

        return Watch()

    @property
    def groups(self):
        return {name for name, _ in self.epochs}


def table(rows, seeds=1, name="table", base=None, **more):
    return Ablation(name, base or settings(**FAST), rows, seeds=seeds, **more)


def fill(ablation, folder, **more):
    """The finished table, and what was trained for it."""
    screen = Reporter()
    more = {"dataset": features()} | more
    return runner.ablate(ablation, folder, screen=screen, **more), screen


def plain_csv(folder):
    """table.csv without its columns of seconds."""
    lines = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    return [{k: v for k, v in line.items() if not k.startswith("seconds_")} for line in lines]


RATES = [0.003, 0.01, 0.03, 0.1, 0.3]


@pytest.fixture(scope="module")
def rates(tmp_path_factory):
    """25 trials that differ in learning rate and seed."""
    compiled = []
    once = TrialGroup.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TrialGroup,
            "compile",
            lambda self, *a: compiled.append(len(self.configs)) or once(self, *a),
        )
        rows = product({"optim.learning_rate": RATES})
        filled, screen = fill(table(rows, seeds=5), tmp_path_factory.mktemp("rates"))
    return filled, screen, compiled


def test_rates_and_seeds_are_one_program(rates):
    filled, screen, compiled = rates
    assert compiled == [25]
    assert len(screen.groups) == 1
    assert len(screen.epochs) == 25
    assert len({trial["id"] for trial in filled.trials}) == 25
    order = [(t["overrides"]["optim.learning_rate"], t["seed"]) for t in filled.trials]
    assert order == [(rate, seed) for rate in RATES for seed in range(5)]


def test_the_learning_rate_table_is_one_program_on_the_embedded_data():
    ablation = replace(tables.load("ablations/learning_rate.py"), seeds=5)
    trials = tables.trials(ablation, on="motion")
    assert len(trials) == 25
    assert len({plan.group_name(trial.config) for trial in trials}) == 1


def test_a_table_is_read_as_rows_and_as_a_frame(rates):
    filled, _, _ = rates
    rows = filled.rows
    assert [row["id"] for row in rows] == [trial["id"] for trial in filled.trials]
    for row, trial in zip(rows, filled.trials, strict=True):
        assert row["test_accuracy"] == trial["metrics"]["test"]["accuracy"]
        assert row["optim.learning_rate"] == trial["overrides"]["optim.learning_rate"]
        assert (row["status"], row["epochs"]) == ("done", 2)
    written = plain_csv(filled.folder)
    assert [line["id"] for line in written] == [row["id"] for row in rows]
    pandas = pytest.importorskip("pandas", reason="a frame needs pandas")
    frame = filled.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.groupby("optim.learning_rate").size().tolist() == [5] * 5


def test_a_finished_table_trains_nothing_and_reads_no_data(rates, monkeypatch):
    filled, _, _ = rates

    def refuse(*_, **__):
        raise AssertionError("data of a finished table was prepared")

    monkeypatch.setattr(prepare, "prepare", refuse)
    rows = product({"optim.learning_rate": RATES})
    again, screen = fill(table(rows, seeds=5), filled.folder.parent)
    assert screen.epochs == {}
    assert again.trials == filled.trials


def test_a_trial_of_a_table_is_the_run_alone(rates, tmp_path):
    filled, _, _ = rates
    trial = filled.trials[7]
    # Alone its batches would be spread over these devices, which adds up in another order.
    cfg = settings(**FAST, optim__learning_rate=RATES[1], seed=2, train__parallel="trials")
    alone = runner.run(cfg, tmp_path, dataset=features())
    assert alone["id"] == trial["id"]
    assert alone["metrics"] == trial["metrics"]
    ours, theirs = (vidrec.read(result["dir"]).predictions() for result in (alone, trial))
    assert np.array_equal(ours.logits_BK, theirs.logits_BK)
    a, b = (vidrec.parameters(result["dir"])["trained"] for result in (alone, trial))
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.slow
def test_a_finished_run_returns_at_once(tmp_path):
    cfg = settings(**FAST)
    first = runner.run(cfg, tmp_path, dataset=features())
    screen = Reporter()
    assert runner.run(cfg, tmp_path, dataset=features(), screen=screen) == first
    assert screen.epochs == {}


@pytest.mark.slow
def test_what_differs_in_scoring_only_is_trained_once(tmp_path):
    ways = [
        {"eval.inference": "single"},
        {"eval.inference": "average", "eval.window": 3, "eval.stride": 1},
        {"eval.inference": "average", "eval.window": 5, "eval.stride": 2},
        {"eval.inference": "vote", "eval.window": 3, "eval.stride": 1},
    ]
    rows = [{"optim.learning_rate": rate, **way} for rate in (0.01, 0.1) for way in ways]
    filled, screen = fill(table(rows, seeds=2), tmp_path)
    assert len(filled.trials) == 16
    assert len({trial["id"] for trial in filled.trials}) == 16
    assert len(screen.epochs) == 4
    for start in (0, 8):
        weights = [
            vidrec.parameters(filled.trials[start + 2 * way]["dir"])["trained"] for way in range(4)
        ]
        for other in weights[1:]:
            assert jax.tree.all(jax.tree.map(np.array_equal, weights[0], other))
    scores = [vidrec.read(t["dir"]).predictions().logits_BK for t in filled.trials[0:8:2]]
    assert all(not np.array_equal(scores[0], other) for other in scores[1:])
    assert not np.array_equal(scores[1], scores[2])


@pytest.mark.slow
def test_a_preview_tells_which_trials_are_trained(tmp_path):
    rows = product({"optim.learning_rate": [0.01, 0.3]})
    filled, _ = fill(table(rows), tmp_path)
    ids = [trial["id"] for trial in filled.trials]
    assert preview.trained(ids, tmp_path) == set(ids)
    (filled.folder / "trials" / ids[0] / "result.json").unlink()
    assert preview.trained(ids, tmp_path) == {ids[1]}
    assert preview.trained(ids[:1], tmp_path) == preview.trained(ids, tmp_path / "none") == set()


def test_settings_that_change_the_program_make_groups(tmp_path):
    rows = product({"optim.learning_rate": [0.01, 0.3], "train.batch_size": [4, 6]})
    filled, screen = fill(table(rows), tmp_path)
    assert len(screen.groups) == 2
    assert {len([1 for name, _ in screen.epochs if name == group]) for group in screen.groups} == {
        2
    }
    assert [trial["row"] for trial in filled.trials] == [0, 1, 2, 3]


def test_a_grid_of_many_programs_does_not_keep_them_all(tmp_path, monkeypatch):
    """With too many, the compiler ends the process."""
    monkeypatch.setattr(runtime, "GROUPS_KEPT", 2)
    held = []

    class Counter(Reporter):
        def group(self, name, members):
            held.append(len(jax.devices()[0].client.live_executables()))
            return super().group(name, members)

    lstm = settings(**{**FAST, "scanner__kind": "lstm", "train__epochs": 1})
    grid = Ablation("units", lstm, product({"scanner.units": tuple(range(2, 11))}))
    runner.ablate(grid, tmp_path, dataset=features(), screen=Counter())
    assert len(held) == 9
    assert held[-1] <= max(held[:3])  # each group adds four, and two compile ahead


def test_rows_with_data_of_their_own_are_trained_apart():
    a, b = (override(settings(), {"data.root": root}) for root in ("/a", "/b"))
    assert plan.group_name(a) != plan.group_name(b)
    assert prepare.data_id(a) != prepare.data_id(b)


@pytest.mark.slow
def test_data_is_prepared_once_however_rows_take_turns(tmp_path, monkeypatch):
    seen, real = [], prepare.prepare
    monkeypatch.setattr(prepare, "prepare", lambda cfg, **how: seen.append(cfg) or real(cfg, **how))
    axes = {"scanner.kind": ["mean", "none"], "frames.length": [4, 5]}
    fill(table(product(axes)), tmp_path)
    assert [cfg.frames.length for cfg in seen] == [4, 5]


@pytest.mark.slow
def test_rows_that_come_out_equal_share_a_trial_and_keep_their_rows(tmp_path):
    rows = [
        Row({"optim.learning_rate": 0.1}, name="one"),
        Row({"optim.learning_rate": 0.2}, name="two"),
        Row({"optim.learning_rate": 0.1, "optim.momentum": 0.9}, name="three"),
    ]
    filled, screen = fill(table(rows), tmp_path)
    assert len(screen.epochs) == 2
    assert [trial["row"] for trial in filled.trials] == [0, 1, 2]
    assert [trial["row_name"] for trial in filled.trials] == ["one", "two", "three"]
    assert filled.trials[0]["metrics"] == filled.trials[2]["metrics"]
    rows = plain_csv(filled.folder)
    assert [row["row"] for row in rows] == ["0", "1", "2"]
    assert rows[0]["test_accuracy"] == rows[2]["test_accuracy"] != ""


BROKEN = """
import optax
from pathlib import Path

def make(cfg, hyper):
    if Path(__file__).with_suffix(".fail").exists():
        raise RuntimeError("out of luck\\nand more")
    return optax.sgd(hyper["optim.learning_rate"])
"""


@pytest.mark.slow
def test_a_failure_is_recorded_the_rest_go_on_and_it_alone_is_tried_again(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(BROKEN)
    own.with_suffix(".fail").touch()
    rows = [{"optim.kind": "momentum"}, {"optim.kind": f"{own}:make"}, {"optim.kind": "adam"}]
    ablation = table(rows, seeds=2)
    filled, screen = fill(ablation, tmp_path / "runs")
    assert [t["status"] for t in filled.trials] == ["done"] * 2 + ["failed"] * 2 + ["done"] * 2
    assert filled.trials[2]["why"] == "RuntimeError: out of luck"
    assert any("failed: out of luck" in line for line in screen.lines)
    assert [row["status"] for row in plain_csv(filled.folder)][2:4] == ["failed"] * 2
    assert "failed" in (filled.folder / "table.md").read_text()
    # A failure is a result: without --retry it stays.
    own.with_suffix(".fail").unlink()
    again, screen = fill(ablation, tmp_path / "runs")
    assert screen.epochs == {}
    assert again.trials == filled.trials
    mended, screen = fill(ablation, tmp_path / "runs", retry="failed")
    assert len(screen.epochs) == 2
    assert [trial["status"] for trial in mended.trials] == ["done"] * 6
    for place in (0, 1, 4, 5):
        assert mended.trials[place] == filled.trials[place]


@pytest.mark.slow
def test_diverged_trials_are_tried_again_without_their_group(tmp_path):
    rows = [{"optim.learning_rate": rate} for rate in (0.01, 1e38, 0.1)]
    filled, _ = fill(table(rows), tmp_path)
    assert [trial["status"] for trial in filled.trials] == ["done", "diverged", "done"]
    assert filled.trials[1]["epochs"] == 1
    assert "not finite" in filled.trials[1]["why"]
    before = (Path(filled.trials[0]["dir"]) / "result.json").stat().st_mtime_ns
    for _ in range(2):
        again, screen = fill(table(rows), tmp_path, retry="failed")
        assert len(screen.epochs) == 1
        assert [trial["status"] for trial in again.trials] == ["done", "diverged", "done"]
    assert (Path(filled.trials[0]["dir"]) / "result.json").stat().st_mtime_ns == before
    _, screen = fill(table(rows), tmp_path)
    assert screen.epochs == {}


def test_a_part_of_a_table_whose_data_cannot_be_prepared_is_recorded(tmp_path):
    rows = [{}, {"encoder.pca": 99}]
    filled, _ = fill(table(rows), tmp_path)
    assert [trial["status"] for trial in filled.trials] == ["done", "failed"]
    assert "encoder.pca = 99 is more than the 5" in filled.trials[1]["why"]
    with pytest.raises(UserError, match=r"encoder.pca = 99"):
        fill(table(rows[1:]), tmp_path / "alone")


@pytest.mark.parametrize("place", [(loop.GroupRun, "ready"), (prepare, "prepare")])
def test_what_the_system_refuses_stops_a_table_and_is_no_failure_of_a_trial(
    tmp_path, monkeypatch, place
):
    rows, real = [{}, {"encoder.pca": 2}], getattr(*place)
    calls = []

    def refused_once(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(*arguments, **named)

    monkeypatch.setattr(*place, refused_once)
    with pytest.raises(OSError, match="Too many open files"):
        fill(table(rows), tmp_path)
    assert not list(tmp_path.rglob("result.json"))
    filled, _ = fill(table(rows), tmp_path)
    assert [trial["status"] for trial in filled.trials] == ["done", "done"]


@pytest.mark.slow
def test_a_stopped_table_goes_on_where_it_was(tmp_path):
    rows = product({"train.batch_size": [4, 6, 7], "optim.learning_rate": [0.01, 0.1]})
    whole, _ = fill(table(rows), tmp_path / "whole")
    screen = Reporter(stop_after=2 * 2 + 2)  # in the second group
    with pytest.raises(loop.Interrupted):
        runner.ablate(table(rows), tmp_path / "parts", screen=screen, dataset=features())
    parts, rest = fill(table(rows), tmp_path / "parts")
    assert sum(map(len, rest.epochs.values())) == 6 * 2 - 6
    assert plain_csv(parts.folder) == plain_csv(whole.folder)
    resumed = {trial["resumed_epoch"] for trial in parts.trials}
    assert resumed == {0, 1}


@pytest.mark.slow
def test_a_group_that_another_process_trains_is_no_failure(tmp_path):
    rows = product({"train.batch_size": [4, 6], "optim.learning_rate": [0.01, 0.1]})
    folder, members = plan.plan_table(table(rows), tmp_path, dataset=features())
    second = folder / "groups" / members[2].about["group"]
    second.mkdir(parents=True)
    claimed = loop.claim(second)
    with pytest.raises(loop.FolderLocked, match="another process"):
        fill(table(rows), tmp_path)
    assert not (members[2].folder / "result.json").exists()
    claimed.close()
    filled, screen = fill(table(rows), tmp_path)
    assert [trial["status"] for trial in filled.trials] == ["done"] * 4
    assert len(screen.epochs) == 2


def test_a_folder_of_other_trials_is_refused(tmp_path):
    folder, members = plan.plan_table(table([{}]), tmp_path, dataset=features())
    group = folder / "groups" / members[0].about["group"]
    group.mkdir(parents=True)
    (group / "group.json").write_text('{"members": ["other"]}')
    with pytest.raises(UserError, match="belongs to other trials; take another --workdir"):
        fill(table([{}]), tmp_path)


@pytest.mark.slow
def test_a_group_that_does_not_fit_in_memory_is_split_for_good(tmp_path):
    four = table(product({"optim.learning_rate": [0.01, 0.05]}), seeds=2)
    found, screen = fill(four, tmp_path, overrides={"train.memory_gb": 1e-6})
    assert sum("is split" in line for line in screen.lines) == 3  # 4 trials, then 2 and 2
    made = sorted(each.name for each in (found.folder / "groups").iterdir())
    assert made == [made[0] + part for part in ("", "-1", "-1-1", "-1-2", "-2", "-2-1", "-2-2")]
    assert [each["trials_in_group"] for each in found.trials] == [1] * 4
    # With room again it stays as it was fixed; only what is missing is scored anew.
    (found.folder / "trials" / found.trials[3]["id"] / "result.json").unlink()
    again, screen = fill(four, tmp_path)
    assert not screen.epochs
    assert [each["trials_in_group"] for each in again.trials] == [1] * 4
    assert [each["resumed_epoch"] for each in again.trials] == [0, 0, 0, 2]


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for work in (
        lambda: fill(table([{}]), tmp_path / "file"),
        lambda: runner.run(settings(**FAST), tmp_path / "file", dataset=features()),
    ):
        with pytest.raises(UserError, match=r"cannot write .*file.*: Not a directory"):
            work()


SCRIPT = """
import vidrec
cfg = vidrec.override(vidrec.load("mine.py"), {"optim.learning_rate": 0.1})
result = vidrec.train(cfg, "runs")
accuracy = result["metrics"]["test"]["accuracy"]
rows = vidrec.product({"optim.learning_rate": [0.01, 0.1], "optim.momentum": [0.0, 0.9]})
table = vidrec.ablate(vidrec.Ablation("mine", cfg, rows, seeds=2), "runs")
best = max(table.rows, key=lambda row: row["val_accuracy"])
frame = table.frame()
scored = vidrec.read(result["dir"]).predictions("test")
weights = vidrec.parameters(result["dir"])["trained"]
assert abs((scored.logits_BK.argmax(1) == scored.labels_B).mean() - accuracy) < 1e-12
assert len(frame) == len(table.rows) == 8 and len(scored.names_B) == len(scored.labels_B)
assert weights["head"]["scores"]["kernel"].shape == (5, 3)
"""


@pytest.mark.slow
def test_a_short_script_does_all_of_it_and_prints_nothing(tmp_path):
    assert len(SCRIPT.strip().splitlines()) < 20
    own = {
        "data.kind": f"{HERE.parent / 'helpers' / 'small_datasets.py'}:given",
        **settings_of(FAST),
    }
    (tmp_path / "mine.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(HERE.parent)!r})\n"
        "from helpers.small_datasets import SETTINGS\n"
        "import vidrec\n"
        f"def config():\n    return vidrec.override(vidrec.Config(), SETTINGS | {own!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def settings_of(named):
    return {name.replace("__", "."): value for name, value in named.items()}


def environment():
    return {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


KILLED = """
    import sys
    sys.path[:0] = [{here!r}, {here!r} + "/.."]
    import test_runner
    from helpers.small_datasets import features
    from vidrec.sweeps import runner as grid
    class Reporter(test_runner.Reporter):
        def group(self, name, members):
            print("group", name, flush=True)
            watch = super().group(name, members)
            class Loud(type(watch)):
                def epoch(self, number, records):
                    print("epoch", name, number, flush=True)
            return Loud()
    table = test_runner.long_table()
    filled = grid.ablate(table, sys.argv[1], screen=Reporter(), dataset=features())
    print("done", *(trial["resumed_epoch"] for trial in filled.trials), flush=True)
"""


def long_table():
    """Two groups of three trials; every epoch is saved."""
    rows = product({"train.batch_size": [4, 6], "optim.learning_rate": [0.01, 0.1, 1e38]})
    more = {"train__epochs": 40, "scanner__dropout": 0.2}
    return table(rows, base=settings(**{**FAST, **more}), name="long")


class Killed:
    """One process that fills the long table, and what it said."""

    def __init__(self, folder):
        code = textwrap.dedent(KILLED).format(here=str(HERE))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.folder, self.lines = folder, []

    def until(self, wanted):
        """Reads lines until one is wanted; False at the end."""
        for line in self.process.stdout:
            self.lines.append(line.split())
            if wanted(self.lines):
                return True
        return False

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.lines += [line.split() for line in self.process.communicate()[0].splitlines()]

    def saving(self, seconds=20):
        """Waits for a save to be half done."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if any(self.folder.glob("long-*/groups/*/checkpoints/.vidrec-*.partial/*")):
                return True
        return False

    def epochs(self):
        return [(name, int(number)) for word, name, number in self._three() if word == "epoch"]

    def _three(self):
        return [line for line in self.lines if len(line) == 3]


def kill_and_go_on(tmp_path, moments):
    """Kills at each moment: ("epoch", n), ("save",) or ("seconds", s); then fills the table."""
    whole, screen = fill(long_table(), tmp_path / "whole")
    undisturbed = sum(map(len, screen.epochs.values()))
    assert [t["status"] for t in whole.trials].count("diverged") == 2
    hit, best, hits = dict.fromkeys(screen.groups, 0), {}, []
    for moment in moments:
        process = Killed(tmp_path / "parts")
        if moment[0] == "epoch":
            count = moment[1]
            process.until(lambda lines, n=count: sum(x[0] == "epoch" for x in lines) >= n)
        elif moment[0] == "save":
            process.until(lambda lines: lines[-1][0] == "epoch")
            hits.append(process.saving())
        else:
            time.sleep(moment[1])
        process.kill()
        for name in hit:
            saves = tmp_path.glob(f"parts/long-*/groups/{name}/checkpoints/[0-9]*")
            told = [json.loads((x / "meta.json").read_text()) for x in saves if x.name.isdigit()]
            best[name] = max([each["epoch"] for each in told], default=0)
            # What was saved is never trained again.
            mine = [number for group, number in process.epochs() if group == name]
            assert not mine or mine[0] == hit[name] + 1 or mine[0] > 1
            assert not mine or mine[0] > hit[name]
            hit[name] = max(hit[name], best[name])
    process = Killed(tmp_path / "parts")
    process.until(lambda lines: lines[-1][0] == "done")
    process.process.wait()
    assert process.process.returncode == 0
    resumed = [int(each) for each in process.lines[-1][1:]]
    assert any(resumed) == any(hit.values())
    assert len(process.epochs()) < undisturbed or not any(hit.values())
    [parts] = (tmp_path / "parts").glob("long-*")
    assert plain_csv(parts) == plain_csv(whole.folder)
    for trial in whole.trials:
        theirs, ours = Path(trial["dir"]), parts / "trials" / trial["id"]
        assert (ours / results.METRICS).read_text() == (theirs / results.METRICS).read_text()
        a, b = (vidrec.parameters(each) for each in (ours, theirs))
        assert jax.tree.all(jax.tree.map(np.array_equal, a, b))
    return hits


@pytest.mark.slow
def test_twenty_kills_in_the_middle_of_saves_too(tmp_path):
    rng = random.Random(11)
    moments = [("seconds", rng.uniform(0.5, 4)) for _ in range(5)]
    moments += [("epoch", rng.randint(1, 12)) for _ in range(12)] + [("save",)] * 3
    hits = kill_and_go_on(tmp_path, moments)
    assert any(hits), "no save was caught half done"


def test_film_strips_and_report_that_a_kill_or_damage_took_are_made_again(tmp_path, monkeypatch):
    videos = trained_runs.write_videos(tmp_path / "videos", each=5)
    cfg = trained_runs.settings_of(videos, {"train.epochs": 1})
    with monkeypatch.context() as patch:

        def killed(*_):
            raise KeyboardInterrupt

        patch.setattr(runner.samples, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            runner.run(cfg, tmp_path / "runs")
    [folder] = (tmp_path / "runs").iterdir()
    assert (folder / "result.json").exists()
    assert not (folder / "samples.npz").exists()
    result = runner.run(cfg, tmp_path / "runs")
    whole = files.read_arrays(folder / "samples.npz", ["frames", "names"])
    assert len(whole["names"])
    assert "data:image" in (folder / "report.html").read_text()
    (folder / "samples.npz").write_bytes((folder / "samples.npz").read_bytes()[:500])
    assert runner.run(cfg, tmp_path / "runs") == result
    again = files.read_arrays(folder / "samples.npz")
    assert np.array_equal(again["frames"], whole["frames"])
    # A report that is older than a result does not show it; one that is newer stays.
    before = (folder / "report.html").stat().st_mtime_ns
    runner.run(cfg, tmp_path / "runs")
    assert (folder / "report.html").stat().st_mtime_ns == before
    os.utime(folder / "report.html", (1, 1))
    runner.run(cfg, tmp_path / "runs")
    assert (folder / "report.html").stat().st_mtime > 1
    (folder / "table.csv").unlink()
    runner.run(cfg, tmp_path / "runs")
    assert (folder / "table.csv").exists()


@pytest.mark.parametrize("name", ["result.json", "group.json", "ablation.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"a": "\xff"}', b'{"id": 7}'])
def test_damaged_files_of_a_table_are_one_line_that_names_them(tmp_path, name, content):
    rows = [{"optim.learning_rate": 0.1}]
    folder, [member] = plan.plan_table(table(rows), tmp_path, dataset=features())
    group = folder / "groups" / member.about["group"]
    file = {"result.json": member.folder, "group.json": group, "ablation.json": folder}[name] / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        fill(table(rows), tmp_path, dataset=features())
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
