"""Use a network in an ONNX file, run by ONNX Runtime on the host; always frozen.

A run stores the file's content, so that the run can be used on machines without the file. Only
operators of ONNX and of ONNX Runtime itself run: libraries that a file asks for are not loaded.
"""

import functools
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from vidrec import config
from vidrec.errors import UserError
from vidrec.io import files
from vidrec.io.machine import how_to_install
from vidrec.models.encoders import onnx_file
from vidrec.models.encoders.host import Encode, HostEncoder
from vidrec.models.encoders.preprocess import CAFFE_MEAN_BGR, TORCH_MEAN_RGB, TORCH_STD_RGB

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


class Input(NamedTuple):
    """The input of a network.

    Attributes:
        name: Name of the input.
        dtype: Type of its numbers.
        channels_first: True: pixels are (B, C, H, W); False: (B, H, W, C).
        batch: Number of frames that the network takes at once; 0: any number.
        size: Height and width of frames; 0: any.
    """

    name: str
    dtype: Any
    channels_first: bool
    batch: int
    size: int


@dataclass(frozen=True)
class OnnxNet(HostEncoder):
    """A network in an ONNX file; `encoder` returns the class of each.

    Attributes:
        pooling: How maps and tokens become features: average (B,D); map (B,h,w,D); flatten.
        normalize: unit, torch or caffe; own: by `pixel_mean` and `pixel_std`, or else by the file's
            `image_mean` and `image_std`.
        pixel_mean: Mean of each RGB channel, for pixels from 0 to 1; empty: that of the file.
        pixel_std: Standard deviation of each RGB channel, likewise.
        layout: Order of the axes of pixels and maps; auto: found from the input's shape.
        output: Name of the output; "": the first.
        tokens: Which tokens are averaged if the output is tokens (B,N,D): mean: all; first: the
            first; patches: all but the first.
        FILE: Path of the file.
        POOLINGS: Values of `pooling` that the encoder has.
        requires: The size of frames, if the file fixes it.
        defaults: Size, normalization and batch size from the file.
    """

    pooling: str = "average"
    normalize: str = "own"
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    layout: Literal["auto", "NCHW", "NHWC"] = "auto"
    output: str = ""
    tokens: Literal["mean", "first", "patches"] = "mean"

    FILE: ClassVar[str] = ""
    POOLINGS: ClassVar[tuple[str, ...]] = ("average", "map", "flatten")
    requires: ClassVar[Mapping[str, Any]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}

    def variables(self) -> dict[str, Any]:
        """Return the file's bytes, which a run keeps."""
        path = files.expanded(self.FILE)
        if not path.is_file():
            raise UserError(f"encoder.kind: there is no file {path}")
        content = onnx_file.read(path)
        return {"constants": {"onnx": np.frombuffer(content, np.uint8)}}

    def feature_shape(self, size: int) -> tuple[int, ...]:
        """Return the shape of the features of one frame, found by encoding a black one."""
        encode = self.extractor(self.variables(), 1)
        return encode(np.zeros((1, size, size, 3), np.uint8)).shape[1:]

    def extractor(self, variables: Mapping[str, Any], batch: int) -> Encode:
        """Return a function from frames (n, H, W, 3) to features; see `HostEncoder`."""
        session = _opened(np.asarray(variables["constants"]["onnx"]).tobytes(), self.FILE)
        taken = _input(session, self.FILE, self.layout)
        output = self._output(session)
        scale, shift = self._normalization(session)
        batch = taken.batch or batch

        def run(frames: np.ndarray) -> np.ndarray:
            x = frames[..., ::-1] if self.normalize == "caffe" else frames
            x = x if taken.dtype is np.uint8 else (x.astype(np.float32) * scale + shift)
            x = np.moveaxis(x, -1, 1) if taken.channels_first else x
            x = np.ascontiguousarray(x, taken.dtype)
            return self._read(_run(session, output, {taken.name: x}, self.FILE), taken, len(frames))

        def extract(frames: np.ndarray) -> np.ndarray:
            done = []
            for start in range(0, max(len(frames), 1), batch):
                part = frames[start : start + batch]
                padding = [(0, batch - len(part))] + [(0, 0)] * (part.ndim - 1)
                done.append(run(np.pad(part, padding))[: len(part)])
            return np.concatenate(done)

        return extract

    def _output(self, session: Any) -> str:
        names = [entry.name for entry in session.get_outputs()]
        if self.output and self.output not in names:
            raise UserError(
                f"encoder.args: {self.FILE} has no output {self.output!r}; it has "
                f"{', '.join(names)}"
            )
        return self.output or names[0]

    def _normalization(self, session: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and shift of each channel, for pixels from 0 to 255."""
        mean: Sequence[float]
        std: Sequence[float]
        if self.normalize == "unit":
            mean, std = (0.0,) * 3, (1.0,) * 3
        elif self.normalize == "torch":
            mean, std = TORCH_MEAN_RGB, TORCH_STD_RGB
        elif self.normalize == "caffe":
            mean, std = tuple(value / 255 for value in CAFFE_MEAN_BGR), (1 / 255,) * 3
        else:
            said = _metadata(session, self.FILE)
            mean = self.pixel_mean or said.get("image_mean", ())
            std = self.pixel_std or said.get("image_std", ())
            if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
                raise UserError(_unknown_normalization(self.FILE))
        scale = 1 / (255 * np.asarray(std, np.float64))
        shift = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
        return scale.astype(np.float32), shift.astype(np.float32)

    def _read(self, x: np.ndarray, taken: Input, frames: int) -> np.ndarray:
        """Return features from the network's output: (B,D), tokens (B,N,D) or maps."""
        if x.ndim not in (2, 3, 4) or len(x) != frames or not np.issubdtype(x.dtype, np.floating):
            raise UserError(
                f"{self.FILE} gives {x.dtype}{list(x.shape)} of {frames} frames: should be (B, D), "
                'tokens (B, N, D) or maps of numbers with a point; encoder.args \'{"output": '
                "NAME}' names another output"
            )
        x = x.astype(np.float32)
        if x.ndim == 4 and taken.channels_first:
            x = np.moveaxis(x, 1, -1)
        if self.pooling == "map" and x.ndim != 4:
            raise UserError(
                f"encoder.pooling = 'map': {self.FILE} gives no maps but {list(x.shape[1:])} a "
                "frame; take average or flatten"
            )
        if x.ndim == 2 or self.pooling == "map":
            return x
        if self.pooling == "flatten":
            return x.reshape(len(x), -1)
        if x.ndim == 4:
            return x.mean((1, 2))
        chosen = {"mean": x, "first": x[:, :1], "patches": x[:, 1:]}[self.tokens]
        return chosen.mean(1)


def encoder(kind: str) -> type[OnnxNet]:
    """Return the class of the encoder in an ONNX file.

    If the file is missing, the class does not know its size and normalization. A finished run has
    both in its settings, and also the file's content.
    """
    path = files.expanded(kind)
    declared: dict[str, Any] = {}
    if path.is_file():
        declared = _declared(str(path), config.file_hash(path))
    return _class(kind, json.dumps(declared))


@functools.cache
def _class(kind: str, declared: str) -> type[OnnxNet]:
    attributes = {"__doc__": OnnxNet.__doc__, "__module__": __name__, "FILE": kind}
    return type("OnnxNet", (OnnxNet,), attributes | json.loads(declared))


@functools.cache
def _declared(file: str, content: str) -> dict[str, Any]:
    """Return `requires` and `defaults` of a file's class, once for each content."""
    del content
    session = _opened(onnx_file.read(Path(file)), file)
    taken, said = _input(session, file), _metadata(session, file)
    known = "image_mean" in said and "image_std" in said
    size = taken.size or int(said.get("image_size", [224])[0])
    batch = {"batch": taken.batch} if taken.batch else {}
    # A network that takes uint8 pixels needs no normalization.
    normalize = "own" if known else "unit" if taken.dtype is np.uint8 else "own"
    defaults = {"size": size, "normalize": normalize, **batch}
    return {"requires": {"size": taken.size} if taken.size else {}, "defaults": defaults}


def _opened(content: bytes, name: str) -> Any:
    """Return an ONNX Runtime session for a file's content.

    Raises:
        UserError: ONNX Runtime is missing, or does not accept the file.
    """
    return _session(hashlib.sha256(content).hexdigest(), _Content(content), name)


class _Content:
    """Bytes that compare equal to all others, so that a cache compares only their SHA-256."""

    def __init__(self, content: bytes):
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Content)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=4)
def _session(sha256: str, content: _Content, name: str) -> Any:
    if importlib.util.find_spec("onnxruntime") is None:
        how = how_to_install("onnx")
        raise UserError(f"encoder.kind = {name}: ONNX Runtime is not installed: {how}")
    onnx_file.check(content.content, name)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its exceptions say what is wrong
    there = onnxruntime.get_available_providers()
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [provider for provider in wanted if provider in there]
    try:
        return onnxruntime.InferenceSession(content.content, options, providers=providers)
    except Exception as error:  # its errors have no common base class but this one
        raise UserError(
            f"{name} (SHA-256 {sha256[:16]}…) is no network that ONNX Runtime "
            f"{onnxruntime.__version__} runs ({_first_line(error)})"
        ) from None


