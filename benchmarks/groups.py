"""A table as one program, beside its trials one after another and beside a process for each.

    python benchmarks/groups.py [--seeds 5] [--epochs 10] [--processes 3]

The table is `ablate ablations/learning_rate.py --on motion --seeds 5`, reports and compiling
included. Beside it, on the same features: each trial through `fit` in this process, whose programs
are compiled already; and `launch.py train` once for each trial, timed for some and scaled up. Then
an epoch of 16 trials, and of the same 16 when 12 have stopped.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import jax

from vidrec import config
from vidrec.io import machine
from vidrec.sweeps import ablation, runner
from vidrec.training import devices, loop, prepare, results, runtime
from vidrec.training.group import Snapshot, TrialGroup
from vidrec.training.stopping import Progress, Status

ROOT = Path(__file__).parent.parent
ROUNDS = 5  # epochs timed
Seconds = tuple[float, float]  # of the wall's clock, and of this process's processors


class Clock:
    """Runs from its making. Processors' seconds hardly depend on what else the machine does."""

    def __init__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def seconds(self) -> Seconds:
        return time.perf_counter() - self.began[0], time.process_time() - self.began[1]


def table(seeds: int) -> ablation.Ablation:
    """Five rates, some seeds of each."""
    return replace(ablation.load(ROOT / "ablations" / "learning_rate.py"), seeds=seeds)


def as_table(question: ablation.Ablation, few: dict, folder: Path) -> Seconds:
    """Seconds of the whole table, and of processors."""
    clock = Clock()
    runner.ablate(question, folder, overrides=few, on="motion")
    return clock.seconds()


def one_after_another(trials: list[ablation.Trial], folder: Path) -> Seconds:
    """The same of `fit` for each trial, in a process that has compiled its program before."""
    data = prepare.prepare(trials[0].config)

    def fit(place: int, name: str) -> None:
        member = results.TrialRun(f"{place:016d}", trials[place].config, folder / name)
        loop.fit([member], data, folder / name)

    fit(0, "warm")
    clock = Clock()
    for place in range(len(trials)):
        fit(place, f"trial_{place}")
    return clock.seconds()


ALONE = """
import json
from vidrec.config import from_dict

def config():
    return from_dict(json.loads({!r}))
"""


def as_processes(trials: list[ablation.Trial], folder: Path) -> float:
    """Seconds of one `launch.py train`, the median of some.

    A workdir of its own: `train` would find in the table's what it has trained already.
    """
    folder = folder / "processes"
    folder.mkdir()
    seconds = []
    for place, trial in enumerate(trials):
        experiment = folder / f"alone_{place}.py"
        experiment.write_text(ALONE.format(json.dumps(config.to_dict(trial.config))))
        words = ["train", experiment, "--workdir", folder]
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, ROOT / "launch.py", *words], check=True, stdout=subprocess.DEVNULL
        )
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def epochs(trials: list[ablation.Trial], stopped: int, rounds: int) -> tuple[float, float]:
    """Milliseconds of an epoch of all trials, and of one when some have stopped."""
    cfg = trials[0].config
    data = prepare.prepare(cfg)
    placement = devices.TrialParallel(len(trials))
    group = TrialGroup([trial.config for trial in trials], data, placement)
    group.initialize()
    group.compile()
    begun = group.snapshot()
    few = begun.progress.copy()
    few[:stopped, Progress._fields.index("status")] = Status.FINISHED

    def timed(snapshot: Snapshot) -> float:
        group.restore(snapshot)
        start = time.perf_counter()
        group.train_epoch()
        jax.block_until_ready(group.state)
        return 1e3 * (time.perf_counter() - start)

    timed(begun)
    pairs = [(timed(begun), timed(begun._replace(progress=few))) for _ in range(rounds)]
    return median(a for a, _ in pairs), median(b for _, b in pairs)


def main() -> None:
    """Prints one JSON object."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--seeds", type=int, default=5)
    words.add_argument("--epochs", type=int, default=10, help="fewer, where time is short")
    words.add_argument("--rounds", type=int, default=ROUNDS, help="epochs timed; 0: none")
    words.add_argument("--processes", type=int, default=3, help="separate runs that are timed")
    settings = words.parse_args()
    runtime.configure()
    runtime.use_cores()
    question = table(settings.seeds)
    few = {"train.epochs": settings.epochs}
    trials = ablation.trials(question, few, on="motion")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare.prepare(trials[0].config)  # data set and features are there already
        together = as_table(question, few, folder)
        alone = one_after_another(trials, folder)
        process = as_processes(trials[:: max(1, len(trials) // settings.processes)], folder)
    separate = process * len(trials)
    figures = {
        "device": machine.versions()["device"],
        "trials": len(trials),
        "epochs": settings.epochs,
        "table_seconds": round(together[0], 1),
        "one_after_another_seconds": round(alone[0], 1),
        "separate_processes_seconds": round(separate, 1),
        "table_to_one_after_another": round(together[0] / alone[0], 2),
        "table_to_one_after_another_processors": round(together[1] / alone[1], 2),
        "table_to_separate_processes": round(together[0] / separate, 2),
    }
    if settings.rounds:
        full, few_ms = epochs((trials * 16)[:16], 12, settings.rounds)
        figures |= {
            "epoch_of_16_ms": round(full, 1),
            "epoch_with_12_stopped_ms": round(few_ms, 1),
            "stopped_to_full": round(few_ms / full, 2),
        }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
