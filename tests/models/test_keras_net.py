"""Networks of keras.applications: what they give is what Keras' own prediction gives."""

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

os.environ.setdefault("KERAS_BACKEND", "jax")
pytest.importorskip("keras", reason="needs Keras: pip install 'vidrec[keras]'")

from vidrec import config
from vidrec.errors import UserError
from vidrec.models import encoders
from vidrec.models.encoders import keras_net

SMALL = "MobileNetV3Small"  # the quickest to build
FAMILIES = (
    *("MobileNetV2", "ResNet50", "ResNet50V2", "DenseNet121", "NASNetMobile", "EfficientNetB0"),
    *("EfficientNetV2B0", "ConvNeXtTiny", "InceptionV3", "Xception", "VGG16", "MobileNet"),
)
SMALLEST = {"InceptionV3": 75, "Xception": 71}


def settings(name, **changed):
    changed = {"weights": "random", "size": 32} | changed
    values = {f"encoder.{key}": value for key, value in changed.items()}
    return config.override(config.Config(), {"encoder.kind": f"keras:{name}"} | values).encoder


def random_variables(module, cfg, seed=0):
    """Arrays that tell one layer from another, of a size that keeps frames apart."""
    rng = np.random.default_rng(seed)
    shapes = flatten_dict(encoders.shapes(module, (cfg.size, cfg.size, 3))[1])
    drawn = {}
    for path, leaf in shapes.items():
        if path[-1] in ("scale", "gamma", "var", "variance"):
            drawn[path] = rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        elif len(leaf.shape) < 2:
            drawn[path] = rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        else:
            deviation = np.sqrt(2 / inputs(path, leaf.shape))
            drawn[path] = rng.normal(0, deviation, leaf.shape).astype(np.float32)
    frames = rng.integers(0, 256, (6, cfg.size, cfg.size, 3), np.uint8)
    return with_statistics(module, unflatten_dict(drawn), frames)


def with_statistics(module, variables, frames):
    """The variables, with running statistics that are those of these frames.

    With others, signals die out or explode, and a comparison says nothing.
    """
    layers = keras_net.network(module.NETWORK, frames.shape[1:]).model.layers
    norms = {layer: layer.momentum for layer in layers if hasattr(layer, "moving_mean")}
    if not norms:
        return variables
    for layer in norms:
        layer.momentum = 0.0
    train = jax.jit(module.apply, static_argnames=("train", "mutable"))
    changed = train(variables, frames, train=True, mutable=("batch_stats",))[1]
    for layer, momentum in norms.items():
        layer.momentum = momentum
    return variables | jax.tree.map(np.asarray, dict(changed))


def inputs(path, shape):
    """How many numbers one output of a kernel adds up."""
    depthwise = "depthwise" in "".join(path)
    return np.prod(shape[:2] if depthwise and len(shape) == 4 else shape[:-1])


def keras_model(name, variables, size, **more):
    """Keras' own model, built anew, with these arrays."""
    import keras

    net = keras_net.network(name, (size, size, 3), more.get("pooling"))
    flat = flatten_dict(variables)
    with jax.numpy_rank_promotion("allow"):
        model = getattr(keras.applications, name)(
            weights=None, include_top=False, input_shape=(size, size, 3), **more
        )
    model.set_weights([flat[tuple(net.entries[id(old)].place)] for old in net.model.weights])
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # its call reads copies of its weights
            layer.finalize_state()
    return model


def keras_predicts(name, variables, frames):
    import keras

    model = keras_model(name, variables, frames.shape[1], pooling="avg")
    module = getattr(keras.applications, keras_net.NETWORKS[name].module)
    # Compiled, a division is a product with the inverse: a pixel differs in its last digit, and
    # deep networks make more of that.
    with jax.numpy_rank_promotion("allow"):
        pixels = np.asarray(jax.jit(module.preprocess_input)(frames.astype(np.float32)))
        on_host = module.preprocess_input(frames.astype(np.float32))
        np.testing.assert_allclose(pixels, on_host, rtol=1e-5, atol=1e-5)
        return model.predict(pixels, verbose=0)


def check_equal(name, size):
    cfg = settings(name, size=size)
    module = encoders.build(cfg)
    variables = random_variables(module, cfg)
    frames = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    ours = encoders.extractor(module, variables, len(frames))(frames)  # sums go as Keras' do
    theirs = keras_predicts(name, variables, frames)
    assert encoders.feature_shape(cfg) == theirs.shape[1:]
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    assert np.abs(theirs).max() > 1e-3
    assert np.abs(theirs[0] - theirs[1]).max() > 0.001 * np.abs(theirs).max()


def test_features_equal_keras_prediction():
    check_equal(SMALL, 48)


@pytest.mark.slow(minutes=4)
@pytest.mark.parametrize("name", FAMILIES)
def test_features_of_every_family_equal_keras_prediction(name):
    check_equal(name, SMALLEST.get(name, 48))


