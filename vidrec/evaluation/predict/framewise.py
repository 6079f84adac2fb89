"""Label every frame of a clip of any length: the recurrent carry is kept between chunks."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from vidrec.errors import UserError
from vidrec.evaluation.predict.clips import CHUNK, Clip
from vidrec.evaluation.predict.prediction import Prediction, Window
from vidrec.evaluation.predict.streams import times_seen
from vidrec.evaluation.segments import segments_of

if TYPE_CHECKING:
    from vidrec.evaluation.predict.classifier import Classifier


class _Seen(NamedTuple):
    """The inputs that a model sees for a chunk of a clip.

    Attributes:
        inputs: (n, D…); a frame that is seen several times is repeated.
        steps_T: number of steps from the clip's first frame up to each frame of the chunk, this
            frame included.
    """

    inputs: np.ndarray
    steps_T: np.ndarray


def predict(model: "Classifier", clip: Clip, every: float) -> Prediction:
    """Return the segments of a clip, and the mean class probabilities over its frames.

    Args:
        model: a trained model that labels frames.
        clip: the clip.
        every: seconds between windows; it must be 0, since there are segments instead of windows.

    Raises:
        UserError: seconds between windows are given, or the clip has no frame.
    """
    if every:
        raise UserError(f"every = {every:g}: segments of labelled frames have no windows")
    probabilities_TK = _probabilities(model, clip)
    total, how = len(probabilities_TK), {"task": model.network.task, "fitted": model.fitted}
    windows = []
    for label, start, end in zip(*segments_of(probabilities_TK.argmax(-1)), strict=True):
        mean_K = probabilities_TK[start:end].mean(0)
        # The segment's class ranks first, even if another class has a higher mean probability.
        scores_K = mean_K + (np.arange(len(mean_K)) == label)
        frames = (int(start), int(end)) if model.network.takes_features else None
        windows.append(
            Window(
                model.classes,
                scores_K,
                mean_K,
                clip.at(start),
                clip.at(end),
                frames=frames,
                **how,
            )
        )
    mean_K = probabilities_TK.mean(0)
    seconds, notes = clip.at(total), list(clip.notes)
    return Prediction(
        model.classes, mean_K, mean_K, clip.path, windows, total, seconds, notes, **how
    )


def _probabilities(model: "Classifier", clip: Clip) -> np.ndarray:
    """Return class probabilities of each frame, (T, K)."""
    rate = model.meta["fps"] if model.paced_otherwise(clip.fps) else None
    length, frames, steps = model.cfg.frames.length, 0, 0
    said: list[np.ndarray] = []
    steps_T: list[np.ndarray] = []
    labeller = _InChunks(model) if model.network.model.streams else _AtOnce(model)
    for chunk in clip.chunks():
        inputs = model.encode(chunk)
        seen = _seen(clip, inputs, rate, (frames, steps), length)
        said += labeller.add(seen.inputs)
        frames, steps = frames + len(inputs), int(seen.steps_T[-1])
        steps_T.append(seen.steps_T)
    said += labeller.end()
    if not steps:  # the clip is too short for the frame rate: its first frame labels it
        first = model.encode(next(iter(clip.chunks())))[:1]
        labeller = _AtOnce(model)
        labeller.add(first)
        said = labeller.end()
    return np.concatenate(said)[np.maximum(np.concatenate(steps_T) - 1, 0)]


def _seen(
    clip: Clip, inputs: np.ndarray, rate: float | None, before: tuple[int, int], most: int
) -> _Seen:
    """Return a chunk's inputs, each frame as often as a stream would see it.

    Args:
        clip: the clip.
        inputs: inputs of the chunk's frames.
        rate: frames a second that the model sees; None: every frame.
        before: numbers of frames and of steps before the chunk.
        most: the largest number of times that one frame is seen.
    """
    frames, steps = before
    if rate is None:
        return _Seen(inputs, steps + np.arange(1, len(inputs) + 1))
    times: list[int] = []
    for frame in range(frames, frames + len(inputs)):
        times.append(times_seen(clip.at(frame + 1), rate, steps + sum(times), most))
    return _Seen(np.repeat(inputs, times, 0), steps + np.cumsum(times))


class _InChunks:
    """Labels frames chunk by chunk with a model that streams; one chunk is in memory."""

    def __init__(self, model: "Classifier"):
        self._model, self._carry = model, None
        self._program = jax.jit(model.network.label)

    def add(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Return the probabilities of these frames, in parts (n, K)."""
        said = []
        for start in range(0, len(inputs), CHUNK):
            part = inputs[start : start + CHUNK]
            padded = np.zeros((1, CHUNK, *part.shape[1:]), np.asarray(part).dtype)
            padded[0, : len(part)] = part
            mask = (np.arange(CHUNK) < len(part))[None]
            if self._carry is None:
                self._carry = self._model.network.begin(jax.numpy.asarray(part[:1]))["scanner"]
            variables = self._model.network.variables
            self._carry, probabilities = self._program(variables, padded, mask, self._carry)
            said.append(np.asarray(probabilities)[0, : len(part)])
        return said

    def end(self) -> list[np.ndarray]:
        """Return an empty list: `add` has labelled all frames."""
        return []


class _AtOnce:
    """Labels all frames of a clip at once, with a model that sees later frames too."""

    def __init__(self, model: "Classifier"):
        self._model = model
        self._parts: list[np.ndarray] = []

    def add(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Keep the inputs of frames until `end`; return an empty list."""
        self._parts.append(np.asarray(inputs))
        return []

    def end(self) -> list[np.ndarray]:
        """Return the probabilities of all frames, (T, K)."""
        inputs: Any = np.concatenate(self._parts)[None]
        if not inputs.shape[1]:
            return []
        network, mask = self._model.network, np.ones((1, inputs.shape[1]), bool)
        _, probabilities = jax.jit(network.label)(network.variables, inputs, mask)
        return [np.asarray(probabilities)[0]]
