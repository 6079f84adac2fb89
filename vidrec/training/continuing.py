"""Continue from the last state of a finished run, as a new run (`train.continues`)."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from vidrec.config import Config, plugins, user_code
from vidrec.config.overrides import from_dict, override
from vidrec.errors import UserError
from vidrec.io import checkpoint, files, runs
from vidrec.training.group import Snapshot, TrialGroup
from vidrec.training.prepare import Prepared
from vidrec.training.step import Weights
from vidrec.training.stopping import Figures, Progress, Status, monitored

Tree = Any


def more_epochs(run: str | Path, epochs: int, *, trust_code: bool = False) -> Config:
    """Return the settings of a new run that continues a finished one.

    Args:
        run: folder of the finished run, or of a trial.
        epochs: number of additional epochs.
        trust_code: whether users' code that the run keeps may run.

    Raises:
        UserError: the run cannot be continued; the message says why.
    """
    folder = Path(run)
    result = _finished(folder)
    cfg = from_dict(files.read_json(folder / "config.json"))
    kept, named = folder / runs.MODEL / runs.CODE, user_code(cfg)
    code = plugins.trusted(folder, kept, named, result.get("code"), trust_code)
    more = {
        "train.epochs": result["epochs"] + epochs,
        "train.continues": str(folder.absolute()),
    }
    return override(cfg, {**code, **more})


def parent(cfg: Config) -> dict[str, dict[str, Any]]:
    """Return the entry `parent` of a result, the run that it continues; empty if there is none."""
    if not cfg.train.continues:
        return {}
    folder = Path(cfg.train.continues)
    result = _finished(folder)
    about = {"id": result["id"], "name": result.get("name", ""), "dir": str(folder)}
    return {"parent": {**about, "epochs": result["epochs"]}}


def _finished(folder: Path) -> dict[str, Any]:
    """Return the result of a run that can be continued."""
    result = files.read_result(runs.run_folder(folder))
    if result["status"] != "done":
        raise UserError(f"{folder} is {result['status']}: only a run that is done can be continued")
    if not (folder / runs.LAST_STATE).is_dir():
        raise UserError(
            f"{folder} keeps no state to continue from ({runs.LAST_STATE}/ is missing): an earlier "
            "version trained it"
        )
    return result


def begin(group: TrialGroup) -> None:
    """Set an untrained group to the final state of the run that it continues.

    The best weights so far, and the number of epochs without improvement, are also taken from that
    run, so both runs together equal one run of more epochs. If the first run was stopped by
    `train.patience`, the number of epochs without improvement starts at 0.
    """
    cfg, data = group.cfg, group.data
    folder = Path(cfg.train.continues)
    result = _finished(folder)
    arrays, about = checkpoint.read(folder / runs.MODEL)
    _check_data(folder, about, data)
    fresh = group.snapshot()
    own = jax.tree.map(lambda leaf: leaf[0], (fresh.state, fresh.best))
    last, _ = checkpoint.read(folder / runs.LAST_STATE, own[0]._asdict())
    best = Weights(arrays["trained"], arrays.get("stats", {}))
    _check_shapes(folder, best, own[1])
    count = len(group.configs)
    state, best = jax.tree.map(
        lambda leaf: np.stack([np.asarray(leaf)] * count), (type(own[0])(**last), best)
    )
    group.restore(Snapshot(state, best, fresh.progress))
    group.progress = [_progress(group, place, result) for place in range(count)]


def _progress(group: TrialGroup, place: int, result: dict[str, Any]) -> Progress:
    """Return a trial's progress at the end of the run that it continues."""
    before = group.progress[place]
    epoch, best = int(result["epochs"]), int(result["best_epoch"])
    score = before.best_score
    if best:
        validated = group.validate()
        figures = Figures(0.0, 0.0, True)
        if validated:
            loss, named = float(validated.loss_N[place]), validated.figures_N[place]
            figures = Figures(0.0, 0.0, True, loss, named)
        score = monitored(group.configs[place], figures, best)
    stopped = result.get("why") == Status.STOPPED.reason
    wait = 0 if stopped else epoch - best
    return Progress(epoch, score, best, wait, Status.RUNNING, before.untrained_loss)


def _check_data(folder: Path, about: dict[str, Any], data: Prepared) -> None:
    """Refuse other training clips: clips that the first run was trained on may be test clips."""
    clips = data.clips("train")
    contents = [data.dataset.keys[clip] for clip in clips]
    now = (about["classes"], about["split"]["id"], about["train_contents"])
    if now != (list(data.classes), data.split.id, contents):
        raise UserError(
            f"{folder} was trained on other clips, classes or another split than there are now: "
            "only on the same ones can it be continued"
        )


def _check_shapes(folder: Path, found: Tree, wanted: Tree) -> None:
    """Refuse weights of another model."""
    shapes = [
        {
            jax.tree_util.keystr(path): np.shape(leaf)
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }
        for tree in (found, wanted)
    ]
    if shapes[0] != shapes[1]:
        raise UserError(f"{folder} has another model than these settings: leave its own")
