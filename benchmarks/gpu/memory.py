"""Compare the memory of a group as the compiled program reports it with that of the device."""

import tempfile
from pathlib import Path

import jax

from benchmarks.gpu import harness, table
from benchmarks.gpu.harness import Record
from vidrec.training import runtime


def run(record: Record) -> None:
    """Compare both for report D's trial in groups, the smallest first, since peaks stay."""
    cfg, source = table.report_d(record.tiny)
    for count in (1, 2) if record.tiny else (1, 4, 16, 32):
        if record.left() < 0:
            return
        with (
            record.part("memory of a group", trials=count),
            tempfile.TemporaryDirectory() as place,
            harness.precision_of("tf32"),
        ):
            epoch, group = table.epochs_of(cfg, source, count, Path(place))
            epoch()
            stats = jax.local_devices()[0].memory_stats() or {}
            told = group.group.memory_needed()
            peak = stats.get("peak_bytes_in_use", 0)
            record.row(
                "memory of a group",
                trials=count,
                program_gb=told / 1e9,
                peak_gb=peak / 1e9,
                limit_gb=runtime.memory_limit() / 1e9,
                told_of_peak=told / peak if peak else None,
            )
            group.close()
