"""The two ceilings of a card: a copy's bandwidth, and a large bfloat16 product."""

import time

import jax
import jax.numpy as jnp

from benchmarks.gpu.harness import Record


def run(record: Record) -> None:
    """Measure both; the other sections' shares are of these."""
    numbers = 2**16 if record.tiny else 2**30
    edge = 64 if record.tiny else 8192
    x = jax.random.normal(jax.random.key(0), (numbers,), jnp.bfloat16)
    seconds = median(jax.jit(lambda x: x + 1), x)
    record.row("copy", gigabytes_a_second=2 * x.nbytes / seconds / 1e9, seconds=seconds)
    a, b = (jax.random.normal(jax.random.key(k), (edge, edge), jnp.bfloat16) for k in (1, 2))
    seconds = median(jax.jit(lambda a, b: a @ b), a, b)
    record.row("bfloat16 product", teraflops=2 * edge**3 / seconds / 1e12, seconds=seconds)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    for name in ("tensorfloat32", "float32"):
        with jax.default_matmul_precision(name):
            seconds = median(jax.jit(lambda a, b: a @ b), a, b)
        record.row(f"{name} product", teraflops=2 * edge**3 / seconds / 1e12, seconds=seconds)


def median(work, *arrays) -> float:
    """Return the middle of ten runs of five calls, in seconds a call."""
    jax.block_until_ready(work(*arrays))
    spent = []
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(5):
            out = work(*arrays)
        jax.block_until_ready(out)
        spent.append((time.perf_counter() - began) / 5)
    return sorted(spent)[5]
