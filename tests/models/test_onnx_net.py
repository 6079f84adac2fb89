"""Networks in ONNX files: read, normalized and pooled as they and the settings say."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import onnx_bytes, trained_runs

from vidrec import config
from vidrec.errors import UserError
from vidrec.evaluation import export, predict
from vidrec.models import encoders
from vidrec.sweeps import runner

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install 'vidrec[onnx]'")
pytestmark = pytest.mark.slow  # .ci/run has ONNX Runtime for these alone

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "encoders.md"
FEATURES = PAGE.with_name("features.md")
CLIP = {"image_mean": "[0.48, 0.45, 0.40]", "image_std": "0.26,0.25,0.27"}


def settings(file, **changed):
    values = {f"encoder.{key}": value for key, value in changed.items()}
    return config.override(config.Config(), {"encoder.kind": str(file)} | values).encoder


def written(folder, name="net.onnx", **how):
    content, kernel = onnx_bytes.small_network(**how)
    (folder / name).write_bytes(content)
    return folder / name, kernel


def maps_of(frames, kernel, mean=(0, 0, 0), std=(1, 1, 1)):
    """The convolution place by place, (B, h, w, 5)."""
    x = (frames / 255 - np.array(mean)) / np.array(std)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = (frames.shape[1] + 1) // 2
    out = np.zeros((len(frames), side, side, len(kernel)))
    for row in range(side):
        for column in range(side):
            seen = x[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            out[:, row, column] = np.einsum("byxc,ocyx->bo", seen, kernel)
    return np.maximum(out, 0)


def features(file, frames, batch=2, **changed):
    cfg = encoders.resolved(settings(file, size=frames.shape[1], **changed))
    module = encoders.build(cfg)
    return encoders.extractor(module, encoders.init(module, cfg), batch)(frames)


def pictures(n=5, size=10):
    return np.random.default_rng(3).integers(0, 256, (n, size, size, 3), np.uint8)


@pytest.mark.parametrize(
    "shape",
    [("b", 3, "h", "w"), ("b", "h", "w", 3), (1, 3, 10, 10), (4, 10, 10, 3), ("b", 3, 10, 10)],
)
def test_layouts_and_batches_are_read_from_the_file(tmp_path, shape):
    file, kernel = written(tmp_path, shape=shape)
    frames = pictures()
    wanted = maps_of(frames, kernel)
    for pooling, truth in (
        ("average", wanted.mean((1, 2))),
        ("map", wanted),
        ("flatten", wanted.reshape(len(frames), -1)),
    ):
        found = features(file, frames, pooling=pooling, normalize="unit")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, truth, atol=1e-5)
    assert features(file, frames[:0], normalize="unit").shape == (0, 5)


@pytest.mark.parametrize("tokens", ["mean", "first", "patches"])
def test_tokens_are_read_as_a_setting_says(tmp_path, tokens):
    file, kernel = written(tmp_path, gives="tokens")
    frames = pictures()
    wanted = maps_of(frames, kernel).reshape(len(frames), -1, 5)
    truth = {"mean": wanted, "first": wanted[:, :1], "patches": wanted[:, 1:]}[tokens].mean(1)
    found = features(file, frames, normalize="unit", args={"tokens": tokens})
    np.testing.assert_allclose(found, truth, atol=1e-5)


def test_pixels_are_normalized_as_the_file_or_the_settings_say(tmp_path):
    frames = pictures()
    bare, kernel = written(tmp_path, gives="mean")
    told, _ = written(tmp_path, "told.onnx", gives="mean", metadata=CLIP)
    mean, std = (0.48, 0.45, 0.40), (0.26, 0.25, 0.27)
    truth = maps_of(frames, kernel, mean, std).mean((1, 2))
    assert encoders.resolved(settings(told)).normalize == "own"
    np.testing.assert_allclose(features(told, frames), truth, atol=1e-4)
    args = {"pixel_mean": mean, "pixel_std": std}
    np.testing.assert_allclose(features(bare, frames, args=args), truth, atol=1e-4)
    torch = maps_of(frames, kernel, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).mean((1, 2))
    np.testing.assert_allclose(features(bare, frames, normalize="torch"), torch, atol=1e-4)
    caffe = maps_of(
        frames[..., ::-1], kernel, np.array((103.939, 116.779, 123.68)) / 255, (1 / 255,) * 3
    )
    found = features(bare, frames, normalize="caffe")
    np.testing.assert_allclose(found, caffe.mean((1, 2)), rtol=1e-4, atol=1e-3)
    with pytest.raises(UserError, match="does not say how it wants its pixels"):
        features(bare, frames)


def test_sizes_follow_from_the_file(tmp_path):
    fixed, _ = written(tmp_path, shape=("b", 3, 12, 12))
    said, _ = written(tmp_path, "said.onnx", metadata={"image_size": "96"})
    open_, _ = written(tmp_path, "open.onnx")
    sizes = [encoders.resolved(settings(file)).size for file in (fixed, said, open_)]
    assert sizes == [12, 96, 224]
    assert encoders.resolved(settings(fixed)).weights == "own"
    with pytest.raises(UserError, match=r"encoder\.size = 20 should be 12"):
        encoders.build(settings(fixed, size=20))
    cfg = encoders.resolved(settings(fixed, normalize="unit"))
    assert encoders.feature_shape(cfg) == (5,)


def test_what_cannot_be_is_one_line(tmp_path):
    net, _ = written(tmp_path, gives="mean")
    content = net.read_bytes()
    files = {
        "cut.onnx": content[: len(content) // 2],
        "text.onnx": b"no network",
        "grey.onnx": onnx_bytes.small_network(shape=("b", 4, 8, 8))[0],
        "oblong.onnx": onnx_bytes.small_network(shape=("b", 3, 8, 9))[0],
        "custom.onnx": onnx_bytes.model(
            [onnx_bytes.node("Run", ["x"], ["y"], domain="my.own")],
            [onnx_bytes.value("x", onnx_bytes.FLOAT, ("b", 3, 8, 8))],
            [onnx_bytes.value("y", onnx_bytes.FLOAT, ("b", 3))],
            domains=["my.own"],
        ),
    }
    for name, bytes_ in files.items():
        (tmp_path / name).write_bytes(bytes_)
        with pytest.raises(UserError, match=name) as caught:
            features(tmp_path / name, pictures(), normalize="unit")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="there is no file"):
        features(tmp_path / "absent.onnx", pictures(), normalize="unit")
    with pytest.raises(UserError, match="has no output 'z'; it has mean"):
        features(net, pictures(), normalize="unit", args={"output": "z"})
    with pytest.raises(UserError, match="gives no maps"):
        features(net, pictures(), normalize="unit", pooling="map")
    with pytest.raises(UserError, match="holds its own weights"):
        settings(net, weights="imagenet")
    with pytest.raises(UserError, match="run, not trained"):
        settings(net, trainable="all")
    with pytest.raises(UserError, match="did you mean 'tokens'"):
        encoders.build(settings(net, args={"token": "first"}))


def test_a_file_counts_by_its_content(tmp_path):
    file, _ = written(tmp_path)
    shutil.copy(file, tmp_path / "moved.onnx")
    other, _ = written(tmp_path, "other.onnx", seed=1)
    ids = [
        config.identifying_settings(config.Config(encoder=settings(path, normalize="unit")))
        for path in (file, tmp_path / "moved.onnx", other)
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_run_predicts_and_streams_without_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    file, _ = written(tmp_path, shape=("b", 3, 16, 16), gives="mean", metadata=CLIP)
    videos = trained_runs.write_videos(tmp_path / "videos", each=6)
    changed = {"encoder.kind": str(file), "encoder.size": 0, "encoder.standardize": True}
    cfg = trained_runs.settings_of(videos, changed)
    trained = runner.run(cfg, tmp_path / "runs", name="net")
    run = Path(trained["dir"])
    said = json.loads((run / "config.json").read_text())["encoder"]
    assert (said["size"], said["normalize"], said["weights"]) == (16, "own", "own")
    film = videos / "left" / "left 1.mp4"
    before = predict.Classifier.load(run).predict(film)
    file.unlink()
    shutil.rmtree(tmp_path / "cache")
    model = predict.Classifier.load(run)
    after = model.predict(film)
    np.testing.assert_array_equal(after.probabilities_K, before.probabilities_K)
    again = predict.score(run, {"eval.batch_size": 3})["metrics"]["test"]
    assert again["accuracy"] == trained["metrics"]["test"]["accuracy"]
    stream = model.stream(fps=10)
    frames = trained_runs.moving(trained_runs.LENGTH, True, 3)
    for frame in frames:
        said = stream.push(frame)
    np.testing.assert_allclose(said, model.predict(frames, fps=10).probabilities_K, atol=1e-4)
    with pytest.raises(UserError, match="ONNX Runtime, which no exported program holds"):
        export.export(model, tmp_path / "out")
    with pytest.raises(UserError, match="there is no file"):
        runner.run(cfg, tmp_path / "others", name="net")


def test_what_pytorch_exports_gives_what_pytorch_gives(tmp_path, monkeypatch):
    """By the recipe of docs/how-to/encoders.md, with a small network in the place of DINOv2."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="PyTorch exports by it")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 7, 4), torch.nn.GELU(), torch.nn.BatchNorm2d(6), torch.nn.Flatten(2)
    ).eval()
    monkeypatch.setattr(torch.hub, "load", lambda *_: net)
    monkeypatch.chdir(tmp_path)
    [block] = [code for code in blocks() if code.startswith("# export_onnx.py")]
    exec(block, {})
    frames = pictures(5, 224)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    with torch.inference_mode():
        truth = net((pixels - mean) / std).numpy().mean(1)
    found = features(tmp_path / "dinov2.onnx", frames, normalize="torch")
    np.testing.assert_allclose(found, truth, atol=1e-4)


def test_features_of_ones_own_loop_are_trained_on(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    trained_runs.write_videos(tmp_path / "clips", each=5)
    monkeypatch.chdir(tmp_path)
    [block] = [code for code in blocks(FEATURES) if code.startswith("# features.py")]
    exec(block, {})
    cfg = trained_runs.settings_of(tmp_path / "features", {"data.kind": "features"})
    assert runner.run(cfg, tmp_path / "runs", name="own")["metrics"]["test"]["clips"] > 0


def blocks(page=PAGE):
    """The Python that a page shows."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
