"""The feature store: features of clips, addressed by all that they depend on.

A store is a folder addressed by encoder, weights, preprocessing, frame size and rate, and
precision. It holds the features of clips, each addressed by the clip's own content (see `shards`).
Sequence length, segments and splits are not part of either address, so changing them never extracts
again. A clip's features are stored whole or not at all, so that extraction can be killed, resumed,
or shared by processes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vidrec.config import Config, canonical, digest, identifying_settings, is_onnx
from vidrec.data import video
from vidrec.data.datasets.base import Dataset
from vidrec.errors import UserError
from vidrec.features.shards import Shards
from vidrec.io.files import write_whole
from vidrec.io.machine import cache_dir

LAYOUT = 2  # version of a store's files; a store of another version has another folder and stays


class Store(Shards):
    """One folder of features; its about.json says what they depend on."""

    @classmethod
    def of(cls, about: dict[str, Any], root: Path | None = None) -> "Store":
        """Open the store of these dependencies; create it if it is missing.

        Args:
            about: what the features depend on, as `dependencies` returns it.
            root: the folder of all stores; by default in the cache.

        Raises:
            UserError: the folder cannot be written.
        """
        root = root or cache_dir() / "features"
        store = cls(root / digest(about, {"layout": LAYOUT}, length=24))
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            if not (store.folder / "about.json").exists():
                write_whole(store.folder / "about.json", canonical(about))
        except OSError as error:
            raise UserError(f"cannot write features to {store.folder}: {error.strerror}") from error
        return store

    def warning(self, key: str) -> str:
        """Return what was damaged in the clip's file when it was decoded; "" if nothing was."""
        entry = self.entry(key)
        return entry.note if entry else ""

    def missing(self, dataset: Dataset) -> list[int]:
        """Return the clips that the store lacks, in order.

        Of clips with the same content, only the first is returned.
        """
        keys = {clip: dataset.key(clip) for clip in range(len(dataset))}
        first = {key: clip for clip, key in reversed(keys.items())}
        stored = self.keys()
        return sorted(clip for key, clip in first.items() if key not in stored)

    def recall_warnings(self, dataset: Dataset, clips: Iterable[int]) -> None:
        """Add to `dataset.warnings` what was damaged in the files of stored clips when decoded."""
        for clip in clips:
            if warning := self.warning(dataset.key(clip)):
                dataset.warnings[dataset.names[clip]] = warning


def dependencies(cfg: Config, weights: str, module: Any) -> dict[str, Any]:
    """Return what features depend on besides the clip.

    An encoder's VERSION is raised if a change of its code changes its features; a user's encoder
    has none.

    Args:
        cfg: the settings of the encoder and the frame rate.
        weights: digest of the encoder's arrays.
        module: the encoder.
    """
    names = ("kind", "pooling", "width", "size", "normalize", "store_dtype", "dtype")
    settings = {name: getattr(cfg.encoder, name) for name in names}
    identity = identifying_settings(cfg)
    # A user's file is identified by its content; for an ONNX file, that is `weights`.
    settings["kind"] = "onnx" if is_onnx(cfg.encoder.kind) else identity["encoder.kind"]
    if cfg.encoder.args:
        settings["args"] = identity["encoder.args"]
    return settings | {
        "weights": weights,
        "version": getattr(module, "VERSION", 0),
        "fps": cfg.data.fps,
        "decoding": video.DECODING,
    }