@pytest.mark.slow
def test_random_weights_are_drawn_by_the_seed_as_keras_draws_them():
    draws = [
        encoders.init(encoders.build(cfg), cfg)
        for cfg in (settings(SMALL, seed=0), settings(SMALL, seed=0), settings(SMALL, seed=1))
    ]
    first, again, other = (flatten_dict(draw) for draw in draws)
    kernels = [path for path in first if path[-1] == "kernel"]
    assert len(kernels) > 30
    for path in kernels:
        np.testing.assert_array_equal(first[path], again[path])
        assert np.abs(np.asarray(first[path]) - other[path]).max() > 0
    net = keras_net.network(SMALL, (32, 32, 3))
    for entry in net.entries.values():
        if entry.place.name == "kernel" and entry.initial.size > 2000:
            drawn = np.asarray(first[tuple(entry.place)])
            assert drawn.std() == pytest.approx(entry.initial.std(), rel=0.1)


@pytest.mark.slow
def test_what_trains_are_kernels_gains_and_biases_and_statistics_follow():
    cfg = settings(SMALL, trainable="all")
    module = encoders.build(cfg)
    variables = random_variables(module, cfg)
    assert set(variables) == {"params", "batch_stats"}
    frames = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)

    def loss(params, frames, mask):
        with encoders.batch_statistics(mask):
            x, changed = module.apply(
                variables | {"params": params}, frames, train=True, mutable=["batch_stats"]
            )
        return (x[:3] ** 2).sum(), changed

    mask = np.array([True, True, True, False])
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, changed), gradient = step(variables["params"], frames, mask)
    other = frames.copy()
    other[3] = 255 - other[3]
    (same, changed_too), _ = step(variables["params"], other, mask)
    assert value == same  # a padded frame reaches nothing
    jax.tree.map(np.testing.assert_array_equal, changed, changed_too)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max() > 0, variables["batch_stats"], changed["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
    sizes = [np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)]
    assert np.isfinite(sizes).all()
    assert np.mean(np.array(sizes) > 0) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("form", ["model.weights.h5", "model.h5", "model.keras"])
def test_files_of_weights_are_read_by_keras(tmp_path, form):
    cfg = settings(SMALL)
    module = encoders.build(cfg)
    variables = random_variables(module, cfg)
    model = keras_model(SMALL, variables, 64)
    file = tmp_path / form
    (model.save_weights if "weights" in form else model.save)(file)
    read = encoders.init(module, settings(SMALL, weights=str(file)))
    jax.tree.map(np.testing.assert_array_equal, read, variables)


@pytest.mark.slow
def test_a_file_with_the_top_is_read_without_it(tmp_path):
    import keras

    model = keras.applications.MobileNetV3Small(weights=None)
    model.save_weights(tmp_path / "top.weights.h5")
    cfg = settings(SMALL, weights=str(tmp_path / "top.weights.h5"))
    read = encoders.init(encoders.build(cfg), cfg)
    kernel = next(layer for layer in model.layers if hasattr(layer, "kernel")).kernel
    np.testing.assert_array_equal(read["params"]["conv2d_0"]["kernel"], kernel)


@pytest.mark.slow
def test_weights_that_do_not_fit_are_one_line(tmp_path):
    cfg = settings(SMALL)
    module = encoders.build(cfg)
    model = keras_model(SMALL, encoders.init(module, cfg), 32)
    file = tmp_path / "small.weights.h5"
    model.save_weights(file)
    whole = file.read_bytes()
    (tmp_path / "cut.weights.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.h5").write_text("text")
    (tmp_path / "torch.pth").write_bytes(b"PK\x03\x04")
    for name, said in (
        ("cut.weights.h5", "damaged"),
        ("text.h5", "no file of weights"),
        ("torch.pth", "no file of weights"),
        ("absent.h5", "there is no"),
    ):
        cfg = settings(SMALL, weights=str(tmp_path / name))
        with pytest.raises(UserError, match=said) as caught:
            encoders.init(encoders.build(cfg), cfg)
        assert "\n" not in str(caught.value)
        assert name.partition(".")[0] in str(caught.value)


def test_what_a_network_needs_follows_from_its_name():
    cfg = settings("EfficientNetB3", size=0)
    found = encoders.resolved(cfg)
    assert (found.size, found.pooling, found.normalize) == (300, "average", "own")
    with pytest.raises(UserError, match=r"encoder\.normalize = 'caffe' should be 'own'"):
        encoders.build(settings("ResNet50", normalize="caffe"))
    with pytest.raises(UserError, match="did you mean keras:ConvNeXtTiny"):
        encoders.build(settings("convnext_tiny"))
    with pytest.raises(UserError, match="has no network 'Nothing'"):
        encoders.build(settings("Nothing"))
    with pytest.raises(UserError, match="takes no frames of 8x8"):
        encoders.feature_shape(settings(SMALL, size=8))
    with pytest.raises(UserError, match="no field 'dtype'"):
        encoders.build(settings(SMALL, dtype="bfloat16"))
    with pytest.raises(UserError, match="say none or all"):
        encoders.trainable_mask(encoders.build(settings(SMALL)), {}, "last_block")


