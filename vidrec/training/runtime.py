"""Configure JAX in a process of a command: caches, memory, cores, and other processes."""

import contextlib
import ctypes
import os
from typing import Any

import jax

from vidrec.errors import UserError
from vidrec.io.machine import cache_dir, cores, group_memory, how_to_install

# Seconds after which a silent process counts as dead, and the others end.
HEARTBEAT = 30
# Bytes of memory that each core needs to become a device.
CORE_BYTES = 4e9
# Number of groups of trials whose compiled programs a process keeps.
GROUPS_KEPT = 32
# M_MMAP_MAX, M_ARENA_MAX, M_TRIM_THRESHOLD of mallopt(3): use one heap, never return memory.
KEEP = ((-4, 0), (-8, 1), (-1, -1))


def configure() -> None:
    """Configure the compilation cache and the C library's memory for a command-line process."""
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    keep_memory()


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step.

    On a CPU a step's temporary arrays take hundreds of megabytes. If their memory is returned to
    the system after every call, each page is cleared again, which took up to half of the time of
    convolutions. With this setting the process never shrinks. It has an effect only with glibc, and
    only before JAX starts its threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in KEEP:
        mallopt(option, value)


def free_programs() -> None:
    """Free the compiled programs that nothing uses any more.

    JAX's own caches keep all programs of a process. On a CPU those of a group take some 25 MB and
    400 to 800 memory mappings. Linux allows a process 65,530 mappings (vm.max_map_count). When they
    run out, the compiler ends the process, so large grids did not finish.
    """
    jax.clear_caches()


def explain_failure(error: Exception) -> str:
    """Return in one line why JAX cannot work here; "" if `error` has another reason."""
    if "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"out of memory ({str(error).splitlines()[0]}): take a smaller train.batch_size, "
            "frames.length or scanner, or say by train.memory_gb what a group may take"
        )
    try:
        check_devices()
    except UserError as refused:
        return str(refused)
    return ""


def check_devices() -> None:
    """Start JAX's devices.

    Raises:
        UserError: JAX finds no device, or none of the kind that JAX_PLATFORMS names.
    """
    try:
        jax.devices()
    except Exception as error:
        said = (str(error).splitlines() or ["none is found"])[0]
        wanted = jax.config.jax_platforms  # type: ignore[attr-defined,unused-ignore]
        if not wanted:
            raise UserError(f"JAX cannot start a device: {said}") from None
        raise UserError(
            f"JAX_PLATFORMS = {wanted!r}, but JAX has no such device here ({said}): unset it, or "
            f"install JAX for that device, such as {how_to_install('cuda')}"
        ) from None


def use_cores() -> None:
    """Make every CPU core a device, if the devices are CPUs; to be called before JAX starts.

    Then as many trials of a table train in parallel as there are cores: products of a recurrence
    are too small to use all cores. A single trial uses only the first device (see `over`). If
    several processes train together, each has one device. A number of devices that the user set
    (JAX_NUM_CPU_DEVICES, XLA_FLAGS) is kept.

    A single run does not call this, unless it divides its batches. A cached compiled program only
    fits a process with the same number of devices. So `predict` calls this, too, and finds the
    encoder's program that `ablate` compiled.
    """
    if _simulated() or are_cores() or jax.distributed.is_initialized():
        return
    # Too late if JAX has started: it then keeps its one device.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", _devices_of_cores())


def share_of_cores(processes: int) -> dict[str, str]:
    """Return environment variables for each of `processes` that train together on this machine."""
    if _simulated() or are_cores():
        return {}
    return {"JAX_NUM_CPU_DEVICES": str(max(1, _devices_of_cores() // processes))}


def _devices_of_cores() -> int:
    return max(1, min(cores(), int(machine_bytes() / CORE_BYTES)))


def _simulated() -> bool:
    return "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")


def are_cores() -> bool:
    """Return True if each CPU device is a single core."""
    return jax.config.jax_num_cpu_devices > 0  # type: ignore[attr-defined,unused-ignore]


def machine_bytes() -> float:
    """Return the memory of this machine, or the part that SLURM or a control group allows."""
    whole = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    given = 1e6 * float(os.environ.get("SLURM_MEM_PER_NODE", "0"))
    return min(whole, given or whole, group_memory())


def is_cpu() -> bool:
    """Return True if the default devices are CPUs."""
    return jax.default_backend() == "cpu"


def join(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Connect this process to others: those of the arguments, or the tasks of a SLURM step.

    This is to be called before any array is made. For a single process it does nothing.

    Args:
        coordinator: host:port that the first process listens on.
        processes: number of processes.
        process: number of this process, counted from 0.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if not coordinator and (processes or process >= 0):
        raise UserError("several processes need --coordinator HOST:PORT, that of the first one")
    if coordinator and not 0 <= process < processes:
        raise UserError(
            f"--processes {processes} --process {process}: processes are counted from 0, and each "
            "is told how many there are"
        )
    if not coordinator and tasks < 2:
        return
    named: dict[str, Any] = (
        {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
        if coordinator
        else {}
    )
    try:
        jax.distributed.initialize(
            **named, initialization_timeout=60, heartbeat_timeout_seconds=HEARTBEAT
        )
    except RuntimeError as error:
        raise UserError(f"the processes did not find each other: {error}") from error


def processes() -> int:
    """Return how many processes train together; a single one does not start JAX for this."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def memory_limit() -> float:
    """Return the bytes that programs may take: on an accelerator, or on all CPUs together."""
    [device, *_] = jax.local_devices()
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return 0.9 * stats["bytes_limit"]
    return 0.8 * machine_bytes()


def room(gigabytes: float = 0.0) -> float:
    """Return the bytes that data may take on a device with `gigabytes` (0: its whole memory)."""
    host = machine_bytes()
    return min(host / 3, (1e9 * gigabytes or memory_limit()) / 2)