def _run(session: Any, output: str, inputs: dict[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return np.asarray(session.run([output], inputs)[0])
    except Exception as error:
        [array] = inputs.values()
        raise UserError(
            f"{name} cannot encode {array.dtype}{list(array.shape)} ({_first_line(error)}); see "
            "encoder.size and the layout in encoder.args"
        ) from None


def _input(session: Any, name: str, layout: str = "auto") -> Input:
    """Return the input of a network.

    Raises:
        UserError: The network has several inputs, or its input is not square RGB frames.
    """
    inputs = session.get_inputs()
    shape = inputs[0].shape if inputs else None
    if len(inputs) != 1 or not shape or len(shape) != 4 or inputs[0].type not in TYPES:
        said = ", ".join(f"{entry.name} {entry.type}{entry.shape}" for entry in inputs)
        raise UserError(f"{name} should take pictures alone, (B, 3, H, W) or (B, H, W, 3): {said}")
    batch, *rest = (n if isinstance(n, int) and n > 0 else 0 for n in shape)
    if layout == "auto":
        layout = "NHWC" if rest[2] == 3 and rest[0] != 3 else "NCHW"
    channels, height, width = rest if layout == "NCHW" else (rest[2], rest[0], rest[1])
    if channels not in (0, 3) or (height and width and height != width):
        raise UserError(
            f"{name} takes {shape}: should be (B, 3, H, W) or (B, H, W, 3) with as much height as "
            "width"
        )
    dtype = TYPES[inputs[0].type]
    return Input(inputs[0].name, dtype, layout == "NCHW", batch, height or width)


def _metadata(session: Any, name: str) -> dict[str, list[float]]:
    """Return the numbers in a file's metadata: image_size, image_mean and image_std."""
    said = session.get_modelmeta().custom_metadata_map
    numbers: dict[str, list[float]] = {}
    for key in ("image_size", "image_mean", "image_std"):
        if key in said:
            try:
                numbers[key] = [float(part) for part in said[key].strip("[]() ").split(",")]
            except ValueError:
                raise UserError(f"{name}: its {key} = {said[key]!r} should be numbers") from None
    return numbers


def _unknown_normalization(name: str) -> str:
    return (
        f"{name} does not say how it wants its pixels: give encoder.normalize = torch, unit or "
        'caffe, or encoder.args \'{"pixel_mean": [R, G, B], "pixel_std": [R, G, B]}\' (from 0 to '
        "1), or write image_mean and image_std into the file's metadata"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
