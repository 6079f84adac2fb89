"""A trained model, and what it says of a clip: as a whole, and over time."""

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np

from vidrec.config import Eval, from_dict, override, plugins, user_code
from vidrec.errors import UserError
from vidrec.evaluation import decisions
from vidrec.evaluation.predict import clips, windows
from vidrec.evaluation.predict.clips import Clip
from vidrec.evaluation.predict.network import Network
from vidrec.evaluation.predict.streams import Stream
from vidrec.features.extraction import cast_features, frames_a_batch
from vidrec.features.projection import Projection
from vidrec.io import checkpoint, files, runs
from vidrec.models import encoders

TOP = 5
# Rates of 29.97 and 30 frames a second are one: a window's frames are not picked anew for that.
SAME_RATE = 0.01


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says.

    Attributes:
        scores_K: as evaluation ranks the classes.
        probabilities_K: their softmax; where scores add up log-probabilities of steps or windows,
            that of their mean, so that a long clip is not surer than a short one for its length;
            of votes the share of each class. `loss` of a result is their negative logarithm.
    """

    classes: tuple[str, ...]
    scores_K: np.ndarray
    probabilities_K: np.ndarray

    @property
    def label(self) -> str:
        """Name of the class."""
        return self.classes[int(self.scores_K.argmax())]

    @property
    def confidence(self) -> float:
        """Probability of that class."""
        return float(self.probabilities_K[int(self.scores_K.argmax())])

    @property
    def topk(self) -> list[tuple[str, float]]:
        """The five best classes and their probabilities."""
        best = np.argsort(-self.scores_K, kind="stable")[:TOP]
        return [(self.classes[k], float(self.probabilities_K[k])) for k in best]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        topk = [{"class": name, "confidence": share} for name, share in self.topk]
        return {"class": self.label, "confidence": self.confidence, "topk": topk}


@dataclass(frozen=True, eq=False)
class Window(Answer):
    """The answer for a stretch of a clip, in seconds from its first frame."""

    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Prediction(Answer):
    """The answer for a whole clip, which is evaluation's for that clip; and that over time.

    Attributes:
        frames, seconds: how many were read, and how long they last.
        notes: what the file was found lacking.
    """

    path: str
    windows: list[Window]
    frames: int
    seconds: float
    notes: list[str] = field(default_factory=list)


class Scored(NamedTuple):
    """Scores (K,), logarithms of the probabilities that they mean, and the weight of what they add
    up.
    """

    scores_K: np.ndarray
    log_probs_K: np.ndarray
    weight: float

    @property
    def probabilities_K(self) -> np.ndarray:
        """Class probabilities."""
        return np.exp(self.log_probs_K)


class Judged(NamedTuple):
    """What evaluation needs of a clip.

    Attributes:
        objective: the loss that training minimised.
        windows_MK: scores of the windows that decided; None where there are none.
    """

    scores_K: np.ndarray
    log_probs_K: np.ndarray
    objective: float
    windows_MK: np.ndarray | None


class Classifier:
    """A trained model.

    >>> model = vidrec.Classifier.load("runs/my_videos-1a2b3c4d")
    >>> answer = model.predict("new.mp4")
    >>> answer.label, answer.confidence

    Attributes:
        classes: their names.
        chosen: which trial it is of an ablation, and why; empty for a run.
        meta: what was saved with the model.
        notes: what to know of its code; mostly empty.
    """

    def __init__(
        self,
        tree: Mapping[str, Any],
        meta: Mapping[str, Any],
        chosen: str = "",
        code: Mapping[str, plugins.UserCode] | None = None,
    ):
        """`code`: the settings that name users' files, with sources that may run."""
        self.meta, self.chosen = dict(meta), chosen
        self.classes = tuple(meta["classes"])
        self.notes = plugins.changes((code or {}).values())
        cfg = override(from_dict(meta["config"]), code or {})
        self.network = Network.of(cfg, meta["length"], len(self.classes), tree)
        self.cfg = self.network.cfg
        self._score = jax.jit(self.network.score)
        self._judge = jax.jit(self.network.judge)

    @classmethod
    def load(cls, folder: str | os.PathLike, *, trust_code: bool = False) -> "Classifier":
        """The model of a run's or a trial's folder; of an ablation's, the best on validation.

        Args:
            trust_code: run the users' files that the run names, from the dataset that it keeps.

        Raises:
            UserError: the folder holds no trained model, or a damaged one; or it names code and
                nobody trusts it.
        """
        with files.reading_runs([Path(folder)]):
            trial, chosen = choose(Path(folder))
            tree, meta = checkpoint.read(trial / "model")
            named = user_code(from_dict(meta["config"]))
            kept = trial / "model" / runs.CODE
            code = plugins.trusted(trial, kept, named, meta.get("code"), trust_code)
            return cls(tree, meta, chosen, code)

    def predict(
        self,
        clip: str | os.PathLike | np.ndarray,
        *,
        every: float = 0.0,
        fps: float | None = None,
    ) -> Prediction:
        """Class and confidence of a clip, however long, and of windows along it.

        The whole clip's answer is evaluation's: of its centre segment, of frames spread over it,
        or of all windows together, as the model was trained and scored.

        Args:
            clip: a file, frames uint8 (T, H, W, 3), or features where the model was trained on such
                (an array, a .npy or .safetensors file).
            every: seconds from one window to the next; 0: half a window (with clip inference,
                eval.stride).
            fps: frames a second of an array; None: as many as training clips had.

        Raises:
            UserError: it does not fit the model.
            UnreadableClip: no frame of the file can be decoded.
        """
        return self.judge(self.open(clip, fps), every)

    def stream(self, fps: float | None = None) -> Stream:
        """Takes frames one by one and keeps the recurrent carry: a step a frame that is seen.

        Frames are seen at the rate at which training clips were: all of them by default; of a model
        whose `frames.rule` is uniform, as many a second as were spread over training clips.

        Args:
            fps: frames a second that will be pushed; None: as many as training clips had.

        Raises:
            UserError: the model needs the whole clip at once; says why.
        """
        given, seen = self._rate(fps), None
        if self.cfg.eval.inference != "single":
            pass  # windows of so many frames, as filmed
        elif self.cfg.frames.rule == "uniform":
            seconds = self.meta.get("clip_seconds") or self.meta.get("clip_frames", 0) / given
            seen = self.cfg.frames.length / seconds if seconds else None
        elif self._paced_otherwise(given):
            seen = self.meta["fps"]
        return Stream(self.network, self.classes, given, seen, self.features_like)

    def _rate(self, fps: float | None) -> float:
        """Frames a second, said or those of the training clips; 25 where nobody knows."""
        if fps is not None and not (0 < fps < float("inf")):
            raise UserError(f"fps = {fps:g}: frames a second should be above 0")
        return fps or self.meta.get("fps") or 25.0

    def judge(self, clip: Clip, every: float = 0.0) -> Prediction:
        """See `predict`."""
        plan = self._plan(clip, every)
        places: list[tuple[int, int]] = []
        scored: list[Scored] = []
        first: list[tuple[np.ndarray, np.ndarray]] = []
        if plan is None:
            total = sum(len(chunk) for chunk in clip.chunks())
        else:
            slider = windows.Slider(plan, clip.at)
            for chunk in clip.chunks():
                self._take(slider.add(self.encode(chunk)), places, scored, first)
            self._take(slider.end(), places, scored, first)
            total = slider.total
        if self.cfg.eval.inference != "single":
            whole = self._joined(scored)
        elif plan is not None and len(scored) == 1 and self._shows_all(first[0], total):
            whole = scored[0]
        else:
            whole = self._once(lambda indices: self.encode(clip.read(indices)), total)
        if plan is None:
            places, scored = [(0, total)], [whole]
        along = [
            Window(self.classes, each.scores_K, each.probabilities_K, clip.at(start), clip.at(end))
            for (start, end), each in zip(places, scored, strict=True)
        ]
        return Prediction(
            self.classes,
            whole.scores_K,
            whole.probabilities_K,
            clip.path,
            along,
            total,
            clip.at(total),
            list(clip.notes),
        )

    def evaluated(self, inputs_T: np.ndarray, label: int) -> Judged:
        """Evaluation's answer for a clip from what `encode` gives of all its frames."""
        index_L, mask_L = decisions.frames_of_clip(self.cfg, len(inputs_T))
        found = self._apply(self._judge, inputs_T[index_L], mask_L, np.array([label]))
        whole, objective, scores_MK = self._meant(*found[:2]), float(found[2][0]), None
        if self.cfg.eval.inference != "single":
            plan, scored = self._clip_plan(), []
            for start in plan.starts(len(inputs_T)):
                index_L, mask_L = plan.indices(len(inputs_T), start)
                scored.append(self._scored(inputs_T[index_L], mask_L))
            whole, scores_MK = self._joined(scored), np.stack([each.scores_K for each in scored])
        return Judged(whole.scores_K, whole.log_probs_K, objective, scores_MK)

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Frames (n, size, size, 3) to what the model scans, (n, D…), as in training."""
        return self.project(self.extract(frames))

    @cached_property
    def extract(self) -> Callable[[np.ndarray], np.ndarray]:
        """Frames to the encoder's features, as they are stored; what needs no encoder passes."""
        encoder = self.network.encoder
        if encoder is None:
            return np.asarray
        batch = min(clips.CHUNK, frames_a_batch(self.cfg.encoder.size))
        forward = encoders.extractor(encoder, self.network.variables["encoder"], batch)
        return cast_features(forward, self.network.precision)

    @cached_property
    def project(self) -> Callable[[np.ndarray], np.ndarray]:
        """Stored features to what the model scans: standardised, where it was trained so."""
        fitted = self.network.variables["projection"]
        if not fitted:
            return np.asarray
        found = Projection(np.asarray(fitted["mean"]), np.asarray(fitted["matrix"]))
        return found.__call__

    def with_eval(self, settings: Eval) -> "Classifier":
        """The same model, which decides clips in another way."""
        other = copy.copy(self)
        other.network = replace(self.network, cfg=replace(self.cfg, eval=settings))
        other.cfg = other.network.cfg
        return other

    def open(self, clip: Any, fps: float | None = None) -> Clip:
        """Anything that can be predicted, behind one interface."""
        fps = self._rate(fps)
        if isinstance(clip, np.ndarray):
            if self.network.takes_features:
                return clips.of_features(clip, "array", fps, self.features_like)
            return clips.of_array(clip, self.cfg, fps)
        if not self.network.takes_features:
            return clips.of_file(clip, self.cfg)
        return clips.of_feature_file(clip, fps, self.features_like)

    @property
    def features_like(self) -> tuple[int, ...] | None:
        """Shape of a frame's features made elsewhere; None of a model of frames."""
        if not self.network.takes_features or "frame" not in self.meta:
            return None
        *places, depth = self.meta["frame"]
        fitted = self.network.variables["projection"]
        return (*places, len(fitted["mean"]) if fitted else depth)

    def _plan(self, clip: Clip, every: float) -> windows.Plan | None:
        """How a clip's windows lie; None: it is one window, however long."""
        if not 0 <= every < float("inf"):
            raise UserError(f"every = {every:g}: seconds between windows should be positive")
        if self.cfg.eval.inference != "single":
            if every:
                raise UserError(
                    f"every = {every:g}: eval.inference = {self.cfg.eval.inference!r} has its own "
                    "windows (eval.window, eval.stride)"
                )
            return self._clip_plan()
        span = self._span(clip.fps)
        if not span:
            return None
        stride = round(every * clip.fps) if every else span // 2
        return windows.Plan(self.cfg, span, max(1, stride), fps=clip.fps)

    def _span(self, fps: float) -> int:
        """Frames of a window that lasts as long as training clips did; 0 where nobody knows."""
        length = self.cfg.frames.length
        if self.cfg.frames.rule == "uniform":
            # Frames spread over a clip are as far apart as in training only if it lasts as long.
            if seconds := self.meta.get("clip_seconds"):
                return max(1, round(seconds * fps))
            return self.meta.get("clip_frames", 0)
        rate = fps / self.meta["fps"] if self._paced_otherwise(fps) else 1.0
        return max(1, round(length * rate))

    def _paced_otherwise(self, fps: float) -> bool:
        """Whether frames follow each other at a rate that no training clip had."""
        low, high = self.meta.get("fps_range", (0, float("inf")))
        return not (low * (1 - SAME_RATE) <= fps <= high * (1 + SAME_RATE))

    def _shows_all(self, shown: tuple[np.ndarray, np.ndarray], total: int) -> bool:
        """Whether a clip's only window shows what evaluation sees of the clip."""
        pairs = zip(shown, decisions.frames_of_clip(self.cfg, total), strict=True)
        return all(np.array_equal(*pair) for pair in pairs)

    def _clip_plan(self) -> windows.Plan:
        settings = self.cfg.eval
        return windows.Plan(self.cfg, settings.window, settings.stride, clips=True)

    def _take(
        self,
        found: Iterable[windows.Shown],
        places: list[tuple[int, int]],
        scored: list[Scored],
        first: list[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """Scores windows as they come: kept are answers, and what the first one showed."""
        for window in found:
            first += [] if first else [(window.index_L, window.mask_L)]
            places.append((window.start, window.end))
            scored.append(self._scored(window.inputs, window.mask_L))

    def _once(self, read: Callable[[np.ndarray], np.ndarray], n: int) -> Scored:
        index_L, mask_L = decisions.frames_of_clip(self.cfg, n)
        return self._scored(read(index_L), mask_L)

    def _scored(self, inputs: np.ndarray, mask_L: np.ndarray) -> Scored:
        """What the model says of the frames that it sees."""
        return self._meant(*self._apply(self._score, inputs, mask_L))

    def _apply(self, program: Any, inputs: np.ndarray, mask_L: np.ndarray, *more: Any) -> Any:
        """What a program gives for these frames alone."""
        try:
            return program(self.network.variables, inputs[None], mask_L[None], *more)
        except flax.errors.ScopeParamShapeError:
            raise UserError(
                f"features of shape {list(inputs.shape[1:])} a frame are not what the model was "
                "trained on"
            ) from None

    def _meant(self, scores_BK: Any, weight_B: Any) -> Scored:
        scores_BK, weight_B = np.asarray(scores_BK, np.float64), np.asarray(weight_B, np.float64)
        decided = decisions.decide_clips(scores_BK, weight_B)
        return Scored(decided.scores_nK[0], decided.log_probs_nK[0], float(weight_B[0]))

    def _joined(self, scored: Sequence[Scored]) -> Scored:
        """A video's scores from its windows', as evaluation joins them."""
        scores_MK = np.stack([each.scores_K for each in scored])
        weight_M = np.array([each.weight for each in scored])
        place_M = np.zeros(len(scored), int)
        decided = decisions.decide_videos(scores_MK, weight_M, place_M, 1, self.cfg.eval.inference)
        return Scored(decided.scores_nK[0], decided.log_probs_nK[0], float(weight_M.sum()))


def choose(folder: Path) -> tuple[Path, str]:
    """The folder with the model to take, and why it is that one where there was a choice.

    Raises:
        UserError: no trained model there.
    """
    if (folder / "model").is_dir():
        return folder, ""
    file = folder / "ablation.json"
    if not file.is_file():
        there = "holds no trained model" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} {there}: give the folder of a finished run, of a trial, or of an ablation"
        )
    trials = files.read_json(file, files.TABLE_HOLDS)["trials"]
    rows: dict[int | str, list[tuple[float, dict]]] = {}
    for trial in trials:
        accuracy = _validated(folder / "trials" / trial["id"])
        if accuracy is not None:
            rows.setdefault(trial["row"], []).append((accuracy, trial))
    if not rows:
        raise UserError(
            f"{folder} has no finished trial with validation clips to choose by: name a trial's "
            f"folder, such as {folder / 'trials' / (trials[0]['id'] if trials else 'ID')}"
        )
    # Of equals the earliest row, and the earliest seed.
    row = max(rows, key=lambda each: np.mean([score for score, _ in rows[each]]))
    score, trial = max(rows[row], key=lambda each: (each[0], -each[1]["seed"]))
    mean, count = np.mean([each for each, _ in rows[row]]), len({t["row"] for t in trials})
    settings = ", ".join(f"{name}={value}" for name, value in trial["overrides"].items())
    text = (
        f"row {row} of {count} ({settings or 'as the base'}), the best by mean validation accuracy "
        f"({mean:.4f} over {len(rows[row])} seeds); of it seed {trial['seed']} ({score:.4f})"
    )
    return folder / "trials" / trial["id"], text


def _validated(trial: Path) -> float | None:
    """Validation accuracy of a trial that can be taken; None of any other."""
    file = trial / "result.json"
    if not file.is_file() or not (trial / "model").is_dir():
        return None
    result = files.read_result(trial)
    if result["status"] != "done":
        return None
    return result["metrics"].get("val", {}).get("accuracy")
