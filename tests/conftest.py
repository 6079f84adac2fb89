"""Shared by all tests: strict promotion, simulated devices, the folder of real data."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight simulated devices: what runs on one must run on several. Tests compile much and run little.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
    # Halves the time of compiling; a release that does not know it would end.
    + " --xla_cpu_use_fusion_emitters=false"
    * metadata.version("jaxlib").startswith("0.10."),
)
# Many tests compile the same: the processes of a run share what is compiled. The first one makes
# the folder and removes it; workers and the programs under test inherit its name.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.mkdtemp(prefix="vidrec-programs-")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import pytest

from vidrec.training import runtime

jax.config.update("jax_numpy_rank_promotion", "raise")
runtime.KEEP = ()  # a process of many tests would keep what the largest of them took


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest last: a run that is stopped when its time is up has then done all others."""

    def minutes(item: pytest.Item) -> float:
        slow = item.get_closest_marker("slow")
        return slow.kwargs.get("minutes", 0) if slow else 0

    items.sort(key=minutes)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Leave nothing to collect: pytest collects five times, and xdist interrupts it after 5 s."""
    runtime.free_programs()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """Free programs in time: the compiler ends a process whose memory mappings run out."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        runtime.free_programs()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real videos, weights and split lists; its tests skip where there is none."""
    folder = os.environ.get("VIDREC_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("VIDREC_TEST_DATA names no folder of real data")
    return Path(folder)
