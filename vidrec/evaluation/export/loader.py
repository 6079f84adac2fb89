"""Runs an exported video classifier. Needs jax, numpy and flatbuffers; nothing else.

    import loader
    model = loader.load("FOLDER")                      the folder that contains this file
    label, probabilities_K = model.predict(video_THWC)  the same answer as vidrec's; label is a
                                                       list if clips may have several labels

Frames are uint8 RGB, resized to meta["input"]["frame"] beforehand. To choose the frames yourself:

    probabilities_BK = model(frames_BTHWC)             model.pick(video_THWC) chooses as vidrec
"""

import hashlib
import json
import struct
from pathlib import Path

import jax
import ml_dtypes  # comes with jax
import numpy as np
from jax import export

TYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
}


class Model:
    """A function from frames (B, T, H, W, 3) to class probabilities (B, K).

    Attributes:
        classes: names of the classes.
        meta: the content of meta.json.
    """

    def __init__(self, program, weights, meta):
        self.meta, self.classes = meta, meta["classes"]
        self._weights = jax.device_put(weights)
        self._call = jax.jit(program.call)

    def __call__(self, frames):
        """Return probabilities (B, K) of clips that all have the same number of frames."""
        wanted = self.meta["input"]
        frames = np.asarray(frames)
        if frames.dtype != wanted["dtype"] or list(frames.shape[2:]) != wanted["frame"]:
            raise ValueError(
                f"frames should be {wanted['dtype']} (B, T, "
                f"{', '.join(map(str, wanted['frame']))}), not {frames.dtype} {frames.shape}"
            )
        return np.asarray(self._call(self._weights, frames))

    def predict(self, frames):
        """Return (class, probabilities (K,)) of a clip (T, ...), as evaluation decides it.

        If a clip may have several labels, the first is the list of the labels above their
        thresholds.
        """
        decision = self.meta.get("decision", {"inference": "single"})
        several = decision.get("answers") == "several"
        if decision["inference"] == "single":
            shares = self(self.pick(frames)[None])[0]
            return self._above(shares) if several else (self.classes[shares.argmax()], shares)
        clip, stride = decision["window"], decision["stride"]
        count = 1 + max(0, -(-(len(frames) - clip) // stride))
        windows = [_folded(start * stride + np.arange(clip), len(frames)) for start in range(count)]
        if several:
            half = np.finfo(np.float32).eps / 2
            shares = np.array([self(frames[window][None])[0] for window in windows], np.float64)
            shares = np.clip(shares, half, 1 - half)
            odds = np.log(shares / (1 - shares)).mean(0)
            return self._above((1 / (1 + np.exp(-odds))).astype(np.float32))
        tiny = np.finfo(np.float32).tiny
        shares = [np.maximum(self(frames[window][None])[0], tiny) for window in windows]
        logs = np.log(np.array(shares, np.float64))
        mean = logs.mean(0)
        if decision["inference"] == "average":
            shares = np.exp(mean - mean.max())
            return self.classes[mean.argmax()], (shares / shares.sum()).astype(np.float32)
        votes = np.bincount(logs.argmax(1), minlength=len(self.classes))
        best = np.where(votes == votes.max(), mean, -np.inf).argmax()  # the mean breaks ties
        return self.classes[best], (votes / count).astype(np.float32)

    def _above(self, shares):
        """Return the labels above their thresholds, most probable first, and all probabilities."""
        thresholds = np.array(self.meta["decision"]["thresholds"])
        order = np.argsort(-shares, kind="stable")
        return [self.classes[k] for k in order if shares[k] >= thresholds[k]], shares

    def pick(self, frames):
        """Return the frames (L, ...) that the model sees of a clip (T, ...) in one pass."""
        about, n = self.meta["frames"], len(frames)
        rule, length = about["rule"], about["length"]
        position = np.arange(length)
        if rule == "uniform":
            index = (2 * position + 1) * n // (2 * length)
        elif rule == "whole":
            # A program for clips of a fixed length repeats the last frame.
            index = np.minimum(position, n - 1) if about.get("fixed") else position[:n]
        else:
            index = _folded(max(0, n - length) // 2 + position, n)
        decision, counted = self.meta.get("decision", {}), len(index)
        if rule == "whole":
            counted = min(n, length)
        if decision.get("order") == "single":
            index = np.full(len(index), index[counted // 2])
        if decision.get("order") == "shuffled":
            order = np.argsort(decision["shuffle"][:counted], kind="stable")
            index = np.concatenate([index[order], index[counted:]])
        return frames[index]


def _folded(position, n):
    """Return the frames at these positions of a clip played forwards, backwards, forwards, ..."""
    last = n - 1
    return last - np.abs(position % max(1, 2 * last) - last)


def load(folder=None):
    """Return the model of an export's folder; by default the folder that contains this file.

    Raises:
        ValueError: a file is missing, or is not the one that was exported.
    """
    program, weights, meta = _checked(Path(folder or Path(__file__).parent))
    return Model(export.deserialize(bytearray(program)), parse_weights(weights), json.loads(meta))


def _checked(folder):
    """Return the files' contents, each compared with its checksum."""
    names = ("model.stablehlo", "weights.safetensors", "meta.json")
    try:
        sums = json.loads((folder / "checksums.json").read_bytes())
        expected = [sums[name] for name in names]
        contents = [(folder / name).read_bytes() for name in names]
    except FileNotFoundError as error:
        raise ValueError(f"no complete export: {error.filename} is missing") from None
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ValueError(
            f"{folder / 'checksums.json'} is damaged: export the model again"
        ) from None
    for name, content, known in zip(names, contents, expected, strict=True):
        if hashlib.sha256(content).hexdigest() != known:
            raise ValueError(f"{folder / name} is not what was exported: export the model again")
    return contents


def parse_weights(content):
    """Return the arrays in the content of a .safetensors file."""
    (size,) = struct.unpack("<Q", content[:8])
    head = json.loads(content[8 : 8 + size])
    head.pop("__metadata__", None)
    data, weights = content[8 + size :], {}
    for name, entry in head.items():
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data[begin:end], TYPES[entry["dtype"]])
        weights[name] = array.reshape(entry["shape"])
    return weights
