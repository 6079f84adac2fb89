"""What the sections share: rows written at once, precisions of both sides, comparing and timing."""

import importlib.util
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

OURS = "vidrec"
# Of a gradient's (or a result's) size: what two right programs may differ by.
NEAR = {"float32": 2e-4, "tf32": 2e-2, "bfloat16": 6e-2}
# JAX's name for the precision of float32 products; bfloat16 operands are not concerned by it.
MATMUL = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "tensorfloat32"}
PAUSED = 0.02  # seconds of work that are queued before the device is waited for
ROUNDS = 7
# Its import takes seconds; set where nothing is timed.
WITHOUT_TORCH = False


class Record:
    """Rows of a section, written to a file one by one, and the time that is left for more.

    Attributes:
        tiny: small sizes.
        share: the work that is asked for: all words of it stand in a part's name; empty: all work.
        warm: programs are compiled, so that the cache holds them, and nothing is timed.
    """

    def __init__(self, section: str, file: Path, seconds: float, *, tiny: bool = False):
        self.section, self.file, self.tiny = section, Path(file), tiny
        self.share, self.warm = "", False
        self.ends = time.monotonic() + seconds

    def wants(self, *words: Any) -> bool:
        """Return True where this part is asked for and time is left."""
        text = " ".join(str(word) for word in words)
        return self.left() > 0 and all(word in text for word in self.share.split())

    def left(self) -> float:
        """Return the seconds that this section may still take."""
        return self.ends - time.monotonic()

    def row(self, work: str, side: str = OURS, **figures: Any) -> None:
        """Write one row: what was done, by whom, and what was measured."""
        line = {"section": self.section, "work": work, "side": side, **figures}
        with self.file.open("a") as opened:
            opened.write(json.dumps(line, default=float) + "\n")

    @contextmanager
    def part(self, work: str, side: str = OURS, **about: Any) -> Iterator[None]:
        """Run one part; a fault in it becomes a row with its reason, and the others go on."""
        try:
            yield
        # Compilers and libraries fail in ways of their own; `turns.compare` ends the process.
        except (Exception, SystemExit) as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            reason = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
            self.row(work, side, **about, failed=reason)


@dataclass
class Side:
    """One side of a comparison.

    Attributes:
        run: queues the work on input set `i` and returns its result, without waiting.
        wait: waits until a result is there.
        result: a result as host arrays in ours' order and layout, to be compared.
    """

    run: Callable[[int], Any]
    wait: Callable[[Any], Any]
    result: Callable[[Any], Mapping[str, np.ndarray]]


def jax_side(run: Callable[[int], Any], result: Callable[[Any], Any] | None = None) -> Side:
    """Return a side that computes by JAX; its result is a flat tree of arrays unless told."""
    return Side(run, jax.block_until_ready, result or flat)


def torch_side(run: Callable[[int], Any], result: Callable[[Any], Any]) -> Side:
    """Return a side that computes by PyTorch."""
    import torch

    def wait(out: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return Side(run, wait, result)


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Return a tree's leaves by their paths, as float32 host arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float32) for path, leaf in leaves}


def off(found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
    """Return how far arrays are from their truth: the largest |found - truth| / |truth| (norms).

    Arrays that only one side has, or of another shape, are infinitely far; so is not-a-number.
    """
    if set(found) != set(truth):
        return float("inf")
    furthest = 0.0
    for name, right in truth.items():
        other = np.asarray(found[name], np.float64)
        if other.shape != np.shape(right):
            return float("inf")
        size = max(float(np.linalg.norm(np.asarray(right, np.float64))), 1e-30)
        apart = float(np.linalg.norm(other - right)) / size
        furthest = max(furthest, apart if np.isfinite(apart) else float("inf"))
    return furthest


def compare(record: Record, work: str, precision: str, sides: dict[str, Side], truth: Any) -> dict:
    """Return the sides whose result on input set 0 is near the truth; the others become rows."""
    right = {}
    for name, side in sides.items():
        if record.warm and name.startswith("torch"):
            continue
        with record.part(work, name, precision=precision):
            out = side.run(0)
            side.wait(out)
            judge(record, (work, name, precision), side.result(out), truth)
            right[name] = side
    return right


def judge(record: Record, named: tuple[str, str, str], found: Any, truth: Any) -> None:
    """Write how far a result is from its truth; raise a ValueError if it is another one.

    Args:
        record: the section's rows.
        named: the work, the side and the precision.
        found: the side's arrays by name.
        truth: the right arrays.
    """
    work, side, precision = named
    apart = off(found, truth)
    if not apart <= NEAR[precision]:
        raise ValueError(f"computes something else: {apart:.3g} of the size off")
    record.row(work, side, precision=precision, off=apart)


def timed(record: Record, work: str, sides: dict[str, Side], **about: Any) -> None:
    """Time sides in turns over rotating inputs, and write a row for each.

    A run queues calls for at least PAUSED seconds, then waits once; figures are seconds a call.
    """
    if record.warm:
        return
    calls, spent = {}, {name: [] for name in sides}
    for name, side in sides.items():
        began = time.perf_counter()
        side.wait(side.run(1))
        once = time.perf_counter() - began
        calls[name] = int(min(200, max(1, np.ceil(PAUSED / max(once, 1e-6)))))
    order = list(sides)
    for turn in range(2 if record.tiny else ROUNDS):
        if turn > 2 and record.left() < 0:
            break
        for name in order:
            began = time.perf_counter()
            for call in range(calls[name]):
                out = sides[name].run(turn + call)
            sides[name].wait(out)
            spent[name].append((time.perf_counter() - began) / calls[name])
        order = order[1:] + order[:1]
    for name, each in spent.items():
        low, middle, high = np.quantile(each, (0.25, 0.5, 0.75))
        figures = {"seconds": middle, "low": low, "high": high, "runs": len(each)}
        record.row(work, name, **about, **figures, calls=calls[name])


@contextmanager
def precision_of(name: str) -> Iterator[None]:
    """Compute float32 products exactly or in TF32, on both sides."""
    exact = name == "float32"
    if has_torch():
        import torch

        torch.backends.cuda.matmul.allow_tf32 = not exact
        torch.backends.cudnn.allow_tf32 = not exact
    with jax.default_matmul_precision(MATMUL[name]):
        yield


def has_torch() -> bool:
    """Return True where PyTorch is installed and wanted: compiling ahead does without."""
    return not WITHOUT_TORCH and importlib.util.find_spec("torch") is not None


def on_gpu() -> bool:
    """Return True where JAX computes on a GPU."""
    return jax.default_backend() == "gpu"


def machine() -> dict[str, Any]:
    """Return versions, the card, its driver and clocks."""
    import importlib.metadata as metadata

    found: dict[str, Any] = {"jax_device": str(jax.devices()[0].device_kind)}
    for name in ("jax", "jaxlib", "flax", "optax", "torch", "triton", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    fields = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        found["nvidia_smi"] = dict(
            zip(fields.split(","), told.stdout.strip().splitlines()[0].split(", "), strict=True)
        )
    except (OSError, subprocess.SubprocessError, IndexError):
        found["nvidia_smi"] = None
    if has_torch():
        import torch

        found["torch_device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        found["cudnn"] = torch.backends.cudnn.version()
    return found | {"cores": len(os.sched_getaffinity(0))}
