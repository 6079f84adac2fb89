"""Measures this project on a GPU: one command, every figure, beside PyTorch, flax and cuDNN.

    python -m benchmarks.gpu --json gpu.json          everything, in 8 minutes at most
    python -m benchmarks.gpu --only recurrent right   some sections
    python -m benchmarks.gpu --tiny                   a first look: small sizes, on a CPU, too
    python -m benchmarks.gpu --list                   the sections

Each section is a process of its own with its own share of the time: one that fails, hangs or runs
out of memory is told with its reason, and the others go on. Rows are written one by one, so that
what was measured is kept whatever happens after it. Results are compared before anything is timed.
A ratio says how many times as long as ours the other side takes: above 1 ours is quicker. Both
sides compute at the same precision: float32 exactly, TF32, or bfloat16.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = "vidrec"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Section:
    """A part of the benchmark.

    Attributes:
        name: the module of this folder, and the function in it after a dot (default `run`).
        minutes: its share, where all have eight.
        about: what it measures.
    """

    name: str
    minutes: float
    about: str


SECTIONS = (
    Section("ceilings", 0.3, "a copy's bandwidth, a large product"),
    Section("right", 1.1, "is it right there: NumPy's loops, groups, resuming, bfloat16"),
    Section("recurrent", 2.2, "steps of LSTM, GRU, ConvLSTM beside cuDNN, PyTorch, flax"),
    Section("table", 1.4, "1 to 256 trials as one program, beside one after another"),
    Section("recurrent.candidates", 0.8, "the kernel's work cut in several ways"),
    Section("features", 0.4, "frames a second of frozen encoders"),
    Section("pixels", 0.6, "an epoch of CNN+LSTM and C3D from pixels"),
    Section("jobs", 1.0, "report A's sixty trainings, and python launch.py"),
    Section("memory", 0.3, "memory of a group, told and used"),
    Section("table.check", 0.4, "losses beside PyTorch's from the same weights"),
    Section("features.compiled", 0.7, "PyTorch compiled: VGG16"),
    Section("recurrent.compiled", 0.7, "PyTorch compiled: LSTM and GRU"),
)
# What a process needs to start: interpreters and libraries, before its own clock begins.
START = 25.0


def inside(name: str, file: str, seconds: float, tiny: bool) -> None:
    """Run one section in this process."""
    import importlib

    module, _, function = name.partition(".")
    os.chdir(ROOT)
    work = importlib.import_module(f"benchmarks.gpu.{module}")
    from benchmarks.gpu import harness
    from vidrec import parallel

    parallel.prepare()
    record = harness.Record(name, Path(file), seconds, tiny)
    if name == SECTIONS[0].name:
        record.row("machine", **harness.machine())
    with record.part(name):
        getattr(work, function or "run")(record)


def outside(section: Section, file: Path, seconds: float, tiny: bool) -> list[dict[str, Any]]:
    """Run one section in a process of its own, and return its rows."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--inside", section.name]
    command += ["--file", str(file), "--seconds", str(seconds), *(["--tiny"] if tiny else [])]
    # Both frameworks share the card: neither takes all of it at the start.
    more = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
    began = time.monotonic()
    reason = ""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | more,
            capture_output=True,
            text=True,
            timeout=seconds + START,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = f"ended by {done.returncode}: {lines[-1][:300] if lines else ''}"
    except subprocess.TimeoutExpired:
        reason = f"stopped after {seconds + START:.0f} s"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    end = {"section": section.name, "work": section.name, "side": OURS}
    spent = round(time.monotonic() - began, 1)
    return [*rows, end | {"took": spent, **({"failed": reason} if reason else {})}]


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each other side's seconds over ours, of the same work and precision."""
    mine = {
        (row["work"], row.get("precision"), row.get("trials")): row
        for row in rows
        if row["side"] == OURS and "seconds" in row
    }
    found = []
    for row in rows:
        own = mine.get((row["work"], row.get("precision"), row.get("trials")))
        if own and "seconds" in row and row is not own:
            ratio = row["seconds"] / own["seconds"]
            found.append({**row, "ours": own["seconds"], "ratio": ratio})
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table, and below it what failed."""
    over = {id_of(row): row["ratio"] for row in ratios(rows)}
    lines = ["| work | precision | side | milliseconds | times ours | more |", "|" + "---|" * 6]
    for row in rows:
        if "failed" in row or "took" in row:
            continue
        ratio = over.get(id_of(row))
        shown = {
            name: f"{value:.4g}" if isinstance(value, float) else value
            for name, value in row.items()
            if name not in HIDDEN and value not in (None, "")
        }
        if "seconds" not in row and set(shown) == {"off"}:
            continue  # compared, and timed in a row of its own
        cells = (
            row["work"] + (f", {row['trials']} trials" if "trials" in row else ""),
            row.get("precision", ""),
            row["side"],
            f"{1000 * row['seconds']:.3f}" if "seconds" in row else "",
            f"{ratio:.2f}" if ratio else "",
            ", ".join(f"{name} {value}" for name, value in shown.items()),
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    for row in rows:
        if "failed" in row:
            about = " ".join(str(row.get(name, "")) for name in ("work", "side", "precision"))
            lines.append(f"\nfailed: {about}: {row['failed']}")
    return "\n".join(lines)


HIDDEN = ("section", "work", "side", "precision", "trials", "seconds", "runs", "calls", "low",
          "high", "said")  # fmt: skip


def id_of(row: dict[str, Any]) -> tuple:
    """Return what a row is told from others by."""
    return row["work"], row.get("precision"), row["side"], row.get("trials")


def main() -> int:
    """Run the sections; exit status 1 where a comparison or a section failed."""
    words = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [section.name for section in SECTIONS]
    words.add_argument("--minutes", type=float, default=8.0, help="for all sections (default 8)")
    words.add_argument("--json", metavar="FILE", help="write every row to this file")
    words.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="some sections")
    words.add_argument("--tiny", action="store_true", help="small sizes, for a first look")
    words.add_argument("--list", action="store_true", help="the sections; runs nothing")
    for hidden in ("--inside", "--file", "--seconds"):
        words.add_argument(hidden, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.inside:
        inside(given.inside, given.file, float(given.seconds), given.tiny)
        return 0
    chosen = [each for each in SECTIONS if not given.only or each.name in given.only]
    if given.list:
        for each in chosen:
            print(f"{each.name:22} {each.about}")
        return 0
    rows = run(chosen, given.minutes, given.tiny, Path(given.json) if given.json else None)
    print(table(rows))
    return int(any("failed" in row for row in rows))


def run(chosen: Sequence[Section], minutes: float, tiny: bool, to: Path | None) -> list[dict]:
    """Run sections one after another within the minutes; write all rows after each."""
    ends = time.monotonic() + 60 * minutes
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for number, section in enumerate(chosen):
            left = ends - time.monotonic()
            share = section.minutes / sum(each.minutes for each in chosen[number:])
            seconds = left * share - START / 2
            print(f"{section.name}: {section.about} ({seconds:.0f} s)", file=sys.stderr, flush=True)
            if seconds < 5:
                about = {"section": section.name, "work": section.name, "side": OURS}
                rows.append(about | {"failed": "no time was left"})
                continue
            rows += outside(section, Path(place) / f"{number}.jsonl", seconds, tiny)
            for row in rows:
                if row["section"] == section.name and "failed" in row:
                    print(f"  {row['work']} {row['side']}: {row['failed']}", file=sys.stderr)
            if to:
                to.write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
