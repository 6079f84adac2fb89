"""A search with halving, beside the same settings trained in full and beside a process a trial.

    python benchmarks/search.py [--trials 64] [--clips 600] [--rungs 1,3,9,27] [--processes 6]

`vidrec search` over the learning rate, units and dropout of the embedded comparison's LSTM. Then:

- the same settings trained to their last epoch, as one table: is the best of them found, and in
  what share of their trial-epochs;
- the search's trial-epochs as Optuna is usually run, a process a trial, which compiles, reads and
  trains alone, to the epoch at which the search ended that trial: some of them, scaled up by
  what an epoch and a start take;
- the same trials one after another in one process that has compiled their programs before.

Seconds are those of processors (of children too), which hardly depend on what else the machine
does. Compiled programs are not read from a cache: each side compiles what it needs. The final
training of the chosen setting is counted apart.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import turns

from vidrec import config
from vidrec.config import Config, override
from vidrec.data import splits
from vidrec.io import files
from vidrec.sweeps import ablation, runner, search
from vidrec.sweeps.search import rounds
from vidrec.training import devices, prepare, runtime
from vidrec.training.group import TrialGroup

ROOT = Path(__file__).parent.parent
SPACE = {
    "optim.learning_rate": "log:1e-4:1e-1",
    "scanner.units": [16, 32, 64],
    "scanner.dropout": "0:0.6",
}
# What a process a trial does: it prepares its data, compiles, trains to an epoch, scores.
ALONE = """
import json, sys
from vidrec.config import from_dict
from vidrec.data import splits
from vidrec.evaluation import tasks
from vidrec.training import prepare, runtime
from vidrec.training.group import TrialGroup

cfg, epochs = from_dict(json.loads(sys.argv[1])), int(sys.argv[2])
runtime.keep_memory()
whole = tasks.of(cfg).load(cfg)
dataset, split = splits.without_test(whole, splits.make(whole, cfg.data))
group = TrialGroup([cfg], prepare.prepare(cfg, dataset=dataset, split=split))
group.initialize()
group.compile()
group.judge_untrained()
while group.active[0] and group.epoch < epochs:
    group.train_epoch()
group.validate(which=group.active | True)
"""


class Clock:
    """Seconds of processors since it was made, children that have ended included."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> float:
        both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(each.ru_utime + each.ru_stime for each in both)

    def seconds(self) -> float:
        return self._now() - self._began


class Chosen(Exception):
    """The search is done; the chosen setting would be trained anew now."""


def searched(cfg: Config, folder: Path, given: Any) -> tuple[list[dict], float]:
    """The trials of a search and its seconds, without the chosen setting's own training."""

    def stop(*_: Any, **__: Any) -> None:
        raise Chosen

    once, runner.ablate = runner.ablate, stop
    clock = Clock()
    try:
        how = {"trials": given.trials, "halving": given.halving, "at_once": given.round}
        search.search(cfg, SPACE, folder, rungs=_rungs(given.rungs), **how)
    except Chosen:
        seconds = clock.seconds()
    finally:
        runner.ablate = once
    [file] = folder.glob("search-*/search.json")
    return files.read_json(file)["found"], seconds


