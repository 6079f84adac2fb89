"""Measure vidrec on a GPU and compare it with PyTorch, flax and cuDNN.

    python -m benchmarks.gpu --json gpu.json          everything, in 8 minutes at most
    python -m benchmarks.gpu --only recurrent right   some sections
    python -m benchmarks.gpu --tiny                   a first look: small sizes, on a CPU, too
    python -m benchmarks.gpu --list                   the sections

Each section is a process of its own with its own share of the time. If one fails, hangs or runs out
of memory, the output has the reason, and the others continue. Programs are compiled ahead, side by
side. Rows are written one by one, so that what was measured is kept whatever happens after it.
Results are compared before anything is timed. A ratio is the time of the other side divided by
vidrec's: above 1, vidrec is faster. Both sides compute at the same precision: float32 exactly,
TF32, or bfloat16.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
        shares: parts whose programs are compiled side by side, ahead of all timing.
    """

    name: str
    minutes: float
    about: str
    shares: tuple[str, ...] = ()


PRECISIONS = ("tf32", "float32", "bfloat16")
SECTIONS = (
    Section("ceilings", 0.2, "a copy's bandwidth, a large product"),
    Section(
        "recurrent",
        1.8,
        "steps of LSTM, GRU, ConvLSTM beside cuDNN, PyTorch, flax",
        (
            *(
                f"{cell} {low}"
                for cell in ("lstm", "gru")
                for low in ("tf32", "float32", "bfloat16")
            ),
            "convlstm",
        ),
    ),
    Section(
        "table",
        1.4,
        "1 to 256 trials as one program, beside one after another",
        ("A auto.", "A unroll8.", "A kernel.", "D auto.", "D unroll8.", "D kernel."),
    ),
    Section(
        "right",
        0.8,
        "is it right there: NumPy's loops, groups, resuming, bfloat16",
        ("truth", "group", "stopped", "resume", "accuracy"),
    ),
    Section("compiling", 0.6, "what compiling takes of a first run, with XLA's choices"),
    Section(
        "features",
        0.6,
        "frames a second of frozen encoders",
        ("vgg16", "resnet50", "efficientnet_lite0", "squeezenet"),
    ),
    Section("pixels", 0.5, "an epoch of CNN+LSTM and C3D from pixels", ("cnn3", "c3d")),
    Section("jobs", 1.0, "report A's sixty trainings, and python launch.py"),
    Section("recurrent.candidates", 0.4, "the kernel's work cut in several ways"),
    Section("memory", 0.3, "memory of a group, told and used"),
    Section("table.check", 0.3, "losses beside PyTorch's from the same weights"),
    Section("features.compiled", 0.4, "PyTorch compiled: encoders"),
    Section("recurrent.compiled", 0.5, "PyTorch compiled: LSTM and GRU"),
)
# What a process needs to start: interpreters and libraries, before its own clock begins.
START = 12.0
# Of the time, what compiling ahead of all timing may take, and how many processes share in it: 21
# of them on 16 cores finished nothing in two minutes.
WARM = 0.4
AT_ONCE = max(1, len(os.sched_getaffinity(0)) // 3)


def inside(given: argparse.Namespace) -> None:
    """Run one section in this process."""
    import importlib

    name = given.inside

    module, _, function = name.partition(".")
    os.chdir(ROOT)
    work = importlib.import_module(f"benchmarks.gpu.{module}")
    from benchmarks.gpu import harness
    from vidrec.training import runtime

    runtime.configure()
    record = harness.Record(name, Path(given.file), float(given.seconds), tiny=given.tiny)
    record.share, record.warm = given.share or "", given.warming
    harness.WITHOUT_TORCH = given.warming
    if name == SECTIONS[0].name:
        record.row("machine", **harness.machine())
    with record.part(name):
        getattr(work, function or "run")(record)


def start(section: Section, file: Path, seconds: float, *words: str) -> subprocess.Popen:
    """Start one section in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--inside", section.name]
    command += ["--file", str(file), "--seconds", str(seconds), *words]
    # Both frameworks share the card: neither takes all of it at the start.
    more = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
    with file.with_suffix(".err").open("w") as said:
        pipes = {"stdout": subprocess.DEVNULL, "stderr": said}
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | more, **pipes)


def end(process: subprocess.Popen, file: Path, seconds: float) -> str:
    """Wait for a process, at most so long; return why it failed, or nothing."""
    try:
        process.wait(max(0.1, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"stopped after its time ({seconds:.0f} s)"
    if not process.returncode:
        return ""
    lines = [line for line in file.with_suffix(".err").read_text().splitlines() if line.strip()]
    return f"ended by {process.returncode}: {lines[-1][:300] if lines else ''}"


def warm_up(chosen: Sequence[Section], folder: Path, seconds: float, *words: str) -> dict[str, Any]:
    """Compile the sections' programs side by side, into the cache of compiled programs."""
    began = time.monotonic()
    stopped: dict[str, str] = {}

    def compile_share(number: int, section: Section, share: str) -> None:
        left = seconds - (time.monotonic() - began)
        if left < START:
            stopped[f"{section.name} {share}"] = "no time was left"
            return
        file = folder / f"warm{number}.jsonl"
        process = start(section, file, left, "--warming", f"--share={share}", *words)
        if reason := end(process, file, left):
            stopped[f"{section.name} {share}"] = reason

    with ThreadPoolExecutor(AT_ONCE) as pool:
        shares = [(section, share) for section in chosen for share in section.shares]
        for number, (section, share) in enumerate(shares):
            pool.submit(compile_share, number, section, share)
    row = {"section": "compiling ahead", "work": "compiling ahead", "side": OURS}
    return row | {"took": round(time.monotonic() - began, 1), "stopped": stopped}


def outside(section: Section, file: Path, seconds: float, *words: str) -> list[dict[str, Any]]:
    """Run one section in a process of its own, and return its rows."""
    began = time.monotonic()
    reason = end(start(section, file, seconds, *words), file, seconds + START)
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    last = {"section": section.name, "work": section.name, "side": OURS}
    spent = round(time.monotonic() - began, 1)
    return [*rows, last | {"took": spent, **({"failed": reason} if reason else {})}]


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
            for name, value in (row | pace(row, rows)).items()
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


def pace(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return frames a second of an encoder, and the share of the bfloat16 product's speed."""
    if "operations_a_frame" not in row or "seconds" not in row:
        return {}
    found = {"frames a second": row["frames"] / row["seconds"]}
    peaks = [each["teraflops"] for each in rows if each["work"] == "bfloat16 product"]
    if peaks:
        reached = found["frames a second"] * row["operations_a_frame"] / 1e12
        found["share of the bfloat16 product"] = reached / peaks[0]
    return found


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
    words.add_argument("--cold", action="store_true", help="compile nothing ahead, side by side")
    for hidden in ("--inside", "--file", "--seconds", "--share"):
        words.add_argument(hidden, help=argparse.SUPPRESS)
    words.add_argument("--warming", action="store_true", help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.inside:
        inside(given)
        return 0
    chosen = [each for each in SECTIONS if not given.only or each.name in given.only]
    if given.list:
        for each in chosen:
            print(f"{each.name:22} {each.about}")
        return 0
    rows = run(chosen, given)
    print(table(rows))
    return int(any("failed" in row for row in rows))


def run(chosen: Sequence[Section], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Run sections one after another within the minutes; write all rows after each."""
    ends = time.monotonic() + 60 * given.minutes
    words = ["--tiny"] if given.tiny else []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        if not given.cold:
            print("compiling ahead, side by side", file=sys.stderr, flush=True)
            rows.append(warm_up(chosen, Path(place), WARM * 60 * given.minutes, *words))
            print(f"  {rows[-1]}", file=sys.stderr, flush=True)
        for number, section in enumerate(chosen):
            left = ends - time.monotonic()
            share = section.minutes / sum(each.minutes for each in chosen[number:])
            seconds = left * share - START / 3
            print(f"{section.name}: {section.about} ({seconds:.0f} s)", file=sys.stderr, flush=True)
            if seconds < 3:
                about = {"section": section.name, "work": section.name, "side": OURS}
                rows.append(about | {"failed": "no time was left"})
                continue
            rows += outside(section, Path(place) / f"{number}.jsonl", seconds, *words)
            for row in rows:
                if row["section"] == section.name and "failed" in row:
                    print(f"  {row['work']} {row['side']}: {row['failed']}", file=sys.stderr)
            if given.json:
                Path(given.json).write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