@pytest.mark.slow
def test_auto_says_what_to_fetch_and_takes_what_keras_has_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    cfg = settings("MobileNet", weights="auto")
    with pytest.raises(UserError, match=r"https://.*mobilenet_1_0_224_tf_no_top\.h5"):
        encoders.resolved(cfg)
    variables = random_variables(encoders.build(cfg), settings("MobileNet"))
    (tmp_path / "models").mkdir()
    kept = tmp_path / "models" / "mobilenet_1_0_224_tf_no_top.h5"
    keras_model("MobileNet", variables, 32).save(kept)
    found = encoders.resolved(cfg)
    assert found.weights.startswith(f"{kept.name}@")
    read = encoders.init(encoders.build(found), found)
    jax.tree.map(np.testing.assert_array_equal, read, variables)


def said_of(monkeypatch, **found):
    import keras

    values = {"backend": "jax", "image_data_format": "channels_last", "floatx": "float32"} | found
    fake = {name: (lambda value=value: value) for name, value in values.items()}
    monkeypatch.setattr(keras, "config", types.SimpleNamespace(**fake))
    with pytest.raises(UserError) as caught:
        keras_net.imported()
    return str(caught.value)


def test_keras_set_up_in_another_way_is_one_line(monkeypatch):
    assert "should be 'jax': set KERAS_BACKEND=jax" in said_of(monkeypatch, backend="torch")
    assert "should be 'channels_last'" in said_of(monkeypatch, image_data_format="channels_first")
    assert "should be 'float32'" in said_of(monkeypatch, floatx="float16")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.*\[keras\]'"):
        keras_net.imported()


@pytest.mark.slow
def test_a_backend_that_is_not_jax_is_one_line():
    code = (
        "from vidrec.models.encoders import keras_net\n"
        "from vidrec.errors import UserError\n"
        "try: keras_net.imported()\n"
        "except UserError as error: print(error)"
    )
    for backend in ("tensorflow", "torch", "nothing"):
        env = os.environ | {"KERAS_BACKEND": backend}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert "jax" in done.stdout, done.stderr
        assert done.stdout.count("\n") == 1


@pytest.mark.slow(minutes=2)
def test_imagenet_weights_of_efficientnet_count_as_keras_counts_them(tmp_path, monkeypatch):
    """Keras divides by the deviations where it loads "imagenet" itself, and not by a path."""
    import keras
    from keras.src.applications import efficientnet

    cfg = settings("EfficientNetB0", size=48)
    module = encoders.build(cfg)
    variables = random_variables(module, cfg)
    numbers = variables["constants"]["normalization_0"]
    for name, values in (("mean", (0.485, 0.456, 0.406)), ("variance", (0.229, 0.224, 0.225))):
        numbers[name] = np.reshape(np.float32(values), numbers[name].shape)
    file = tmp_path / "efficientnetb0_notop.h5"
    keras_model("EfficientNetB0", variables, 48).save(file)
    monkeypatch.setattr(efficientnet.file_utils, "get_file", lambda *_, **__: str(file))
    theirs = keras.applications.EfficientNetB0(
        weights="imagenet", include_top=False, pooling="avg", input_shape=(48, 48, 3)
    )
    for layer in theirs.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    frames = np.random.default_rng(1).integers(0, 256, (3, 48, 48, 3), np.uint8)
    with jax.numpy_rank_promotion("allow"):
        wanted = theirs.predict(frames.astype(np.float32), verbose=0)
    cfg = settings("EfficientNetB0", size=48, weights=str(file))
    ours = encoders.extractor(module, encoders.init(module, cfg), 3)(frames)
    np.testing.assert_allclose(ours, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow(minutes=10)
def test_files_of_original_weights_are_those_that_keras_fetches(monkeypatch):
    import keras
    from keras.src.utils import file_utils

    class Asked(Exception):
        pass

    def get_file(name, origin, **more):
        raise Asked(name, origin, more.get("file_hash") or "")

    monkeypatch.setattr(file_utils, "get_file", get_file)
    public = [name for name in dir(keras.applications) if name[0].isupper()]
    assert sorted(keras_net.NETWORKS) == sorted(public)
    for name in ("MobileNet", "MobileNetV2", "MobileNetV3Large", "ResNet50V2", "EfficientNetV2B0"):
        entry = keras_net.NETWORKS[name]
        with pytest.raises(Asked) as caught:
            getattr(keras.applications, name)(weights="imagenet", include_top=False)
        content = entry.file.md5 or entry.file.sha256
        assert caught.value.args == (entry.file.name, entry.url + entry.file.name, content)
