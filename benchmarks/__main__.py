"""Runs the benchmarks one after another, each in a process of its own, and prints one table.

    python -m benchmarks                   those that fit this machine: half an hour on two cores
    python -m benchmarks --list            what there is, without running it
    python -m benchmarks --only convlstm   those whose command holds the word
    python -m benchmarks --json            a list of results with everything they printed
    python -m benchmarks --before FOLDER   beside each, ours of an earlier commit's worktree

A ratio is the time of the other side divided by vidrec's: above 1, vidrec is faster. "Wanted" is
the least ratio that this project aims for. With --before each command also runs in that worktree,
right after ours. A row "ours before" has the ratio of its time to ours, and in brackets those of
its fastest and slowest round.

One that fails, or lacks an extra (pip install vidrec[parity,test]), is shown with its reason, and
the others go on. These are not among them: growth.py, which compares with nothing, default_job.py,
which needs an earlier commit, larger_than_memory.py, which writes 5 GB, and those that need a
folder of videos, weights or an hour.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Read = Callable[[dict[str, Any]], Sequence[float]]


def turns(side: str) -> Read:
    """The quartiles of a side's ratios, of files that print `sides` with `times_ours`."""
    return lambda printed: printed["sides"][side]["times_ours"]


def one(ratio: str) -> Read:
    """The inverse of a single ratio, ours over the other's."""
    return lambda printed: [1 / printed[ratio]]


def our_side(printed: dict[str, Any]) -> dict[str, float]:
    """Our seconds, of files that print `sides`: the median round, the fastest and the slowest."""
    return printed["sides"]["vidrec"]


@dataclass(frozen=True)
class Work:
    """One command, and which of its figures the table shows.

    Attributes:
        beside: what stands beside ours, and how its ratio, or the quartiles of its ratios, are read
            from the printed JSON.
        wanted: the least ratio, by `beside`; where none is named, none is asked for.
        minutes: about how long it takes on two cores.
        ours: how our seconds are read, for a comparison with an earlier commit.
    """

    name: str
    command: tuple[str, ...]
    beside: dict[str, Read]
    wanted: dict[str, float]
    minutes: float
    ours: Callable[[dict[str, Any]], dict[str, float]] = our_side


LAYERS = {
    "PyTorch": turns("torch"),
    "flax": turns("flax nn.RNN"),
    "Keras": turns("keras on jax"),
}
WORKS = (
    Work(
        "LSTM step, 128 x 120 x 1024 to 512",
        ("recurrent_step.py", "--cell", "lstm", "--json"),
        LAYERS,
        {"PyTorch": 0.92, "flax": 1, "Keras": 1},
        2,
    ),
    Work(
        "GRU step, 128 x 120 x 1024 to 512",
        ("recurrent_step.py", "--cell", "gru", "--json"),
        LAYERS,
        {"PyTorch": 0.92, "flax": 1, "Keras": 1},
        2,
    ),
    Work(
        "ConvLSTM step, 16 x 30 x 7x7x512 to 64",
        ("convlstm_step.py", "--json"),
        {"PyTorch": turns("torch"), "Keras": turns("keras on jax")},
        {"PyTorch": 1, "Keras": 1},
        4,
    ),
    Work(
        "report A's table, compiling included",
        ("units_table.py", "--json"),
        {"PyTorch": turns("torch"), "Keras": turns("keras on jax")},
        {"PyTorch": 0.6, "Keras": 1},
        6,
    ),
    Work(
        "report D's tables, a trial's epoch",
        ("trials_table.py", "--json"),
        {"PyTorch": turns("torch")},
        {"PyTorch": 1},
        4,
    ),
    Work(
        "VGG16 features at 224x224",
        ("vgg16_features.py", "--json"),
        {"PyTorch": turns("torch"), "PyTorch compiled": turns("torch compiled")},
        {"PyTorch": 0.9, "PyTorch compiled": 0.9},
        3,
    ),
    Work(
        "EfficientNet-Lite0 features at 224x224",
        ("encoders.py", "--json"),
        {"PyTorch": turns("torch")},
        {"PyTorch": 0.75},
        1,
    ),
    Work(
        "ResNet-50 features at 224x224",
        ("encoders.py", "--kind", "resnet50", "--json"),
        {"PyTorch": turns("torch")},
        {"PyTorch": 0.85},
        2,
    ),
    Work(
        "SqueezeNet features at 224x224",
        ("encoders.py", "--kind", "squeezenet", "--json"),
        {"PyTorch": turns("torch")},
        {},
        1,
    ),
    Work(
        "CNN+LSTM from pixels, decoding included",
        ("pixels_training.py", "--json"),
        {"PyTorch": turns("torch")},
        {"PyTorch": 0.95},
        4,
    ),
    Work(
        "C3D from pixels, decoding included",
        ("pixels_training.py", "--kind", "c3d", "--json"),
        {"PyTorch": turns("torch")},
        {"PyTorch": 0.95},
        4,
    ),
    Work(
        "CNN+LSTM from pixels in memory, an epoch",
        ("pixels_epoch.py", "--json"),
        {"a loop of jitted steps": one("ratio")},
        {"a loop of jitted steps": 1 / 1.2},
        2,
        lambda printed: {"seconds": printed["seconds"]["ours"]},
    ),
    Work(
        "5 trials as a table on motion, 10 epochs",
        ("groups.py", "--seeds", "1", "--processes", "1", "--rounds", "0"),
        {
            "fit, one after another": one("table_to_one_after_another"),
            "a process each": one("table_to_separate_processes"),
        },
        {"fit, one after another": 1, "a process each": 1 / 0.6},
        5,
        lambda printed: {"seconds": printed["table_seconds"]},
    ),
)


