"""Weights of others give others' features, and a file that does not fit is told in one line."""

import dataclasses
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import chex
import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import pth
from safetensors.numpy import save, save_file

from vidrec import config
from vidrec.errors import UserError
from vidrec.features import extraction
from vidrec.io import checkpoint, runs
from vidrec.models import encoders
from vidrec.models.encoders import preprocess, vgg, weights
from vidrec.models.encoders.base import Conv, Encoder
from vidrec.models.encoders.squeezenet import FIRES, SqueezeNet
from vidrec.models.encoders.vgg import VGG16

SIZE = 64  # maps of 2x2, so that the order in which they are laid out matters
CLASSES = 7
WITH_TOP = VGG16(top="predictions", classes=CLASSES, normalize="caffe")
NO_TOP = VGG16(pooling="map", normalize="caffe")


def frames(size: int = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, size, size, 3), dtype=np.uint8)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def like(module, size: int = SIZE) -> dict:
    return encoders.shapes(module, (size, size, 3))[1]["params"]


def load(kind: str, source: str | Path, params: dict) -> SimpleNamespace:
    """What a file or the originals hold for such parameters."""
    net = {"vgg16": VGG16, "squeezenet": SqueezeNet}[kind].pretrained
    found = weights.load(net, source, {"params": params})
    return SimpleNamespace(params=found.variables["params"], normalize=found.normalize)


def drawn(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Kernels that keep the size of activations, and biases that matter."""
    deviation = (2 / math.prod(shape[:-1])) ** 0.5 if len(shape) > 1 else 0.3
    return deviation * rng.standard_normal(shape, np.float32)


def run(module, params, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(module.apply)({"params": params}, pixels))


# ------------------------------------------------------------------ Keras


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


@pytest.fixture(scope="module")
def keras_vgg16(keras):
    """A VGG16 with its top and random weights: its maps, second dense layer and logits."""
    model = keras.applications.VGG16(
        weights=None,
        input_shape=(SIZE, SIZE, 3),
        classes=CLASSES,
        classifier_activation=None,
    )
    rng = np.random.default_rng(1)
    model.set_weights([drawn(weight.shape, rng) for weight in model.weights])
    outputs = [model.get_layer(name).output for name in ("block5_pool", "fc2", "predictions")]
    pixels = keras.applications.vgg16.preprocess_input(frames().astype(np.float32))
    return model, *called(keras.Model(model.inputs, outputs), pixels)


def called(model, pixels: np.ndarray) -> list[np.ndarray]:
    """Keras leaves ranks to be promoted, which the rest of the tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        return [np.asarray(each) for each in jax.tree.leaves(model(pixels))]


def save_legacy(model, file: Path) -> None:
    """As keras.applications' files are: layers at the root."""
    with h5py.File(file, "w") as h5:
        h5.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = h5.create_group(layer.name)
            names = [f"{layer.name}_{part}_1:0" for part in "Wbmv"][: len(layer.weights)]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.get_weights(), strict=True):
                group[name] = weight


