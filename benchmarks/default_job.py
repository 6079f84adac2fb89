"""Time the default job and that of an earlier commit: from nothing, in a new workdir, finished.

    git worktree add ../before c587364
    python benchmarks/default_job.py --before ../before
    python benchmarks/default_job.py --before ../before --rounds 3 --job train experiments/motion.py

Every run is a process of its own. The first of three has no cache and no workdir, the second has
the first one's cache and a new workdir, the third finds everything finished. It prints wall-clock
seconds, CPU seconds (useful if other work shares the machine), and the seconds that threads spent
tracing, lowering and compiling, as JAX reports them.
"""

import argparse
import atexit
import json
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import turns

HERE = Path(__file__).parents[1]
STAGES = ("from nothing", "new workdir", "finished")
COMPILING = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration")


def inside(told: str, words: list[str]) -> None:
    """Run launch.py with these words in this process; leave the seconds of compiling in a file."""
    from jax import monitoring

    spent = dict.fromkeys(COMPILING, 0.0)

    def listen(event: str, seconds: float, **about: Any) -> None:
        name = event.rsplit("/", 1)[-1]
        if name in spent:
            spent[name] += seconds

    monitoring.register_event_duration_secs_listener(listen)
    atexit.register(lambda: Path(told).write_text(json.dumps(sum(spent.values()))))
    sys.argv = ["launch.py", *words]
    runpy.run_path("launch.py", run_name="__main__")


def run(side: Path, folder: Path, job: list[str], listen: bool) -> dict[str, float]:
    """Run a job of one checkout; return its seconds by what they measure."""
    told = folder / "compiling.json"
    environment = os.environ | {"PYTHONPATH": str(side), "VIDREC_CACHE": str(folder / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    listening = [__file__, "--inside", str(told), "--job"] if listen else ["launch.py"]
    command = [sys.executable, *listening, *job]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=side, env=environment, capture_output=True, text=True)
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{side}: {done.stderr.strip().splitlines()[-1]}")
    processors = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    compiling = {"compiling": json.loads(told.read_text())} if listen else {}
    return {"clock": clock, "processors": processors, **compiling}


def stages(side: Path, job: list[str]) -> dict[str, dict[str, float]]:
    """Run a job three times; return the seconds of each."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for stage in STAGES:
            workdir = folder / ("first" if stage == STAGES[0] else "second")
            words = [*job, "--workdir", str(workdir)]
            found[stage] = run(side, folder, words, listen=stage != STAGES[-1])
    return found


def main() -> None:
    """Run both checkouts in turns, and tell the seconds and ratios of each stage."""
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--before", type=Path, help="a worktree of the earlier commit")
    words.add_argument("--rounds", type=int, default=1)
    words.add_argument("--json", action="store_true", help="one JSON object on stdout")
    words.add_argument("--inside", help=argparse.SUPPRESS)
    words.add_argument("--job", nargs=argparse.REMAINDER, default=[], help="words of launch.py")
    given = words.parse_args()
    if given.inside:
        return inside(given.inside, given.job)
    sides = {turns.OURS: HERE} | ({"before": given.before.resolve()} if given.before else {})
    spent: dict[str, dict[str, list[float]]] = {}
    for turn in range(given.rounds):
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            turns.tell(f"round {turn + 1}: {name}")
            for stage, seconds in stages(sides[name], given.job).items():
                for kind, value in seconds.items():
                    spent.setdefault(f"{stage}, {kind}", {}).setdefault(name, []).append(value)
    figures = {what: turns.figures(each) for what, each in spent.items()}
    if given.json:
        print(json.dumps({"job": given.job, "stages": figures}))
        return None
    for what, each in figures.items():
        print(what)
        turns.show({"sides": each}, as_json=False)
    return None


if __name__ == "__main__":
    main()
