"""What compiling takes of a first run, and what XLA's own choices cost and bring."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu import harness, table
from benchmarks.gpu.harness import OURS, Record

ROOT = Path(__file__).parents[2]
# What a user may set in XLA_FLAGS; the first is what users get.
FLAGS = (
    "",
    "--xla_gpu_autotune_level=0",
    "--xla_gpu_enable_triton_gemm=false",
    "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0",
)


def run(record: Record) -> None:
    """Make report A's LSTM ready with each set of flags, nothing cached, and time its epochs."""
    if record.share == "one":
        one(record)
        return
    for flags in FLAGS if harness.on_gpu() else FLAGS[:1]:
        side = f"{OURS} {flags}".strip()
        if record.wants(side) and not record.warm:
            with record.part("report A, LSTM 200, first epoch", side):
                alone(record, side, flags)


def alone(record: Record, side: str, flags: str) -> None:
    """Run `one` in a process of its own, since flags are read at the start."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "rows.jsonl"
        command = [sys.executable, "-m", "benchmarks.gpu", "--inside", "compiling"]
        command += ["--file", str(file), "--seconds", "100", "--share=one"]
        command += ["--tiny"] if record.tiny else []
        given = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        more = {"XLA_FLAGS": given, "VIDREC_CACHE": f"{place}/cache"}
        subprocess.run(command, cwd=ROOT, env=os.environ | more, check=True, timeout=120)
        for line in file.read_text().splitlines():
            row = json.loads(line)
            figures = {name: row[name] for name in ("ready", "seconds", "failed") if name in row}
            record.row("report A, LSTM 200, first epoch", side, **figures)


def one(record: Record) -> None:
    """Measure seconds until an epoch can run, and an epoch's, in this process."""
    cfg, source = table.report_a(16, 20) if record.tiny else table.report_a(200, 399)
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        epoch, group = table.epochs_of(cfg, source, 1, Path(place))
        ready = time.perf_counter() - began
        record.row("one", ready=ready, seconds=table.repeated(epoch, record))
        group.close()