LAYOUTS: dict[str, Callable] = {
    "legacy.h5": save_legacy,
    "whole.h5": lambda model, file: model.save(file),
    "three.weights.h5": lambda model, file: model.save_weights(file),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vgg16_equals_keras_through_every_layout(keras, keras_vgg16, layout, tmp_path):
    model, maps, _, logits = keras_vgg16
    with_top, no_top = tmp_path / f"top_{layout}", tmp_path / f"notop_{layout}"
    LAYOUTS[layout](model, with_top)
    LAYOUTS[layout](keras.Model(model.inputs, model.get_layer("block5_pool").output), no_top)

    whole = load("vgg16", with_top, like(WITH_TOP))
    assert whole.normalize == "caffe"
    assert_close(run(WITH_TOP, whole.params, frames()), logits)
    plain = load("vgg16", no_top, like(NO_TOP))
    assert_close(run(NO_TOP, plain.params, frames()), maps)
    # A top that the module lacks is skipped; one that the file lacks is missed.
    beheaded = load("vgg16", with_top, like(NO_TOP))
    chex.assert_trees_all_equal(beheaded.params, plain.params)
    with pytest.raises(UserError, match="6 missing: fc1/bias"):
        load("vgg16", no_top, like(WITH_TOP))


@pytest.mark.slow
def test_second_dense_layer_is_keras_fc2(keras_vgg16, tmp_path):
    model, _, expected, _ = keras_vgg16
    model.save_weights(tmp_path / "a.weights.h5")
    module = VGG16(top="fc2", normalize="caffe")
    params = load("vgg16", tmp_path / "a.weights.h5", like(module)).params
    assert_close(run(module, params, frames()), expected)


def build_squeezenet(keras, size: int):
    """The Keras original, written down from its description."""
    layers = keras.layers
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(64, 3, strides=2, padding="valid", activation="relu", name="conv1")(image)
    x = layers.MaxPooling2D(3, strides=2)(x)
    for name, (narrow, wide) in FIRES.items():
        fields = {"padding": "same", "activation": "relu"}
        stem = name + "_"  # a Keras 3 layer's name has no slash
        x = layers.Conv2D(narrow, 1, name=stem + "squeeze1x1", **fields)(x)
        left = layers.Conv2D(wide, 1, name=stem + "expand1x1", **fields)(x)
        right = layers.Conv2D(wide, 3, name=stem + "expand3x3", **fields)(x)
        x = layers.Concatenate()([left, right])
        if name in ("fire3", "fire5"):
            x = layers.MaxPooling2D(3, strides=2)(x)
    return keras.Model(image, layers.Dropout(0.5)(x))


@pytest.mark.slow
def test_squeezenet_equals_keras_with_random_weights(keras, tmp_path):
    model = build_squeezenet(keras, SIZE)
    rng = np.random.default_rng(2)
    for layer in model.layers:
        layer.set_weights([drawn(weight.shape, rng) for weight in layer.get_weights()])
    model.save_weights(tmp_path / "s.weights.h5")  # the dropout's seed is in it too
    module = SqueezeNet(pooling="map", normalize="caffe")
    params = load("squeezenet", tmp_path / "s.weights.h5", like(module)).params
    pixels = preprocess.normalize(frames(), "caffe")
    assert_close(run(module, params, frames()), *called(model, np.asarray(pixels)))


class Normed(Encoder):
    """Two convolutions, the second without bias, with batch normalization."""

    blocks = ("block",)
    pretrained = weights.PretrainedNet(
        (
            weights.Layer(("block", "first"), keras="first"),
            weights.Layer(("block", "norm"), keras="norm", kind="norm"),
            weights.Layer(("block", "second"), keras="second"),
            weights.Layer(("block", "last"), keras="last", kind="norm"),
        ),
        normalize={"keras": "unit"},
    )

    def maps(self, x, train):
        return self.block(NormedBlock, "block", train)(x)


class NormedBlock(nn.Module):
    form: str = "lax"
    initialiser: str = "he"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        x = Conv(4, (3, 3), name="first")(x)
        x = nn.relu(nn.BatchNorm(True, epsilon=1e-3, name="norm")(x))
        x = Conv(5, (3, 3), use_bias=False, name="second")(x)
        return nn.BatchNorm(True, epsilon=1e-3, name="last")(x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_normalization_equals_keras_through_every_layout(keras, layout, tmp_path):
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="first")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(5, 3, padding="same", use_bias=False, name="second")(x)
    model = keras.Model(image, layers.BatchNormalization(name="last")(x))
    rng = np.random.default_rng(8)
    for layer in model.layers:
        shapes = [weight.shape for weight in layer.get_weights()]
        layer.set_weights([rng.uniform(0.3, 1.2, shape) for shape in shapes])
    LAYOUTS[layout](model, tmp_path / layout)
    module, pixels = Normed(pooling="map"), frames(8)
    variables = module.init(jax.random.key(0), pixels)
    read = weights.load(module.pretrained, tmp_path / layout, variables)
    assert read.normalize == "unit"
    chex.assert_trees_all_equal_shapes(read.variables, variables)
    (expected,) = called(model, pixels.astype(np.float32) / 255)
    assert_close(module.apply(read.variables, pixels), expected)


def real_frames(folder: Path, size: int) -> np.ndarray:
    """One frame of each of three clips."""
    import av

    found = []
    for clip in sorted(folder.glob("*/*.mp4"))[::35][:3]:
        with av.open(str(clip)) as container:
            frame = next(container.decode(video=0))
            found.append(frame.reformat(size, size, "rgb24").to_ndarray())
    return np.stack(found)


@pytest.mark.slow
def test_squeezenet_with_imagenet_weights_equals_keras_on_real_frames(keras, real_data):
    (file,) = (real_data / "keras_squeezenet").glob("*.h5")
    pixels = real_frames(real_data / "skyrim_human_actions", 224)
    model = build_squeezenet(keras, 224)
    with h5py.File(file) as h5:  # read as plainly as can be, by the names in the file
        for name in ("conv1", *(f"{f}/{p}1x1" for f in FIRES for p in ("squeeze", "expand")),
                     *(f"{f}/expand3x3" for f in FIRES)):  # fmt: skip
            weights = [h5[name][each] for each in h5[name].attrs["weight_names"]]
            model.get_layer(name.replace("/", "_")).set_weights([np.array(w) for w in weights])
    (maps,) = called(model, np.asarray(preprocess.normalize(pixels, "caffe")))
    expected = maps.mean((1, 2))

    cfg = config.Encoder(
        kind="squeezenet", weights=str(file), pooling="average", normalize="caffe", size=224
    )
    module = encoders.build(cfg)
    extract = encoders.extractor(module, encoders.init(module, cfg), batch=2)
    assert_close(extract(pixels), expected)
    assert np.ptp(expected, axis=0).max() > 0.1
    for precision, step in (("bfloat16", 2**-8), ("float16", 2**-10)):
        half = extraction.cast_features(extract, precision)(pixels).astype(np.float32)
        np.testing.assert_allclose(half, extract(pixels), rtol=step, atol=1e-7)


# ------------------------------------------------------------------ PyTorch


@pytest.fixture(scope="module")
def torch_vgg16():
    """torchvision's layout, as a Sequential: its arrays by name, and maps and logits."""
    torch = pytest.importorskip("torch")
    nn, features, channels = torch.nn, [], 3
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        features.append(nn.MaxPool2d(2))
    model = nn.ModuleDict({
        "features": nn.Sequential(*features),
        "classifier": nn.Sequential(
            nn.Linear(512 * 4, 4096), nn.ReLU(), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
            nn.Linear(4096, CLASSES),
        ),
    }).eval()  # fmt: skip
    rng = np.random.default_rng(3)
    with torch.no_grad():
        for weight in model.parameters():
            fan_in = weight[0].numel() if weight.ndim > 1 else 1
            deviation = (2 / fan_in) ** 0.5 if weight.ndim > 1 else 0.3
            weight.copy_(torch.tensor(deviation * rng.standard_normal(weight.shape, np.float32)))
        pixels = np.asarray(preprocess.normalize(frames(), "torch")).transpose(0, 3, 1, 2)
        maps = model["features"](torch.tensor(pixels))
        logits = model["classifier"](maps.flatten(1))
    arrays = {name: weight.numpy() for name, weight in model.state_dict().items()}
    return arrays, maps.permute(0, 2, 3, 1).numpy(), logits.numpy()


TIMM = {
    "classifier.0": "pre_logits.fc1",
    "classifier.3": "pre_logits.fc2",
    "classifier.6": "head.fc",
}


def to_timm(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm keeps the first two dense layers as convolutions."""
    renamed = {}
    for name, array in arrays.items():
        owner, _, part = name.rpartition(".")
        if owner == "classifier.0" and part == "weight":
            array = array.reshape(4096, 512, 2, 2)
        if owner == "classifier.3" and part == "weight":
            array = array[:, :, None, None]
        renamed[f"{TIMM.get(owner, owner)}.{part}"] = array
    return renamed


@pytest.mark.parametrize("names", ["torchvision", pytest.param("timm", marks=pytest.mark.slow)])
def test_vgg16_equals_torch_through_safetensors(torch_vgg16, names, tmp_path):
    arrays, maps, logits = torch_vgg16
    file = tmp_path / "vgg16.safetensors"
    save_file(to_timm(arrays) if names == "timm" else arrays, file)
    with_top, no_top = (each.clone(normalize="torch") for each in (WITH_TOP, NO_TOP))
    whole = load("vgg16", file, like(with_top))
    assert whole.normalize == "torch"
    assert_close(run(with_top, whole.params, frames()), logits)
    plain = load("vgg16", file, like(no_top)).params
    assert_close(run(no_top, plain, frames()), maps)


def test_torch_names_of_squeezenet(tmp_path):
    """The numbering of torchvision's squeezenet1_1, and its kernels, out and in first."""
    module, rng = SqueezeNet(top="predictions", classes=5), np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: drawn(leaf.shape, rng), like(module))
    places = dict(zip(FIRES, (3, 4, 6, 7, 9, 10, 11, 12), strict=True))
    arrays = {}

    def put(name, layer):
        kernel = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))
        arrays.update({f"{name}.weight": kernel, f"{name}.bias": layer["bias"]})

    put("features.0", params["conv1"]["conv"])
    put("classifier.1", params["conv10"])
    for fire, place in places.items():
        for part in ("squeeze1x1", "expand1x1", "expand3x3"):
            ours = "squeeze" if part == "squeeze1x1" else part
            put(f"features.{place}.{ours}", params[fire][part])
    save_file(arrays, tmp_path / "s.safetensors")
    for layout, write in pth.LAYOUTS.items():
        (tmp_path / f"{layout}.pth").write_bytes(write(arrays))
    for name in ("s.safetensors", "legacy.pth", "zip.pth"):
        found = load("squeezenet", tmp_path / name, like(module))
        assert found.normalize == "torch"
        chex.assert_trees_all_equal(found.params, params)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_becomes_float32(dtype, squeezenet_arrays, tmp_path):
    from safetensors.flax import save_file as save

    arrays = {name: jnp.asarray(array, dtype) for name, array in squeezenet_arrays.items()}
    save(arrays, tmp_path / "half.safetensors")
    params = load("squeezenet", tmp_path / "half.safetensors", like(SqueezeNet())).params
    chex.assert_type(jax.tree.leaves(params), jnp.float32)
    expected = np.asarray(arrays["features.0.bias"], np.float32)
    np.testing.assert_array_equal(params["conv1"]["conv"]["bias"], expected)


