"""The files that docs/how-to/extending.md prints, as a user's own, each compared with a truth."""

import importlib.util
import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import small_datasets

import vidrec
from vidrec import config
from vidrec.errors import UserError
from vidrec.evaluation import export
from vidrec.evaluation.predict import Classifier
from vidrec.io import checkpoint
from vidrec.models import encoders, model, scanners
from vidrec.models.inputs import lengths_to_mask
from vidrec.sweeps import runner

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "extending.md"
# Small programs that run a few times each: nearly all their time would go into optimising them.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
B, T, D, U = 3, 5, 4, 3
MASK_BT = lengths_to_mask(jnp.array([5, 2, 3]), T)
CELLS = {"peephole": "peephole.py:PeepholeLSTM", "layer norm": "layer_norm.py:LayerNormLSTM"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with every file that the page prints."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (folder / name).write_text(text)
    return folder


def built(files, kind, args=None, **settings):
    """The scanner that settings name."""
    return scanners.build(
        config.Scanner(kind=f"{files}/{kind}", args=config.Args(args or {}), **settings)
    )


def features(seed=0):
    return jax.random.normal(jax.random.key(seed), (B, T, D))


def weights_of(scanner, seed=1):
    """Variables in which no weight is 0 or 1."""
    shapes = jax.eval_shape(scanner.init, jax.random.key(0), features())
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(-0.9, 0.9, s.shape), s.dtype), shapes)


# --- cells


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def peephole_step(w, h, c, x):
    z = x @ w["input_kernel"] + w["bias"] + h @ w["recurrent_kernel"]
    i, f, g, o = np.split(z, 4, -1)
    i, f = sigmoid(i + c * w["peephole_i"]), sigmoid(f + c * w["peephole_f"])
    c = f * c + i * np.tanh(g)
    return sigmoid(o + c * w["peephole_o"]) * np.tanh(c), c


def layer_norm_step(w, h, c, x):
    def normed(x, gain):
        return gain * (x - x.mean()) / np.sqrt(x.var() + 1e-5)

    z = normed(x @ w["input_kernel"], w["input_gain"]) + w["bias"]
    i, f, g, o = np.split(z + normed(h @ w["recurrent_kernel"], w["recurrent_gain"]), 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(normed(c, w["memory_gain"]) + w["memory_bias"]), c


STEPS = {"peephole": peephole_step, "layer norm": layer_norm_step}
every_cell = pytest.mark.parametrize("name", CELLS)


def loop(name, params, x_BTD, mask_BT):
    """States by a plain loop over clips and frames, in float64."""
    w = {key: np.asarray(leaf, np.float64) for key, leaf in params["layer_0_forward"].items()}
    y = np.zeros((B, T, U))
    for b in range(B):
        h = c = np.zeros(U)
        for t in range(T):
            if mask_BT[b, t]:
                h, c = STEPS[name](w, h, c, np.asarray(x_BTD[b, t], np.float64))
                y[b, t] = h
    return y


@every_cell
def test_a_cell_equals_a_numpy_loop(name, files):
    scanner = built(files, CELLS[name], units=U)
    variables, x = weights_of(scanner), features()
    y, _ = jit(scanner.apply)(variables, x, MASK_BT)
    np.testing.assert_allclose(y, loop(name, variables["params"], x, MASK_BT), atol=1e-5)


@every_cell
def test_a_cells_gradients_equal_finite_differences(name, files):
    """Of every weight, those that the step reads by itself included, and of the inputs."""
    scanner = built(files, CELLS[name], units=U)
    variables, x = weights_of(scanner), features()
    factors = np.random.default_rng(5).normal(size=(B, T, U))

    def loss(params, x):
        return (scanner.apply({"params": params}, x, MASK_BT)[0] * factors).sum()

    gradient, slope_x = jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], x)
    assert not slope_x[1, 2:].any()
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    for key, leaf in params["layer_0_forward"].items():
        found = np.asarray(gradient["layer_0_forward"][key])
        assert np.abs(found).max() > 0.01, key
        for place in list(np.ndindex(leaf.shape))[:: max(1, leaf.size // 7)]:
            ends = []
            for move in (1e-5, -1e-5):
                leaf[place] += move
                ends.append((loop(name, params, x, MASK_BT) * factors).sum())
                leaf[place] -= move
            slope = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(found[place], slope, rtol=1e-3, atol=1e-4, err_msg=key)


@every_cell
def test_a_cells_padding_is_inert_and_its_stream_is_the_whole_clip(name, files):
    scanner = built(files, CELLS[name], units=U, layers=2)
    variables, x = weights_of(scanner), features()
    run = jit(scanner.apply)
    y, carry = run(variables, x, MASK_BT)
    noise = jnp.where(MASK_BT[..., None], x, jnp.nan)
    for here, there in zip(jax.tree.leaves(run(variables, noise, MASK_BT)),
                           jax.tree.leaves((y, carry)), strict=True):  # fmt: skip
        np.testing.assert_array_equal(here, there)
    whole, _ = run(variables, x)
    step = jit(lambda frame, carry: scanner.apply(variables, frame, carry=carry))
    carry = jax.tree.map(jnp.zeros_like, carry)
    for t in range(T):
        frame, carry = step(x[:, t : t + 1], carry)
        np.testing.assert_allclose(frame[:, 0], whole[:, t], atol=1e-6)


@every_cell
def test_a_cell_in_a_group_equals_itself_alone(name, files):
    scanner, x = built(files, CELLS[name], units=U), features()
    trials = [weights_of(scanner, seed) for seed in (1, 2, 3)]

    def gradient(variables):
        return jax.grad(lambda v: jnp.sin(scanner.apply(v, x, MASK_BT)[0]).sum())(variables)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trials)
    together = jit(jax.vmap(gradient))(stacked)
    for place, variables in enumerate(trials):
        alone = jit(gradient)(variables)
        ours = small_datasets.one(together, place)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, alone)


