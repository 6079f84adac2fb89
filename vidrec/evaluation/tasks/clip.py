"""One label a clip: softmax, cross-entropy, accuracy."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation import metrics, statistics
from vidrec.evaluation.presentation import Baseline, Headline, Shot, Shown
from vidrec.evaluation.task import Fitted, LossOptions, Matched, ScoredPart, Task, beside, rounded

if TYPE_CHECKING:
    from jax import Array

    from vidrec.data.datasets.base import Dataset
    from vidrec.evaluation.decisions import ClipScores, Decision

TOP = 5  # number of classes that an answer lists


class ClipTask(Task):
    """One label a clip."""

    kind = "clip"
    headline = Headline("accuracy", "accuracy", "acc.", "{} of the test clips")
    columns: ClassVar[tuple[str, ...]] = (
        *("test_accuracy", "test_avg_f1", "test_top5", "val_accuracy", "train_accuracy"),
        *("params", "epochs", "seconds_compile", "seconds_train"),
        *("test_top10", "test_loss", "val_loss", "train_loss", "best_epoch", "test_clip_accuracy"),
        *("test_balanced_accuracy", "val_balanced_accuracy", "train_balanced_accuracy"),
        *("test_objective", "val_objective", "train_objective"),
    )
    shown: ClassVar[tuple[Shown, ...]] = (
        Shown("test_balanced_accuracy", "mean accuracy of classes"),
        Shown("test_avg_f1", "average F1"),
        Shown("test_top5", "top-5", rare=True),
        Shown("test_clip_accuracy", "accuracy of single clips", rare=True),
    )
    brief = Shown("test_avg_f1", "avg F1")
    compared: ClassVar[tuple[Shown, ...]] = shown[1:3]
    asked: ClassVar[tuple[str, ...]] = ("test_top10", "best_epoch")
    baseline: ClassVar[Baseline | None] = Baseline(
        "majority",
        "The most frequent class is {} of the test clips.",
        "No better than naming the most frequent class always: {}.",
        metrics.majority,
    )
    sections: ClassVar[tuple[str, ...]] = ("classes", "confusions", "clips", "steps")
    epoch_figures: ClassVar[tuple[str, ...]] = ("accuracy", "balanced_accuracy")

    def labelled(self, dataset: "Dataset") -> "Dataset":
        """See `Task`."""
        if dataset.frame_labels:
            raise UserError(
                f"{dataset.name} has labels of frames: task.kind should be segmentation, not "
                f"{self.kind!r}"
            )
        if dataset.labels.ndim != 1:
            raise UserError(
                f"{dataset.name} has several labels a clip: task.kind should be multilabel, not "
                f"{self.kind!r}"
            )
        return dataset

    def matched(self, dataset: "Dataset", classes: Sequence[str]) -> Matched:
        """Return labels by the model's class numbers; -1 for a class that it does not know."""
        number_of = {name: number for number, name in enumerate(classes)}
        names = [dataset.classes[label] for label in dataset.labels]
        labels = np.array([number_of.get(name, -1) for name in names], np.int32)
        return Matched(labels, labels >= 0, np.array(names))

    def balanced_weights(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return clips / (classes that have clips * clips of the class), as scikit-learn does."""
        counts = np.bincount(labels, minlength=classes)
        some = np.count_nonzero(counts)
        return np.where(counts > 0, len(labels) / (some * np.maximum(counts, 1)), 1.0)

    def loss(
        self, outputs: "Array", labels: "Array", mask_BT: "Array | None", how: LossOptions
    ) -> "Array":
        """Return cross-entropies; see `models.losses`."""
        from vidrec.models import losses

        of_frames = ("smoothness", "smoothness_limit")
        options = {name: value for name, value in how._asdict().items() if name not in of_frames}
        return losses.per_clip(outputs, labels, mask_BT, **options)

    def scores(
        self, outputs: "Array", loss_kind: str, mask_BT: "Array | None" = None
    ) -> "ClipScores":
        """Return logits, or weighted sums of log-probabilities of frames."""
        from vidrec.evaluation import decisions

        return decisions.clip_scores(outputs, loss_kind, mask_BT)

    def probabilities(self, scores: "Array") -> "Array":
        """Return the softmax."""
        import jax

        return jax.nn.softmax(scores)

    def updated_mean(self, mean: "Array", outputs: "Array", count: "Array") -> "Array":
        """Return the weighted mean of log-probabilities."""
        from vidrec.evaluation import decisions

        return decisions.updated_mean(mean, outputs, count)

    def correct_frames(self, outputs: "Array", labels: "Array", mask_BT: "Array") -> "Array":
        """Return the frames whose largest logit is the clip's class."""
        from vidrec.evaluation import decisions

        return decisions.is_correct(outputs, labels[:, None]) & mask_BT

    def log_probabilities(self, scores: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
        """Return the logarithms of the softmax."""
        return metrics.log_probabilities(scores, weight)

    def evidence(self, probabilities_K: np.ndarray) -> np.ndarray:
        """Return the logarithms of the probabilities."""
        tiny = np.finfo(np.float32).tiny
        return np.log(np.maximum(np.asarray(probabilities_K, np.float64), tiny))

    def epoch(
        self, decision: "Decision", labels: np.ndarray, classes: Sequence[str]
    ) -> dict[str, float]:
        """Return the accuracy, and its mean over classes."""
        correct = metrics.predictions(decision.scores_nK) == labels
        balanced = metrics.balanced_accuracy(correct, labels)
        return {"accuracy": float(correct.mean()), "balanced_accuracy": balanced}

    def summary(self, part: ScoredPart) -> dict[str, Any]:
        """Return `metrics.summary`."""
        return metrics.summary(part.scores, part.labels, part.classes, part.log_probs)

    def of_windows(
        self, scores_MK: np.ndarray, video_M: np.ndarray, labels_n: np.ndarray, inference: str
    ) -> dict[str, float]:
        """Return the accuracy of single windows, and that of videos by all their windows."""
        from vidrec.evaluation import decisions

        return decisions.clip_and_video_accuracy(scores_MK, video_M, labels_n, inference)

    def line(self, figures: Mapping[str, Any], counts: Mapping[str, int]) -> str:
        """Return accuracy, mean accuracy of classes, share of the majority class and average F1."""
        return (
            f"{figures['accuracy']:.1%} of {counts['scored']} clips ({counts['expected']} "
            f"expected), mean accuracy of classes {figures['balanced_accuracy']:.1%}, most "
            f"frequent class {figures['majority']:.1%}, average F1 {figures['avg_f1']:.3f}"
        )

    def said(self, part: ScoredPart) -> np.ndarray:
        """Return the predicted classes; -1 where a score is NaN."""
        return metrics.predictions(part.scores)

    def interval(
        self, said_Sn: np.ndarray, labels: np.ndarray, groups: statistics.Groups
    ) -> statistics.Interval:
        """Return the interval of the accuracy."""
        return statistics.accuracy_interval(said_Sn == labels, groups)

    def difference(
        self,
        said_a: np.ndarray,
        said_b: np.ndarray,
        labels: np.ndarray,
        groups: statistics.Groups,
    ) -> statistics.Difference:
        """Return the difference of accuracies."""
        return statistics.paired(said_a == labels, said_b == labels, groups)

    def wrong(self, part: ScoredPart) -> np.ndarray:
        """Return which predicted classes are not the true ones."""
        return self.said(part) != part.labels

    def shot(self, part: ScoredPart, clip: int) -> Shot:
        """Return the predicted class and the true one."""
        predicted = int(self.said(part)[clip])
        label = int(part.labels[clip])
        confidence = float(np.exp(part.log_probs[clip]).max())
        return Shot(part.classes[predicted], confidence, part.classes[label], predicted == label)

    def answer(
        self,
        classes: Sequence[str],
        scores_K: np.ndarray,
        probabilities_K: np.ndarray,
        fitted: Fitted,
    ) -> dict[str, Any]:
        """Return the class, its probability, and the five best classes."""
        best = np.argsort(-scores_K, kind="stable")[:TOP]
        topk = [{"class": classes[k], "confidence": float(probabilities_K[k])} for k in best]
        return {"class": topk[0]["class"], "confidence": topk[0]["confidence"], "topk": topk}

    def text(self, line: Mapping[str, Any]) -> str:
        """Return the class and the next two classes, with their probabilities."""
        sure = rounded(line["confidence"])
        return f"{line['class']} {sure}{beside(line['topk'][1:])}"

    def csv(self, lines: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """Return a row for each file with its class and the second best class."""
        table: list[list[Any]] = [
            ["path", "class", "confidence", "second", "second_confidence", "error"]
        ]
        for line in lines:
            if "start" in line:
                continue
            second = (line.get("topk") or [])[1:2]
            table.append(
                [
                    line["path"],
                    line["class"] or "",
                    "" if line["confidence"] is None else f"{line['confidence']:.6f}",
                    *([answer["class"] for answer in second] or [""]),
                    *([f"{answer['confidence']:.6f}" for answer in second] or [""]),
                    line.get("error", ""),
                ]
            )
        return table


TASK = ClipTask()