def _rungs(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def in_full(cfg: Config, trials: list[dict], folder: Path) -> list[dict]:
    """The results of the same settings as a table, trained to their last epoch."""
    rows = [trial["params"] for trial in trials]
    return runner.ablate(ablation.Ablation("full", cfg, rows), folder).trials


def as_processes(cfg: Config, trials: list[dict], count: int) -> float:
    """Seconds of all trials as a process each: some are run, of the least to the most epochs."""
    ordered = sorted(trials, key=lambda trial: trial["epochs"])
    chosen = [ordered[i] for i in np.linspace(0, len(ordered) - 1, count).astype(int)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    spent = []
    for trial in chosen:
        settings = json.dumps(config.to_dict(override(cfg, trial["params"])))
        clock = Clock()
        words = [sys.executable, "-c", ALONE, settings, str(trial["epochs"])]
        subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
        spent.append((trial["epochs"], clock.seconds()))
        turns.tell(f"a process of {trial['epochs']} epochs: {spent[-1][1]:.1f} s")
    epochs, seconds = np.array(spent).T
    slope, start = np.polyfit(epochs, seconds, 1) if len(set(epochs)) > 1 else (0, seconds.mean())
    every = np.array([trial["epochs"] for trial in trials])
    return float((start + slope * every).sum())


def one_after_another(cfg: Config, trials: list[dict]) -> float:
    """Seconds of all trials alone, in this process, each program compiled once and before."""
    task_data = rounds.tasks.of(cfg).load(cfg)
    dataset, split = splits.without_test(task_data, splits.make(task_data, cfg.data))
    data = prepare.prepare(cfg, dataset=dataset, split=split)
    programs: dict = {}

    def train(trial: dict) -> None:
        own = override(cfg, trial["params"])
        placement = devices.placement(1, own.train.parallel)
        group = TrialGroup([own], data, placement, programs)
        group.spec = replace(group.spec, uses_dropout=True)
        group.initialize()
        group.compile()
        group.judge_untrained()
        while group.active[0] and group.epoch < trial["epochs"]:
            group.train_epoch()
        group.validate(which=np.array([True]))

    clock = Clock()
    for trial in trials:
        train(trial)
    return clock.seconds()


def quality(trials: list[dict], full: list[dict]) -> dict[str, Any]:
    """How far the chosen setting is from the best of all, and at what share of the epochs."""
    ended = [trial for trial in trials if trial["state"] == "done"]
    chosen = min(ended, key=lambda trial: (-trial["end"][0], trial["end"][1], trial["number"]))
    val = [result["metrics"]["val"]["accuracy"] for result in full]
    test = [result["metrics"]["test"]["accuracy"] for result in full]
    best = max(range(len(full)), key=lambda i: (val[i], -full[i]["metrics"]["val"]["loss"]))
    epochs, of = (sum(each["epochs"] for each in group) for group in (trials, full))
    place = chosen["number"]
    return {
        "trial_epochs": epochs,
        "trial_epochs_in_full": of,
        "share_of_full": round(epochs / of, 3),
        "chosen_val_by_the_search": round(chosen["end"][0], 4),
        "chosen_val_in_full": round(val[place], 4),
        "best_val_in_full": round(max(val), 4),
        "points_below_best_val": round(100 * (max(val) - val[place]), 2),
        "chosen_test_in_full": round(test[place], 4),
        "test_of_best_val": round(test[best], 4),
        "best_test_in_full": round(max(test), 4),
    }


def main() -> None:
    """Print one JSON object, or its lines."""
    words = turns.arguments(__doc__)
    turns.sizes(words, trials=64, halving=3, round=16, processes=6, clips=600, epochs=30)
    words.add_argument("--rungs", default="", help="such as 1,3,9,27; empty: as the search says")
    words.add_argument("--full", default="yes", choices=["yes", "no"], help="train all in full")
    given = words.parse_args()
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    runtime.use_cores()
    base = ablation.load(ROOT / "experiments" / "motion.py")
    changes = {"data.tfds": f"motion/clips={given.clips}", "train.epochs": given.epochs}
    cfg = override(base, changes)
    prepare.prepare(cfg)  # data set and features are there already
    began = time.perf_counter()
    answer: dict[str, Any] = {"options": turns.shown(given), "versions": turns.versions("optuna")}
    with tempfile.TemporaryDirectory() as place:
        trials, ours = searched(cfg, Path(place), given)
        trained = [trial for trial in trials if trial["same_as"] is None]
        answer["search_seconds"] = round(ours, 1)
        turns.tell(f"searched in {ours:.1f} s of processors")
        if given.processes:
            apart = as_processes(cfg, trained, given.processes)
            answer["process_a_trial_seconds"] = round(apart, 1)
            answer["process_a_trial_times_ours"] = round(apart / ours, 2)
        alone = one_after_another(cfg, trained)
        answer["one_process_seconds"] = round(alone, 1)
        answer["one_process_times_ours"] = round(alone / ours, 2)
        if given.full == "yes":
            answer |= quality(trials, in_full(cfg, trials, Path(place)))
    answer["minutes"] = round((time.perf_counter() - began) / 60, 1)
    print(json.dumps(answer, indent=None if given.json else 1))


if __name__ == "__main__":
    main()