def test_a_cells_own_setting_changes_it_and_mistakes_are_one_line(files):
    kind = CELLS["peephole"]
    plain = built(files, kind, {"peepholes": False}, units=U)
    params = weights_of(plain)["params"]["layer_0_forward"]
    assert set(params) == {"input_kernel", "recurrent_kernel", "bias"}
    lstm = scanners.build(config.Scanner(kind="lstm", units=U))
    x = features()
    for scanner in (plain, lstm):
        y, _ = scanner.apply(weights_of(lstm), x, MASK_BT)
        np.testing.assert_allclose(y, lstm.apply(weights_of(lstm), x, MASK_BT)[0], atol=1e-6)
    for args, words in (
        ({"peephole": True}, "PeepholeLSTM has no field 'peephole'; did you mean 'peepholes'"),
        ({"peepholes": 3}, r"scanner.args.peepholes = 3 should be True or False"),
        ({"units": 3}, r"'units' is a setting of its own, scanner.units"),
    ):
        with pytest.raises(UserError, match=words):
            built(files, kind, args)
    with pytest.raises(UserError, match=r"LSTM has no field 'peepholes'"):
        scanners.build(config.Scanner(kind="lstm", args=config.Args(peepholes=True)))


BARE = """
from dataclasses import dataclass
from vidrec.models.cells import Cell

@dataclass(frozen=True)
class Gateless(Cell):
    def step(self, weights, carry, inputs, ops):
        return carry

class Bare(Cell):
    gates = 1
    slow: float = 0.5

    def step(self, weights, carry, inputs, ops):
        return carry
"""


@pytest.mark.parametrize(
    ("kind", "args", "words"),
    [
        ("bare.py:Gateless", {}, "Gateless should say .* in a line `gates = N`"),
        ("bare.py:Bare", {"slow": 0.2}, "no field 'slow'; write @dataclass.* above the class"),
        ("newer", {}, "scanner.kind newer: no class has this name, in CELLS or in OWN"),
    ],
)
def test_what_a_cell_lacks_is_one_line(tmp_path, kind, args, words):
    (tmp_path / "bare.py").write_text(BARE)
    where = f"{tmp_path}/{kind}" if ":" in kind else kind
    with pytest.raises(UserError, match=words):
        scanners.build(config.Scanner(kind=where, args=config.Args(args)))


