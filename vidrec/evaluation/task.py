"""Define the interface of a task: the meaning of labels, the loss, figures and predictions.

Each module of `vidrec/evaluation/tasks/` defines one task, `TASK`; the module's name is the value
of `task.kind`. All other modules use this interface, and none knows a task by name. Reports need
tasks but neither JAX nor data sets, so these are imported inside the methods that use them.

Dimension letters: n clips, B clips of a batch, T frames, K classes, S seeds, M windows.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from vidrec.config import Config
from vidrec.errors import UserError
from vidrec.evaluation import statistics
from vidrec.evaluation.presentation import (
    Baseline,
    ClassTable,
    Headline,
    Matrix,
    Shot,
    Shown,
    Timelines,
)

if TYPE_CHECKING:
    from jax import Array

    from vidrec.data.datasets.base import Dataset
    from vidrec.evaluation.decisions import ClipScores, Decision

Form = Literal["one", "several"]  # number of labels of a clip
Fitted = Mapping[str, Any]  # values that were fitted to validation clips, JSON-able


class LossOptions(NamedTuple):
    """What a loss depends on besides outputs and labels.

    Attributes:
        kind: `loss.kind`.
        linear: 1: frame j has the weight (j+1)/length; 0: every frame has the weight 1; may be
            traced.
        offset: index of the window's first frame in the clip.
        length: the configured number of frames of a clip.
        smoothing: share of the target probability that is spread over all classes; may be traced;
            None: no smoothing.
        class_weights: weight of each class, (K,); empty: all are 1.
        smoothness: `loss.smoothness`, for labels of frames.
        smoothness_limit: `loss.smoothness_limit`, for labels of frames.
    """

    kind: str
    linear: Any = 1.0
    offset: Any = 0
    length: Any = 1
    smoothing: Any = None
    class_weights: Sequence[float] = ()
    smoothness: float = 0.0
    smoothness_limit: float = 4.0


class ChosenFrames(NamedTuple):
    """The frames of a batch, from which `Task.gather` finds their labels.

    Attributes:
        clips_B: indices of the clips.
        offsets_B: index of each clip's first frame among the frames of all clips.
        indices_BT: indices of the frames within their clip.
        mask_BT: False on padding.
    """

    clips_B: Any
    offsets_B: Any
    indices_BT: Any
    mask_BT: Any


class ScoredPart(NamedTuple):
    """The scores and labels of the clips of a part of the split.

    Attributes:
        scores: (n, …) scores that rank the classes.
        log_probs: logarithms of the probabilities that prediction gives.
        labels: labels, as `Task.labels_of` returns them.
        classes: names by class number.
        fitted: values that `Task.fit` returned.
    """

    scores: np.ndarray
    log_probs: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    fitted: Fitted


class Matched(NamedTuple):
    """The labels of a data set by a model's class numbers; classes are matched by name.

    Attributes:
        labels: (n, …) labels in the form of `Task.labels_of`.
        known: (n,) False for clips that the model cannot be scored on.
        classes: (n,) name of each clip's class in the data set.
    """

    labels: np.ndarray
    known: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Task(ABC):
    """A task; it has settings but no state.

    Attributes:
        kind: name of the task, the value of `task.kind`.
        headline: the figure by which the rows of a table are compared.
        columns: names of the measured columns of table.csv.
        shown: columns for people, besides the headline.
        brief: the one of these columns that a terminal shows, under a short heading.
        compared: the columns that are shown side by side if two runs are compared.
        asked: further columns for people, shown if the author of a table asks for them.
        baseline: the trivial answer that the headline is compared with; None: no comparison.
        epoch_figures: names of the figures of validation clips after an epoch; `train.monitor` is
            val_ followed by loss or one of them.
        sections: the sections of a report that fit the task: classes (figures of each class),
            confusions, matrices (of `matrices`), timelines, clips (film strips), steps (the share
            of clips that are right after each frame).
        matrices_title: title of the section of matrices.
        class_figure: key of the figure of each class in a summary, and its name for people.
        framewise: True if labels of a batch have an axis of frames (B, T).
        embedded: the embedded data with labels of this task, which `--on motion` takes.
        form: how labels are read, see `data.datasets.load`.
        exact_probabilities: True if clips are ranked by probabilities. Rounded ones are not exact
            enough for this, so their logarithms are saved too.
    """

    kind: ClassVar[str]
    headline: ClassVar[Headline]
    columns: ClassVar[tuple[str, ...]]
    shown: ClassVar[tuple[Shown, ...]]
    brief: ClassVar[Shown]
    compared: ClassVar[tuple[Shown, ...]]
    asked: ClassVar[tuple[str, ...]] = ("best_epoch",)
    baseline: ClassVar[Baseline | None] = None
    sections: ClassVar[tuple[str, ...]] = ()
    matrices_title: ClassVar[str] = "Co-occurrence"
    class_figure: ClassVar[tuple[str, str]] = ("f1", "F1")
    epoch_figures: ClassVar[tuple[str, ...]]
    framewise: ClassVar[bool] = False
    embedded: ClassVar[str] = "motion"
    form: ClassVar[Form] = "one"
    exact_probabilities: ClassVar[bool] = False

    # --- Settings ---

    def configured(self, settings: Mapping[str, Any]) -> "Task":
        """Return the task configured by the settings section `task`."""
        return self

    def check(self, cfg: Config) -> None:
        """Refuse settings that do not fit the task, before any work.

        Raises:
            UserError: a setting does not fit; the message names it and says what would be right.
        """
        watched = cfg.train.monitor.removeprefix("val_")
        if watched not in ("loss", *self.epoch_figures):
            known = ", ".join(f"val_{name}" for name in ("loss", *self.epoch_figures))
            raise UserError(
                f"train.monitor = {cfg.train.monitor!r} should be one of {known} "
                f"(task.kind = {self.kind!r})"
            )
        if self.framewise and cfg.augment.mixup:
            raise UserError(
                f"augment.mixup = {cfg.augment.mixup:g} mixes labels of clips, and task.kind = "
                f"{self.kind!r} has one a frame: set it to 0"
            )
        if cfg.loss.smoothness and not self.framewise:
            raise UserError(
                f"loss.smoothness = {cfg.loss.smoothness:g} is of labels that change from frame to "
                f"frame: it needs task.kind = 'segmentation', not {self.kind!r}"
            )

    # --- Labels ---

    def load(self, cfg: Config) -> "Dataset":
        """Open the data set that the settings name, with labels in the form of this task.

        Raises:
            UserError: the data set is not there, or its labels are of another task.
        """
        from vidrec.data import datasets

        if self.form == "one":
            return self.labelled(datasets.load(cfg.data))
        # Texts of several labels have to be split into classes first.
        every = replace(cfg.data, classes=())
        return self.labelled(datasets.load(every, self.form)).keep_classes(cfg.data.classes)

    @abstractmethod
    def labelled(self, dataset: "Dataset") -> "Dataset":
        """Return a data set with labels in the form of this task, converted where necessary.

        Raises:
            UserError: its labels are of another task.
        """

    def labels_of(self, dataset: "Dataset", clips: np.ndarray) -> np.ndarray:
        """Return the labels of clips, (n, …)."""
        return dataset.labels[clips]

    def resident(self, dataset: "Dataset") -> np.ndarray:
        """Return the labels of all clips in the form in which they are copied to the devices."""
        return np.asarray(dataset.labels, np.int32)

    def gather(self, labels: "Array", frames: ChosenFrames) -> "Array":
        """Return the labels of a batch, taken from the labels that `resident` returned."""
        return labels[frames.clips_B]

    def label_shape(self, clips: int, frames: int, classes: int) -> tuple[int, ...]:
        """Return the shape of `resident`, from the numbers of clips, of all frames and classes."""
        return (clips,)

    @abstractmethod
    def matched(self, dataset: "Dataset", classes: Sequence[str]) -> "Matched":
        """Return the labels of a data set by a model's class numbers; `classes` are the model's."""

    @abstractmethod
    def balanced_weights(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return the weights (K,) that balance unequal classes, from training labels."""

    # --- Loss ---

    @abstractmethod
    def loss(
        self, outputs: "Array", labels: "Array", mask_BT: "Array | None", how: LossOptions
    ) -> "Array":
        """Return the loss of each clip, (B,).

        Args:
            outputs: outputs of the head: (B, K) of clips or (B, T, K) of frames.
            labels: labels, as `gather` returns them.
            mask_BT: False on frames that do not count; None: all count.
            how: all other options of the loss.
        """

    # --- Decision, on the device ---

    @abstractmethod
    def scores(
        self, outputs: "Array", loss_kind: str, mask_BT: "Array | None" = None
    ) -> "ClipScores":
        """Return the scores of clips from a head's outputs: (B, K), or (B, T, K) of every frame."""

    @abstractmethod
    def probabilities(self, scores: "Array") -> "Array":
        """Return class probabilities (…, K) from scores of weight 1 (see `ClipScores`)."""

    @abstractmethod
    def updated_mean(self, mean: "Array", outputs: "Array", count: "Array") -> "Array":
        """Return the scores of a stream after one more frame, for a head that scores every frame.

        Args:
            mean: the scores before this frame.
            outputs: outputs of the head for this frame, in the same shape.
            count: number of frames so far, this one included.
        """

    @abstractmethod
    def correct_frames(self, outputs: "Array", labels: "Array", mask_BT: "Array") -> "Array":
        """Return which frames are right, bool (B, T), from outputs (B, T, K)."""

    def averaged(self, outputs: "Array", loss_kind: str) -> "Array":
        """Return outputs whose probabilities are the mean over several views.

        Args:
            outputs: (V, B, K), or (V, B, T, K) of every frame.
            loss_kind: `loss.kind`.
        """
        import jax.numpy as jnp

        from vidrec.models import losses

        mean = self.probabilities(losses.scores(outputs, loss_kind)).mean(0)
        if loss_kind == "keras_cross_entropy":  # it takes outputs as probabilities
            return mean
        return jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))

    # --- Decision, on the host ---

    @abstractmethod
    def log_probabilities(self, scores: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
        """Return logarithms of the probabilities of scores (n, K), in float64.

        Args:
            scores: scores, as `scores` returns them.
            weight: weight of each row, by which its scores are divided.
        """

    @abstractmethod
    def evidence(self, probabilities_K: np.ndarray) -> np.ndarray:
        """Return the scores of weight 1 that give these probabilities."""

    def fit(self, part: ScoredPart) -> Fitted:
        """Return values that are fitted to validation clips, such as thresholds; empty: none."""
        return {}

    # --- Metrics ---

    @abstractmethod
    def epoch(
        self, decision: "Decision", labels: np.ndarray, classes: Sequence[str]
    ) -> dict[str, float]:
        """Return the figures of validation clips after an epoch; the keys are `epoch_figures`."""

    @abstractmethod
    def summary(self, part: ScoredPart) -> dict[str, Any]:
        """Return every figure of a part of the split, JSON-able."""

    def of_windows(
        self, scores_MK: np.ndarray, video_M: np.ndarray, labels_n: np.ndarray, inference: str
    ) -> dict[str, float]:
        """Return further figures of clips that were decided by windows.

        Args:
            scores_MK: scores of the windows.
            video_M: index of the clip that each window was cut from.
            labels_n: labels of the clips.
            inference: `eval.inference`.
        """
        return {}

    @abstractmethod
    def line(self, figures: Mapping[str, Any], counts: Mapping[str, int]) -> str:
        """Return a part's figures as a line of text, with the numbers of expected and scored clips.

        Args:
            figures: the figures, as `summary` returns them.
            counts: numbers of clips by the keys "expected" and "scored".
        """

    # --- Reports ---

    @abstractmethod
    def said(self, part: ScoredPart) -> np.ndarray:
        """Return the answers for n clips in the form that `interval` needs, (n, …)."""

    @abstractmethod
    def interval(
        self, said_Sn: np.ndarray, labels: np.ndarray, groups: statistics.Groups
    ) -> statistics.Interval:
        """Return the interval of the headline figure over new seeds and recordings.

        Args:
            said_Sn: what `said` returned for every seed, (S, n, …).
            labels: true labels of the clips.
            groups: recording of each clip.
        """

    @abstractmethod
    def difference(
        self,
        said_a: np.ndarray,
        said_b: np.ndarray,
        labels: np.ndarray,
        groups: statistics.Groups,
    ) -> statistics.Difference:
        """Return the paired difference of the headline figure, a minus b; see `interval`."""

    def class_table(self, figures: Mapping[str, Any]) -> ClassTable | None:
        """Return the figures of each class from a summary; None: the report uses confusions."""
        return None

    def matrices(self, figures: Mapping[str, Any]) -> list[Matrix]:
        """Return the matrices of a summary, for the report's section of that name."""
        return []

    def timelines(self, part: ScoredPart, most: int) -> Timelines:
        """Return at most `most` time lines of clips, for the report's section of that name."""
        return Timelines((), ())

    @abstractmethod
    def wrong(self, part: ScoredPart) -> np.ndarray:
        """Return which of the clips are not right, (n,) bool."""

    @abstractmethod
    def shot(self, part: ScoredPart, clip: int) -> Shot:
        """Return what the report says about the clip of this index."""

    # --- Predictions ---

    @abstractmethod
    def answer(
        self,
        classes: Sequence[str],
        scores_K: np.ndarray,
        probabilities_K: np.ndarray,
        fitted: Fitted,
    ) -> dict[str, Any]:
        """Return an answer for JSON: `class` is its text, `confidence` is between 0 and 1."""

    def exported(self, fitted: Fitted, classes: int) -> dict[str, Any]:
        """Return what the loader of an export needs to predict in the same way.

        Raises:
            UserError: an export cannot give the answers of this task.
        """
        return {"answers": "one"}

    @abstractmethod
    def text(self, line: Mapping[str, Any]) -> str:
        """Return a line of `vidrec predict` as text for people."""

    def caption(self, line: Mapping[str, Any]) -> str:
        """Return the text that an overlay shows for a line of `vidrec predict`."""
        return line["class"]

    @abstractmethod
    def csv(self, lines: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """Return the table that `predict --csv` writes, its heading first.

        Args:
            lines: lines of files, and of their windows, which have a `start`; `class` is None for a
                file that could not be read, and `error` says why.
        """


def rounded(confidence: float) -> str:
    """Return a confidence in whole percent; what would round to 100 % is ">99%"."""
    return ">99%" if confidence >= 0.995 else f"{confidence:.0%}"


def beside(answers: Sequence[Mapping[str, Any]]) -> str:
    """Return the next two classes after an answer as text, without those of 0 %.

    Args:
        answers: The remaining classes, each with its confidence, the likeliest first.
    """
    shares = [(each["class"], rounded(each["confidence"])) for each in answers[:2]]
    words = [f"{name} {share}" for name, share in shares if share != "0%"]
    return f"  ({', '.join(words)})" if words else ""