def test_a_header_of_any_length_is_a_safetensors(squeezenet_arrays, tmp_path):
    """The first bytes of a .safetensors are a length, which may be those of a pickle or a zip."""
    starts = set()
    for spare in range(256):
        file = tmp_path / "a.safetensors"
        save_file(squeezenet_arrays, file, {"spare": "." * 8 * spare})
        start = file.read_bytes()[:2]
        if start[:1] == b"\x80" and not starts:
            starts.add(start)
            load("squeezenet", file, like(SqueezeNet()))
    assert starts


# ------------------------------------------------------------------ files that do not fit


@pytest.fixture(scope="module")
def squeezenet_arrays() -> dict[str, np.ndarray]:
    """Small random weights in torchvision's names."""
    rng, arrays = np.random.default_rng(5), {}
    shapes = {"features.0": (64, 3, 3, 3)}
    inputs = 64
    for (narrow, wide), place in zip(FIRES.values(), (3, 4, 6, 7, 9, 10, 11, 12), strict=True):
        shapes[f"features.{place}.squeeze"] = (narrow, inputs, 1, 1)
        shapes[f"features.{place}.expand1x1"] = (wide, narrow, 1, 1)
        shapes[f"features.{place}.expand3x3"] = (wide, narrow, 3, 3)
        inputs = 2 * wide
    for name, shape in shapes.items():
        arrays[f"{name}.weight"] = rng.standard_normal(shape, np.float32) * 0.1
        arrays[f"{name}.bias"] = rng.standard_normal(shape[:1], np.float32)
    return arrays


