"""Open the unpacked archives of UCF-101 and UCF-11 in place; define the TFDS builder `ucf11`.

Instead of videos, a folder may hold ready-made features (.npy, .safetensors) of the same names.

UCF-101 (K. Soomro, A. R. Zamir, M. Shah, CRCV-TR-12-01, 2012) comes with three lists of training
and test clips that divide its recordings. UCF-11 (J. Liu, J. Luo, M. Shah, CVPR 2009) has 25
recordings a class and no lists: one recording of every class is left out in turn.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from vidrec.config import Data
from vidrec.data.datasets import finding
from vidrec.data.datasets.base import Files, nearest
from vidrec.data.datasets.feature_files import EXTENSIONS, ArrayFiles
from vidrec.data.datasets.naming import indices_of
from vidrec.data.read_ahead import map_ahead
from vidrec.data.video import UnreadableClip
from vidrec.errors import TransientError, UserError, is_transient
from vidrec.io import files
from vidrec.io.machine import cache_dir
from vidrec.io.words import are, counted

LISTS = "ucfTrainTestlist"
CLIP_101 = re.compile(r"v_([A-Za-z]+)_g(\d+)_c(\d+)(\.\w+)?$")
CLIP_11 = re.compile(r"v_.+_(\d+)_(\d+)(\.\w+)?$")
GROUPS_11 = 25
CLASSES_11 = (
    *("basketball", "biking", "diving", "golf_swing", "horse_riding", "soccer_juggling", "swing"),
    *("tennis_swing", "trampoline_jumping", "volleyball_spiking", "walking"),
)


@dataclass(frozen=True)
class Archive:
    """An archive that the user downloads, and the folder in which it is expected."""

    title: str
    page: str
    size: str
    folder: str
    classes: int

    def missing(self, where: Path, what: str) -> UserError:
        """Return an error that says what is missing, where to get it and where to unpack it."""
        return UserError(
            f"{self.title}: {what} in {where}; get it from {self.page} ({self.size}), unpack it "
            f"to {where} or name its folder by --data.root; "
            "`vidrec ablate ABLATION --on motion` runs now"
        )

    def root(self, data: Data) -> Path:
        """Return `data.root`, or the default folder in the cache if `data.root` is empty."""
        return files.expanded(data.root) if data.root else cache_dir() / "data" / self.folder

    def share(self, classes: Sequence[str]) -> dict[str, str]:
        """Return what results state if only a part of the classes is used; empty if all are."""
        if len(classes) == self.classes:
            return {}
        return {"classes": f"{len(classes)} of {self.title}'s {self.classes} classes"}


UCF101 = Archive(
    "UCF-101",
    "https://www.crcv.ucf.edu/data/UCF101.php",
    "UCF101.rar, 6.5 GB, and the split lists for action recognition, 0.1 MB",
    "UCF-101",
    classes=101,
)
UCF11 = Archive(
    "UCF-11",
    "https://www.crcv.ucf.edu/data/UCF_YouTube_Action.php",
    "about 1 GB",
    "UCF-11",
    classes=11,
)
ARCHIVES = {"ucf101": UCF101, "ucf11": UCF11}


def load(data: Data) -> Files:
    """Open UCF-101 or UCF-11, whichever `data.kind` names.

    Raises:
        UserError: clips or lists are missing; the message says where to get them.
    """
    if data.kind == "ucf101":
        return _ucf101(data)
    return ucf11_files(UCF11.root(data), data.fps, data.classes)


def holds_features(data: Data) -> bool:
    """Return whether the folder of UCF-101 or UCF-11 holds ready-made features, not videos."""
    archive, pattern = ARCHIVES[data.kind], CLIP_101 if data.kind == "ucf101" else CLIP_11
    root = archive.root(data)
    if not root.is_dir():
        return False
    try:
        found = _clips(root, pattern, archive)
    except UserError:
        return False
    return _are_features(found)


def _are_features(paths: Sequence[Path]) -> bool:
    return all(path.suffix.lower() in EXTENSIONS for path in paths)


def _ucf101(data: Data) -> Files:
    root = UCF101.root(data)
    files_there = _clips(root, CLIP_101, UCF101)
    are_features = _are_features(files_there)
    lists = _lists_folder(root)
    if data.split == "given" and lists is None:
        raise UCF101.missing(root, f"no split lists ({LISTS}/trainlist01.txt …)")
    classes = _classes(lists, files_there)
    fold = max(1, data.fold) if data.split == "given" else 1
    listed = _official(lists, classes, fold) if lists else {}
    on_disk = _by_key(files_there, classes)
    wanted = data.classes or classes
    if are_features and not data.classes:
        there = {kind for kind, _, _ in on_disk}
        wanted = tuple(name for name in classes if name in there)
    _all_present(classes, wanted, on_disk, root)
    # A clip that is listed but missing is kept, so that it is reported as unreadable.
    clips = {key: (name, root / name) for key, (name, _) in listed.items()}
    for key, path in on_disk.items():
        clips[key] = (listed[key][0] if key in listed else f"{key[0]}/{path.name}", path)
    if are_features:
        classes = tuple(name for name in classes if name in wanted)
    label_of = {name: label for label, name in enumerate(classes)}
    keys = sorted((key for key in clips if key[0] in wanted), key=lambda k: (label_of[k[0]], k))
    names, paths = zip(*(clips[key] for key in keys), strict=True)
    return (ArrayFiles if are_features else Files)(
        name="ucf101",
        classes=classes,
        names=names,
        labels=np.array([label_of[key[0]] for key in keys], np.int32),
        groups=np.array([f"{key[0]}/g{key[1]:02d}" for key in keys], str),
        blocks=np.array([f"g{key[1]:02d}" for key in keys], str),
        given=indices_of([listed[key][1] if key in listed else "" for key in keys]),
        about=({"list": fold} if data.split == "given" else {}) | UCF101.share(wanted),
        notes=_list_notes(listed, on_disk, wanted, root),
        paths=paths,
        rate=data.fps,
    )


def _clips(root: Path, pattern: re.Pattern, archive: Archive) -> list[Path]:
    if not root.is_dir():
        raise archive.missing(root, "no such folder")
    files = list(finding.walk(root))
    # A clip may be a folder of frames, and the frames may be named like clips.
    framed = finding.frame_folders(files, root, depth=1)
    clips = [path for path in files if path.suffix.lower() not in finding.TEXTS | finding.IMAGES]
    clips = [path for path in (*clips, *sorted(framed)) if pattern.match(path.name)]
    # Features are used only if there are no videos; beside videos they may serve another purpose.
    clips = clips or [
        path for path in files if path.suffix.lower() in EXTENSIONS and pattern.match(path.name)
    ]
    if not clips:
        raise archive.missing(root, "no clips")
    return clips


def _lists_folder(root: Path) -> Path | None:
    """Find the official lists, in the folder of clips or beside it."""
    for folder in (root / LISTS, root.parent / LISTS, root):
        if (folder / "trainlist01.txt").is_file():
            return folder
    return None


def _lines(file: Path) -> list[str]:
    if file.exists() and not file.is_file():  # reading a pipe would block
        raise UserError(f"{file} cannot be read as a list of UCF-101: it is no file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        if is_transient(error):
            raise TransientError.of(file, error) from error
        raise UserError(f"{file} cannot be read as a list of UCF-101: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _classes(lists: Path | None, paths: list[Path]) -> tuple[str, ...]:
    """Return the class names in the order of classInd.txt: alphabetical, ignoring case."""
    if lists is None or not (lists / "classInd.txt").is_file():
        spelled = {stem.lower(): stem for stem in (_parsed(path.name)[0] for path in paths)}
        return tuple(spelled[name] for name in sorted(spelled))
    numbered = []
    for row, line in enumerate(_lines(lists / "classInd.txt"), 1):
        number, _, name = line.partition(" ")
        if number != str(row) or not name:
            raise UserError(f"{lists / 'classInd.txt'}, line {row}: should be '{row} CLASS'")
        numbered.append(name)
    return tuple(numbered)


def _parsed(name: str) -> tuple[str, int, int]:
    """Return (class as spelled, group, clip) of a file name."""
    match = CLIP_101.match(name)
    if match is None:
        raise UserError(f"{name} is not named as in UCF-101: v_CLASS_gNN_cNN.avi")
    return match[1], int(match[2]), int(match[3])


def _clip_key(name: str, classes: tuple[str, ...]) -> tuple[str, int, int]:
    """Return (class, group, clip) of a file or list entry.

    Lists say v_HandStandPushups where some archives say v_HandstandPushups, so case is ignored.
    """
    stem, group, clip = _parsed(name.rpartition("/")[2])
    known = _by_lower_case(classes)
    if stem.lower() not in known:
        raise UserError(f"{name}: UCF-101 has no class {stem!r}{nearest(stem, classes)}")
    return known[stem.lower()], group, clip


def _by_key(paths: Sequence[Path], classes: tuple[str, ...]) -> dict[tuple[str, int, int], Path]:
    """Return the file of each clip, by the key of the clip.

    Raises:
        UserError: a clip has features in two files, and it is unknown which file is right.
    """
    found: dict[tuple[str, int, int], Path] = {}
    for path in paths:
        key = _clip_key(path.name, classes)
        if key in found and _are_features([path]):
            raise UserError(f"{found[key]} and {path} are features of one clip: keep one of them")
        found[key] = path
    return found


@functools.lru_cache(maxsize=4)
def _by_lower_case(classes: tuple[str, ...]) -> dict[str, str]:
    return {name.lower(): name for name in classes}


def _official(
    lists: Path, classes: tuple[str, ...], fold: int
) -> dict[tuple[str, int, int], tuple[str, str]]:
    """Return (name, part) of each clip in the official lists of one fold, by the clip's key."""
    if fold > 3:
        raise UserError(f"data.fold = {fold}: UCF-101 has the official lists 1, 2 and 3")
    listed: dict[tuple[str, int, int], tuple[str, str]] = {}
    for part in ("train", "test"):
        file = lists / f"{part}list{fold:02d}.txt"
        for number, line in enumerate(_lines(file), 1):
            name, _, label = line.partition(" ")
            key = _clip_key(name, classes)
            actual = str(classes.index(key[0]) + 1)
            if label.strip() not in ("", actual):
                raise UserError(
                    f"{file}, line {number}: {name} is labelled {label}; classInd.txt says {actual}"
                )
            if listed.setdefault(key, (name, part))[1] != part:
                raise UserError(f"{file}, line {number}: {name} stands in the training list too")
    return listed


