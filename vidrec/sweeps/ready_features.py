"""Run trials of UCF-101 and UCF-11 on a folder of ready-made features.

Such a folder may have fewer classes, or shorter clips, than an experiment assumes. This module
changes the settings accordingly, and the notes of the table list the changes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from vidrec.config import Config, Encoder, get, override
from vidrec.errors import UserError

if TYPE_CHECKING:
    from vidrec.data.datasets.feature_files import ArrayFiles
    from vidrec.data.splits import Split

KINDS = ("ucf101", "ucf11")
# Settings in frames, which are scaled together.
LENGTHS = (
    *("frames.length", "train.tbptt_every", "train.tbptt_length"),
    *("eval.window", "eval.stride"),
)
COMPONENTS = 256  # principal components that wide features are reduced to
OFFICIAL = "the official list in place of a draw by recording"
LISTED = 20  # a note lists the names of at most this many classes


@dataclass(frozen=True)
class Folder:
    """A folder of ready-made features.

    Attributes:
        data: all clips of the folder.
        kind: the data set whose file names the folder uses, `ucf101` or `ucf11`.
        of_classes: the share of the data set's classes that the folder has, in words; "": all.
    """

    data: "ArrayFiles"
    kind: str
    of_classes: str

    @cached_property
    def steps(self) -> int:
        """Return the median number of frames of the clips that can be read."""
        return int(sorted(self._lengths)[len(self._lengths) // 2])

    @property
    def longest(self) -> int:
        """Return the number of frames of the longest clip."""
        return int(max(self._lengths))

    @property
    def has_one_length(self) -> bool:
        """Return whether all clips have the same number of frames."""
        return len(set(self._lengths)) == 1

    @cached_property
    def _lengths(self) -> list[int]:
        return [length for length in self.data.lengths.tolist() if length] or [1]

    @property
    def encoder(self) -> dict[str, Any]:
        """Return encoder settings for ready-made features: no encoder, and PCA if they are wide."""
        width = self.data.shape[-1]
        frames = sum(self._lengths)
        pca = min(COMPONENTS, frames) if width > COMPONENTS else 0
        settings = {
            f"encoder.{each.name}": getattr(Encoder(), each.name) for each in fields(Encoder)
        }
        own = {"encoder.kind": "none", "encoder.standardize": True, "encoder.pca": pca}
        return settings | own


@dataclass(frozen=True)
class Moved:
    """What changed in a trial because its data are a folder of features.

    Attributes:
        folder: the folder.
        config: the trial's settings after the changes.
        steps: frames of a clip in the folder, and in the experiment; None if no length is scaled.
        scaled: changed settings in frames by name, before and after.
        task: why published figures are for another task; "" if they are for this one.
        drawn: the new split in words; "" if the split did not change.
        merged: texts that name the rows that became equal to the trial's row.
        left_out: names of the table's rows that cannot run on these features.
    """

    folder: Folder
    config: Config
    steps: tuple[int, int] | None = None
    scaled: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    task: str = ""
    drawn: str = ""
    merged: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class Folders:
    """Finds the folders of features that trials name, and opens each once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], Folder | None] = {}

    def moved(
        self,
        cfg: Config,
        base: Config,
        of_row: Mapping[str, Any],
        typed: Mapping[str, Any],
    ) -> Moved | None:
        """Return a trial adapted to its folder of features; None if its data are not such a folder.

        Args:
            cfg: the trial's settings.
            base: the settings of its table's base.
            of_row: the settings that its row changes.
            typed: settings that the command line gives.
        """
        data = {name: value for name, value in typed.items() if name.startswith("data.")}
        cfg = override(cfg, data, keep=of_row)
        folder = self.of(cfg, typed)
        if folder is None:
            return None
        moved = moved_onto(folder, cfg, base, typed)
        if "data.split" in of_row and "data.split" not in typed:
            moved = with_official_sizes(moved, typed)
        return moved

    def of(self, cfg: Config, typed: Collection[str]) -> Folder | None:
        """Return the folder of features that a trial reads; None if its data are not such a folder.

        An experiment of UCF-11 can also use features whose files are named like those of UCF-101,
        unless the command line gives `data.kind`.

        Args:
            cfg: the trial's settings.
            typed: names of the settings that the command line gives.
        """
        if cfg.data.kind not in KINDS or cfg.encoder.kind == "none":
            return None
        kinds = {cfg.data.kind: None}
        if "data.kind" not in typed and cfg.data.kind == "ucf11" and cfg.data.root:
            kinds["ucf101"] = None
        for kind in kinds:
            key = (kind, cfg.data.root, cfg.data.split)
            if key not in self._known:
                self._known[key] = _open(override(cfg, {"data.kind": kind, "data.classes": ()}))
            if self._known[key]:
                return self._known[key]
        return None


