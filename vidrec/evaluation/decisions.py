"""Decide the class of a clip or video from a model's scores; no other module does this.

A model gives a clip one vector of class scores, or one for each frame (`head.kind = per_frame`).
With `eval.inference` average or vote it scores windows of the clip and combines their scores.
Training, evaluation, prediction and streams call these functions, so they give the same answer for
the same clip.

Dimension letters: n clips or videos, M windows, B clips of a batch, L frames that a model sees of a
clip, T frames that are scored, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidrec.config import Config, Eval
from vidrec.data import frames, keys
from vidrec.errors import UserError
from vidrec.evaluation import metrics, tasks
from vidrec.evaluation.task import Task
from vidrec.models import losses
from vidrec.models.cells import floats

# A task's function from scores (n, K) and their weights to logarithms of probabilities.
LogProbabilities = Callable[[np.ndarray, np.ndarray | float], np.ndarray]


class Decision(NamedTuple):
    """A model's answer to each of n clips or videos.

    Attributes:
        scores_nK: scores that rank the classes.
        log_probs_nK: logarithms of the probabilities that prediction prints; -inf for a class
            without votes.
    """

    scores_nK: np.ndarray
    log_probs_nK: np.ndarray


# --- Frames and windows of a clip -----------------------------------------------------------------

_indices = jax.jit(frames.indices, static_argnames=("L", "rule", "order"))
_window_indices = jax.jit(frames.window_indices, static_argnames="clip")


class SeenFrames(NamedTuple):
    """The frames of a clip that a model sees.

    Attributes:
        index_L: indices of the frames.
        mask_L: True for frames that count, False for padding.
    """

    index_L: np.ndarray
    mask_L: np.ndarray


def frames_of_clip(cfg: Config, length: int) -> SeenFrames:
    """Return the frames that the model sees when it scores a clip in one pass.

    Args:
        cfg: the model's settings.
        length: number of frames of the clip.
    """
    shuffle = keys.scoring_order() if cfg.frames.order == "shuffled" else None
    index_L, mask_L = _indices(
        length,
        L=cfg.frames.length,
        rule=cfg.frames.rule,
        order=cfg.frames.order,
        shuffle_key=shuffle,
    )
    return SeenFrames(np.asarray(index_L), np.asarray(mask_L))


def frames_of_window(length: int, start: int, window: int) -> SeenFrames:
    """Return the frames of a window; past the clip's end they continue backwards."""
    index_L = np.asarray(_window_indices(length, start, window))
    return SeenFrames(index_L, np.ones(len(index_L), bool))


def window_starts(length: int, window: int, stride: int) -> np.ndarray:
    """Return the first frame of each window: 0, stride, … until one reaches the last frame.

    Args:
        length: number of frames of the video.
        window: number of frames of a window; the last window may extend past the video's end.
        stride: number of frames from the start of one window to the start of the next.

    Raises:
        UserError: an argument is below 1, or the stride leaves frames out.
    """
    for name, value in (
        ("video length", length),
        ("eval.window", window),
        ("eval.stride", stride),
    ):
        if value < 1:
            raise UserError(f"{name}: {value} frames; expected at least 1")
    if stride > window:
        raise UserError(
            f"eval.stride: {stride} leaves frames out between clips of {window}; "
            f"expected at most eval.window"
        )
    count = 1 + max(0, math.ceil((length - window) / stride))
    return stride * np.arange(count)


def window_table(lengths_n: np.ndarray, clips: np.ndarray, settings: Eval) -> np.ndarray:
    """Return (clip, first frame) of every window of these clips, (M, 2) int32."""
    rows = [
        (clip, start)
        for clip in clips
        for start in window_starts(int(lengths_n[clip]), settings.window, settings.stride)
    ]
    return np.asarray(rows, np.int32)


# --- From frames to a clip ------------------------------------------------------------------------


class ClipScores(NamedTuple):
    """Scores of the clips of a batch.

    Attributes:
        scores_BK: scores that rank the classes.
        weight_B: sum of the weights, if scores are weighted sums of log-probabilities; 1 for
            logits.
    """

    scores_BK: jax.Array
    weight_B: jax.Array


def clip_scores(outputs: jax.Array, loss_kind: str, mask_BT: jax.Array | None = None) -> ClipScores:
    """Return the scores of clips from a head's outputs: (B, K), or (B, T, K) for every frame."""
    if outputs.ndim == 2:
        return ClipScores(losses.scores(outputs, loss_kind), jnp.ones(len(outputs)))
    length = outputs.shape[1]
    mask_BT = jnp.ones(outputs.shape[:2], bool) if mask_BT is None else mask_BT
    weights_T = losses.frame_weights(1.0, 0, length, length)
    return ClipScores(weighted_log_probs(outputs, mask_BT), (weights_T[None] * mask_BT).sum(1))


