"""Measure frames a second of an encoder, and of the same network in PyTorch.

    python benchmarks/encoders.py                        EfficientNet-Lite0, 224x224
    python benchmarks/encoders.py --kind resnet50        or squeezenet, or vgg16
    python benchmarks/encoders.py --busy                 seconds of a core, where others work
    python benchmarks/encoders.py --frames 2 --batch 2 --rounds 2 --size 64    a first look

Frames lie in memory as bytes; what is timed takes them `--batch` at a time and gives a row of
features a frame, in memory again. Ours is the extractor that fills the feature store. PyTorch's is
written out here layer by layer, channels last, in evaluation mode, with random weights that ours
reads from a `.pth`; both take all cores. Features are compared before anything is timed. If others
use the machine, threads that wait for each other distort the times. --busy gives PyTorch one thread
and counts the CPU seconds of all of a side's threads.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import turns
from torch import nn
from torch.nn import functional

from vidrec import config
from vidrec.features import extraction
from vidrec.models import encoders
from vidrec.models.encoders import efficientnet

NEAR = 1e-3  # of the largest feature
# SqueezeNet's blocks, narrow and wide; a pool stands for 0.
FIRES = (
    *((0, 0), (16, 64), (16, 64), (0, 0), (32, 128), (32, 128), (0, 0)),
    *((48, 192), (48, 192), (64, 256), (64, 256)),
)
TORCH_MEAN, TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Same(nn.Conv2d):
    """A convolution with zeros as TensorFlow puts them: more behind than before."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pads only where the zeros are not as many on both sides."""
        [k, _], [stride, _] = self.kernel_size, self.stride
        total = [max((-(-n // stride) - 1) * stride + k - n, 0) for n in x.shape[-1:-3:-1]]
        if any(n % 2 for n in total):
            x = functional.pad(x, [side for n in total for side in (n // 2, n - n // 2)])
            total = [0, 0]
        around = [n // 2 for n in total[::-1]]
        return functional.conv2d(x, self.weight, None, stride, around, 1, self.groups)


class Inverted(nn.Module):
    """EfficientNet-Lite's block, by timm's names."""

    def __init__(self, inputs: int, plan: efficientnet.Plan, stride: int):
        super().__init__()
        wide = inputs * plan.expand
        self.adds, self.widens = stride == 1 and inputs == plan.channels, plan.expand > 1
        norms = (nn.BatchNorm2d(n, eps=efficientnet.EPSILON) for n in (wide, wide, plan.channels))
        if self.widens:
            self.conv_pw, self.bn1 = nn.Conv2d(inputs, wide, 1, bias=False), next(norms)
        self.conv_dw = Same(wide, wide, plan.window, stride, groups=wide, bias=False)
        last = nn.Conv2d(wide, plan.channels, 1, bias=False)
        if self.widens:
            self.bn2, self.conv_pwl, self.bn3 = next(norms), last, next(norms)
        else:
            self.bn1, self.conv_pw, self.bn2 = next(norms), last, list(norms)[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Widens, convolves each map, narrows."""
        if not self.widens:
            y = functional.relu6(self.bn1(self.conv_dw(x)), inplace=True)
            return self.bn2(self.conv_pw(y))
        y = functional.relu6(self.bn1(self.conv_pw(x)), inplace=True)
        y = functional.relu6(self.bn2(self.conv_dw(y)), inplace=True)
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.adds else y


class EfficientNetLite0(nn.Module):
    """By timm's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = Same(3, efficientnet.STEM, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(efficientnet.STEM, eps=efficientnet.EPSILON)
        stages, inputs = [], efficientnet.STEM
        for plan in efficientnet.EfficientNetLite0.plans:
            blocks = []
            for i in range(plan.depth):
                blocks.append(Inverted(inputs, plan, plan.stride if i == 0 else 1))
                inputs = plan.channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(inputs, efficientnet.HEAD, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(efficientnet.HEAD, eps=efficientnet.EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gives the head's maps."""
        x = self.blocks(functional.relu6(self.bn1(self.conv_stem(x)), inplace=True))
        return functional.relu6(self.bn2(self.conv_head(x)), inplace=True)


class Bottleneck(nn.Module):
    """ResNet-50's block, by torchvision's names."""

    def __init__(self, inputs: int, inner: int, stride: int):
        super().__init__()
        out = 4 * inner
        for i, (before, after, k) in enumerate(
            [(inputs, inner, 1), (inner, inner, 3), (inner, out, 1)], start=1
        ):
            step = stride if k == 3 else 1
            setattr(self, f"conv{i}", nn.Conv2d(before, after, k, step, k // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(after))
        self.downsample = None
        if inputs != out:
            shortcut = nn.Conv2d(inputs, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the input, or its projection."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return functional.relu(y, inplace=True)


class ResNet50(nn.Module):
    """By torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for stage, depth in enumerate((3, 4, 6, 3), start=1):
            inner, blocks = 32 * 2**stage, []
            for i in range(depth):
                blocks.append(Bottleneck(inputs, inner, 2 if i == 0 and stage > 1 else 1))
                inputs = 4 * inner
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gives the last stage's maps."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Fire(nn.Module):
    """SqueezeNet's block, by torchvision's names."""

    def __init__(self, inputs: int, narrow: int, wide: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Squeezes, then expands in two ways."""
        x = functional.relu(self.squeeze(x), inplace=True)
        both = (functional.relu(each(x), inplace=True) for each in (self.expand1x1, self.expand3x3))
        return torch.cat(list(both), 1)


def squeezenet() -> nn.Module:
    """By torchvision's names."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(inplace=True)]
    inputs = 64
    for narrow, wide in FIRES:
        if not narrow:
            layers.append(nn.MaxPool2d(3, 2))
            continue
        layers.append(Fire(inputs, narrow, wide))
        inputs = 2 * wide
    return nn.Sequential(*layers)


def vgg16() -> nn.Module:
    """By torchvision's numbers."""
    layers: list[nn.Module] = []
    inputs = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


# A network's layers, the prefix of their names, and mean and deviation of pixels from 0 to 255.
NETS: dict[str, tuple[Callable[[], nn.Module], str, Any]] = {
    "efficientnet_lite0": (EfficientNetLite0, "", ((127,) * 3, (128,) * 3)),
    "resnet50": (ResNet50, "", None),
    "squeezenet": (squeezenet, "features.", None),
    "vgg16": (vgg16, "features.", None),
}


def pixels_of(kind: str) -> Any:
    """Mean and deviation of pixels, which reach from 0 to 255, of red, green and blue."""
    pixels = NETS[kind][2]
    return pixels or [[255 * each for each in values] for values in (TORCH_MEAN, TORCH_STD)]


def drawn(network: nn.Module) -> nn.Module:
    """Weights that keep the size of what flows, in evaluation mode, channels last."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network.eval().to(memory_format=torch.channels_last)


def saved(kind: str, folder: str) -> tuple[nn.Module, str]:
    """A network with random weights, and the `.pth` in the folder that ours reads them from."""
    make, prefix, _ = NETS[kind]
    network, file = drawn(make()), str(Path(folder) / "weights.pth")
    torch.save({prefix + name: each for name, each in network.state_dict().items()}, file)
    return network, file


def extractor(network: nn.Module, pixels: Any, frames: np.ndarray, batch: int) -> turns.Side:
    """PyTorch's side."""
    mean, std = (torch.tensor(each)[:, None, None] for each in pixels)

    def extract() -> np.ndarray:
        with torch.inference_mode():
            parts = []
            for first in range(0, len(frames), batch):
                x = torch.from_numpy(frames[first : first + batch]).permute(0, 3, 1, 2)
                parts.append(network((x.float() - mean) / std).mean((2, 3)))
            return torch.cat(parts).numpy()

    return extract


def main() -> None:
    """Compares, then times."""
    words = turns.arguments(__doc__)
    words.add_argument("--kind", choices=NETS, default="efficientnet_lite0")
    turns.sizes(words, frames=32, size=224, rounds=7, batch=extraction.frames_a_batch(224))
    words.add_argument("--busy", action="store_true", help="seconds of a core, not by the clock")
    given = words.parse_args()
    clock = time.perf_counter
    if given.busy:
        torch.set_num_threads(1)
        clock = time.process_time
    pixels = pixels_of(given.kind)
    count = -(-given.frames // given.batch) * given.batch
    frames = np.random.default_rng(0).integers(0, 256, (count, given.size, given.size, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        network, file = saved(given.kind, folder)
        settings = config.Encoder(kind=given.kind, pooling="average", size=given.size, weights=file)
        settings = encoders.resolved(settings)
        module = encoders.build(settings)
        extract = encoders.extractor(module, encoders.init(module, settings), given.batch)
    sides: dict[str, turns.Side] = {
        turns.OURS: lambda: extract(frames),
        "torch": extractor(network, pixels, frames, given.batch),
    }
    furthest = turns.compare("torch", sides["torch"](), sides[turns.OURS](), NEAR)
    found = turns.figures(turns.seconds(sides, given.rounds, clock=clock))
    rates = {name: round(count / side["seconds"], 2) for name, side in found.items()}
    answer = {
        "work": f"{given.kind} features",
        "frames": turns.shown(given, "rounds") | {"taken": count},
        "sides": found,
        "features_off_at_most": furthest,
        "frames_a_second": rates,
        "versions": turns.versions("torch"),
    }
    turns.show(answer, given.json)


if __name__ == "__main__":
    main()