def _open(cfg: Config) -> Folder | None:
    from vidrec.data import datasets
    from vidrec.data.datasets import ucf

    if not ucf.holds_features(cfg.data):
        return None
    lists = {"data.fold": 0, "data.folds": 0}
    data: Any = datasets.load(override(cfg, lists).data)
    return Folder(data, cfg.data.kind, data.about.get("classes", ""))


def moved_onto(folder: Folder, cfg: Config, base: Config, typed: Mapping[str, Any]) -> Moved:
    """Return a trial adapted to a folder of features.

    The folder determines the encoder settings and the classes. Lengths are scaled if clips are
    shorter than the experiment assumes.

    Args:
        folder: the folder.
        cfg: the trial's settings, with the data settings of the command line.
        base: the settings of its table's base.
        typed: settings that the command line gives, which stay as they are.

    Raises:
        UserError: a setting of the command line does not fit the folder.
    """
    _refuse(folder, typed)
    classes = _classes(folder, cfg, typed)
    changes: dict[str, Any] = {"data.kind": folder.kind, "data.fps": 0.0, "data.classes": classes}
    changes |= folder.encoder
    scaled = _scaled(folder, cfg, base, typed)
    changes |= {name: after for name, (_, after) in scaled.items()}
    same = folder.has_one_length and cfg.frames.rule in ("segment_mean_length", "whole")
    if same and not {"frames.rule", "frames.length"} & {*typed}:
        changes |= {"frames.rule": "segment", "frames.length": folder.steps}
    drawn = ""
    if folder.kind != cfg.data.kind and cfg.data.split == "group" and not cfg.data.fold:
        changes |= {"data.split": "given"}
        drawn = "" if "data.split" in typed else OFFICIAL
    moved = override(cfg, {name: value for name, value in changes.items() if name not in typed})
    asked = base.data.classes or ()
    other = (set(asked) != set(classes) if asked else bool(folder.of_classes)) or bool(scaled)
    other = other or folder.kind != base.data.kind
    task = f"{_share(folder, classes)}, features made elsewhere" if other else ""
    steps = (folder.steps, base.frames.length) if scaled else None
    return Moved(folder, moved, steps, scaled, task, drawn)


def _refuse(folder: Folder, typed: Mapping[str, Any]) -> None:
    """Refuse settings of the command line that do not fit a folder of features."""
    where = "data.root holds features made elsewhere"
    for name in ("encoder.weights", "encoder.kind", "encoder.trainable"):
        if typed.get(name, "none") not in ("none", "random", "auto"):
            raise UserError(
                f"{name} = {typed[name]!r}: {where}, which no encoder reads; leave it out"
            )
    if typed.get("data.fps"):
        raise UserError(f"data.fps = {typed['data.fps']:g} resamples videos, and {where}")
    for name in LENGTHS:
        if typed.get(name, 0) > 2 * folder.longest:
            raise UserError(
                f"{name} = {typed[name]} is more than twice the {folder.longest} frames of the "
                f"longest clip: {where}, of which {folder.longest} shows all"
            )


