"""Several labels a clip, or none: sigmoid, binary cross-entropy, mean average precision."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vidrec.config import Config
from vidrec.errors import UserError
from vidrec.evaluation import ranking, resampling, statistics
from vidrec.evaluation.metrics import LEAST
from vidrec.evaluation.presentation import Baseline, ClassTable, Headline, Matrix, Shot, Shown
from vidrec.evaluation.resampling import Values
from vidrec.evaluation.task import Fitted, LossOptions, Matched, ScoredPart, Task, beside, rounded

if TYPE_CHECKING:
    from jax import Array

    from vidrec.data.datasets.base import Dataset
    from vidrec.evaluation.decisions import ClipScores, Decision

BETWEEN = "|"  # separates the labels of a clip, in files and in answers
HALF = 0.5  # the threshold of a class if none was fitted to validation clips
TOP = 5  # number of classes that an answer lists
NONE = "none"  # text for people if no label is above its threshold


class Multilabel(Task):
    """Several labels a clip: each class is present or absent, independently of the others."""

    kind = "multilabel"
    form = "several"
    embedded = "motion/several"
    headline = Headline("map", "mean average precision", "mAP", "mean average precision {}")
    columns = (
        *("test_map", "test_macro_f1", "test_micro_f1", "test_exact", "val_map", "train_map"),
        *("params", "epochs", "seconds_compile", "seconds_train"),
        *("test_loss", "val_loss", "train_loss", "best_epoch"),
        *("val_macro_f1", "train_macro_f1", "val_micro_f1", "train_micro_f1"),
        *("test_objective", "val_objective", "train_objective"),
    )
    shown = (
        Shown("test_macro_f1", "macro F1"),
        Shown("test_micro_f1", "micro F1"),
        Shown("test_exact", "all labels right"),
    )
    compared = shown
    brief = Shown("test_macro_f1", "macro F1")
    baseline = Baseline(
        "chance",
        "Clips in a random order have a mean average precision of {} (test clips).",
        "No better than a random order: {}.",
    )
    sections = ("classes", "matrices", "clips")
    exact_probabilities = True
    class_figure = ("ap", "average precision")
    epoch_figures = ("map",)

    # --- Settings ---

    def check(self, cfg: Config) -> None:
        """See `Task`."""
        super().check(cfg)
        of = f"task.kind = {self.kind!r}"
        if cfg.loss.kind != "cross_entropy":
            raise UserError(
                f"loss.kind = {cfg.loss.kind!r} is of one label a clip: with {of} it should be "
                "cross_entropy, which is each class's binary one"
            )
        if cfg.head.activation != "softmax":
            raise UserError(
                f"head.activation = {cfg.head.activation!r}: {of} takes the sigmoid of raw "
                "scores; leave it out"
            )
        if cfg.train.sampling == "balanced":
            raise UserError(
                f"train.sampling = 'balanced' deals out classes, and with {of} a clip has "
                "several: take loss.class_weights = 'balanced'"
            )
        if cfg.eval.inference == "vote":
            raise UserError(
                f"eval.inference = 'vote' counts windows by their one class, and with {of} they "
                "have several: take average"
            )

    # --- Labels ---

    def labelled(self, dataset: "Dataset") -> "Dataset":
        """Return a data set whose labels are 0 and 1, (n, K); class names are split at `|`."""
        if dataset.frame_labels:
            raise UserError(
                f"{dataset.name} has labels of frames: task.kind should be segmentation, not "
                f"{self.kind!r}"
            )
        if dataset.labels.ndim == 2:
            return dataset
        parts = [
            [part for part in (word.strip() for word in name.split(BETWEEN)) if part]
            for name in dataset.classes
        ]
        classes = tuple(sorted({name for own in parts for name in own}))
        own_CK = np.array([[name in own for name in classes] for own in parts], np.int32)
        return replace(dataset, classes=classes, labels=own_CK[dataset.labels])

    def label_shape(self, clips: int, frames: int, classes: int) -> tuple[int, ...]:
        """Return (n, K)."""
        return clips, classes

    def matched(self, dataset: "Dataset", classes: Sequence[str]) -> Matched:
        """Return labels of the classes that the model knows; those of others are ignored."""
        labels_nK = np.zeros((len(dataset), len(classes)), np.int32)
        for k, name in enumerate(classes):
            if name in dataset.classes:
                labels_nK[:, k] = dataset.labels[:, dataset.classes.index(name)]
        known_n = np.full(len(dataset), bool(set(classes) & set(dataset.classes)))
        return Matched(labels_nK, known_n, np.array(dataset.label_texts))

    def balanced_weights(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return, for each class, the ratio of clips without it to clips with it."""
        with_K = labels.sum(axis=0)
        return np.where(with_K > 0, (len(labels) - with_K) / np.maximum(with_K, 1), 1.0)

    # --- Loss and decision, on the device ---

    def loss(
        self, outputs: "Array", labels: "Array", mask_BT: "Array | None", how: LossOptions
    ) -> "Array":
        """Return binary cross-entropies, averaged over classes."""
        from vidrec.models import losses

        of_frames = outputs.ndim == 3
        target = labels[:, None] if of_frames else labels
        values = losses.binary_cross_entropy(outputs, target, how.smoothing, how.class_weights)
        if not of_frames:
            return values
        weights_T = losses.frame_weights(how.linear, how.offset, outputs.shape[1], how.length)
        return losses.over_frames(values, mask_BT, weights_T)

    def scores(
        self, outputs: "Array", loss_kind: str, mask_BT: "Array | None" = None
    ) -> "ClipScores":
        """Return log-odds, or their sum over frames j weighted by (j + 1) / T."""
        import jax.numpy as jnp

        from vidrec.evaluation.decisions import ClipScores
        from vidrec.models import losses

        if outputs.ndim == 2:
            return ClipScores(outputs, jnp.ones(len(outputs)))
        length = outputs.shape[1]
        weights_BT = losses.frame_weights(1.0, 0, length, length)[None]
        mask_BT = jnp.ones(outputs.shape[:2], bool) if mask_BT is None else mask_BT
        weights_BT = weights_BT * mask_BT
        # Values in padding must not count, not even if they are NaN.
        kept = jnp.where(mask_BT[..., None], outputs, 0.0)
        return ClipScores((kept * weights_BT[..., None]).sum(1), weights_BT.sum(1))

    def probabilities(self, scores: "Array") -> "Array":
        """Return the sigmoid."""
        import jax

        return jax.nn.sigmoid(scores)

    def averaged(self, outputs: "Array", loss_kind: str) -> "Array":
        """Return the log-odds of the mean of sigmoids."""
        import jax.numpy as jnp

        mean, tiny = self.probabilities(outputs).mean(0), jnp.finfo(outputs.dtype).tiny
        other = self.probabilities(-outputs).mean(0)
        return jnp.log(jnp.maximum(mean, tiny)) - jnp.log(jnp.maximum(other, tiny))

    def updated_mean(self, mean: "Array", outputs: "Array", count: "Array") -> "Array":
        """Return the mean of log-odds over frames j, weighted by j + 1."""
        return mean + (outputs - mean) * 2 / (count + 1)

    def correct_frames(self, outputs: "Array", labels: "Array", mask_BT: "Array") -> "Array":
        """Return the frames that have all labels right at a threshold of one half."""
        return ((outputs > 0) == (labels[:, None] > 0)).all(-1) & mask_BT

    # --- Decision, on the host ---

    def log_probabilities(self, scores: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
        """Return logarithms of the sigmoid."""
        scores = np.asarray(scores, np.float64)
        odds = scores / np.broadcast_to(weight, len(scores))[:, None]
        return -np.logaddexp(0, -odds)

    def evidence(self, probabilities_K: np.ndarray) -> np.ndarray:
        """Return log-odds."""
        tiny = np.finfo(np.float32).eps / 2
        shares = np.clip(np.asarray(probabilities_K, np.float64), tiny, 1 - tiny)
        return np.log(shares / (1 - shares))

    def fit(self, part: ScoredPart) -> Fitted:
        """Return the threshold of each class with the highest F1 on validation clips."""
        best_K = ranking.best_thresholds(np.exp(part.log_probs), part.labels)
        return {"thresholds": best_K.tolist()}

    # --- Metrics ---

    def epoch(
        self, decision: "Decision", labels: np.ndarray, classes: Sequence[str]
    ) -> dict[str, float]:
        """Return the mean average precision."""
        return {"map": ranking.mean_average_precision(decision.log_probs_nK, labels)}

    def summary(self, part: ScoredPart) -> dict[str, Any]:
        """Return every figure of a part.

        Returns:
            - clips: their number.
            - ap: the average precision of each class, as scikit-learn computes it.
            - map: the mean of ap over the classes that at least one clip has.
            - chance: the map of a random order of the clips.
            - loss: the mean binary cross-entropy in nats.
            - f1, precision, recall, positives: of each class, at the thresholds of `fit`;
              positives are the clips that have the class.
            - macro_f1: the mean of f1; micro_f1: the F1 of all decisions together.
            - exact: the share of clips with all labels right.
            - thresholds: the threshold of each class.
            - absent: the classes that no clip has.
            - co_occurrence: of the clips that have a class (row), how many were given each class
              (column).
            - nonfinite: the number of clips with a NaN among their scores.
        """
        labels_nK = np.asarray(part.labels) > 0
        _check(part)
        given_nK = _given(part)
        with_K, given_K = labels_nK.sum(0), given_nK.sum(0)
        hits_K = (labels_nK & given_nK).sum(0)
        f1_K = 2 * hits_K / np.maximum(with_K + given_K, 1)
        ap_K = ranking.average_precisions(part.log_probs, labels_nK)
        there = with_K > 0

        def named(values: np.ndarray, known: np.ndarray) -> dict[str, float | None]:
            pairs = zip(part.classes, values.tolist(), known.tolist(), strict=True)
            return {name: value if is_known else None for name, value, is_known in pairs}

        return {
            "clips": len(labels_nK),
            "map": _number(ranking.mean_of_known(ap_K)),
            "chance": _number(np.mean(with_K[there] / len(labels_nK)) if there.any() else np.nan),
            "loss": _loss(part.log_probs, labels_nK),
            "micro_f1": float(2 * hits_K.sum() / max(with_K.sum() + given_K.sum(), 1)),
            "macro_f1": _number(f1_K[there].mean() if there.any() else np.nan),
            "exact": float((labels_nK == given_nK).all(1).mean()),
            "ap": named(ap_K, there),
            "f1": named(f1_K, there),
            "precision": named(hits_K / np.maximum(given_K, 1), given_K > 0),
            "recall": named(hits_K / np.maximum(with_K, 1), there),
            "positives": dict(zip(part.classes, with_K.tolist(), strict=True)),
            "absent": np.asarray(part.classes)[~there].tolist(),
            "co_occurrence": (labels_nK.T.astype(int) @ given_nK).tolist(),
            "thresholds": dict(zip(part.classes, _thresholds(part).tolist(), strict=True)),
            "nonfinite": int(np.isnan(part.scores).any(1).sum()),
        }

    def line(self, figures: Mapping[str, Any], counts: Mapping[str, int]) -> str:
        """Return mean average precision and F1."""
        return (
            f"mean average precision {_percent(figures['map'])} of {counts['scored']} clips "
            f"({counts['expected']} expected; in a random order {_percent(figures['chance'])}), "
            f"macro F1 {_decimals(figures['macro_f1'])}, micro F1 {figures['micro_f1']:.3f}, all "
            f"labels right {figures['exact']:.1%}"
        )

    # --- Reports ---

    def said(self, part: ScoredPart) -> np.ndarray:
        """Return the logarithms of probabilities, which rank clips."""
        return part.log_probs

    def interval(
        self, said_Sn: np.ndarray, labels: np.ndarray, groups: statistics.Groups
    ) -> statistics.Interval:
        """Return the interval of the mean average precision."""
        return statistics.share_interval(_values(said_Sn, labels, groups), len(labels))

    def difference(
        self,
        said_a: np.ndarray,
        said_b: np.ndarray,
        labels: np.ndarray,
        groups: statistics.Groups,
    ) -> statistics.Difference:
        """Return the difference of mean average precisions."""
        a, b = (_values(said, labels, groups) for said in (said_a, said_b))
        return statistics.share_difference(a, b, len(labels))

    def class_table(self, figures: Mapping[str, Any]) -> ClassTable | None:
        """Return the average precision of each class, and its figures at its threshold."""
        if "ap" not in figures:
            return None
        names = ("positives", "ap", "thresholds", "precision", "recall", "f1")
        heads = ("clips", "average precision", "threshold", "precision", "recall", "F1")
        rows = [[name, *(figures[of].get(name) for of in names)] for name in figures["ap"]]
        return ClassTable(heads, rows)

    def matrices(self, figures: Mapping[str, Any]) -> list[Matrix]:
        """Return which labels were given to the clips of each class."""
        if "co_occurrence" not in figures:
            return []
        counts_KK = np.asarray(figures["co_occurrence"], int)
        of_K = np.array(list(figures["positives"].values()), int)
        caption = (
            "Co-occurrence; a row is a class that clips have, a column a label they were given"
        )
        return [Matrix("co_occurrence", caption, counts_KK, of_K)]

    def wrong(self, part: ScoredPart) -> np.ndarray:
        """Return the clips with at least one wrong label."""
        return (_given(part) != (np.asarray(part.labels) > 0)).any(1)

    def shot(self, part: ScoredPart, clip: int) -> Shot:
        """Return the given labels, the lowest of their probabilities, and the true labels."""
        given_K, true_K = _given(part)[clip], np.asarray(part.labels)[clip] > 0
        sure = _sure(np.exp(part.log_probs[clip]), given_K)
        named = [
            BETWEEN.join(np.asarray(part.classes)[own_K].tolist()) or NONE
            for own_K in (given_K, true_K)
        ]
        return Shot(named[0], sure, named[1], bool((given_K == true_K).all()))

    # --- Predictions ---

    def answer(
        self,
        classes: Sequence[str],
        scores_K: np.ndarray,
        probabilities_K: np.ndarray,
        fitted: Fitted,
    ) -> dict[str, Any]:
        """Return the labels above their thresholds, most probable first, and all probabilities."""
        shares_K = np.asarray(probabilities_K, np.float64)
        order = np.argsort(-shares_K, kind="stable")
        thresholds_K = np.asarray(fitted.get("thresholds") or [HALF] * len(classes))
        ranked = [{"class": classes[k], "confidence": float(shares_K[k])} for k in order]
        labels = [
            best for k, best in zip(order, ranked, strict=True) if shares_K[k] >= thresholds_K[k]
        ]
        return {
            "class": BETWEEN.join(each["class"] for each in labels),
            "confidence": _sure(shares_K, shares_K >= thresholds_K),
            "labels": labels,
            "topk": ranked[:TOP],
            "probabilities": dict(zip(classes, shares_K.tolist(), strict=True)),
        }

    def text(self, line: Mapping[str, Any]) -> str:
        """Return the labels and the next two classes, with their probabilities."""
        given = [f"{each['class']} {rounded(each['confidence'])}" for each in line["labels"]]
        named = {each["class"] for each in line["labels"]}
        rest = [each for each in line["topk"] if each["class"] not in named]
        return f"{', '.join(given) or NONE}{beside(rest)}"

    def caption(self, line: Mapping[str, Any]) -> str:
        """Return the labels."""
        return ", ".join(each["class"] for each in line["labels"]) or NONE

    def csv(self, lines: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """Return a row for each file: labels as in labels.csv, and each class's probability."""
        answered = [line for line in lines if line["class"] is not None]
        classes = list(answered[0]["probabilities"]) if answered else []
        table: list[list[Any]] = [["path", "label", *classes, "error"]]
        for line in lines:
            if "start" in line:
                continue
            shares = line.get("probabilities", {})
            cells = [f"{shares[name]:.6f}" if shares else "" for name in classes]
            table.append([line["path"], line["class"] or "", *cells, line.get("error", "")])
        return table

    def exported(self, fitted: Fitted, classes: int) -> dict[str, Any]:
        """Return the thresholds."""
        thresholds = list(fitted.get("thresholds") or [HALF] * classes)
        return {"answers": "several", "thresholds": thresholds}


def _check(part: ScoredPart) -> None:
    if not len(part.labels):
        raise UserError("labels: the split has no clips to score; give it at least one")
    if np.shape(part.scores) != np.shape(part.labels) or len(part.classes) != part.labels.shape[1]:
        raise UserError(
            f"scores: shape {np.shape(part.scores)} does not fit labels {np.shape(part.labels)} of "
            f"{len(part.classes)} classes"
        )


def _thresholds(part: ScoredPart) -> np.ndarray:
    return np.asarray(part.fitted.get("thresholds") or [HALF] * len(part.classes), np.float64)


def _given(part: ScoredPart) -> np.ndarray:
    """Return which labels are given, bool (n, K); a label with a NaN probability is not."""
    return np.exp(part.log_probs) >= _thresholds(part)


def _sure(shares_K: np.ndarray, given_K: np.ndarray) -> float:
    """Return the lowest probability of the given labels; without any, 1 minus the highest one."""
    return float(shares_K[given_K].min() if given_K.any() else 1 - np.nanmax(shares_K))


def _values(said_Sn: np.ndarray, labels: np.ndarray, groups: statistics.Groups) -> Values:
    """Return the mean average precision of each seed, also with each recording left out."""
    numbered = resampling.recordings(np.asarray(groups))
    whole_S = np.array([ranking.mean_average_precision(said, labels) for said in said_Sn])
    if numbered.total == 1:
        return Values(whole_S, whole_S[:, None])
    without_SG = [
        ranking.without_each(said, labels, numbered.number_n, numbered.total) for said in said_Sn
    ]
    without = np.stack(without_SG)
    # Without a recording that has all clips of every class, the figure is undefined (NaN): the
    # figure on all clips replaces it.
    return Values(whole_S, np.where(np.isnan(without), whole_S[:, None], without))


def _loss(log_probs_nK: np.ndarray, labels_nK: np.ndarray) -> float:
    """Return the mean binary cross-entropy in nats; a probability of 0 counts as `LEAST`."""
    floor = np.log(LEAST)
    with np.errstate(divide="ignore"):
        absent = np.log(-np.expm1(np.minimum(log_probs_nK, 0.0)))
    said = np.where(labels_nK, log_probs_nK, absent)
    return float(-np.mean(np.where(np.isneginf(said), floor, said)))


def _number(value: Any) -> float | None:
    """Return a figure for JSON; None if there is none."""
    return None if np.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


TASK = Multilabel()
