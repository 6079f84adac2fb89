"""Frames a second of frozen encoders at 224x224, frames already on the device.

Both sides have PyTorch's random weights: ours reads them from a `.pth`, as users do. Without
PyTorch, the encoder has its own random weights, and its results are not compared.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import harness
from benchmarks.gpu.harness import OURS, Record, Side
from vidrec import config
from vidrec.models import encoders
from vidrec.sweeps import cost

BATCH = 256
COMPARED = 8  # frames whose features are compared
# Each encoder's name in the table, and how its weights want pixels.
KINDS = {
    "vgg16": ("VGG16", "torch"),
    "resnet50": ("ResNet-50", "torch"),
    "efficientnet_lite0": ("EfficientNet-Lite0", "signed"),
    "squeezenet": ("SqueezeNet", "torch"),
}
PRECISIONS = {"bfloat16": "bfloat16", "tf32": "float32"}  # what arrays are stored as


class Weights(NamedTuple):
    """The same random weights for both sides.

    Attributes:
        network: PyTorch's; None where it is missing.
        file: that ours reads; "random" where PyTorch is missing.
    """

    network: Any
    file: str


def run(record: Record) -> None:
    """Time each encoder beside PyTorch's, channels last."""
    size, batch = sizes(record)
    for kind, (name, _) in KINDS.items():
        if record.wants(kind):
            with record.part(f"{name} features"), random_weights(kind) as weights:
                given = prepared(kind, weights, frames_of(size, batch))
                for precision in PRECISIONS:
                    if record.left() > 0:
                        measure(record, kind, weights, precision, given)


def compiled(record: Record) -> None:
    """Time PyTorch's compiled encoders."""
    size, batch = sizes(record)
    # Compiling takes PyTorch some minutes on a CPU.
    kinds = ("vgg16",) if record.tiny else KINDS
    for kind in kinds:
        work = f"{KINDS[kind][0]} features"
        if not harness.has_torch():
            record.row(work, "torch compiled", note="no PyTorch here")
        elif record.left() > 0:
            with record.part(work, "torch compiled"), random_weights(kind) as weights:
                frames = frames_of(size, batch)
                given = (kind, weights.network, frames, "bfloat16")
                plain = torch_side(*given)
                truth = plain.result(plain.run(0))
                sides = {"torch compiled": torch_side(*given, compiled=True)}
                right = harness.compare(record, work, "bfloat16", sides, truth)
                if right:
                    about = {"precision": "bfloat16", "frames": batch}
                    harness.timed(record, work, right, **about)


class Given(NamedTuple):
    """What both sides get and are compared with.

    Attributes:
        frames: two batches of pixels.
        features: of the first frames, in float32.
        operations: floating-point operations of a frame.
    """

    frames: list[np.ndarray]
    features: dict[str, np.ndarray]
    operations: float


def prepared(kind: str, weights: Weights, frames: list[np.ndarray]) -> Given:
    """Return the frames with their features in float32, and a frame's operations."""
    module, variables = built(kind, weights, frames, "float32")
    with harness.precision_of("float32"):
        out = jax.jit(module.apply)(variables, jnp.asarray(frames[0][:COMPARED]))
    return Given(frames, compared(out), operations(module, variables, frames))


def measure(record: Record, kind: str, weights: Weights, precision: str, given: Given) -> None:
    """Compare the sides with float32 and time those that are right."""
    work, low = f"{KINDS[kind][0]} features", PRECISIONS[precision]
    frames = given.frames
    module, variables = built(kind, weights, frames, low)
    with harness.precision_of(precision):
        sides = {OURS: our_side(module, variables, frames)}
        if weights.network is not None:
            sides["torch"] = torch_side(kind, weights.network, frames, low)
        right = harness.compare(record, work, precision, sides, given.features)
        about = {"precision": precision, "frames": len(frames[0])}
        about |= {"operations_a_frame": given.operations}
        if right:
            harness.timed(record, work, right, **about)


@contextmanager
def random_weights(kind: str) -> Iterator[Weights]:
    """Give both sides the same random weights."""
    if not harness.has_torch():
        yield Weights(None, "random")
        return
    from benchmarks import encoders as networks

    with tempfile.TemporaryDirectory() as folder:
        yield Weights(*networks.saved(kind, folder))


def built(kind: str, weights: Weights, frames: list, low: str) -> tuple[Any, Any]:
    """Return our encoder and its weights."""
    settings = config.Encoder(
        kind=kind,
        pooling="average",
        size=frames[0].shape[1],
        normalize=KINDS[kind][1],
        weights=weights.file,
        dtype=low,
    )
    settings = encoders.resolved(settings)
    module = encoders.build(settings)
    return module, encoders.init(module, settings)


def our_side(module: Any, variables: Any, frames: list) -> Side:
    """Return our encoder, compiled."""
    forward = jax.jit(module.apply)
    given = [jnp.asarray(each) for each in frames]
    return harness.jax_side(lambda i: forward(variables, given[i % 2]), compared)


def torch_side(kind: str, network: Any, frames: list, low: str, *, compiled: bool = False) -> Side:
    """Return PyTorch's encoder, channels last."""
    import copy

    import torch
    import turns

    from benchmarks import encoders as networks

    device, dtype = turns.torch_device(), getattr(torch, low)
    net = copy.deepcopy(network).to(device, dtype, memory_format=torch.channels_last)
    pixels = networks.pixels_of(kind)
    mean, std = (torch.tensor(each, device=device)[:, None, None] for each in pixels)

    def forward(x: Any) -> Any:
        x = (x.permute(0, 3, 1, 2).float() - mean) / std
        return net(x.to(dtype)).float().mean((2, 3))

    work = torch.compile(forward) if compiled else forward
    given = [torch.from_numpy(each).to(device) for each in frames]

    def call(index: int) -> Any:
        with torch.inference_mode():
            return work(given[index % 2])

    return harness.torch_side(call, lambda out: compared(out.float().cpu().numpy()))


def compared(features: Any) -> dict[str, np.ndarray]:
    """Return the features that are compared with float32's."""
    return {"features": np.asarray(features, np.float32)[:COMPARED]}


def sizes(record: Record) -> tuple[int, int]:
    """Return a frame's height and width, and how many frames a call takes."""
    return (64, 2) if record.tiny else (224, BATCH)


def frames_of(size: int, batch: int) -> list[np.ndarray]:
    """Return two batches of random pixels."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (batch, size, size, 3), np.uint8) for _ in range(2)]


def operations(module: Any, variables: Any, frames: list) -> float:
    """Return a frame's floating-point operations."""
    frame = jax.ShapeDtypeStruct((1, *frames[0].shape[1:]), jnp.uint8)
    return float(cost.operations(jax.make_jaxpr(module.apply)(variables, frame).jaxpr))
