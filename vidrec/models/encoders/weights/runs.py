"""Read the encoder that a run trained or used, as weights of another encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from vidrec import config
from vidrec.config import plugins
from vidrec.errors import UserError
from vidrec.io.runs import run_folder

Tree = Mapping[str, Any]


def read(path: Path, cfg: config.Encoder, variables: Tree) -> dict[str, Any]:
    """Read the encoder of a run, whose arrays must all fit this encoder.

    Args:
        path: The run's folder, or its name.
        cfg: Settings of the encoder.
        variables: Variables of the encoder.

    Raises:
        UserError: There is no such run, or its encoder differs from this encoder.
    """
    from vidrec.io import checkpoint

    try:
        folder = run_folder(path)
    except UserError as error:
        raise UserError(f"encoder.weights: {error}") from None
    tree, about = checkpoint.read(folder / "model")
    check_normalize(cfg, about["config"]["encoder"]["normalize"])
    check_code(cfg, about, folder)
    theirs = _encoder_of(tree)
    ours = flatten_dict(dict(variables), sep="/")
    if not theirs:
        raise UserError(f"encoder.weights: the run {folder} has no encoder")
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
            raise UserError(
                f"encoder.weights: the encoder of {folder} is another one; they differ in {name}"
            )
    return unflatten_dict(theirs, sep="/")


def settings_of(path: Path) -> dict[str, Any]:
    """Return the encoder settings of a run.

    Raises:
        UserError: There is no such run.
    """
    from vidrec.io import checkpoint

    try:
        about = checkpoint.read_meta(run_folder(path) / "model")
    except UserError as error:
        raise UserError(f"encoder.weights: {error}") from None
    return dict(about["config"]["encoder"])


def _encoder_of(tree: Tree) -> dict[str, Any]:
    """Return the encoder's arrays by their paths.

    A frozen encoder is saved by itself, and a trained one with the model that it is part of.
    """
    parts = [
        *({"params": tree.get(part, {}).get("encoder", {})} for part in ("fixed", "trained")),
        *(
            {name: variables.get("encoder", {})}
            for name, variables in tree.get("constants", {}).items()
        ),
        {"batch_stats": tree.get("stats", {}).get("encoder", {})},
        tree.get("encoder", {}),
    ]
    return {
        name: leaf for part in parts for name, leaf in flatten_dict(dict(part), sep="/").items()
    }


def check_normalize(cfg: config.Encoder, normalize: str) -> None:
    """Refuse weights that require another normalization than the settings."""
    if normalize != cfg.normalize:
        raise UserError(
            f"encoder.normalize = {cfg.normalize!r} should be {normalize!r}, to which the "
            f"weights {cfg.weights} belong"
        )


def check_code(cfg: config.Encoder, about: Mapping[str, Any], folder: Path) -> None:
    """Refuse a run's weights if its encoder's code is not the code that the settings name.

    The code that the run stores is not executed.
    """
    theirs = str(about["config"]["encoder"]["kind"])
    said = (about.get("code") or {}).get(theirs)
    if said is None:
        return
    ours = plugins.code_hash(cfg.kind) if plugins.is_code(cfg.kind) else cfg.kind
    if ours != said["sha256"]:
        raise UserError(
            f"encoder.weights: the encoder of {folder} is {theirs} (SHA-256 {said['sha256']}), "
            f"encoder.kind = {cfg.kind} another one ({ours}): name the code that the run keeps in "
            f"{folder / 'model' / 'code'}"
        )
