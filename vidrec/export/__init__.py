"""A trained model as files that outlive this package: StableHLO, weights, and a small loader.

OUT/model.stablehlo       the network from frames to class probabilities, by jax.export
OUT/weights.safetensors   its weights
OUT/meta.json             classes, what frames must look like, versions
OUT/loader.py             reads the three; needs jax, numpy and flatbuffers, nothing else
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vidrec import __version__
from vidrec.errors import UserError
from vidrec.predict import Classifier

PLATFORMS = ("cpu", "cuda")
LOADER = Path(__file__).with_name("loader.py")
# One example of what to write in a README, kept here so that a test can run it.
EXAMPLE = """\
import loader
model = loader.load(".")
frames_THWC = model.pick(video_THWC)
probabilities_K = model(frames_THWC[None])[0]
print(model.classes[probabilities_K.argmax()])
"""


def export(
    model: str | os.PathLike | Classifier,
    out: str | os.PathLike,
    *,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Writes a model, or that of a run's or an ablation's folder; returns meta.json's content.

    Batch and number of frames stay open; only a model that reads whole clips (a flatten head, an
    encoder of clips) fixes the frames.

    Raises:
        UserError: no model there or `out` holds something else.
    """
    classifier = model if isinstance(model, Classifier) else Classifier.load(model)
    out = Path(out)
    _check_out(out)
    network = classifier.network
    flat = flatten(network.variables)
    content, frame = _serialised(classifier, flat, platforms)
    about = _about(classifier, frame, platforms)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "model.stablehlo").write_bytes(content)
        _save_weights(out / "weights.safetensors", flat)
        shutil.copyfile(LOADER, out / "loader.py")
        # Last, since it says that the rest is there.
        (out / "meta.json").write_text(json.dumps(about, indent=1, ensure_ascii=False))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    return about


def flatten(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by their path, such as model/params/head/scores/kernel."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}


def _unflattened(like: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """What turns arrays by path back into the tree."""
    structure = jax.tree.structure(like)
    order = list(flatten(like))
    return lambda flat: jax.tree.unflatten(structure, [flat[name] for name in order])


def _serialised(
    classifier: Classifier, flat: Mapping[str, np.ndarray], platforms: Sequence[str]
) -> tuple[bytes, dict[str, Any]]:
    """The program, and shape and type of one frame that enters it."""
    from jax import export as exporting

    network, cfg = classifier.network, classifier.cfg
    nested = _unflattened(network.variables)
    frame, dtype = _frame(classifier)
    length = str(cfg.frames.length) if network.whole_clips else "t"
    shape = exporting.symbolic_shape(", ".join(["b", length, *map(str, frame)]))
    weights = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in flat.items()}

    def one(flat: Mapping[str, Any], frames: jax.Array) -> jax.Array:
        return network.clip(nested(flat), frames)

    program = jax.jit(jax.vmap(one, in_axes=(None, 0)))
    exported = exporting.export(program, platforms=list(platforms))(
        weights, jax.ShapeDtypeStruct(shape, dtype)
    )
    return bytes(exported.serialize()), {"frame": list(frame), "dtype": np.dtype(dtype).name}


def _frame(classifier: Classifier) -> tuple[tuple[int, ...], Any]:
    """Shape and type of what one frame is to the program."""
    network = classifier.network
    if network.takes_features:
        frame = classifier.meta["frame"]
        fitted = network.variables["projection"]
        return (*frame[:-1], len(fitted["mean"]) if fitted else frame[-1]), np.float32
    size = classifier.cfg.encoder.size
    return (size, size, 3), np.uint8


def _about(
    classifier: Classifier, frame: Mapping[str, Any], platforms: Sequence[str]
) -> dict[str, Any]:
    cfg, network = classifier.cfg, classifier.network
    return {
        "classes": list(classifier.classes),
        "input": {
            **frame,
            "axes": "BTD…" if network.takes_features else "BTHWC",
            "colours": None if network.takes_features else "RGB, 0 to 255",
            "resize": None if network.takes_features else "bilinear, to the whole frame's square",
        },
        "output": "class probabilities (B, K), float32",
        "frames": {
            "length": cfg.frames.length,
            "rule": cfg.frames.rule,
            "fixed": network.whole_clips,
            "fps": cfg.data.fps or None,
        },
        "platforms": list(platforms),
        "model": {"id": classifier.meta["id"], "chosen": classifier.chosen},
        "versions": {
            "vidrec": __version__,
            **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
        },
    }


def _save_weights(file: Path, flat: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in flat.items()}, file)


def _check_out(out: Path) -> None:
    """Nothing that is not an earlier export may be overwritten."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the export")
    if out.is_dir() and any(out.iterdir()) and not (out / "meta.json").exists():
        raise UserError(f"{out} holds something else: name a new or empty folder for the export")
