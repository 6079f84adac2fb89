"""Training from pixels, clips a second, decoding included: ours beside PyTorch with a DataLoader.

    python benchmarks/pixels_training.py                       CNN+LSTM on 160 small clips
    python benchmarks/pixels_training.py --kind c3d            C3D at an eighth of its channels
    python benchmarks/pixels_training.py --kind c3d --full --size 64 --frames 30     the report's
    python benchmarks/pixels_training.py --scaler-threads 1    PyTorch's Dataset, tuned as ours is
    python benchmarks/pixels_training.py --clips 10 --frames 4 --size 16 --batch 5 --epochs 1

Clips of motion are written as videos once. Both sides read these files in every epoch, 30 frames
each of which `--frames` are taken, and train report C's network on them: Adam, shuffled batches,
no validation. Ours streams (its memory is told to be too small for the frames); PyTorch's Dataset
decodes with PyAV, as people write it, in the workers of a DataLoader that stay alive. Epochs of
both sides take turns; the first of each, which compiles and starts workers, is left out. Frames are
compared, and from the same weights the losses of two epochs of whole batches.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import same_work
import turns

import vidrec
from vidrec.data import splits, video
from vidrec.data.datasets import motion
from vidrec.data.video import scaling
from vidrec.models import interop, scanners
from vidrec.training import loop, runtime

HERE = Path(__file__).parent
NEAR = (1e-4, 1e-2)  # of the loss: untrained, and after an update
FILMED = 30  # frames of every file
NARROW = f"{HERE / 'small_pixels.py'}:C3D"


def settings(given: Any, folder: Path) -> vidrec.Config:
    """Report C's experiment on a folder of videos, its frames streamed."""
    changes: dict[str, Any] = {
        "data.kind": "videos",
        "data.root": str(folder),
        "data.tfds": "",
        "data.split": "random",
        "data.val": 0,
        "data.test": 1,
        "encoder.size": given.size,
        "encoder.init": "own",
        "frames.length": given.frames,
        "frames.rule": "uniform",
        "train.batch_size": given.batch,
        "train.batches_per_epoch": 0,
        "train.epochs": 10**6,
        "train.target": 0,
        "train.memory_gb": 1e-6,
        "train.save_seconds": 1e9,
    }
    if given.kind == "c3d":
        changes |= {"encoder.kind": "c3d" if given.full else NARROW, "encoder.width": 1024}
        changes |= {"scanner.kind": "none", "head.kind": "last", "encoder.pooling": "dense"}
    return vidrec.override(vidrec.load("experiments/ucf11_pixels.py"), changes)