def test_a_cell_trains_and_predicts_by_its_own_settings(files, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_write_report", lambda *_: None)
    changes = {"scanner.kind": f"{files}/{CELLS['peephole']}", "scanner.args": {"peepholes": False}}
    cfg = config.override(small_datasets.settings(), changes)
    source = small_datasets.features()
    result = runner.run(cfg, tmp_path, name="mine", dataset=source)
    saved = json.loads((Path(result["dir"]) / "config.json").read_text())
    assert saved["scanner"]["args"] == {"peepholes": False}
    model = Classifier.load(result["dir"], trust_code=True)
    kept = np.load(Path(result["dir"]) / "predictions.npz")
    name, logits = str(kept["test_names"][0]), kept["test_logits"][0]
    clip = source.arrays[source.names.index(name)]
    np.testing.assert_allclose(model.predict(clip).scores_K, logits, rtol=1e-4, atol=1e-5)
    other = runner.run(
        config.override(cfg, {"scanner.args": {}}), tmp_path, name="mine", dataset=source
    )
    assert other["id"] != result["id"]


def test_a_wrong_argument_ends_a_run_before_any_work(files, tmp_path):
    source = small_datasets.pixels()
    for changes in (
        {"scanner.kind": f"{files}/{CELLS['peephole']}", "scanner.args": {"peephole": True}},
        {"encoder.kind": f"{files}/resnet.py:ResNet", "encoder.args": {"peephole": True}},
    ):
        cfg = config.override(small_datasets.settings(), changes | {"encoder.pooling": "average"})
        with pytest.raises(UserError, match="has no field 'peephole'"):
            runner.run(cfg, tmp_path, name="wrong", dataset=source)
    assert source.streamed == []
    assert not list(tmp_path.iterdir())


# --- a scanner


def transformer(files, **args):
    return built(
        files, "transformer.py:Transformer", {"heads": 2, "rate": 0.5} | args, units=4, layers=2
    )


def video_model(files, **args):
    head = model.Head(classes=3)
    return model.VideoModel(transformer(files, **args), head)


def test_a_transformer_reads_no_padding(files):
    whole, x = video_model(files), features()
    variables = whole.init(jax.random.key(0), x, MASK_BT)
    logits, _, taps = whole.apply(variables, x, MASK_BT)
    assert taps["scanner"].shape == (B, T, 4)
    assert not np.asarray(taps["scanner"])[~np.asarray(MASK_BT)].any()
    noise = jnp.where(MASK_BT[..., None], x, jnp.nan)
    longer = jnp.concatenate([noise, noise], 1), jnp.pad(MASK_BT, ((0, 0), (0, T)))
    np.testing.assert_allclose(whole.apply(variables, *longer)[0], logits, atol=1e-5)
    for name, value in variables["params"].items():
        assert all(leaf.size for leaf in jax.tree.leaves(value)), name


def test_flax_dropout_is_keyed_by_clip(files):
    """In another order of a batch, and in parts of it, each clip drops the same."""
    whole, x = video_model(files), features()
    variables = whole.init(jax.random.key(0), x, MASK_BT)
    keys = jax.random.split(jax.random.key(7), B)

    @jit
    def run(x, mask, keys):
        return whole.apply(variables, x, mask, train=True, keys_B=keys)[0]

    logits = run(x, MASK_BT, keys)
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(run(x[order], MASK_BT[order], keys[order]), logits[order], atol=1e-5)
    np.testing.assert_allclose(run(x[1:2], MASK_BT[1:2], keys[1:2]), logits[1:2], atol=1e-5)
    assert np.abs(run(x, MASK_BT, keys[order]) - logits).max() > 1e-2
    assert np.abs(whole.apply(variables, x, MASK_BT)[0] - logits).max() > 1e-2
    twice = jnp.concatenate([x[:1], x[:1]]), MASK_BT[:1].repeat(2, 0)
    same = run(*twice, keys[jnp.array([0, 0])])
    np.testing.assert_allclose(same[0], same[1], atol=1e-6)
    with pytest.raises(UserError, match="rngs needs a PRNG key for each clip"):
        whole.apply(variables, x, MASK_BT, train=True)


def test_a_transformer_trains_to_the_same_figures_on_any_number_of_devices(files):
    cfg = small_datasets.settings(
        scanner__kind=f"{files}/transformer.py:Transformer",
        scanner__args={"heads": 2, "rate": 0.7},
        train__epochs=2,
        train__batch_size=8,
    )
    data = small_datasets.prepared(cfg)
    runs = [
        small_datasets.train(
            small_datasets.group_of([cfg], data, how="batch", on=jax.devices()[:count])
        )
        for count in (1, 2, 4)
    ]
    without = config.override(cfg, {"scanner.args": {"heads": 2, "rate": 0.0}})
    _, plain = small_datasets.train(small_datasets.group_of([without], data))
    losses = [[record.train_loss for [record] in records] for _, records in runs]
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-4)
    assert abs(plain[0][0].train_loss - losses[0][0]) > 1e-3