def weighted_log_probs(logits_BTK: jax.Array, mask_BT: jax.Array | None = None) -> jax.Array:
    """Return the sum over frames j of (j + 1) / T · log p_j, (B, K): the decision of report D.

    Frames whose mask is False add nothing.
    """
    length = logits_BTK.shape[1]
    weights_BT = losses.frame_weights(1.0, 0, length, length)[None]
    weights_BT = weights_BT if mask_BT is None else weights_BT * mask_BT
    return (jax.nn.log_softmax(floats(logits_BTK)) * weights_BT[..., None]).sum(1)


def weight_sum(valid: np.ndarray | int, length: int) -> np.ndarray:
    """Return the sum of the weights of `weighted_log_probs` over the first `valid` frames."""
    valid = np.asarray(valid, np.float64)
    return valid * (valid + 1) / (2 * length)


def updated_mean(mean: jax.Array, logits: jax.Array, count: jax.Array) -> jax.Array:
    """Return the weighted mean of log-probabilities after one more frame.

    Frame j of n has the weight j + 1, as in `weighted_log_probs`, so the last frame has the share
    2 / (n + 1) of all weights. A mean is kept instead of a sum, since a sum over hours would exceed
    the precision of float32.

    Args:
        mean: the mean before this frame.
        logits: logits of this frame, in the shape of `mean`.
        count: n, the number of frames so far, this one included.
    """
    return mean + (jax.nn.log_softmax(floats(logits)) - mean) * 2 / (count + 1)


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return whether each of the logits (…, K) is largest at its label (…).

    Logits with a NaN are never correct: argmax treats the first NaN as the largest, so a diverged
    model could look right.
    """
    return (jnp.argmax(logits, -1) == labels) & ~jnp.isnan(logits).any(-1)


# --- From scores to decisions ---------------------------------------------------------------------


def decide_clips(
    scores_nK: np.ndarray,
    weight_n: np.ndarray | float = 1.0,
    log_probabilities: LogProbabilities = metrics.log_probabilities,
) -> Decision:
    """Decide clips that were scored in one pass.

    Args:
        scores_nK: scores, as `clip_scores` returns them.
        weight_n: weights of the scores, as `clip_scores` returns them.
        log_probabilities: the method of the task with this name.
    """
    return Decision(scores_nK, log_probabilities(scores_nK, weight_n))


def decide_videos(
    scores_MK: np.ndarray,
    weight_M: np.ndarray | float,
    video_M: np.ndarray,
    num_videos: int,
    inference: str,
    *,
    log_probabilities: LogProbabilities = metrics.log_probabilities,
) -> Decision:
    """Decide videos by the scores of their windows.

    Args:
        scores_MK: scores, as `clip_scores` returns them, one row for each window.
        weight_M: weights of the scores, as `clip_scores` returns them.
        video_M: index of the video that each window was cut from.
        num_videos: number of videos.
        inference: "average" or "vote", as in the settings.
        log_probabilities: the method of the task with this name.

    Raises:
        ValueError: a video has no windows.
    """
    scores_MK = np.asarray(scores_MK, np.float64)
    windows_n = np.bincount(video_M, minlength=num_videos)
    if len(windows_n) > num_videos or not windows_n.all():
        named = np.count_nonzero(windows_n)
        raise ValueError(f"video_M names {named} videos; expected all {num_videos}")
    total_nK = np.zeros((num_videos, scores_MK.shape[1]))
    np.add.at(total_nK, video_M, scores_MK)
    if inference == "vote":
        votes_nK = np.zeros_like(total_nK)
        np.add.at(votes_nK, (video_M, scores_MK.argmax(axis=1)), 1)
        return _decide_by_votes(votes_nK, total_nK, windows_n)
    weight_M = np.broadcast_to(np.asarray(weight_M, np.float64), len(video_M))
    total_n = np.bincount(video_M, weight_M, minlength=num_videos)
    return decide_clips(total_nK, total_n, log_probabilities)


def _decide_by_votes(votes_nK: np.ndarray, total_nK: np.ndarray, windows_n: np.ndarray) -> Decision:
    """Decide by the number of windows that chose a class; summed log-probabilities break ties.

    The whole part of a score is the number of votes, and the fraction orders equal votes, so the
    five largest scores are the top five. A window with NaN scores makes its video's scores NaN.
    """
    # Ties are broken by ranks of the sums: ranks are exact and always count less than one vote.
    order = np.argsort(-total_nK, axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    num_classes = total_nK.shape[1]
    scores_nK = votes_nK + (num_classes - 1 - rank) / num_classes
    with np.errstate(divide="ignore"):
        log_shares_nK = np.log(votes_nK / windows_n[:, None])
    lost_nK = np.isnan(total_nK)
    return Decision(np.where(lost_nK, np.nan, scores_nK), np.where(lost_nK, np.nan, log_shares_nK))


class WindowSums:
    """Sums over the finished windows of one video; a stream may have any number of them."""

    def __init__(
        self,
        num_classes: int,
        inference: str,
        log_probabilities: LogProbabilities = metrics.log_probabilities,
    ):
        self.inference, self.count = inference, 0
        self._log_probabilities = log_probabilities
        self.votes_K, self.total_K = np.zeros(num_classes), np.zeros(num_classes)

    def add(self, scores_K: np.ndarray) -> None:
        """Add a finished window, given by its scores of weight 1 (see `ClipScores`)."""
        self.count += 1
        self.total_K = self.total_K + scores_K
        self.votes_K[scores_K.argmax()] += 1

    def decide(self, unfinished_K: np.ndarray | None = None) -> Decision:
        """Decide the video, with the scores of an unfinished window if there is one."""
        count, total_K, votes_K = self.count, self.total_K, self.votes_K.copy()
        if unfinished_K is not None:
            count, total_K = count + 1, total_K + unfinished_K
            votes_K[unfinished_K.argmax()] += 1
        windows_n = np.array([count])
        if self.inference == "vote":
            return _decide_by_votes(votes_K[None], total_K[None], windows_n)
        return decide_clips(total_K[None], windows_n, self._log_probabilities)


def clip_and_video_accuracy(
    scores_MK: np.ndarray, video_M: np.ndarray, labels_n: np.ndarray, inference: str
) -> dict[str, float]:
    """Return `clip_accuracy` (of single windows) and `video_accuracy` (of whole videos)."""
    decision = decide_videos(scores_MK, 1.0, video_M, len(labels_n), inference)
    correct_M = metrics.predictions(scores_MK) == labels_n[video_M]
    correct_n = metrics.predictions(decision.scores_nK) == labels_n
    return {
        "clip_accuracy": float(np.mean(correct_M)),
        "video_accuracy": float(np.mean(correct_n)),
    }


@dataclass(frozen=True)
class ScoredClips:
    """Scores of a data set's readable clips under one trial's settings.

    Attributes:
        cfg: the trial's settings.
        lengths_n: number of frames of every clip of the data set.
        clips: indices of the readable clips, ascending.
        scores: (n, K) of clips if `eval.inference` is single; else (M, K) of the windows that
            `window_table` lists.
        num_frames: T if the head scores every frame; 0 otherwise.
    """

    cfg: Config
    lengths_n: np.ndarray
    clips: np.ndarray
    scores: np.ndarray
    num_frames: int = 0

    @property
    def task(self) -> Task:
        """Return the task of the trial."""
        return tasks.of(self.cfg)

    def decide(self) -> Decision:
        """Decide every clip of the data set; the rows of unreadable clips are zeros."""
        settings, of_task = self.cfg.eval, self.task.log_probabilities
        if settings.inference == "single":
            weight_n = clip_weights(self.cfg, self.lengths_n[self.clips], self.num_frames)
            decision = decide_clips(self.scores[self.clips], weight_n, of_task)
        else:
            weight = weight_sum(settings.window, settings.window)
            video_M = np.searchsorted(self.clips, self._video_of_window())
            decision = decide_videos(
                self.scores,
                weight,
                video_M,
                len(self.clips),
                settings.inference,
                log_probabilities=of_task,
            )
        return Decision(*map(partial(_spread, self.clips, len(self.lengths_n)), decision))

    def of_windows(self, videos: np.ndarray, labels_n: np.ndarray) -> dict[str, float]:
        """Return the additional figures of the windows of `videos`, whose labels are `labels_n`."""
        video_M = self._video_of_window()
        own_M = np.isin(video_M, videos)
        return self.task.of_windows(
            self.scores[own_M],
            np.searchsorted(videos, video_M[own_M]),
            labels_n,
            self.cfg.eval.inference,
        )

    def _video_of_window(self) -> np.ndarray:
        return window_table(self.lengths_n, self.clips, self.cfg.eval)[:, 0]


def clip_weights(cfg: Config, lengths_n: np.ndarray, num_frames: int) -> np.ndarray:
    """Return the weight of each clip's scores (see `ClipScores`), (n,).

    Args:
        cfg: the trial's settings.
        lengths_n: number of frames of each clip.
        num_frames: T if the head scores every frame; 0 otherwise.
    """
    if not num_frames:
        return np.ones(len(lengths_n))
    valid_n = np.full(len(lengths_n), num_frames)
    if cfg.frames.rule == "whole":
        valid_n = np.minimum(lengths_n, num_frames)
    return weight_sum(valid_n, num_frames)


def _spread(clips: np.ndarray, count: int, values: np.ndarray) -> np.ndarray:
    """Return `count` rows: `values` at the rows `clips`, zeros elsewhere."""
    whole = np.zeros((count, *values.shape[1:]), values.dtype)
    whole[clips] = values
    return whole
