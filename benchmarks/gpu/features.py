"""Frames a second of frozen encoders at 224x224, frames already on the device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import harness
from benchmarks.gpu.harness import OURS, Record, Side
from vidrec import config
from vidrec.errors import UserError
from vidrec.models import encoders
from vidrec.sweeps import cost

BATCH = 256
NOT_BUILT = ("resnet50", "efficientnet_lite0")


def run(record: Record) -> None:
    """Time VGG16 beside PyTorch, channels last; what is not built yet says so."""
    size, batch = (32, 2) if record.tiny else (224, BATCH)
    for precision in ("bfloat16", "tf32"):
        with record.part("VGG16 features", precision=precision):
            vgg(record, precision, size, batch)
    with record.part("SqueezeNet features"):
        squeeze(record, 64 if record.tiny else size, batch)
    for kind in NOT_BUILT:
        try:
            encoders.build(config.Encoder(kind=kind, pooling="average"))
            note = "built, but without a section yet"
        except UserError:
            note = "not built yet"
        record.row(f"{kind} features", note=note)


def module_of(kind: str, low: str, size: int) -> tuple[Any, Any]:
    """Return an encoder with random weights."""
    settings = config.Encoder(kind=kind, pooling="average", size=size, normalize="torch", dtype=low)
    module = encoders.build(settings)
    return module, encoders.init(module, settings)


def frames_of(size: int, batch: int) -> list[np.ndarray]:
    """Return two batches of random pixels."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (batch, size, size, 3), np.uint8) for _ in range(2)]


def operations(module: Any, variables: Any, size: int) -> float:
    """Return a frame's floating-point operations."""
    frame = jnp.zeros((1, size, size, 3), jnp.uint8)
    return float(cost.operations(jax.make_jaxpr(module.apply)(variables, frame).jaxpr))


def our_side(module: Any, variables: Any, frames: list) -> Side:
    """Return our encoder, compiled."""
    forward = jax.jit(module.apply)
    given = [jnp.asarray(each) for each in frames]
    return harness.jax_side(
        lambda i: forward(variables, given[i % 2]), lambda out: {"features": np.asarray(out)}
    )


def vgg(record: Record, precision: str, size: int, batch: int) -> None:
    """Compare and time VGG16."""
    low = "bfloat16" if precision == "bfloat16" else "float32"
    frames = frames_of(size, batch)
    exact, variables = module_of("vgg16", "float32", size)
    with harness.precision_of("float32"):
        out = jax.jit(exact.apply)(variables, jnp.asarray(frames[0]))
    truth = {"features": np.asarray(out)}
    module, _ = module_of("vgg16", low, size)
    with harness.precision_of(precision):
        sides = {OURS: our_side(module, variables, frames)}
        if harness.has_torch():
            sides["torch"] = vgg_torch(variables, frames, low)
        right = harness.compare(record, "VGG16 features", precision, sides, truth)
        each = operations(module, variables, size)
        about = {"precision": precision, "frames": batch, "operations_a_frame": each}
        if right:
            harness.timed(record, "VGG16 features", right, **about)


def squeeze(record: Record, size: int, batch: int) -> None:
    """Time SqueezeNet."""
    module, variables = module_of("squeezenet", "bfloat16", size)
    side = our_side(module, variables, frames_of(size, batch))
    side.wait(side.run(0))
    each = operations(module, variables, size)
    about = {"precision": "bfloat16", "frames": batch, "operations_a_frame": each}
    harness.timed(record, "SqueezeNet features", {OURS: side}, **about)


def vgg_torch(variables: Any, frames: list, low: str, *, compiled: bool = False) -> Side:
    """Return torchvision's layers with our weights, channels last."""
    import torch
    import turns
    import vgg16_features

    from vidrec.models.encoders import preprocess

    device, dtype = turns.torch_device(), getattr(torch, low)
    layers: list[Any] = []
    before, kernels = 3, iter(vgg16_features.weights_of(variables))
    module, _ = module_of("vgg16", low, frames[0].shape[1])
    for block in module.channels:
        for width in block:
            conv = torch.nn.Conv2d(before, width, 3, padding=1)
            kernel, bias = next(kernels)
            conv.weight.data, conv.bias.data = torch.tensor(kernel), torch.tensor(bias)
            layers += [conv, torch.nn.ReLU(inplace=True)]
            before = width
        layers.append(torch.nn.MaxPool2d(2, 2))
    net = torch.nn.Sequential(*layers).eval()
    net = net.to(device, dtype, memory_format=torch.channels_last)
    mean, std = (
        torch.tensor(each, device=device)[:, None, None]
        for each in (preprocess.TORCH_MEAN_RGB, preprocess.TORCH_STD_RGB)
    )

    def forward(x: Any) -> Any:
        x = (x.permute(0, 3, 1, 2).float() / 255 - mean) / std
        return net(x.to(dtype)).float().mean((2, 3))

    work = torch.compile(forward) if compiled else forward
    given = [torch.from_numpy(each).to(device) for each in frames]

    def call(index: int) -> Any:
        with torch.inference_mode():
            return work(given[index % 2])

    return harness.torch_side(call, lambda out: {"features": out.float().cpu().numpy()})


def compiled(record: Record) -> None:
    """Time PyTorch's compiled VGG16."""
    if not harness.has_torch():
        record.row("VGG16 features", "torch compiled", note="no PyTorch here")
        return
    size, batch = (32, 2) if record.tiny else (224, BATCH)
    frames = frames_of(size, batch)
    _, variables = module_of("vgg16", "float32", size)
    with record.part("VGG16 features", "torch compiled"), harness.precision_of("bfloat16"):
        side = vgg_torch(variables, frames, "bfloat16", compiled=True)
        side.wait(side.run(0))
        harness.timed(
            record,
            "VGG16 features",
            {"torch compiled": side},
            precision="bfloat16",
            frames=batch,
        )