def test_what_a_scanner_does_not_do_is_refused(files):
    kind = f"{files}/transformer.py:Transformer"

    def make(**changes):
        cfg = small_datasets.settings(scanner__kind=kind, scanner__units=4, **changes)
        return model.build(cfg, 3)

    assert not make().streams
    with pytest.raises(UserError, match=r"needs the whole clip at once"):
        model.initial_carry(make(), features()[:1])
    with pytest.raises(UserError, match=r"tbptt_every = 3 .* does not say that it streams"):
        make(train__tbptt_every=3, head__kind="per_frame")
    with pytest.raises(UserError, match=r"takes no 'grad_clip'"):
        make(optim__clip_mode="preactivation", optim__clip_norm=1.0)
    with pytest.raises(UserError, match=r"scanner.dropout = 0.5: .* takes no 'dropout'"):
        make(scanner__dropout=0.5)
    with pytest.raises(UserError, match=r"Transformer has no field 'rates'; did you mean 'rate'"):
        make(scanner__args={"rates": 1})


ONES = """
from dataclasses import dataclass

import jax.numpy as jnp

from vidrec.models import cells


@dataclass(frozen=True)
class Ones(cells.GRU):
    def initialize_carry(self, shape, dtype):
        return super().initialize_carry(shape, dtype) + jnp.ones((), dtype)
"""


def test_a_cell_whose_carry_does_not_begin_with_zeros_is_refused(tmp_path):
    (tmp_path / "ones.py").write_text(ONES)
    cfg = small_datasets.settings(scanner__kind=f"{tmp_path}/ones.py:Ones")
    with pytest.raises(UserError, match=r"ones.py:Ones': initialize_carry should return zeros"):
        model.build(cfg, 3)
    (tmp_path / "ones.py").write_text(ONES.replace("jnp.ones(", "jnp.zeros("))
    model.build(cfg, 3)


STREAMS = """
import flax.linen as nn
import jax
import jax.numpy as jnp


class Decay(nn.Module):
    units: int
    length: int
    rate: float = 0.5
    streams = True
    rngs = ("noise",)

    @nn.compact
    def __call__(self, x_BTD, mask_BT, carry=None, train=False):
        if train:
            x_BTD = x_BTD + 0.0 * jax.random.normal(self.make_rng("noise"), x_BTD.shape)
        state = jnp.zeros((len(x_BTD), x_BTD.shape[-1])) if carry is None else carry
        states = []
        for t in range(x_BTD.shape[1]):
            new = self.rate * state + x_BTD[:, t]
            state = jnp.where(mask_BT[:, t, None], new, state)
            states.append(state)
        return jnp.stack(states, 1), state
"""


