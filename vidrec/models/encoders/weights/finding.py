"""Find weights on this machine: in an installed package, in the cache, or by their content."""

import hashlib
import importlib
import importlib.util
import operator
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vidrec import config
from vidrec.errors import UserError
from vidrec.io.machine import cache_dir, how_to_install
from vidrec.models.encoders.weights.names import File, Package, PretrainedNet

SUFFIXES = (".pth", ".safetensors", ".h5")


class Found(NamedTuple):
    """A file of weights that is available.

    Attributes:
        name: Name of the package or the file.
        path: Path of the file.
    """

    name: str
    path: Path

    @property
    def by_content(self) -> str:
        """Return NAME@HASH, the value of `encoder.weights` that names this file by content."""
        return f"{self.name}@{config.file_hash(self.path)}"


def find(net: PretrainedNet, top: bool = False) -> Found | None:
    """Return what `auto` selects: the package's weights, else the original ones, else None.

    Args:
        net: What the encoder declares as `pretrained`.
        top: True: an original file has to contain the layers after the features.

    Raises:
        UserError: An original file does not have its published content, or the package has none.
    """
    return next(_at_hand(net, originals(net, top)), None)


def of_content(net: PretrainedNet, weights: str) -> Path:
    """Return the file that NAME@HASH means.

    Raises:
        UserError: No available file has this content; the message says how to get weights.
    """
    match = config.BY_CONTENT.fullmatch(weights)
    assert match is not None
    others = []
    for found in _at_hand(net, net.files):
        if config.file_hash(found.path) == match[2]:
            return found.path
        others.append(str(found.path))
    besides = f"{', '.join(others)} hold others" if others else how_to_get(net)
    raise UserError(f"encoder.weights = {weights}: no file here has this content: {besides}")


def how_to_get(net: PretrainedNet, top: bool = False) -> str:
    """Return the command that gets the weights that `find` would take first."""
    if net.package:
        return how_to_install(net.package.extra)
    for file in originals(net, top):
        target = shlex.quote(str(folder() / file.name))
        return f"curl -L --create-dirs -o {target} {net.url}{file.name}"
    return "name a file with --encoder.weights"


def how_to_fetch(net: PretrainedNet, file: File) -> str:
    """Say where a file of original weights comes from and where to put it."""
    return f"fetch {net.url}{file.name} into {folder()}"


def originals(net: PretrainedNet, top: bool) -> list[File]:
    """Return the files of original weights; with `top`, only those that contain the top."""
    return [file for file in net.files if file.top or not top]


def folder() -> Path:
    """Return the cache folder for files of weights, into which users put them."""
    return cache_dir() / "weights"


def original(file: File) -> Path | None:
    """Return the path of an original file in the cache of vidrec, Keras or PyTorch; else None.

    Raises:
        UserError: The file's content is not the published one.
    """
    for place in (folder(), _keras_cache(), _torch_cache()):
        if (place / file.name).is_file():
            return _undamaged(place / file.name, file)
    return None


def in_package(package: Package) -> Path | None:
    """Return the file of weights of an installed package; None if it is not installed.

    A package that contains exactly one such file is not imported, so that none of its code runs.

    Raises:
        UserError: The package has no file of weights.
    """
    try:
        spec = importlib.util.find_spec(package.module)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    files = [file for place in places for file in place.rglob("*") if file.suffix in SUFFIXES]
    if len(files) == 1:
        return files[0]
    try:
        module = importlib.import_module(package.module)
        path = Path(operator.attrgetter(package.function)(module)())
        if path.is_file():
            return path
        reason = f"there is no file {path}"
    except Exception as error:  # the package's code may raise any error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(f"the package {package.pip} has no weights ({reason}): install it again")


def _at_hand(net: PretrainedNet, files: list[File] | tuple[File, ...]) -> Iterator[Found]:
    if net.package and (path := in_package(net.package)):
        yield Found(net.package.pip, path)
    for file in files:
        if path := original(file):
            yield Found(file.name, path)


def _undamaged(path: Path, file: File) -> Path:
    """Return the path of an original file, if its content has the published hash."""
    algorithm, published = ("md5", file.md5) if file.md5 else ("sha256", file.sha256)
    with path.open("rb") as handle:
        content = hashlib.file_digest(handle, algorithm).hexdigest()
    if not content.startswith(published):
        name = "MD5" if file.md5 else "SHA-256"
        raise UserError(
            f"{path} is not the original ({name} {content}, should be {published}): fetch again"
        )
    return path


def _keras_cache() -> Path:
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return Path(home, "models")


def _torch_cache() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    home = os.environ.get("TORCH_HOME") or os.path.join(caches, "torch")
    return Path(home, "hub", "checkpoints")
