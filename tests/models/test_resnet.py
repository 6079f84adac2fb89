"""ResNets equal a plain NumPy network, and torchvision's and timm's where these are installed."""

import math

import jax
import numpy as np
import pytest
from helpers import small_datasets
from safetensors.numpy import save_file

from vidrec.errors import UserError
from vidrec.models import encoders
from vidrec.models.encoders import norm, preprocess, resnet, weights
from vidrec.models.encoders.weights import finding

# Channels that no two stages share, and a size that no stride divides.
NARROW = (3, 5, 4, 6)
SIZE = 37
KINDS = {
    "resnet18": (resnet.ResNet18, 11_689_512),
    "resnet34": (resnet.ResNet34, 21_797_672),
    "resnet50": (resnet.ResNet50, 25_557_032),
    "resnet101": (resnet.ResNet101, 44_549_160),
    "resnet152": (resnet.ResNet152, 60_192_808),
}


def drawn(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return an array that keeps the size of activations: none is 0, 1 or like its neighbour."""
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 2, shape)
    elif len(shape) > 1:
        values = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    else:
        scale = name.endswith("weight")
        values = rng.uniform(0.3, 0.9, shape) if scale else rng.normal(0, 0.2, shape)
    return values.astype(np.float32)


def narrow_arrays(depths: tuple[int, ...], bottleneck: bool) -> dict[str, np.ndarray]:
    """Arrays of a narrow network by PyTorch's names, written down here anew."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(conv: str, norm: str, out: int, inputs: int, k: int) -> None:
        shapes[f"{conv}.weight"] = (out, inputs, k, k)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = (out,)

    layer("conv1", "bn1", NARROW[0], 3, 7)
    inputs = NARROW[0]
    for stage, (channels, depth) in enumerate(zip(NARROW, depths, strict=True), start=1):
        for block in range(depth):
            name, out = f"layer{stage}.{block}", channels * (4 if bottleneck else 1)
            sizes = [(1, inputs, channels), (3, channels, channels), (1, channels, out)]
            if not bottleneck:
                sizes = [(3, inputs, channels), (3, channels, channels)]
            for i, (k, before, after) in enumerate(sizes, start=1):
                layer(f"{name}.conv{i}", f"{name}.bn{i}", after, before, k)
            if inputs != out or (stage > 1 and block == 0):
                layer(f"{name}.downsample.0", f"{name}.downsample.1", out, inputs, 1)
            inputs = out
    shapes |= {"fc.weight": (7, inputs), "fc.bias": (7,)}
    rng = np.random.default_rng(0)
    return {name: drawn(name, shape, rng) for name, shape in shapes.items()}


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Convolve (B, C, H, W) by (out, C, k, k), half a window of zeros around, place by place."""
    k = kernel.shape[-1]
    x = np.pad(x, [(0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)])
    rows, columns = (range(0, n - k + 1, stride) for n in x.shape[2:])
    flat = kernel.reshape(len(kernel), -1).T
    return np.stack(
        [
            np.stack(
                [x[:, :, i : i + k, j : j + k].reshape(len(x), -1) @ flat for j in columns], -1
            )
            for i in rows
        ],
        -2,
    )


def truth(arrays: dict[str, np.ndarray], x: np.ndarray, depths: tuple[int, ...]) -> np.ndarray:
    """Return the logits of a ResNet in float64, written after the paper and torchvision's names."""
    given = {name: array.astype(np.float64) for name, array in arrays.items()}

    def layer(x: np.ndarray, conv: str, norm: str, stride: int) -> np.ndarray:
        x = convolved(x, given[f"{conv}.weight"], stride)
        parts = [given[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
        mean, var, scale, bias = (part[:, None, None] for part in parts)
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    x = np.maximum(layer(x, "conv1", "bn1", 2), 0)
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    starts = [range(0, n - 2, 2) for n in x.shape[2:]]
    x = np.stack(
        [
            np.stack([x[:, :, i : i + 3, j : j + 3].max((2, 3)) for j in starts[1]], -1)
            for i in starts[0]
        ],
        -2,
    )
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            step = 2 if stage > 1 and block == 0 else 1
            parts = [n for n in (1, 2, 3) if f"{name}.conv{n}.weight" in given]
            y = x
            for n in parts:
                y = layer(y, f"{name}.conv{n}", f"{name}.bn{n}", step if n == len(parts) - 1 else 1)
                y = y if n == len(parts) else np.maximum(y, 0)
            if f"{name}.downsample.0.weight" in given:
                x = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", step)
            x = np.maximum(x + y, 0)
    return x.mean((2, 3)) @ given["fc.weight"].T + given["fc.bias"]


@pytest.mark.parametrize("cls", [resnet.ResNet18, resnet.ResNet50])
def test_a_narrow_one_equals_numpy(cls, tmp_path):
    arrays = narrow_arrays(cls.depths, cls.bottleneck)
    counters = {"bn1.num_batches_tracked": np.array(3)}  # PyTorch's, of no use
    save_file(arrays | counters, tmp_path / "a.safetensors")
    module = cls(channels=NARROW, top="fc", classes=7, normalize="torch")
    shapes = encoders.shapes(module, (SIZE, SIZE, 3))[1]
    found = weights.load(cls.pretrained, tmp_path / "a.safetensors", shapes)
    assert found.normalize == "torch"
    pixels = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    inputs = np.asarray(preprocess.normalize(pixels, "torch")).transpose(0, 3, 1, 2)
    expected = truth(arrays, inputs.astype(np.float64), cls.depths)
    assert np.ptp(expected) > 0.1
    logits = jax.jit(module.apply)(found.variables, pixels)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_array_has_a_name_in_pytorch(kind):
    """And there are as many numbers as torchvision says; 1,000 classes."""
    cls, numbers = KINDS[kind]
    assert encoders._class(kind) is cls
    _, variables = encoders.shapes(cls(top="fc"), (64, 64, 3))
    assert encoders.count(variables["params"]) == numbers
    ours = set(weights._by_name(variables))
    named = {
        f"{layer.name}/{part}"
        for layer in cls.pretrained.layers
        for part in weights.PARTS[layer.kind]
        if (layer.kind, part) != ("conv", "bias")
    }
    assert ours == named
    assert len({layer.torch for layer in cls.pretrained.layers}) == len(cls.pretrained.layers)


def test_an_original_is_known_by_the_digits_in_its_name(tmp_path, monkeypatch):
    """In PyTorch's cache; one of another content is refused."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    names = [file.name for kind, _ in KINDS.values() for file in kind.pretrained.files]
    assert "resnet50-11ad3fa6.pth" in names
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    [original] = resnet.ResNet18.pretrained.files
    with pytest.raises(UserError, match=r"SHA-256 ed7002b4.*, should be f37072fd\): fetch again"):
        finding.original(original)
    assert finding.original(original._replace(sha256="ed7002b4")) == path


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_padding_changes_nothing_when_it_trains(frozen):
    """Nor does computing activations again: features, gradient and statistics are the same."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    valid = np.array([True, False, True, True, False])
    module = resnet.ResNet18(channels=NARROW, trainable="all", form="lax")
    variables = dict(jax.jit(module.init)(jax.random.key(0), pixels[:1]))
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 2, leaf.shape).astype(np.float32), variables["batch_stats"]
    )

    def run(module, pixels, mask):
        def loss(params):
            with norm.batch_statistics(mask, frozen=[()] if frozen else []):
                given = variables | {"params": params}
                x, changed = module.apply(given, pixels, True, mutable=["batch_stats"])
            x = x if mask is None else x[np.flatnonzero(mask)]
            return (x**2).sum(), (x, changed)

        (_, found), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
        return *found, slope

    plain = run(module, pixels[valid], None)
    again = run(module.clone(remat=True), pixels, valid)
    for found, expected in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        scale = max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(found, expected, atol=2e-4 * scale)
    kept = small_datasets.same(plain[1], {"batch_stats": variables["batch_stats"]})
    assert kept == frozen


@pytest.mark.slow  # 2 minutes
@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("kind", KINDS)
def test_they_equal_those_of_pytorch(kind, library, tmp_path):
    torch = pytest.importorskip("torch")
    # torchvision has to fit torch, else it raises more than an ImportError.
    made = pytest.importorskip(library, exc_type=Exception)
    net = made.models.get_model(kind) if library == "torchvision" else made.create_model(kind)
    rng, net = np.random.default_rng(0), net.eval()
    with torch.no_grad():
        for name, array in net.state_dict().items():
            if array.ndim:
                array.copy_(torch.tensor(drawn(name, tuple(array.shape), rng)))
    arrays = {name: array.numpy() for name, array in net.state_dict().items()}
    save_file(arrays, tmp_path / "a.safetensors")
    cls = KINDS[kind][0]
    module = cls(top="fc", normalize="torch")
    shapes = encoders.shapes(module, (224, 224, 3))[1]
    found = weights.load(cls.pretrained, tmp_path / "a.safetensors", shapes)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    pickled = weights.load(cls.pretrained, tmp_path / "a.pth", shapes)
    assert small_datasets.same(pickled.variables, found.variables)
    for size in (224, 97):
        pixels = rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8)
        rows = np.asarray(preprocess.normalize(pixels, "torch")).transpose(0, 3, 1, 2)
        with torch.no_grad():
            expected = net(torch.tensor(rows.copy())).numpy()
        logits = np.asarray(jax.jit(module.apply)(found.variables, pixels))
        assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