def test_a_scanner_that_says_so_streams(tmp_path):
    (tmp_path / "decay.py").write_text(STREAMS)
    cfg = small_datasets.settings(
        scanner__kind=f"{tmp_path}/decay.py:Decay", frames__length=T, head__kind="per_frame"
    )
    whole, x = model.build(cfg, 2), features()
    assert whole.scanner.length == T
    variables = whole.init(jax.random.key(0), x)
    logits, end, _ = whole.apply(variables, x, MASK_BT)
    carry = model.initial_carry(whole, x[:, :1])
    for t in range(T):
        part, carry, _ = whole.apply(variables, x[:, t : t + 1], MASK_BT[:, t : t + 1], carry=carry)
        shown = np.asarray(MASK_BT)[:, t]
        np.testing.assert_allclose(part[shown, 0], logits[shown, t], atol=1e-6)
    np.testing.assert_allclose(carry, end, atol=1e-6)
    keys = jax.random.split(jax.random.key(0), B)
    trained, _, _ = whole.apply(variables, x, MASK_BT, train=True, keys_B=keys, carry=carry * 0)
    np.testing.assert_allclose(trained, logits, atol=1e-6)


# --- an optimiser


def test_an_optimiser_makes_the_updates_of_its_rule(files):
    from vidrec.training import optim

    cfg = small_datasets.settings(optim__kind=f"{files}/lion.py:lion").optim
    hyper = {
        "optim.learning_rate": 0.1, "optim.b1": 0.9, "optim.b2": 0.99,
        "optim.weight_decay": 0.0, "optim.clip_norm": 0.0,
    }  # fmt: skip
    rule = optim.build(cfg, hyper, 4, 2)
    weights, momentum = {"w": jnp.array([1.0, -2.0])}, np.zeros(2)
    state, expected = rule.init(weights), np.array([1.0, -2.0])
    for gradient in (np.array([0.3, -0.2]), np.array([-0.1, -5.0])):
        changes, state = rule.update({"w": jnp.asarray(gradient)}, state, weights)
        weights = optax.apply_updates(weights, changes)
        expected = expected - 0.1 * np.sign(0.9 * momentum + 0.1 * gradient)
        momentum = 0.99 * momentum + 0.01 * gradient
        np.testing.assert_allclose(weights["w"], expected, rtol=1e-6)


# --- a data set