def write(folder: Path, clips: int, size: int) -> None:
    """So many clips of motion, the classes in turn."""
    for place in range(clips):
        label = place % len(motion.CLASSES)
        drawn = motion.clip(place // len(motion.CLASSES), label, motion.Settings(size=size))
        to = folder / motion.CLASSES[label] / f"clip_g{place:04d}_c01.mp4"
        to.parent.mkdir(exist_ok=True)
        video.write(to, drawn)


def files(folder: Path, names: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    """Where clips lie, and their labels."""
    paths = [folder / name for name in names]
    return paths, np.array([motion.CLASSES.index(path.parent.name) for path in paths])


class Clips:
    """A Dataset as people write it: a clip's frames, decoded when they are asked for."""

    def __init__(
        self, paths: Sequence[Path], labels: np.ndarray, count: int, size: int, threads: int = 0
    ):
        self.paths, self.labels, self.size, self.threads = list(paths), labels, size, threads
        self.wanted = (
            (2 * np.arange(count) + 1) * FILMED // (2 * count)
        )  # the middles of equal parts

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, clip: int) -> tuple[np.ndarray, int]:
        import av
        from av.video.reformatter import VideoReformatter

        scaler, found = VideoReformatter(), {}
        with av.open(str(self.paths[clip])) as container:
            for place, frame in enumerate(container.decode(video=0)):
                if place in self.wanted:
                    small = scaler.reformat(
                        frame,
                        self.size,
                        self.size,
                        "rgb24",
                        interpolation=scaling.SCALING,
                        threads=self.threads,
                    )
                    found[place] = small.to_ndarray()
        return np.stack([found[place] for place in self.wanted]), int(self.labels[clip])


def network(cfg: vidrec.Config, begin: Mapping[str, Any]) -> Any:
    """The same network in PyTorch, from our weights."""
    import torch
    from torch.nn import functional

    named = {"/".join(path): each for path, each in leaves(begin)}

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weights = {name: tensor_of(each) for name, each in named.items()}
            self.w = torch.nn.ParameterDict(
                {name.replace("/", "_"): each for name, each in weights.items()}
            )
            self.convs = sorted(
                name for name in self.w if "_conv" in name and name.endswith("_kernel")
            )
            self.lstm = None
            if "scanner" in begin:
                shape = np.shape(begin["scanner"]["layer_0_forward"]["input_kernel"])
                self.lstm = torch.nn.LSTM(shape[0], shape[1] // 4, batch_first=True)
                state = interop.to_torch(scanners.build(cfg.scanner), begin["scanner"])
                tensors = {name: torch.tensor(np.array(each)) for name, each in state.items()}
                self.lstm.load_state_dict(tensors)
                self.lstm.bias_hh_l0.requires_grad_(False)  # ours has one bias
                for name in [each for each in self.w if each.startswith("scanner")]:
                    del self.w[name]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            clips, steps = x.shape[:2]
            x = x.float() / 255
            x = x.permute(0, 4, 1, 2, 3) if self.lstm is None else x.flatten(0, 1).movedim(-1, 1)
            x = self.encoded(x.contiguous())
            if self.lstm is not None:
                x = self.lstm(x.unflatten(0, (clips, steps)))[0].flatten(1)
            return self.linear(x, "head_scores")

        def encoded(self, x: torch.Tensor) -> torch.Tensor:
            for place, name in enumerate(self.convs):
                kernel, bias = self.w[name], self.w[name.replace("_kernel", "_bias")]
                x = functional.relu(convolved(x, kernel, bias))
                following = self.convs[place + 1 : place + 2]
                # A block's name is followed by its convolution's.
                if not following or following[0].split("_conv")[0] != name.split("_conv")[0]:
                    x = pooled(x, first=place == 0)
            x = x.movedim(1, -1).flatten(1)
            if "encoder_hidden1_kernel" in self.w:
                x = functional.relu(self.linear(x, "encoder_hidden1"))
            return functional.relu(self.linear(x, "encoder_dense"))

        def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
            return functional.linear(x, self.w[f"{name}_kernel"], self.w[f"{name}_bias"])

    return Net()


def convolved(x: Any, kernel: Any, bias: Any) -> Any:
    """A convolution that keeps the map's size; an even window looks further right and down."""
    from torch.nn import functional

    window = kernel.shape[2:]
    pads = [side for k in reversed(window) for side in ((k - 1) // 2, k // 2)]
    conv = functional.conv2d if len(window) == 2 else functional.conv3d
    if window[0] % 2:
        return conv(x, kernel, bias, padding=tuple(k // 2 for k in window))
    return conv(functional.pad(x, pads), kernel, bias)


def pooled(x: Any, first: bool) -> Any:
    """2x2, or 2x2x2 whose first spares time; a clip too short is pooled as far as it goes."""
    from torch.nn import functional

    if x.ndim == 4:
        return functional.max_pool2d(x, 2)
    sizes = [1 if first else 2, 2, 2]
    return functional.max_pool3d(x, [min(k, n) for k, n in zip(sizes, x.shape[2:], strict=True)])


def leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple]:
    """Path and array of every weight."""
    for name, each in tree.items():
        if isinstance(each, Mapping):
            yield from leaves(each, (*path, name))
        else:
            yield (*path, name), np.asarray(each)


def tensor_of(weight: np.ndarray) -> Any:
    """Ours are (…, in, out), PyTorch's (out, in, …)."""
    import torch

    if weight.ndim > 1:
        weight = np.moveaxis(weight, (-1, -2), (0, 1))
    return torch.nn.Parameter(torch.tensor(np.ascontiguousarray(weight)))


def in_torch(cfg: vidrec.Config, net: Any, dataset: Clips, workers: int) -> Callable[[], float]:
    """Trains one epoch each time it is called; gives its mean loss."""
    import torch

    device = turns.torch_device()
    net.to(device)
    weights = [each for each in net.parameters() if each.requires_grad]
    adam = torch.optim.Adam(weights, cfg.optim.learning_rate, eps=cfg.optim.epsilon)
    # Processes that fork would share the threads of the other side.
    more = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    loader = torch.utils.data.DataLoader(
        dataset, cfg.train.batch_size, shuffle=True, num_workers=workers, **more
    )

    def epoch() -> float:
        total = 0.0
        for frames, labels in loader:
            loss = torch.nn.functional.cross_entropy(net(frames.to(device)), labels.to(device))
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item() * len(frames)
        return total / len(dataset)

    return epoch


class Turns(same_work.Epochs):
    """Lets the other side train an epoch after each of ours, and keeps its seconds, too."""

    def __init__(self, other: Callable[[], float], epochs: int):
        super().__init__(epochs)
        self.other = other
        self.others: list[float] = []

    def epoch(self, number: int, records: Any) -> None:
        """Ours has ended one."""
        super().epoch(number, records)
        turns.tell(f"epoch {number}")
        began = time.perf_counter()
        self.other()
        self.began = time.perf_counter()
        self.others.append(self.began - began)


def check(cfg: vidrec.Config, paths: Sequence[Path], labels: np.ndarray) -> tuple[Any, float]:
    """Our untrained weights, and how far losses from them are from PyTorch's."""
    dataset = Clips(paths, labels, cfg.frames.length, cfg.encoder.size)
    for clip in range(min(4, len(dataset))):
        read = video.read(paths[clip], dataset.wanted, dataset.size)
        turns.compare("PyAV, frames", dataset[clip][0], read, 0.0)
    # Held or streamed, ours gives the same bits.
    whole = {"train.batch_size": len(dataset), "train.epochs": 2, "train.memory_gb": 0}
    few = vidrec.override(cfg, whole)
    begin, losses = same_work.begun(few)
    epoch = in_torch(few, network(few, begin), dataset, 0)
    found = [epoch() for _ in losses["train"]]
    # Adam makes much of gradients near 0, so that after an update less agrees.
    return begin, max(
        turns.compare(f"torch, epoch {epoch}", mine, theirs, NEAR[epoch - 1])
        for epoch, (mine, theirs) in enumerate(zip(found, losses["train"], strict=True), start=1)
    )


def main() -> None:
    """Checks, then both sides' epochs in turns."""
    words = turns.arguments(__doc__)
    words.add_argument("--kind", choices=("cnn3", "c3d"), default="cnn3")
    words.add_argument("--full", action="store_true", help="C3D at its own width")
    turns.sizes(words, clips=160, frames=16, size=32, batch=16, epochs=5)
    words.add_argument(
        "--spread", default="auto", help="batch: ours over the cores, for small maps"
    )
    words.add_argument("--scaler-threads", type=int, default=0, help="0: PyAV's default, a core")
    words.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = words.parse_args()
    if given.spread == "batch":
        runtime.use_cores()  # before JAX starts
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        for name, clips in (("few", len(motion.CLASSES) + 1), ("clips", given.clips + 1)):
            (place / name).mkdir()
            write(place / name, clips, given.size)
        turns.tell("comparing frames and losses")
        few = settings(given, place / "few")
        begin, furthest = check(few, *files(place / "few", train_names(few)))
        cfg = settings(given, place / "clips")
        paths, labels = files(place / "clips", train_names(cfg))
        dataset = Clips(paths, labels, given.frames, given.size, given.scaler_threads)
        other = in_torch(cfg, network(cfg, begin), dataset, given.workers)
        watch = Turns(other, given.epochs + 1)
        with contextlib.suppress(loop.Interrupted):
            spread = vidrec.override(cfg, {"train.parallel": given.spread})
            vidrec.train(spread, place / "runs", screen=watch)
    found = turns.figures({turns.OURS: watch.spent[1:], "torch": watch.others[1:]})
    for side in found.values():
        side["clips_a_second"] = round(len(paths) / side["seconds"], 2)
    answer = {
        "work": f"training {given.kind} from pixels, an epoch",
        "training": turns.shown(given) | {"trained": len(paths)},
        "sides": found,
        "clips_a_second": {name: side["clips_a_second"] for name, side in found.items()},
        "losses_off_at_most": furthest,
        "versions": turns.versions("torch", "av"),
    }
    turns.show(answer, given.json)


def train_names(cfg: vidrec.Config) -> list[str]:
    """The clips that ours trains on."""
    from vidrec.data import datasets

    source = datasets.load(cfg.data)
    return [source.names[clip] for clip in splits.make(source, cfg.data).train]


if __name__ == "__main__":
    main()
