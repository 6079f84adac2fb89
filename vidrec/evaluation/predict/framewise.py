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
    """What a model sees of a chunk of a clip.

    Attributes:
        inputs: (n, D…); a frame that is seen several times is repeated.
        steps_T: how many steps are made after each frame of the chunk, from the clip's first on.
    """

    inputs: np.ndarray
    steps_T: np.ndarray


def predict(model: "Classifier", clip: Clip, every: float) -> Prediction:
    """Return the segments of a clip, and how often each class is there.

    Args:
        model: a trained model of labels of frames.
        clip: the clip.
        every: seconds between windows, which segments have not: 0.

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
        # The class of the segment ranks first, also where the mean of its frames is another's.
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
    if not steps:  # too short for the frame rate: it is labelled by its first frame
        first = model.encode(next(iter(clip.chunks())))[:1]
        labeller = _AtOnce(model)
        labeller.add(first)
        said = labeller.end()
    return np.concatenate(said)[np.maximum(np.concatenate(steps_T) - 1, 0)]


def _seen(
    clip: Clip, inputs: np.ndarray, rate: float | None, before: tuple[int, int], most: int
) -> _Seen:
    """Return a chunk's frames as often as a stream would see them.

    Args:
        clip: the clip.
        inputs: of the chunk's frames.
        rate: frames a second that the model sees; None: all.
        before: frames and steps before the chunk.
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
    """Labels frames as they come, by a model that streams; no more than a chunk is in memory."""

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
        """Return nothing more."""
        return []


class _AtOnce:
    """Labels frames when all of them are there, by a model that sees later frames too."""

    def __init__(self, model: "Classifier"):
        self._model = model
        self._parts: list[np.ndarray] = []

    def add(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Keep the frames."""
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
