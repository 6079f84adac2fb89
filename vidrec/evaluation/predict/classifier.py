"""Define `Classifier`: a trained model that classifies clips, as a whole and over time."""

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np

from vidrec.config import Eval, from_dict, override, plugins, user_code
from vidrec.data.datasets.feature_files import ArrayFiles
from vidrec.data.datasets.framewise import FEATURES_FIRST, FeaturesFirst
from vidrec.errors import UserError
from vidrec.evaluation import decisions, views
from vidrec.evaluation.decisions import Decision, SeenFrames
from vidrec.evaluation.predict import clips, framewise, windows
from vidrec.evaluation.predict.choosing import choose
from vidrec.evaluation.predict.clips import Clip
from vidrec.evaluation.predict.network import Network
from vidrec.evaluation.predict.prediction import Prediction, Window
from vidrec.evaluation.predict.streams import Stream
from vidrec.features.extraction import cast_features, frames_a_batch
from vidrec.features.projection import Projection
from vidrec.io import checkpoint, files, runs
from vidrec.models import encoders

# Frame rates that differ by less than this share, such as 29.97 and 30, count as equal.
SAME_RATE = 0.01


class Scored(NamedTuple):
    """Scores of a window or of a whole clip.

    Attributes:
        scores_K: scores that rank the classes.
        log_probs_K: logarithms of the class probabilities.
        weight: the weight of the scores, see `decisions.ClipScores`.
    """

    scores_K: np.ndarray
    log_probs_K: np.ndarray
    weight: float

    @property
    def probabilities_K(self) -> np.ndarray:
        """Return class probabilities."""
        return np.exp(self.log_probs_K)


class Evaluation(NamedTuple):
    """The scores and the loss of a clip, for evaluation.

    Attributes:
        scores_K: scores that rank the classes.
        log_probs_K: logarithms of the class probabilities.
        objective: the loss that training minimised.
        windows_MK: scores of the windows that decided; None if windows did not decide.
    """

    scores_K: np.ndarray
    log_probs_K: np.ndarray
    objective: float
    windows_MK: np.ndarray | None


class _Along(NamedTuple):
    """The scored windows of a clip.

    Attributes:
        spans: first frame of each window, and the frame after its last one.
        scored: scores of each window.
        first: the frames that the model saw in the first window.
        total: number of frames of the clip.
    """

    spans: list[tuple[int, int]]
    scored: list[Scored]
    first: SeenFrames | None
    total: int


