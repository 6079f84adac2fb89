"""Export a trained model to files that work without vidrec: StableHLO, weights, a small loader.

OUT/model.stablehlo       the network from frames to class probabilities, by jax.export
OUT/weights.safetensors   its weights
OUT/meta.json             classes, what frames must look like, versions
OUT/loader.py             reads these three files; needs jax, numpy and flatbuffers, nothing else
OUT/checksums.json        SHA-256 of the other files, which the loader checks
"""

import hashlib
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
from vidrec.config import Config
from vidrec.data import keys
from vidrec.errors import UserError
from vidrec.evaluation.predict import Classifier
from vidrec.io import files
from vidrec.models.encoders import HostEncoder

PLATFORMS = ("cpu", "cuda")
FILES = ("model.stablehlo", "weights.safetensors", "meta.json", "loader.py", files.SUMS)
LOADER = Path(__file__).with_name("loader.py")
# One example of what to write in a README, kept here so that a test can run it.
EXAMPLE = """\
import loader
model = loader.load(".")
label, probabilities_K = model.predict(video_THWC)
print(label)
"""


def export(
    model: str | os.PathLike | Classifier,
    out: str | os.PathLike,
    *,
    platforms: Sequence[str] = PLATFORMS,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Export a model, given itself or by its folder, to files that do not need vidrec.

    The number of clips and frames may vary; only a model that reads whole clips (a flatten head, an
    encoder of clips) needs a fixed number of frames. The loader is the only Python code in the
    export.

    Args:
        model: a model, or the folder of a run, a trial or an ablation to load it from.
        out: the folder to write.
        platforms: JAX platforms on which the exported program can run.
        trust_code: see `Classifier.load`.

    Returns:
        The content of meta.json.

    Raises:
        UserError: the folder has no model, the model cannot be exported, or `out` holds other files
            or cannot be written; an earlier export stays until the new one is complete.
    """
    if isinstance(model, Classifier):
        classifier = model
    else:
        classifier = Classifier.load(model, trust_code=trust_code)
    if isinstance(classifier.network.encoder, HostEncoder):
        raise UserError(
            f"encoder.kind = {classifier.cfg.encoder.kind!r} runs in ONNX Runtime, which no "
            "exported program holds: train on features that the ONNX file gave "
            "(data.kind = 'features') and export that model"
        )
    out = Path(out)
    _check_out(out)
    with files.writing_folder(out) as partial:  # first, since it may not be writable
        flat = flatten(classifier.network.variables)
        program, frame = _serialised(classifier, flat, platforms)
        about = _about(classifier, frame, platforms)
        contents = {
            "model.stablehlo": program,
            "weights.safetensors": _weights(flat),
            "meta.json": json.dumps(about, indent=1, ensure_ascii=False).encode(),
            "loader.py": LOADER.read_bytes(),
        }
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        contents[files.SUMS] = json.dumps(sums, indent=1).encode()
        for name, content in contents.items():
            files.write_whole(partial / name, content)
        _keep_others(out, partial)
    return about


def flatten(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a tree by their path, such as model/params/head/scores/kernel."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}


def _unflattened(like: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function that turns arrays by path back into a tree."""
    structure = jax.tree.structure(like)
    order = list(flatten(like))
    return lambda flat: jax.tree.unflatten(structure, [flat[name] for name in order])


def _serialised(
    classifier: Classifier, flat: Mapping[str, np.ndarray], platforms: Sequence[str]
) -> tuple[bytes, dict[str, Any]]:
    """Return the serialised program, and the shape and type of one frame of its input."""
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
    """Return the shape and type of one frame of the program's input."""
    network = classifier.network
    if network.takes_features:
        return tuple(classifier.features_like or ()), np.float32
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
        "decision": _decision(cfg)
        | classifier.network.task.exported(classifier.fitted, len(classifier.classes)),
        "platforms": list(platforms),
        "model": {"id": classifier.meta["id"], "chosen": classifier.chosen},
        "versions": {
            "vidrec": __version__,
            **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
        },
    }


def _decision(cfg: Config) -> dict[str, Any]:
    """Return the settings of windows and frame order by which a clip is decided."""
    decision: dict[str, Any] = {
        "inference": cfg.eval.inference,
        "window": cfg.eval.window,
        "stride": cfg.eval.stride,
        "order": cfg.frames.order,
    }
    if cfg.frames.order == "shuffled":
        drawn = jax.random.uniform(keys.scoring_order(), (cfg.frames.length,))
        decision["shuffle"] = np.argsort(np.argsort(np.asarray(drawn), kind="stable")).tolist()
    return decision


def _weights(flat: Mapping[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in flat.items()})


def _check_out(out: Path) -> None:
    """Refuse a folder that holds other files, unless it also holds an earlier export."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the export")
    others = _others(out)
    if others and not (out / "model.stablehlo").is_file():
        raise UserError(
            f"{out} holds something else ({others[0].name}): name a new or empty folder for the "
            "export"
        )


def _others(out: Path) -> list[Path]:
    """Return the paths in a folder that are no part of an export, such as a user's notes."""
    if not out.is_dir():
        return []
    own = (*FILES, "__pycache__")
    return [
        path
        for path in sorted(out.iterdir())
        if path.name not in own and not files.PARTIAL.fullmatch(path.name)
    ]


def _keep_others(out: Path, partial: Path) -> None:
    for path in _others(out):
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, partial / path.name, symlinks=True)
        else:
            shutil.copy2(path, partial / path.name, follow_symlinks=False)
