"""VGG16 features of 224x224 frames, frames a second: ours beside the same network in PyTorch.

    python benchmarks/vgg16_features.py                  16 frames a turn on a processor
    python benchmarks/vgg16_features.py --peak 989       on a GPU: share of its bfloat16 peak, too
    python benchmarks/vgg16_features.py --frames 2 --batch 2 --rounds 2 --size 32    a first look

Frames lie in memory as bytes; what is timed takes them `--batch` at a time and gives 512 numbers a
frame, in memory again. Ours is the extractor that fills the feature store. PyTorch's has the layers
of torchvision's `features` in their order, written out, channels last, and ours' random weights;
its compiled form is timed where a compiler works. float32 on a processor, bfloat16 on a GPU, where
--peak is the card's in TFLOPS. Features are compared before anything is timed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import turns

from vidrec import config
from vidrec.features import extraction
from vidrec.models import encoders
from vidrec.models.encoders import preprocess
from vidrec.sweeps import cost

NEAR = {"float32": 1e-3, "bfloat16": 5e-2}  # of the largest feature
Extract = Callable[[], np.ndarray]


def weights_of(variables: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernels (out, in, 3, 3) and biases of the convolutions, in order."""
    blocks = variables["params"]
    return [
        (
            np.ascontiguousarray(np.asarray(layer["kernel"]).transpose(3, 2, 0, 1)),
            np.array(layer["bias"]),
        )
        for block in sorted(blocks)
        for _, layer in sorted(blocks[block].items())
    ]


def in_torch(
    kernels: list[tuple[np.ndarray, np.ndarray]],
    channels: tuple[tuple[int, ...], ...],
    frames: np.ndarray,
    batch: int,
    compute: str,
    compiled: bool,
) -> Extract:
    """torchvision's VGG16 up to its last pool, and the average over places."""
    import torch

    device, dtype = turns.torch_device(), getattr(torch, compute)
    layers, before, given = [], 3, iter(kernels)
    for block in channels:
        for width in block:
            conv = torch.nn.Conv2d(before, width, 3, padding=1)
            kernel, bias = next(given)
            conv.weight.data, conv.bias.data = torch.tensor(kernel), torch.tensor(bias)
            layers += [conv, torch.nn.ReLU(inplace=True)]
            before = width
        layers.append(torch.nn.MaxPool2d(2, 2))
    features = torch.nn.Sequential(*layers).eval()
    features = features.to(device, dtype, memory_format=torch.channels_last)
    mean, std = (
        torch.tensor(each, device=device)[:, None, None]
        for each in (preprocess.TORCH_MEAN_RGB, preprocess.TORCH_STD_RGB)
    )

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = (x.permute(0, 3, 1, 2).float() / 255 - mean) / std
        return features(x.to(dtype)).float().mean((2, 3))

    run = torch.compile(forward) if compiled else forward

    def extract() -> np.ndarray:
        with torch.inference_mode():
            parts = [run(torch.from_numpy(part).to(device)) for part in in_batches(frames, batch)]
            return torch.cat(parts).cpu().numpy()

    return extract


def in_batches(frames: np.ndarray, batch: int) -> list[np.ndarray]:
    """As many whole batches as there are."""
    return [frames[first : first + batch] for first in range(0, len(frames), batch)]


def reason(error: Exception) -> str:
    """The line of an error that says most."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def main() -> None:
    """Compares, then times."""
    small = jax.default_backend() == "cpu"
    words = turns.arguments(__doc__)
    turns.sizes(words, frames=16 if small else 2048, size=224, rounds=5)
    turns.sizes(words, batch=extraction.frames_a_batch(224) if small else 256)
    words.add_argument("--compute", choices=NEAR, default="float32" if small else "bfloat16")
    words.add_argument("--peak", type=float, default=0.0, help="of the card, in TFLOPS")
    words.add_argument("--eager", action="store_true", help="leave torch.compile out")
    given = words.parse_args()
    settings = config.Encoder(
        kind="vgg16",
        pooling="average",
        size=given.size,
        normalize="torch",
        weights="random",
        dtype=given.compute,
    )
    module = encoders.build(settings)
    variables = encoders.init(module, settings)
    count = -(-given.frames // given.batch) * given.batch
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (count, given.size, given.size, 3), np.uint8)
    extract = encoders.extractor(module, variables, given.batch)
    sides: dict[str, Extract] = {turns.OURS: lambda: extract(frames)}
    common = (weights_of(variables), module.channels, frames, given.batch, given.compute)
    sides["torch"] = in_torch(*common, False)
    notes = []
    if not given.eager:
        sides["torch compiled"] = in_torch(*common, True)
    reference = sides[turns.OURS]()
    furthest = 0.0
    for name in list(sides)[1:]:
        try:
            found = sides[name]()
        except Exception as error:  # compilers fail in ways of their own
            if name != "torch compiled":
                raise
            notes.append(f"torch.compile does not work here: {reason(error)}")
            del sides[name]
            continue
        furthest = max(furthest, turns.compare(name, found, reference, NEAR[given.compute]))
    found = turns.figures(turns.seconds(sides, given.rounds))
    traced = jax.make_jaxpr(module.apply)(variables, jnp.zeros((1, *frames.shape[1:]), jnp.uint8))
    operations = cost.operations(traced.jaxpr)
    for side in found.values():
        side["frames_a_second"] = round(count / side["seconds"], 2)
        side["tflops"] = round(operations * count / side["seconds"] / 1e12, 3)
        if given.peak:
            side["share_of_peak"] = round(side["tflops"] / given.peak, 3)
    answer = {
        "work": "VGG16 features",
        "frames": turns.shown(given, "rounds", "eager") | {"taken": count},
        "sides": found,
        "features_off_at_most": furthest,
        "frames_a_second": {name: side["frames_a_second"] for name, side in found.items()},
        "notes": notes,
        "versions": turns.versions("torch"),
    }
    turns.show(answer, given.json)


if __name__ == "__main__":
    main()
