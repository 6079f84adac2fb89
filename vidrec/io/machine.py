"""Return what this machine offers a process: cores, a cache folder, versions of libraries."""

import contextlib
import math
import os
import platform
import shlex
import stat
import tempfile
from importlib import metadata
from pathlib import Path

from vidrec import __version__
from vidrec.errors import UserError, check_printable
from vidrec.io import files

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def group_memory(own: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> float:
    """Return the memory limit of the process's control groups in bytes; infinity without a limit.

    Args:
        own: file with a line for each hierarchy of the process: number, controllers, path.
        root: folder where the hierarchies are mounted.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    limits = [math.inf]
    for _, controllers, inside in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not controllers:  # version 2: one hierarchy for all
            places, name = [root, root / "unified"], "memory.max"
        elif "memory" in controllers.split(","):
            places, name = [root / controllers, root / "memory"], "memory.limit_in_bytes"
        else:
            continue
        for place in places:
            # In a container the path is often the host's, and the limit is in the top folder.
            group = place / inside.lstrip("/")
            above = [each for each in group.parents if each.is_relative_to(place)]
            limits += [_limit(each / name) for each in (group, *above)]
    return min(limits)


def _limit(file: Path) -> float:
    try:
        return float(file.read_text())  # version 2 writes "max" for no limit
    except (OSError, ValueError):
        return math.inf


def cache_dir() -> Path:
    """Return the folder where data sets, features and compiled programs are kept between runs.

    Raises:
        UserError: there is no home folder, and other users can write to the temporary folder; or
            the path of the cache is not UTF-8.
    """
    folder = _cache_dir()
    check_printable(folder, "the cache (VIDREC_CACHE)")
    return folder


def _cache_dir() -> Path:
    for name, inside in (("VIDREC_CACHE", ""), ("XDG_CACHE_HOME", "vidrec")):
        if os.environ.get(name):
            return files.expanded(os.environ[name]) / inside
    home = os.path.expanduser("~")
    usual = Path(home, ".cache", "vidrec")
    there = next(folder for folder in (usual, *usual.parents) if os.path.exists(folder))
    if os.path.isabs(home) and home != "/" and os.access(there, os.W_OK | os.X_OK):
        return usual
    return _temporary_cache()


def _temporary_cache() -> Path:
    """Return a folder that no other user can write to, for a user without a home folder."""
    folder = Path(tempfile.gettempdir(), f"vidrec-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
        raise UserError(
            f"there is no home folder to keep data sets and features in, and others can write to "
            f"{folder}: name one by VIDREC_CACHE"
        )
    return folder


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra of vidrec, from this checkout or the package.

    Args:
        extra: The name of the extra, such as `demo`.
    """
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file() or not (root / "launch.py").is_file():
        return f"pip install 'vidrec[{extra}]'"
    folder = "." if root == Path.cwd() else str(root)
    return f"pip install -e {shlex.quote(f'{folder}[{extra}]')}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute results, and the devices."""
    import jax  # starts its devices

    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    device = jax.local_devices()[0]
    return {
        "vidrec": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
        "device": f"{len(jax.local_devices())} x {device.device_kind} ({device.platform})",
    }