def _all_present(classes: Sequence[str], wanted: Sequence[str], on_disk: dict, root: Path) -> None:
    """Refuse missing classes: fewer classes are another task, which the user must ask for."""
    for name in wanted:
        if name not in classes:
            raise UserError(f"data.classes: ucf101 has no class {name!r}{nearest(name, classes)}")
    there = {key[0] for key in on_disk}
    lacking = [name for name in classes if name in wanted and name not in there]
    if lacking and _are_features(list(on_disk.values())):
        raise UserError(
            f"data.classes: {root} holds no features of {', '.join(lacking[:3])}; it has those of "
            f"{', '.join(name for name in classes if name in there)}"
        )
    if lacking:
        raise UCF101.missing(
            root,
            f"{len(lacking)} of {len(wanted)} classes have no clips, such as {lacking[0]} (choose "
            "those you have by --data.classes, or get the rest):",
        )


def _list_notes(listed: dict, on_disk: dict, wanted: Sequence[str], root: Path) -> list[str]:
    """Return lines on the differences between the folder and the official lists."""
    absent = sorted(key for key in listed if key[0] in wanted and key not in on_disk)
    extra = sorted(key for key in on_disk if key[0] in wanted and listed and key not in listed)
    notes = []
    if absent:
        example = listed[absent[0]][0]
        lacking = f"{counted(len(absent), 'clip')} of the official lists {are(len(absent))}"
        notes.append(f"{lacking} not in {root}: {example} …")
    if extra:
        stand = f"{counted(len(extra), 'clip')} {'stands' if len(extra) == 1 else 'stand'}"
        notes.append(f"{stand} in no official list: {on_disk[extra[0]].name} …")
    return notes