class Classifier:
    """A trained model.

    >>> model = vidrec.Classifier.load("runs/my_videos-1a2b3c4d")
    >>> answer = model.predict("new.mp4")
    >>> answer.label, answer.confidence

    Args:
        tree: the saved arrays.
        meta: settings, class names and facts about the training that were saved with the arrays.
        chosen: the trial that was chosen from an ablation, and why; empty for a run.
        code: users' code that may run, by the name of the setting that refers to it.

    Attributes:
        cfg: the model's settings.
        fitted: values that were fitted to validation clips, see `Task.fit`.
        classes: names by class number.
        notes: warnings about users' code in the model; mostly empty.
    """

    def __init__(
        self,
        tree: Mapping[str, Any],
        meta: Mapping[str, Any],
        chosen: str = "",
        code: Mapping[str, plugins.UserCode] | None = None,
    ):
        self.meta, self.chosen = dict(meta), chosen
        self.classes = tuple(meta["classes"])
        self.notes = plugins.changes((code or {}).values())
        cfg = override(from_dict(meta["config"]), code or {})
        self.network = Network.of(
            cfg, meta["length"], len(self.classes), tree, meta.get("class_weights", ())
        )
        self.cfg, self.fitted = self.network.cfg, meta.get("fitted", {})
        self._score_program = jax.jit(self.network.score)
        self._evaluate_program = jax.jit(self.network.evaluate)

    @classmethod
    def load(cls, folder: str | os.PathLike, *, trust_code: bool = False) -> "Classifier":
        """Load the model of a run or trial, or the best model of an ablation on validation.

        Args:
            folder: the folder of a run, a trial or an ablation.
            trust_code: allow users' code in the model to run, from the copy that the run keeps.

        Raises:
            UserError: the folder has no trained model, or a damaged one; or it contains code that
                is not trusted.
        """
        with files.reading_runs([Path(folder)]):
            trial, chosen = choose(Path(folder))
            tree, meta = checkpoint.read(trial / "model")
            named = user_code(from_dict(meta["config"]))
            source = trial / "model" / runs.CODE
            code = plugins.trusted(trial, source, named, meta.get("code"), trust_code)
            return cls(tree, meta, chosen, code)

    # --- Prediction ---

    def predict(
        self,
        clip: str | os.PathLike | np.ndarray,
        *,
        every: float = 0.0,
        fps: float | None = None,
    ) -> Prediction:
        """Classify a clip of any length as a whole, and in windows over time.

        The answer for the whole clip is that of evaluation. It comes from the clip's centre
        segment, from frames spread over the clip, or from all windows, as the settings say.

        Args:
            clip: a file, or frames uint8 (T, H, W, 3). A model that was trained on features takes
                features instead: an array, or a .npy or .safetensors file.
            every: seconds from one window to the next; 0: half a window. If `eval.inference` uses
                windows, it must be 0, and eval.stride applies.
            fps: frames a second of an array; None: the rate of the training clips.

        Raises:
            UserError: the clip does not fit the model.
            UnreadableClip: no frame of the file can be decoded.
        """
        opened = self.open(clip, fps)
        if self.network.task.framewise:
            return framewise.predict(self, opened, every)
        grid = self._grid(opened, every)
        if grid is None:
            total = sum(len(chunk) for chunk in opened.chunks())
            whole = self._in_one_pass(opened, total)
            along = _Along([(0, total)], [whole], None, total)
        else:
            along = self._along(opened, grid)
            whole = self._whole(opened, along)
        return self._prediction(opened, whole, along)

    def _along(self, clip: Clip, grid: windows.WindowGrid) -> _Along:
        """Score a clip's windows while it is read; only their scores are kept."""
        slider = windows.Slider(grid, clip.at)
        spans: list[tuple[int, int]] = []
        scored: list[Scored] = []
        first: SeenFrames | None = None

        def take(complete: Iterable[windows.Window]) -> None:
            nonlocal first
            for window in complete:
                first = first or window.seen
                spans.append((window.start, window.end))
                scored.append(self._score(window.inputs, window.seen.mask_L))

        for chunk in clip.chunks():
            take(slider.add(self.encode(chunk)))
        take(slider.end())
        return _Along(spans, scored, first, slider.total)

    def _whole(self, clip: Clip, along: _Along) -> Scored:
        """Return the scores of a whole clip as in evaluation, from its windows where possible."""
        if self.cfg.eval.inference != "single":
            return self._joined(along.scored)
        if len(along.scored) == 1 and along.first is not None:
            evaluated = decisions.frames_of_clip(self.cfg, along.total)
            if all(map(np.array_equal, along.first, evaluated)):
                return along.scored[0]
        return self._in_one_pass(clip, along.total)

    def _in_one_pass(self, clip: Clip, total: int) -> Scored:
        index_L, mask_L = decisions.frames_of_clip(self.cfg, total)
        return self._score(self.encode(clip.read(index_L)), mask_L)

    def _prediction(self, clip: Clip, whole: Scored, along: _Along) -> Prediction:
        how = {"task": self.network.task, "fitted": self.fitted}
        answers = [
            Window(
                self.classes,
                said.scores_K,
                said.probabilities_K,
                clip.at(start),
                clip.at(end),
                **how,
            )
            for (start, end), said in zip(along.spans, along.scored, strict=True)
        ]
        return Prediction(
            self.classes,
            whole.scores_K,
            whole.probabilities_K,
            clip.path,
            answers,
            along.total,
            clip.at(along.total),
            list(clip.notes),
            **how,
        )

    def evaluate(self, inputs_T: np.ndarray, label: Any) -> Evaluation:
        """Return the scores and the loss of a clip, as evaluation computes them.

        Args:
            inputs_T: the scanner's inputs for all frames of the clip, as `encode` returns them.
            label: the clip's label in the form of the task, such as the number of its class.
        """
        index_L, mask_L = self._evaluated(len(inputs_T))
        if self.network.task.framewise:
            label = _as_long(label, len(index_L))
        clip_scores, objective_B = self._apply(
            self._evaluate_program, inputs_T[index_L], mask_L, np.array([label])
        )
        whole, scores_MK, settings = self._decided(clip_scores), None, self.cfg.eval
        if settings.inference != "single":
            scored = []
            for start in decisions.window_starts(len(inputs_T), settings.window, settings.stride):
                seen = decisions.frames_of_window(len(inputs_T), int(start), settings.window)
                scored.append(self._score(inputs_T[seen.index_L], seen.mask_L))
            whole, scores_MK = (
                self._joined(scored),
                np.stack([window.scores_K for window in scored]),
            )
        return Evaluation(whole.scores_K, whole.log_probs_K, float(objective_B[0]), scores_MK)

    def _evaluated(self, length: int) -> SeenFrames:
        """Return the frames of a clip that evaluation sees; all if the model labels frames."""
        cfg = self.cfg
        if self.network.task.framewise and length > cfg.frames.length:
            cfg = override(cfg, {"frames.length": length})
        return decisions.frames_of_clip(cfg, length)

    def _score(self, inputs: np.ndarray, mask_L: np.ndarray) -> Scored:
        """Return the model's scores for the inputs of the frames that it sees."""
        return self._decided(self._apply(self._score_program, inputs, mask_L))

    def _apply(self, program: Any, inputs: np.ndarray, mask_L: np.ndarray, *more: Any) -> Any:
        """Apply a program to a batch of this one clip."""
        clips_BL, mask_BL = inputs[None], mask_L[None]
        if self.cfg.eval.views != views.ONE:
            clips_BL = np.moveaxis(inputs, 1, 0)
            mask_BL = np.repeat(mask_BL, len(clips_BL), 0)
        try:
            return program(self.network.variables, clips_BL, mask_BL, *more)
        except flax.errors.ScopeParamShapeError:
            raise UserError(
                f"features of shape {list(inputs.shape[1:])} a frame are not what the model was "
                "trained on"
            ) from None

    def _decided(self, scores: decisions.ClipScores) -> Scored:
        scores_BK, weight_B = (np.asarray(values, np.float64) for values in scores)
        of_task = self.network.task.log_probabilities
        return _first(decisions.decide_clips(scores_BK, weight_B, of_task), float(weight_B[0]))

    def _joined(self, scored: Sequence[Scored]) -> Scored:
        """Return a video's scores from those of its windows, as in evaluation."""
        scores_MK = np.stack([window.scores_K for window in scored])
        weight_M = np.array([window.weight for window in scored])
        video_M = np.zeros(len(scored), int)
        inference = self.cfg.eval.inference
        of_task = self.network.task.log_probabilities
        decision = decisions.decide_videos(
            scores_MK, weight_M, video_M, 1, inference, log_probabilities=of_task
        )
        return _first(decision, float(weight_M.sum()))

    # --- Windows and rates ---

    def _grid(self, clip: Clip, every: float) -> windows.WindowGrid | None:
        """Return the grid of a clip's windows; None if the whole clip is one window."""
        settings = self.cfg.eval
        if not 0 <= every < float("inf"):
            raise UserError(f"every = {every:g}: seconds between windows should be positive")
        if settings.inference != "single":
            if every:
                raise UserError(
                    f"every = {every:g}: eval.inference = {settings.inference!r} has its own "
                    "windows (eval.window, eval.stride)"
                )
            return windows.WindowGrid(self.cfg, settings.window, settings.stride, in_frames=True)
        span = self._span(clip.fps)
        if not span:
            return None
        stride = round(every * clip.fps) if every else span // 2
        return windows.WindowGrid(self.cfg, span, max(1, stride), fps=clip.fps)

    def _span(self, fps: float) -> int:
        """Return the number of frames that last as long as a training clip; 0 if unknown."""
        length = self.cfg.frames.length
        if self.cfg.frames.rule == "uniform":
            # Spread frames are as far apart as in training if windows last as long as its clips.
            if seconds := self.meta.get("clip_seconds"):
                return max(1, round(seconds * fps))
            return self.meta.get("clip_frames", 0)
        rate = fps / self.meta["fps"] if self.paced_otherwise(fps) else 1.0
        return max(1, round(length * rate))

    def paced_otherwise(self, fps: float) -> bool:
        """Return whether a frame rate is outside the range of the training clips."""
        low, high = self.meta.get("fps_range", (0, float("inf")))
        return not (low * (1 - SAME_RATE) <= fps <= high * (1 + SAME_RATE))

    def stream(self, fps: float | None = None) -> Stream:
        """Return a stream, which takes frames one by one and keeps the recurrent carry.

        By default the model sees all frames. If its `frames.rule` is uniform, it sees frames at the
        average rate at which they were spread over training clips.

        Args:
            fps: frames a second that will be pushed; None: the rate of the training clips.

        Raises:
            UserError: the model needs the whole clip at once; the message says why.
        """
        pushed, seen = self._rate(fps), None
        if self.cfg.eval.inference != "single":
            pass  # windows count every frame, at any frame rate
        elif self.cfg.frames.rule == "uniform":
            seconds = self.meta.get("clip_seconds") or self.meta.get("clip_frames", 0) / pushed
            seen = self.cfg.frames.length / seconds if seconds else None
        elif self.paced_otherwise(pushed):
            seen = self.meta["fps"]
        return Stream(self.network, self.classes, pushed, seen, self.features_like)

    def _rate(self, fps: float | None) -> float:
        """Return the given frame rate, else that of the training clips, else 25."""
        if fps is not None and not (0 < fps < float("inf")):
            raise UserError(f"fps = {fps:g}: frames a second should be above 0")
        return fps or self.meta.get("fps") or 25.0

    # --- Inputs ---

    def open(self, clip: Any, fps: float | None = None) -> Clip:
        """Return a `Clip` for any input that `predict` takes."""
        fps = self._rate(fps)
        if isinstance(clip, np.ndarray):
            if self.network.takes_features:
                return clips.of_features(clip, "array", fps, self.features_like)
            return clips.of_array(clip, self.cfg, fps)
        if not self.network.takes_features:
            return clips.of_file(clip, self.cfg)
        kind = FeaturesFirst if self.meta.get("hashed") == FEATURES_FIRST else ArrayFiles
        return clips.of_feature_file(clip, fps, self.features_like, kind)

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Return the scanner's inputs for frames (n, size, size, 3), as in training.

        The shape is (n, D…), or (n, V, D…) with several views (`eval.views`).
        """
        if self.cfg.eval.views == views.ONE:
            return self.project(self.extract(frames))
        seen = map(self.extract, np.asarray(self._shown(frames)))
        return np.stack([self.project(each) for each in seen], 1)

    @cached_property
    def _shown(self) -> Callable[[np.ndarray], Any]:
        """Return the function from frames to all views of them, (V, n, H, W, C)."""
        return jax.jit(partial(views.shown, name=self.cfg.eval.views))

    @cached_property
    def extract(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function from frames to stored features; without an encoder the identity."""
        encoder = self.network.encoder
        if encoder is None:
            return np.asarray
        batch = min(clips.CHUNK, frames_a_batch(self.cfg.encoder.size, encoder))
        forward = encoders.extractor(encoder, self.network.variables["encoder"], batch)
        return cast_features(forward, self.network.precision)

    @cached_property
    def project(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function from stored features to the scanner's inputs."""
        fitted = self.network.variables["projection"]
        if not fitted:
            return np.asarray
        mean, matrix = np.asarray(fitted["mean"]), np.asarray(fitted["matrix"])
        return Projection(mean, matrix).__call__

    @property
    def features_like(self) -> tuple[int, ...] | None:
        """Return the shape of the features of one frame; None if unknown, or for a model of frames.

        These are features made elsewhere, before the model projects them.
        """
        if not self.network.takes_features or "frame" not in self.meta:
            return None
        *grid, depth = self.meta["frame"]
        fitted = self.network.variables["projection"]
        return (*grid, len(fitted["mean"]) if fitted else depth)

    def with_eval(self, settings: Eval) -> "Classifier":
        """Return a copy of the model that decides clips by other settings."""
        other = copy.copy(self)
        other.__dict__.pop("_shown", None)
        other._use(replace(self.network, cfg=replace(self.cfg, eval=settings)))
        return other

    def _use(self, network: Network) -> None:
        """Replace the network, and the programs that use it."""
        self.network, self.cfg = network, network.cfg
        self._score_program = jax.jit(network.score)
        self._evaluate_program = jax.jit(network.evaluate)


def _as_long(labels_T: np.ndarray, length: int) -> np.ndarray:
    """Cut labels of frames to `length`, or extend them with -1 (not labelled)."""
    return np.concatenate([labels_T, np.full(length, -1, labels_T.dtype)])[:length]


def _first(decision: Decision, weight: float) -> Scored:
    return Scored(decision.scores_nK[0], decision.log_probs_nK[0], weight)