def refusal(source: str | Path, kind: str = "squeezenet", module=None) -> str:
    """The one line that such weights are refused with."""
    with pytest.raises(UserError) as error:
        load(kind, source, like(module or SqueezeNet()))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_tensors_that_do_not_fit_are_named(squeezenet_arrays, tmp_path):
    arrays = dict(squeezenet_arrays)
    del arrays["features.7.squeeze.bias"]
    arrays["features.1.running_mean"] = np.zeros(3, np.float32)
    arrays["features.0.weight"] = arrays["features.0.weight"][:32]
    arrays["features.3.squeeze.bias"] = np.full(16, np.nan, np.float32)
    save_file(arrays, tmp_path / "a.safetensors")
    line = refusal(tmp_path / "a.safetensors")
    assert "1 missing: fire5/squeeze1x1/bias" in line
    assert "1 unexpected: features.1.running_mean" in line
    assert "features.0.weight is (3, 3, 3, 32), should be (3, 3, 3, 64)" in line
    assert "1 not finite: features.3.squeeze.bias" in line


def test_weights_of_another_network_are_refused(squeezenet_arrays, tmp_path):
    save_file(squeezenet_arrays, tmp_path / "a.safetensors")
    line = refusal(tmp_path / "a.safetensors", "vgg16", NO_TOP)
    assert "missing" in line
    assert "unexpected" in line
    assert line.count("block") == 3  # not all of them