def ucf11_files(root: Path, fps: float = 0, wanted: Sequence[str] = ()) -> Files:
    """Open all clips of the unpacked archive, CLASS/v_GROUP/v_GROUP_CLIP.mpg at any depth.

    Args:
        root: folder of the unpacked archive.
        fps: frames a second that videos are resampled to; 0: as filmed.
        wanted: classes that will be kept, which results state if not all are; empty: all.
    """
    named = {_name_11(path): path for path in _clips(root, CLIP_11, UCF11)}
    names, paths = zip(*sorted(named.items()), strict=True)
    kinds = [name.partition("/")[0] for name in names]
    classes = tuple(sorted(set(kinds)))
    groups = [f"g{int(_number_11(name)):02d}" for name in names]
    return (ArrayFiles if _are_features(paths) else Files)(
        name="ucf11",
        classes=classes,
        names=names,
        labels=np.array([classes.index(kind) for kind in kinds], np.int32),
        groups=np.array([f"{a}/{b}" for a, b in zip(kinds, groups, strict=True)], str),
        blocks=np.array(groups, str),
        about=UCF11.share(wanted or classes),
        notes=_counts_11(kinds, groups),
        paths=paths,
        rate=fps,
    )


def _name_11(path: Path) -> str:
    """Return CLASS/v_GROUP/v_GROUP_CLIP.mpg, also if the folders of groups are missing."""
    group = path.name.rpartition("_")[0]
    above = path.parent.parent if path.parent.name == group else path.parent
    return f"{above.name}/{group}/{path.name}"