def test_a_data_set_of_npz_files_trains(files, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_write_report", lambda *_: None)
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    rng, root = np.random.default_rng(0), tmp_path / "clips"
    for label, kind in enumerate(("left", "right")):
        (root / kind).mkdir(parents=True)
        for recording in "abcdef":
            for number in range(2):
                frames = rng.integers(0, 90, (6, 16, 20, 3))
                frames[:, 4:10, 2 + 10 * label : 8 + 10 * label] += 150
                file = root / kind / f"{recording}-{number}.npz"
                np.savez(file, frames=frames.astype(np.uint8))
    (root / "left" / "broken-0.npz").write_bytes(b"nothing")
    (root / "left" / "a-0.npz").rename(root / "left" / "a-7.npz")
    cfg = vidrec.override(
        small_datasets.settings(),
        {
            "data.kind": f"{files}/npz_clips.py:load", "data.root": str(root), "encoder.size": 16,
            "train.epochs": 40, "optim.kind": "adam", "scanner.kind": "mean",
        },
    )  # fmt: skip
    result = runner.run(cfg, tmp_path / "runs", name="npz")
    assert result["metrics"]["test"]["accuracy"] == 1.0
    kept = np.load(Path(result["dir"]) / "predictions.npz")
    recordings = [
        {str(name).rpartition("-")[0] for name in kept[f"{part}_names"]}
        for part in ("train", "val", "test")
    ]
    assert not recordings[0] & recordings[2]
    assert not any("broken" in str(name) for name in kept["train_names"])
    again = runner.run(cfg, tmp_path / "runs", name="npz")
    assert again["id"] == result["id"]


# --- an encoder

SMALL = {"channels": [4, 6], "depth": 1}


def encoder_settings(files, **changes):
    fields = {"kind": f"{files}/resnet.py:ResNet", "args": config.Args(channels=(4, 6), depth=1)}
    return config.Encoder(**(fields | {"pooling": "average", "size": 32} | changes))


def torch_resnet(torch):
    """The same network by torchvision's names, its statistics and gains drawn at random."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            if stride > 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            x = self.downsample(x) if hasattr(self, "downsample") else x
            return torch.relu(x + y)

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(4)
            self.layer1 = nn.Sequential(Block(4, 4, 1))
            self.layer2 = nn.Sequential(Block(4, 6, 2))
            self.fc = nn.Linear(6, 10)

        def forward(self, x):
            x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            return self.layer2(self.layer1(x)).mean((2, 3))

    net, rng = ResNet().eval(), np.random.default_rng(0)
    with torch.no_grad():
        for name, array in net.state_dict().items():
            if array.ndim:
                low = 0.5 if name.endswith("running_var") else -0.5
                array.copy_(torch.tensor(rng.uniform(low, 1.0, array.shape)))
    return net


def test_a_resnet_equals_pytorch_with_its_weights(files, tmp_path):
    """Kernels, gains, biases and running statistics; a file that lacks one is refused."""
    torch = pytest.importorskip("torch")
    from safetensors.numpy import save_file

    from vidrec.models.encoders import preprocess

    net = torch_resnet(torch)
    arrays = {name: array.numpy() for name, array in net.state_dict().items()}
    save_file(arrays, tmp_path / "a.safetensors")
    cfg = encoder_settings(files, weights=str(tmp_path / "a.safetensors"), normalize="torch")
    module = encoders.build(cfg)
    variables = encoders.init(module, cfg)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    rows = np.asarray(preprocess.normalize(pixels, "torch")).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = net(torch.tensor(rows)).numpy()
    assert np.ptp(expected) > 0.1
    features = jax.jit(module.apply)(variables, pixels)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        variables["batch_stats"]["layer2"]["0_bn0"]["var"],
        arrays["layer2.0.downsample.1.running_var"],
    )
    lacking = {name: array for name, array in arrays.items() if name != "bn1.running_mean"}
    save_file(lacking | {"conv1.bias": np.zeros(4, np.float32)}, tmp_path / "b.safetensors")
    other = encoder_settings(files, weights=str(tmp_path / "b.safetensors"), normalize="torch")
    with pytest.raises(UserError, match=r"1 missing: stem/bn1/mean; 1 unexpected: conv1.bias"):
        encoders.init(module, other)
    theirs = {"weights": str(tmp_path / "a.safetensors")}
    with pytest.raises(UserError, match=r"encoder.normalize = 'unit' should be 'torch'"):
        encoders.init(module, encoder_settings(files, **theirs, normalize="unit"))
    assert encoders.resolved(encoder_settings(files, **theirs)).normalize == "torch"


def test_what_an_encoder_requires_is_said(files, tmp_path):
    (tmp_path / "fixed.py").write_text(
        "from vidrec.models.encoders.vgg import VGG9\n"
        "class Fixed(VGG9):\n    requires = {'size': 24, 'normalize': 'torch'}\n"
    )
    fields = {"kind": f"{tmp_path}/fixed.py:Fixed", "pooling": "average"}
    with pytest.raises(UserError, match=r"encoder.size = 64 should be 24"):
        encoders.build(config.Encoder(**fields, size=64))
    chosen = encoders.resolved(config.Encoder(**fields))
    assert (chosen.size, chosen.normalize, chosen.weights) == (24, "torch", "random")
    encoders.build(config.Encoder(**fields, size=24, normalize="torch"))
    with pytest.raises(UserError, match=r"ResNet has no field 'depths'; did you mean 'depth'"):
        encoders.build(encoder_settings(files, args=config.Args(depths=3)))


@pytest.fixture(scope="module")
def resnet_run(files, tmp_path_factory):
    """A ResNet trained from pixels, and its clips: a bright square on the left or on the right."""
    source = small_datasets.pixels(clips=24, size=32)
    arrays = []
    for clip, label in zip(source.arrays, source.labels, strict=True):
        frames = clip // 4
        frames[:, 8:20, 2 + 16 * label : 14 + 16 * label] += 150
        arrays.append(frames)
    clips = small_datasets.PixelDataset(**{**vars(source), "arrays": tuple(arrays)})
    cfg = small_datasets.settings(
        encoder__kind=f"{files}/resnet.py:ResNet",
        encoder__args=SMALL,
        encoder__pooling="flatten",
        encoder__size=32,
        encoder__trainable="all",
        train__epochs=6,
        train__batch_size=4,
        optim__kind="adam",
        optim__learning_rate=0.01,
        scanner__kind="mean",
        data__test=0.25,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_write_report", lambda *_: None)
        folder = tmp_path_factory.mktemp("runs")
        return Path(runner.run(cfg, folder, name="resnet", dataset=clips)["dir"]), clips


def test_a_resnet_trains_from_pixels_and_keeps_its_statistics(resnet_run):
    run, clips = resnet_run
    result = json.loads((run / "result.json").read_text())
    assert result["metrics"]["train"]["accuracy"] == 1.0
    stats = checkpoint.read(run / "model")[0]["stats"]["encoder"]
    for block, norm in (("stem", "bn1"), ("layer1", "0_bn2"), ("layer2", "0_bn0")):
        assert np.abs(stats[block][norm]["mean"]).max() > 0.02  # they began at 0
        assert np.abs(np.asarray(stats[block][norm]["var"]) - 1).max() > 0.02
    model = Classifier.load(run, trust_code=True)
    saved = np.load(run / "predictions.npz")
    for name, logits in zip(saved["test_names"], saved["test_logits"], strict=True):
        clip = clips.arrays[clips.names.index(str(name))]
        np.testing.assert_allclose(model.predict(clip).scores_K, logits, rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_a_resnet_is_exported_with_its_statistics(resnet_run, tmp_path):
    run, clips = resnet_run
    export.export(run, tmp_path / "out", platforms=["cpu"], trust_code=True)
    spec = importlib.util.spec_from_file_location("loader", tmp_path / "out" / "loader.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    exported, model = loader.load(tmp_path / "out"), Classifier.load(run, trust_code=True)
    for clip in clips.arrays[:3]:
        want = model.predict(clip).probabilities_K
        found = exported(exported.pick(clip)[None])[0]
        np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-4)


# --- a progress callback


def test_a_callback_writes_epochs_and_stops(files, tmp_path, monkeypatch):
    from vidrec.training.loop import Interrupted

    monkeypatch.setattr(runner, "_write_report", lambda *_: None)
    progress = config.load_user(f"{files}/progress.py:Progress")(tmp_path / "losses.csv")
    cfg, source = small_datasets.settings(), small_datasets.features()
    (tmp_path / "stop").touch()
    with pytest.raises(Interrupted):
        runner.run(cfg, tmp_path, name="watched", dataset=source, screen=progress)
    (tmp_path / "stop").unlink()
    runner.run(cfg, tmp_path, name="watched", dataset=source, screen=progress)
    lines = (tmp_path / "losses.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["1", "2", "3"]
    assert len({line.split(",")[1] for line in lines}) == 1
    assert float(lines[2].split(",")[2]) < float(lines[0].split(",")[2])


def test_a_tracker_writes_epochs_and_the_figure_on_test(files, tmp_path):
    tracker = config.load_user(f"{files}/csv_tracker.py:CsvTracker")(tmp_path)
    cfg = small_datasets.settings(scanner__kind="mean", train__epochs=2)
    result = runner.run(
        cfg, tmp_path / "runs", name="mine", dataset=small_datasets.features(), track=[tracker]
    )
    lines = (tmp_path / f"{Path(result['dir']).name}.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["1", "2", "done"]
    assert float(lines[-1].split(",")[1]) == result["metrics"]["test"]["accuracy"]


def test_the_page_prints_the_files_that_are_tested(files):
    names = {
        "peephole.py",
        "layer_norm.py",
        "transformer.py",
        "resnet.py",
        "lion.py",
        "npz_clips.py",
    }
    assert names <= {file.name for file in files.iterdir()}