def damaged_h5(tmp_path: Path) -> Path:
    file = tmp_path / "whole.h5"
    with h5py.File(file, "w") as h5:
        h5.attrs["layer_names"] = [b"conv1"]
        h5.create_group("conv1").attrs["weight_names"] = [b"a", b"b"]
        h5["conv1/a"] = np.ones((3, 3, 3, 64), np.float32)
    return file


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty.h5": lambda _: b"",
    "text.h5": lambda _: b"404: Not Found",
    "cut.h5": lambda content: content[: len(content) // 2],
    "gap.h5": lambda content: content[:200] + bytes(600) + content[800:],
    "lacking.h5": lambda content: content,  # a weight that is listed and not there
    "cut.safetensors": lambda _: (300).to_bytes(8, "little") + b'{"a": ',
    "huge.safetensors": lambda _: (1 << 60).to_bytes(8, "little") + b"{}",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_told_in_one_line(name, tmp_path):
    file = tmp_path / name
    file.write_bytes(DAMAGE[name](damaged_h5(tmp_path).read_bytes()))
    assert str(file) in refusal(file)


@pytest.mark.parametrize("start", [b"\x80", b"PK"])
def test_a_safetensors_may_begin_as_pickles_and_archives_do(start, tmp_path):
    """Its first bytes count those of its header; ResNet-50's by torchvision's names begins so."""
    array = np.arange(3, dtype=np.float32)
    wanted = int.from_bytes(start, "little")
    blank = len(save({"a": array}, {"pad": ""})) - array.nbytes - 8
    pad = "x" * ((wanted - blank) % 256 ** len(start))
    (tmp_path / "a.safetensors").write_bytes(save({"a": array}, {"pad": pad}))
    assert (tmp_path / "a.safetensors").read_bytes().startswith(start)
    content = weights.formats.read(SqueezeNet.pretrained, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(content.tensors["a"].array, array)


def test_pickles_are_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "a.pth").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "b.pt").write_bytes(b"PK\x03\x04 archive")
    (tmp_path / "c.keras").write_bytes(b"PK\x03\x04 archive")
    for name in ("a.pth", "b.pt"):
        assert name in refusal(tmp_path / name)
    assert "unzip" in refusal(tmp_path / "c.keras")
    assert not (tmp_path / "sprung").exists()


def test_no_such_file_and_no_such_network(tmp_path):
    assert "no file" in refusal(tmp_path / "absent.h5")
    (tmp_path / "there.h5").touch()
    cfg = config.Encoder(kind="vgg9", weights=str(tmp_path / "there.h5"), pooling="average")
    with pytest.raises(UserError, match="vgg9 reads no weights of others"):
        weights.fill(encoders.build(cfg), cfg, {})