def _number_11(name: str) -> str:
    return name.split("_")[-2]


def _counts_11(kinds: list[str], groups: list[str]) -> list[str]:
    """Warn unless the archive is complete: 1,600 clips, 11 classes, 25 groups."""
    has = (len(kinds), len(set(kinds)), len(set(groups)))
    if has == (1600, 11, GROUPS_11):
        return []
    return ["UCF-11 has 1600 clips, 11 classes and 25 groups; here are {}, {} and {}".format(*has)]


@dataclass
class Ucf11Config(tfds.core.BuilderConfig):
    """How clips are cut: `frames` consecutive frames from the middle, `pixels` high and wide."""

    frames: int = 30
    pixels: int = 64


class Ucf11(tfds.core.GeneratorBasedBuilder):
    """`tfds.builder("ucf11")`: small clips for training from pixels.

    The unpacked archive is looked for in `manual_dir`, else in vidrec's cache. Split train holds
    groups 1-20, test 21-25. A clip that cannot be read is named in the set's metadata.
    """

    code_path = None  # nothing is downloaded, so there is no file of checksums
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (as TFDS declares it)
    BUILDER_CONFIGS = [  # noqa: RUF012
        Ucf11Config(name="30x64x64", description="30 frames of 64x64 pixels.")
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Unpack UCF-11 ({UCF11.page}, {UCF11.size}) into this folder: CLASS/v_GROUP/*.mpg."
    )

    def __init__(self, *, file_format: str = "array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        shape = (config.frames, config.pixels, config.pixels, 3)
        frames = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
        return tfds.core.DatasetInfo(
            builder=self,
            description="UCF YouTube Action (UCF-11), cut to short clips of small frames.",
            homepage=UCF11.page,
            citation=CITATION_11,
            features=tfds.features.FeaturesDict(
                {
                    "video": frames,
                    "label": tfds.features.ClassLabel(names=CLASSES_11),
                    "group": tfds.features.Text(),
                    "name": tfds.features.Text(),
                }
            ),
            supervised_keys=("video", "label"),
            metadata=tfds.core.MetadataDict(unreadable=[]),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        archive = ucf11_files(_manual(dl_manager))
        strange = sorted(set(archive.classes) - set(CLASSES_11))
        if strange:
            raise UserError(f"UCF-11 has no class {strange[0]!r}{nearest(strange[0], CLASSES_11)}")
        return {
            "train": self._generate_examples(archive, lambda group: group <= 20),
            "test": self._generate_examples(archive, lambda group: group > 20),
        }

    def _generate_examples(self, archive: Files, has: Callable[[int], bool]) -> Iterator:
        config = self.builder_config
        assert archive.blocks is not None
        clips = [i for i, block in enumerate(archive.blocks) if has(int(block[1:]))]

        def cut(clip: int) -> np.ndarray | UnreadableClip:
            try:
                return middle(
                    np.concatenate(list(archive.stream(clip, config.pixels))), config.frames
                )
            except UnreadableClip as error:
                return error

        for clip, frames in zip(clips, map_ahead(cut, clips, name=archive.path), strict=True):
            if isinstance(frames, UnreadableClip):
                lost = {"path": archive.names[clip], "reason": frames.reason}
                self.info.metadata["unreadable"].append(lost)
                continue
            yield (
                clip,
                {
                    "video": frames,
                    "label": archive.classes[archive.labels[clip]],
                    "group": str(archive.groups[clip]),
                    "name": archive.names[clip],
                },
            )


def _manual(dl_manager) -> Path:
    try:
        return Path(dl_manager.manual_dir)
    except AssertionError:  # TFDS's way to say that the folder is missing or empty
        return UCF11.root(Data())


def middle(frames: np.ndarray, count: int) -> np.ndarray:
    """Cut `count` frames from the middle; a shorter clip continues backwards, then forwards."""
    last = len(frames) - 1
    start = max(0, len(frames) - count) // 2
    position = (start + np.arange(count)) % max(1, 2 * last)
    return frames[last - np.abs(position - last)]


CITATION_11 = """@inproceedings{liu2009recognizing,
  author    = {Jingen Liu and Jiebo Luo and Mubarak Shah},
  title     = {Recognizing Realistic Actions from Videos "in the Wild"},
  booktitle = {CVPR},
  year      = {2009}
}"""