def _classes(folder: Folder, cfg: Config, typed: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes to use; () means all classes of the data set.

    They are those of the settings if the command line gives them or the folder has all of them.
    Otherwise they are those of the folder.
    """
    there = folder.data.classes
    if "data.classes" in typed or (cfg.data.classes and set(cfg.data.classes) <= {*there}):
        return cfg.data.classes
    return there if folder.of_classes else ()


def _share(folder: Folder, classes: Sequence[str]) -> str:
    from vidrec.data.datasets import ucf

    archive = ucf.ARCHIVES[folder.kind]
    share = archive.share(classes or folder.data.classes)
    return share.get("classes", f"all classes of {archive.title}")


def _scaled(
    folder: Folder, cfg: Config, base: Config, typed: Mapping[str, Any]
) -> dict[str, tuple[int, int]]:
    """Return the settings in frames that change, with their values before and after scaling."""
    given, asked = folder.steps, base.frames.length
    if given >= asked:
        return {}
    scaled = {}
    for name in LENGTHS:
        before = get(cfg, name)
        after = min(given, max(1, round(before * given / asked))) if before else 0
        if name not in typed and after != before:
            scaled[name] = (before, after)
    return scaled


def with_official_sizes(moved: Moved, typed: Mapping[str, Any]) -> Moved:
    """Return a trial whose row sets the split, with the official list or its sizes.

    A split by recording is replaced by the official list. A random split gets as many test and
    validation clips as the official list has.
    """
    cfg = moved.config
    if cfg.data.split == "group" and not cfg.data.fold:
        given = override(cfg, {"data.split": "given"})
        return replace(moved, config=given, drawn=OFFICIAL)
    if cfg.data.split != "random" or {"data.test", "data.val"} & {*typed}:
        return moved
    split = _official(cfg)
    sizes = {"data.test": float(len(split.test)), "data.val": float(len(split.val))}
    words = f"a random draw of as many clips ({len(split.test)} to test)"
    return replace(moved, config=override(cfg, sizes), drawn=words)


def _official(cfg: Config) -> "Split":
    from vidrec.data import datasets, splits

    given = override(cfg, {"data.split": "given"}).data
    return splits.make(datasets.load(given), given)


def lacks_maps(moved: Moved) -> bool:
    """Return whether a trial reads feature maps although the folder has feature vectors."""
    from vidrec.models import cells

    cell = cells.CELLS.get(moved.config.scanner.kind)
    return cell is not None and cell.maps and len(moved.folder.data.shape) == 1


class OfRow(NamedTuple):
    """A trial's row and seed, and what changed for its folder of features; None without one."""

    row: int
    seed: int
    moved: Moved | None


def distinct(
    trials: Sequence[OfRow], names: Sequence[str], control: int
) -> dict[int, Moved | None]:
    """Return the trials to keep by index, without duplicates and without those that cannot run.

    Of equal rows the control is kept, or else the first one. Its `merged` names the removed rows.

    Args:
        trials: the table's trials, in order.
        names: the names of the table's rows.
        control: index of the table's control row.
    """
    out = sorted({trial.row for trial in trials if trial.moved and lacks_maps(trial.moved)})
    stay: dict[str, int] = {}
    merged: dict[str, list[str]] = {}
    for index in sorted(range(len(trials)), key=lambda index: trials[index].row != control):
        row, seed, moved = trials[index]
        if row in out:
            continue
        code = f"{seed} {moved.config if moved else row}"
        if stay.setdefault(code, index) != index:
            merged.setdefault(code, []).append(names[row])
    said: dict[int, Moved | None] = {}
    for code, index in sorted(stay.items(), key=lambda item: item[1]):
        moved, others = trials[index].moved, merged.get(code, [])
        words = (f"{', '.join(others)} with {names[trials[index].row]}",) if others else ()
        left_out = tuple(names[row] for row in out)
        said[index] = replace(moved, merged=words, left_out=left_out) if moved else None
    return said


def notes(all_moved: Sequence[Moved]) -> list[str]:
    """Return the notes of a table that runs on a folder of features."""
    if not all_moved:
        return []
    first = all_moved[0]
    lines = [_note_on_classes(first), _note_on_encoder(all_moved)]
    if steps := next((moved.steps for moved in all_moved if moved.steps), None):
        lines.append(_note_on_lengths(all_moved, *steps))
    if merged := list(dict.fromkeys(words for moved in all_moved for words in moved.merged)):
        lines.append(f"Rows that fall together are one: {'; '.join(merged)}.")
    if drawn := list(dict.fromkeys(moved.drawn for moved in all_moved if moved.drawn)):
        lines.append(f"Splits: {'; '.join(drawn)}.")
    if first.left_out:
        named = ", ".join(first.left_out)
        lines.append(f"Left out, since they read maps of features and these are vectors: {named}.")
    return lines


def _note_on_classes(moved: Moved) -> str:
    classes = moved.config.data.classes or moved.folder.data.classes
    text = f"Data: {_share(moved.folder, classes)}"
    if len(classes) <= LISTED:
        text += f" ({', '.join(classes)})"
    return text + "."


def _note_on_encoder(all_moved: Sequence[Moved]) -> str:
    width = "x".join(map(str, all_moved[0].folder.data.shape))
    kinds = dict.fromkeys(_projection(moved.config) for moved in all_moved)
    return f"Features: made elsewhere, {width} numbers a frame, {'; '.join(kinds)}."


def _projection(cfg: Config) -> str:
    encoder = cfg.encoder
    if encoder.pca:
        return (
            f"standardised and reduced to {encoder.pca} principal components by the training "
            f"clips (encoder.pca {encoder.pca})"
        )
    if encoder.standardize:
        return "standardised by the training clips (encoder.standardize)"
    return "as they are"


def _note_on_lengths(all_moved: Sequence[Moved], given: int, asked: int) -> str:
    changed: dict[str, dict[int, int]] = {}
    for moved in all_moved:
        for name, (before, after) in moved.scaled.items():
            if name.startswith("eval.") and moved.config.eval.inference == "single":
                continue  # no window is cut
            changed.setdefault(name, {})[before] = after
    words = (
        f"{name} {', '.join(f'{before} → {after}' for before, after in sorted(pairs.items()))}"
        for name, pairs in changed.items()
    )
    return (
        f"Clips have {given} frames where the experiment has {asked}, so lengths are scaled by "
        f"{given}/{asked}, to at most {given} frames: {'; '.join(words)}."
    )