# ------------------------------------------------------------------ into an encoder


def squeezenet_settings(weights: Path, **changes) -> config.Encoder:
    fields = {"normalize": "torch", "pooling": "dense", "width": 9, "size": 32}
    return config.Encoder(kind="squeezenet", weights=str(weights), **{**fields, **changes})


@pytest.mark.slow
def test_init_fills_in_what_the_file_has(squeezenet_arrays, tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(squeezenet_arrays, file)
    cfg = squeezenet_settings(file)
    params = encoders.init(encoders.build(cfg), cfg)["params"]
    bias = params["fire9"]["expand3x3"]["bias"]
    np.testing.assert_array_equal(bias, squeezenet_arrays["features.12.expand3x3.bias"])
    assert params["dense"]["kernel"].shape == (512, 9)
    assert float(params["dense"]["kernel"].std()) > 0


def test_preprocessing_must_be_the_weights_own(squeezenet_arrays, tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(squeezenet_arrays, file)
    cfg = squeezenet_settings(file, normalize="unit")
    module = encoders.build(cfg)
    with pytest.raises(UserError, match=r"encoder.normalize = 'unit' should be 'torch'"):
        weights.fill(module, cfg, {"params": like(module, 32)})


def test_encoder_of_a_run(tmp_path):
    """Trained in part, with its statistics; used as it is by another run, or refused."""
    rng = np.random.default_rng(6)
    cfg = config.Encoder(
        kind="cnn3",
        pooling="dense",
        width=9,
        size=16,
        weights=str(tmp_path),
        normalize="standard",
        trainable="last_block",
    )
    module = encoders.build(cfg)
    params = jax.tree.map(lambda leaf: drawn(leaf.shape, rng), like(module, 16))
    constants = {"mean": np.float32([1, 2, 3]), "std": np.float32([4, 5, 6])}
    frozen, trained = encoders.partition(params, encoders.trainable_mask(module, params))
    about = {"config": {"encoder": dataclasses.asdict(cfg)}}
    tree = {
        "fixed": {"encoder": frozen},
        "trained": {"encoder": trained, "head": {"bias": np.ones(2)}},
        "constants": {"constants": {"encoder": constants}},
    }
    expected = {"params": params, "constants": constants}
    checkpoint.write(tmp_path / "model", tree, about)
    (tmp_path / "result.json").write_text('{"id": "a"}')
    chex.assert_trees_all_equal(encoders.init(module, cfg), expected)
    checkpoint.write(tmp_path / "model", {"encoder": expected, "trained": {}}, about)
    chex.assert_trees_all_equal(encoders.init(module, cfg), expected)

    with pytest.raises(UserError, match="another one; they differ in params/dense/bias"):
        encoders.init(module.clone(width=8), cfg)
    other = dataclasses.replace(cfg, normalize="unit")
    with pytest.raises(UserError, match="should be 'standard'"):
        encoders.init(encoders.build(other), other)
    checkpoint.write(tmp_path / "model", {"trained": {"head": {"bias": np.ones(2)}}}, about)
    with pytest.raises(UserError, match="has no encoder"):
        encoders.init(module, cfg)


def test_a_run_is_found_by_its_name(tmp_path):
    def finished(name: str, id_: str) -> Path:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "result.json").write_text(json.dumps({"id": id_}))
        return tmp_path / name

    def complaint(name: str) -> str:
        cfg = config.Encoder(kind="cnn3", pooling="average", weights=str(tmp_path / name), size=8)
        with pytest.raises(UserError) as caught:
            encoders.init(encoders.build(cfg), cfg)
        assert "\n" not in str(caught.value)
        return str(caught.value).removeprefix(f"encoder.weights: {tmp_path}")

    def known(name: str) -> str:
        return config.identifying_settings(
            config.override(config.Config(), {"encoder.weights": name})
        )

    assert "there is no file and no run" in complaint("frames")
    first = finished("frames-1234", "a")
    assert runs.run_folder(tmp_path / "frames") == runs.run_folder(first) == first
    (tmp_path / "frames-5678").mkdir()  # another one is still in training
    assert runs.run_folder(tmp_path / "frames") == first
    assert "frames-5678 is no finished run (result.json is missing)" in complaint("frames-5678")
    # The same run by its name, by its folder and elsewhere; another run, and another file.
    same = [str(tmp_path / "frames"), str(first), str(finished("moved", "a"))]
    assert known(same[0]) == known(same[1]) == known(same[2])
    assert known(same[0]) != known(str(finished("frames-9", "b")))
    assert "may be" in complaint("frames")
    (tmp_path / "frames-5678" / "ablation.json").touch()
    assert "is an ablation: name one of its trials" in complaint("frames-5678")
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    files[0].write_bytes(b"1")
    files[1].write_bytes(b"1")
    assert known(str(files[0])) == known(str(files[1]))
    files[1].write_bytes(b"22")
    assert known(str(files[0])) != known(str(files[1]))


# ------------------------------------------------------------------ ImageNet


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_imagenet_without_network_says_what_to_fetch(keras, cache, monkeypatch):
    def offline(**_):
        raise OSError("Name or service not known")

    monkeypatch.setattr(keras.applications, "VGG16", offline)
    line = refusal("imagenet", "vgg16", NO_TOP)
    assert "Name or service not known" in line
    assert f"{vgg.KERAS_URL}vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5" in line
    assert str(cache) in line
    assert "kernels.h5" in refusal("imagenet", "vgg16", WITH_TOP)
    assert "squeezenet_weights" in refusal("imagenet")
    assert "with its top" in refusal("imagenet", module=SqueezeNet(top="predictions"))


def test_imagenet_through_keras(keras, cache, monkeypatch, capsys):
    rng = np.random.default_rng(7)
    expected = jax.tree.map(lambda leaf: drawn(leaf.shape, rng), like(NO_TOP))

    class FakeLayer:
        def __init__(self, name, weights):
            self.name, self.weights = name, weights

        def get_weights(self):
            return self.weights

    class FakeModel:
        def __init__(self, weights, include_top):
            assert (weights, include_top) == ("imagenet", False)
            print("Downloading data")
            self.layers = [FakeLayer("input_layer", [])] + [
                FakeLayer(f"{block}_{conv}", [layer["kernel"], layer["bias"]])
                for block, convs in expected.items()
                for conv, layer in convs.items()
            ]

    monkeypatch.setattr(keras.applications, "VGG16", FakeModel)
    found = load("vgg16", "imagenet", like(NO_TOP))
    chex.assert_trees_all_equal(found.params, expected)
    assert found.normalize == "caffe"
    assert capsys.readouterr().out == ""  # stdout is for results


def test_a_fetched_file_is_taken_where_it_is_the_original(cache, real_data):
    (file,) = (real_data / "keras_squeezenet").glob("*.h5")
    here = cache / file.name
    here.write_bytes(file.read_bytes())
    params = load("squeezenet", "imagenet", like(SqueezeNet())).params
    expected = load("squeezenet", file, like(SqueezeNet())).params
    assert weights.digest(params) == weights.digest(expected)
    content = bytearray(here.read_bytes())
    content[-1000] ^= 1
    here.write_bytes(content)
    assert "fetch again" in refusal("imagenet")


def test_digest_is_of_content():
    tree = {"params": {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(2)}}
    same = {"params": {"b": jnp.zeros(2), "a": jnp.arange(6.0).reshape(2, 3)}}
    single = jax.tree.map(np.float32, tree)
    assert weights.digest(single) == weights.digest(same)
    assert weights.digest(single) != weights.digest(tree)  # another type
    for name, other in (
        ("a", np.arange(6.0).reshape(3, 2)),
        ("a", np.arange(6.0).reshape(2, 3) + 1e-6),
    ):
        changed = {"params": {**single["params"], name: other.astype(np.float32)}}
        assert weights.digest(changed) != weights.digest(single)
    swapped = {"params": {"b": single["params"]["a"], "a": single["params"]["b"]}}
    assert weights.digest(swapped) != weights.digest(single)
