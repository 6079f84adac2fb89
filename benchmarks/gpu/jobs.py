"""Whole jobs as users start them: the default job, and report A's sixty trainings."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import same_work

from benchmarks.gpu.harness import OURS, Record

ROOT = Path(__file__).parents[2]


def run(record: Record) -> None:
    """Time both."""
    if record.warm:
        return
    with record.part("report A, every trial"):
        sixty(record)
    if record.left() > 20:
        with record.part("python launch.py"):
            default_job(record)


def default_job(record: Record) -> None:
    """Time `python launch.py`: nothing cached, in a new workdir, and finished."""
    with tempfile.TemporaryDirectory() as place:
        more = {"VIDREC_CACHE": f"{place}/cache", "PYTHONPATH": f"{ROOT}:{path()}"}
        for name, workdir in (("nothing cached", "a"), ("new workdir", "b"), ("finished", "b")):
            if record.tiny and name != "nothing cached":
                break
            command = [sys.executable, str(ROOT / "launch.py")]
            if record.tiny:
                command += ["check", str(ROOT / "experiments/motion.py")]
            folder = Path(place) / workdir
            folder.mkdir(exist_ok=True)
            began = time.perf_counter()
            done = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | more,
                capture_output=True,
                text=True,
                timeout=max(20, record.left()),
            )
            spent = time.perf_counter() - began
            said = (done.stdout + done.stderr).strip().splitlines()
            if done.returncode:
                raise RuntimeError(f"ended by {done.returncode}: {said[-1] if said else ''}")
            record.row(f"python launch.py, {name}", OURS, seconds=spent, said=said[-14:])


def path() -> str:
    """Return what this process finds modules by."""
    return os.environ.get("PYTHONPATH", "")


def sixty(record: Record) -> None:
    """Time report A's twelve models with five seeds, compiling apart."""
    import units_table

    from vidrec.sweeps import runner

    models, seeds, clips, epochs = (2, 1, 40, 2) if record.tiny else (12, 5, 399, 1000)
    made = units_table.table(models, seeds, epochs)
    counts = (clips - clips // 5, clips // 5, clips * 2 // 5)
    source = same_work.signals(counts, (30, 512), units_table.made_classes(made))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = runner.ablate(made, folder, dataset=source)
    whole = time.perf_counter() - began
    # Every trial of a group tells the group's seconds.
    share = {
        name: sum(each["seconds"][name] / each["trials_in_group"] for each in done.trials)
        for name in ("compile", "train")
    }
    record.row(
        "report A, every trial",
        OURS,
        seconds=whole,
        trials=len(done.trials),
        seconds_compile=share["compile"],
        seconds_train=share["train"],
        epochs=int(np.sum([each["epochs"] for each in done.trials])),
    )