def ours_before(work: Work, printed: dict[str, Any], checkout: Path) -> list[float]:
    """How many times as long as now our side took at an earlier commit.

    Returns:
        Of the fastest round there, of the middle one and of the slowest; or of all together; none
        where that commit cannot tell.
    """
    folder = checkout / "benchmarks"
    if not (folder / work.command[0]).exists():
        return []
    then = run(work, folder, os.environ | {"PYTHONPATH": str(checkout)})
    if then["reason"]:
        print(f"  before: {then['reason']}", file=sys.stderr, flush=True)
        return []
    before, now = work.ours(then["printed"]), work.ours(printed)
    rounds = [before[name] for name in ("least", "seconds", "most") if name in before]
    return [round(each / now["seconds"], 2) for each in rounds]


def run(work: Work, folder: Path = HERE, environment: Any = None) -> dict[str, Any]:
    """What a command printed and its ratios, or the reason why there are none."""
    began = time.perf_counter()
    script, *words = work.command
    # A script finds experiments and ablations in its own checkout.
    done = subprocess.run(
        [sys.executable, folder / script, *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder.parent,
    )
    found: dict[str, Any] = {
        "work": work.name,
        "command": " ".join(work.command),
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "ratios": {},
        "quartiles": {},
        "reason": "",
    }
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return found | {"reason": lines[-1][:200] if lines else f"ended by {done.returncode}"}
    printed = json.loads(done.stdout)
    for name, read in work.beside.items():
        try:
            found["quartiles"][name] = [round(ratio, 2) for ratio in read(printed)]
            found["ratios"][name] = statistics.median(found["quartiles"][name])
        except KeyError:  # a side that could not be measured here
            found["ratios"][name] = None
    return found | {"printed": printed}


def rows(work: Work, found: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """A table of all ratios: work, compared with, measured, wanted."""
    lines = []
    for name in found["ratios"] or work.beside:
        ratio, wanted = found["ratios"].get(name), work.wanted.get(name)
        measured = "not measured here" if ratio is None else f"{ratio:.2f}"
        quartiles = found["quartiles"].get(name, [])
        if len(quartiles) > 1:
            measured += f" ({quartiles[0]:.2f} – {quartiles[-1]:.2f})"
        least = "" if wanted is None else f"at least {wanted:.2f}"
        missed = wanted is not None and ratio is not None and ratio < wanted
        lines.append((work.name, name, measured, f"{least} (missed)" if missed else least))
    return lines


def table(lines: Sequence[tuple[str, ...]]) -> str:
    """Markdown, its columns aligned."""
    head = ("work", "beside", "measured", "wanted")
    wide = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    ruler = tuple("-" * width for width in wide)
    return "\n".join(
        "| " + " | ".join(each.ljust(width) for each, width in zip(line, wide, strict=True)) + " |"
        for line in (head, ruler, *lines)
    )


def main() -> int:
    """Exit status 1 where a benchmark failed."""
    words = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument("--json", action="store_true", help="one JSON object on stdout")
    words.add_argument("--list", action="store_true", help="commands and minutes; runs nothing")
    words.add_argument("--only", default="", help="those whose command holds this")
    words.add_argument("--before", type=Path, help="a worktree of an earlier commit")
    given = words.parse_args()
    chosen = [work for work in WORKS if given.only in " ".join(work.command)]
    if not chosen:
        words.error(f"no command holds {given.only!r}: see --list")
    if given.list:
        for work in chosen:
            print(f"{work.minutes:3g} min  python benchmarks/{' '.join(work.command)}")
        return 0
    lines, results = [], []
    for work in chosen:
        print(f"{work.name} (about {work.minutes:g} min)", file=sys.stderr, flush=True)
        results.append(run(work))
        if given.before and not results[-1]["reason"]:
            printed, checkout = results[-1]["printed"], given.before.resolve()
            rounds = ours_before(work, printed, checkout)
            results[-1]["quartiles"]["ours before"] = rounds
            results[-1]["ratios"]["ours before"] = statistics.median(rounds) if rounds else None
        lines += rows(work, results[-1])
        for _, *line in rows(work, results[-1]):
            print("  " + "  ".join(line), file=sys.stderr, flush=True)
        if results[-1]["reason"]:
            print(f"  {results[-1]['reason']}", file=sys.stderr, flush=True)
    if given.json:
        print(json.dumps(results))
    else:
        print("How many times as long as ours the other side takes:\n")
        print(table(lines))
        for found in results:
            if found["reason"]:
                print(f"\n{found['work']}: {found['reason']}")
    return int(any(found["reason"] for found in results))


if __name__ == "__main__":
    raise SystemExit(main())
