"""A label for each frame: cross-entropy of frames, F1 of segments by their overlap, edit score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vidrec.config import Config
from vidrec.errors import UserError
from vidrec.evaluation import resampling, segments, statistics
from vidrec.evaluation.presentation import (
    ClassTable,
    Headline,
    Matrix,
    Shot,
    Shown,
    Timeline,
    Timelines,
)
from vidrec.evaluation.resampling import Values
from vidrec.evaluation.segments import UNLABELLED, ClipCounts
from vidrec.evaluation.task import ChosenFrames, LossOptions, Matched, ScoredPart
from vidrec.evaluation.tasks.clip import ClipTask

if TYPE_CHECKING:
    from jax import Array

    from vidrec.data.datasets.base import Dataset
    from vidrec.evaluation.decisions import ClipScores, Decision

# Settings of other sections that must have one value, and the reason.
NEEDED = {
    "head.kind": ("per_frame", "a frame has a label"),
    "frames.rule": ("whole", "the frames of a whole clip are labelled"),
    "frames.order": ("kept", "segments are frames in a row"),
    "loss.kind": ("cross_entropy", "the others repeat reports that label clips"),
    "loss.frame_weights": ("uniform", "all frames weigh alike"),
    "head.activation": ("softmax", "a frame has one label"),
    "eval.inference": ("single", "no windows decide a frame"),
    "train.sampling": ("shuffled", "a clip has several labels; take loss.class_weights"),
}
FOLDERS = ("videos", "features")  # values of `data.kind` with label files


@dataclass(frozen=True)
class Segmentation(ClipTask):
    """One label for each frame.

    The scores of clips are the predicted classes of their frames, (n, T), with -1 where an output
    is NaN. Labels are (n, T), too, with -1 where a frame is not labelled.

    Attributes:
        background: classes whose segments are not counted.
    """

    background: tuple[str, ...] = ("background",)

    kind = "segmentation"
    embedded = "motion/segments"
    headline = Headline("f1_50", "F1@50", "F1@50", "F1@50 {}")
    columns = (
        *("test_f1_50", "test_f1_25", "test_f1_10", "test_edit", "test_frame_accuracy"),
        *("val_f1_50", "train_f1_50", "params", "epochs", "seconds_compile", "seconds_train"),
        *("test_balanced_accuracy", "best_epoch", "val_f1_25", "val_f1_10", "val_edit"),
        *("val_frame_accuracy", "train_edit", "train_frame_accuracy"),
        *("test_objective", "val_objective", "train_objective"),
    )
    shown = (
        Shown("test_f1_25", "F1@25"),
        Shown("test_f1_10", "F1@10"),
        Shown("test_edit", "edit score"),
        Shown("test_frame_accuracy", "frame accuracy"),
    )
    compared = shown
    brief = Shown("test_frame_accuracy", "frames")
    asked = ("best_epoch",)
    baseline = None
    sections = ("classes", "matrices", "timelines")
    matrices_title = "Confusions of frames"
    class_figure = ("class_f1_50", "F1@50")
    epoch_figures = ("f1_50", "f1_25", "f1_10", "edit", "frame_accuracy", "balanced_accuracy")
    framewise = True

    # --- Settings ---

    def configured(self, settings: Mapping[str, Any]) -> "Segmentation":
        """See `Task`."""
        return replace(self, background=tuple(settings.get("background", self.background)))

    def check(self, cfg: Config) -> None:
        """See `Task`."""
        super().check(cfg)
        for name, (right, why) in NEEDED.items():
            section, _, leaf = name.partition(".")
            if (given := getattr(getattr(cfg, section), leaf)) != right:
                raise UserError(
                    f"{name} = {given!r} should be {right} with task.kind = {self.kind!r}: {why}"
                )

    # --- Labels ---

    def load(self, cfg: Config) -> "Dataset":
        """See `Task`."""
        from vidrec.data import datasets
        from vidrec.data.datasets import framewise
        from vidrec.data.datasets.frame_labels import LabelRules

        if cfg.data.kind in FOLDERS:
            task = cfg.task
            rules = LabelRules(task.background, task.unlabelled, task.ignore)
            dataset = framewise.load(cfg.data, rules)
        else:
            dataset = datasets.load(replace(cfg.data, classes=()))
        return self.labelled(dataset).keep_classes(cfg.data.classes)

    def labelled(self, dataset: "Dataset") -> "Dataset":
        """Refuse a data set without labels of frames."""
        if not dataset.frame_labels:
            raise UserError(
                f"{dataset.name} has no labels of frames, which task.kind = {self.kind!r} needs: "
                "take data.kind videos or features with a segments.csv or label files, or "
                "data.tfds motion/segments"
            )
        return dataset

    def labels_of(self, dataset: "Dataset", clips: np.ndarray) -> np.ndarray:
        """Return the labels of frames, (n, T), with -1 after a clip's end."""
        return dataset.label_matrix[clips]

    def resident(self, dataset: "Dataset") -> np.ndarray:
        """Return the labels of all clips, (n, T)."""
        return dataset.label_matrix

    def gather(self, labels: "Array", frames: ChosenFrames) -> "Array":
        """Return the labels of the frames, (B, T), with -1 on padding."""
        import jax.numpy as jnp

        last = labels.shape[1] - 1
        found_BT = labels[frames.clips_B[:, None], jnp.minimum(frames.indices_BT, last)]
        there_BT = frames.mask_BT & (frames.indices_BT <= last)
        return jnp.where(there_BT, found_BT, UNLABELLED)

    def label_shape(self, clips: int, frames: int, classes: int) -> tuple[int, ...]:
        """Return (n, T), where T is the mean number of frames of a clip."""
        return clips, -(-frames // max(clips, 1))

    def matched(self, dataset: "Dataset", classes: Sequence[str]) -> Matched:
        """Return labels by the model's class numbers; -1 for a class that it does not know."""
        number_of = {name: number for number, name in enumerate(classes)}
        numbers = [number_of.get(name, UNLABELLED) for name in dataset.classes]
        labels = np.array([*numbers, UNLABELLED], np.int16)[dataset.label_matrix]
        names = np.array([dataset.classes[label] for label in dataset.labels])
        return Matched(labels, (labels >= 0).any(1), names)

    def balanced_weights(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return frames / (classes that have frames * frames of the class)."""
        return super().balanced_weights(labels[labels >= 0], classes)

    # --- Loss and decision, on the device ---

    def loss(
        self, outputs: "Array", labels: "Array", mask_BT: "Array | None", how: LossOptions
    ) -> "Array":
        """Return the sum of the losses of labelled frames, divided by `how.length`."""
        from vidrec.models import losses

        return losses.per_frame(outputs, labels, mask_BT, how)

    def scores(
        self, outputs: "Array", loss_kind: str, mask_BT: "Array | None" = None
    ) -> "ClipScores":
        """Return the predicted class of each frame, (B, T), from outputs (B, T, K)."""
        import jax.numpy as jnp

        from vidrec.evaluation.decisions import ClipScores

        if outputs.ndim == 2:  # outputs of one frame
            return ClipScores(outputs, jnp.ones(len(outputs)))
        bad_BT = jnp.isnan(outputs).any(-1)
        classes_BT = jnp.where(bad_BT, UNLABELLED, outputs.argmax(-1)).astype(jnp.int16)
        return ClipScores(classes_BT, jnp.ones(len(outputs)))

    def updated_mean(self, mean: "Array", outputs: "Array", count: "Array") -> "Array":
        """Return the frame's own scores: a stream labels each frame."""
        return outputs.astype(mean.dtype)

    def correct_frames(self, outputs: "Array", labels: "Array", mask_BT: "Array") -> "Array":
        """Return the frames whose largest logit is their label."""
        from vidrec.evaluation import decisions

        return decisions.is_correct(outputs, labels) & mask_BT

    def log_probabilities(self, scores: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
        """Return (n, 0): the probabilities of all frames of all clips are not kept."""
        return np.zeros((len(scores), 0))

    # --- Metrics ---

    def counts(self, part: ScoredPart) -> list[ClipCounts]:
        """Return the counts of each clip, from which figures are computed."""
        left_out = self._background(part.classes)
        frames = min(np.shape(part.scores)[1], part.labels.shape[1])
        pairs = zip(part.scores[:, :frames], part.labels[:, :frames], strict=True)
        return [
            segments.count(
                _until_the_end(scores_T, labels_T), labels_T, len(part.classes), left_out
            )
            for scores_T, labels_T in pairs
        ]

    def epoch(
        self, decision: "Decision", labels: np.ndarray, classes: Sequence[str]
    ) -> dict[str, float]:
        """Return the figures that `epoch_figures` names."""
        part = ScoredPart(decision.scores_nK, decision.log_probs_nK, labels, classes, {})
        figures = segments.figures(self.counts(part))
        return {name: figures[name] for name in self.epoch_figures}

    def summary(self, part: ScoredPart) -> dict[str, Any]:
        """Return the figures of all clips, and of each class."""
        if not len(part.labels):
            raise UserError("labels: the split has no clips to score; give it at least one")
        counts = self.counts(part)
        frames_K = np.sum([clip.frames_K for clip in counts], 0)
        return {
            "clips": len(counts),
            "frames": int(frames_K.sum()),
            **segments.figures(counts),
            **segments.by_class(counts, part.classes),
            "class_frames": dict(zip(part.classes, frames_K.tolist(), strict=True)),
            "absent": [n for n, f in zip(part.classes, frames_K, strict=True) if not f],
            "nonfinite": int(sum((np.asarray(scores) < 0).any() for scores in part.scores)),
        }

    def line(self, figures: Mapping[str, Any], counts: Mapping[str, int]) -> str:
        """Return the figures of segments and of frames."""
        return (
            f"F1@50 {figures['f1_50']:.1%}, F1@25 {figures['f1_25']:.1%}, F1@10 "
            f"{figures['f1_10']:.1%}, edit score {figures['edit']:.1%}, frame accuracy "
            f"{figures['frame_accuracy']:.1%} (most frequent class {figures['majority']:.1%}) of "
            f"{counts['scored']} clips ({counts['expected']} expected)"
        )

    # --- Reports ---

    def said(self, part: ScoredPart) -> np.ndarray:
        """Return the numbers of right, extra and missed segments at an overlap of 50 %, (n, 3)."""
        at_half = segments.OVERLAPS.index(50)
        matches = [clip.matches[at_half] for clip in self.counts(part)]
        return np.array([[counts.sum() for counts in own] for own in matches])

    def interval(
        self, said_Sn: np.ndarray, labels: np.ndarray, groups: statistics.Groups
    ) -> statistics.Interval:
        """Return the interval of F1@50."""
        return statistics.share_interval(_values(said_Sn, groups), len(labels))

    def difference(
        self,
        said_a: np.ndarray,
        said_b: np.ndarray,
        labels: np.ndarray,
        groups: statistics.Groups,
    ) -> statistics.Difference:
        """Return the difference of F1@50."""
        a, b = (_values(said, groups) for said in (said_a, said_b))
        return statistics.share_difference(a, b, len(labels))

    def class_table(self, figures: Mapping[str, Any]) -> ClassTable | None:
        """Return the number of frames, the frame accuracy and the F1@50 of each class."""
        if "class_f1_50" not in figures:
            return None
        names = ("class_frames", "class_frame_accuracy", "class_f1_50")
        rows = [[name, *(figures[of].get(name) for of in names)] for name in figures["class_f1_50"]]
        return ClassTable(("frames", "frame accuracy", "F1@50"), rows)

    def matrices(self, figures: Mapping[str, Any]) -> list[Matrix]:
        """Return the confusion matrix of frames."""
        if "class_frames" not in figures:
            return []
        of_K = np.array(list(figures["class_frames"].values()), int)
        caption = "Frames; a row is the true class, a column the predicted one"
        counts_KK = np.asarray(figures["confusion"], int)
        return [Matrix("confusion", caption, counts_KK, of_K, "frames")]

    def timelines(self, part: ScoredPart, most: int) -> Timelines:
        """Return clips from the lowest to the highest share of right frames, evenly chosen."""
        counted = self.counts(part)
        right_n = np.array([c.confusion_KK.trace() / max(c.frames_K.sum(), 1) for c in counted])
        order = np.argsort(right_n, kind="stable")
        chosen = order[np.linspace(0, len(order) - 1, min(most, len(order))).astype(int)]
        shown = []
        for clip in chosen.tolist():
            labels_T = part.labels[clip]
            ends = np.flatnonzero(labels_T >= 0)
            predicted_T = _until_the_end(part.scores[clip][: len(labels_T)], labels_T)
            true, predicted = (segments.segments_of(each) for each in (labels_T, predicted_T))
            frames = int(ends[-1]) + 1 if len(ends) else 0
            shown.append(Timeline(clip, frames, true, predicted, float(right_n[clip])))
        return Timelines(shown, self._background(part.classes))

    def _background(self, classes: Sequence[str]) -> set[int]:
        return {k for k, name in enumerate(classes) if name in self.background}

    def wrong(self, part: ScoredPart) -> np.ndarray:
        """Return the clips with an extra or a missed segment."""
        return np.asarray(self.said(part)[:, 1:].any(1))

    def shot(self, part: ScoredPart, clip: int) -> Shot:
        """Return the class of most frames, predicted and true, and the share of right frames."""
        counts = self.counts(part)[clip]
        predicted = int(counts.confusion_KK.sum(0).argmax())
        label = int(counts.frames_K.argmax())
        share = counts.confusion_KK.trace() / max(counts.frames_K.sum(), 1)
        return Shot(part.classes[predicted], float(share), part.classes[label], predicted == label)

    # --- Predictions ---

    def exported(self, fitted: Mapping[str, Any], classes: int) -> dict[str, Any]:
        """Refuse: an export answers for whole clips."""
        raise UserError(
            f"an export answers for whole clips, and task.kind = {self.kind!r} labels frames: use "
            "vidrec predict, or Classifier.stream"
        )

    def csv(self, lines: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """Return a row for each segment, as in segments.csv; for a stream, a row for each frame."""
        table: list[list[Any]] = [["path", "start", "end", "label", "unit", "confidence", "error"]]
        for line in lines:
            if line["class"] is None:
                table.append([line["path"], "", "", "", "", "", line.get("error", "")])
            elif "start" in line:
                of_frames = line.get("frames_from") is not None
                start, end = (
                    (str(line["frames_from"]), str(line["frames_to"]))
                    if of_frames
                    else (f"{line['start']:.6f}", f"{line['end']:.6f}")
                )
                unit = "frames" if of_frames else "seconds"
                sure = f"{line['confidence']:.6f}"
                table.append([line["path"], start, end, line["class"], unit, sure, ""])
        return table


def _until_the_end(scores_T: np.ndarray, labels_T: np.ndarray) -> np.ndarray:
    """Return scores as integers; -1 where no frame is labelled, such as after a clip's end."""
    return np.where(labels_T >= 0, scores_T, UNLABELLED).astype(np.int64)


def _values(said_Sn: np.ndarray, groups: statistics.Groups) -> Values:
    """Return the F1 of each seed, also with each recording left out."""
    numbered = resampling.recordings(np.asarray(groups))
    said_Sn = np.asarray(said_Sn, np.float64)
    by_group_SG3 = np.zeros((len(said_Sn), numbered.total, 3))
    for own_G3, said_n3 in zip(by_group_SG3, said_Sn, strict=True):
        np.add.at(own_G3, numbered.number_n, said_n3)
    whole_S3 = by_group_SG3.sum(1)
    whole_S = _f1(whole_S3)
    if numbered.total == 1:
        return Values(whole_S, whole_S[:, None])
    return Values(whole_S, _f1(whole_S3[:, None] - by_group_SG3))


def _f1(counts: np.ndarray) -> np.ndarray:
    """Return F1 (…) from numbers of right, extra and missed segments (…, 3); 1 without segments."""
    right, total = 2 * counts[..., 0], counts @ np.array([2.0, 1.0, 1.0])
    return np.where(total > 0, right / np.maximum(total, 1), 1.0)


TASK = Segmentation()
