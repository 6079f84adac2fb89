"""The recipe against literal loops: no scan, no vmap, no mask, no padding; float64 throughout.

The literal trainer walks each clip's own frames one by one in PyTorch, whose autograd is none of
ours; keys are folded here as the documentation says, not by the code under test.
"""

import zlib
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_datasets import features, furthest, group_of, prepared, settings

from vidrec.config import override
from vidrec.data import keys
from vidrec.training import step

torch = pytest.importorskip("torch", reason="the literal loop differentiates with PyTorch")

EPOCHS = 3
RECIPE = {
    "data.val": 0.0,
    "scanner.kind": "lstm",
    "scanner.units": 3,
    "scanner.bias": "double",
    "frames.rule": "whole",
    "head.kind": "per_frame",
    "loss.frame_weights": "linear",
    "optim.kind": "momentum",
    "optim.learning_rate": 0.3,
    "optim.momentum": 0.8,
    "optim.weight_decay": 0.05,
    "optim.clip_norm": 0.4,
    "train.batch_size": 6,
    "train.epochs": EPOCHS,
}


def recipe(**changes):
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return override(settings(), RECIPE | named)


@pytest.fixture(scope="module")
def source():
    """24 clips of 1 to 12 frames: some end in every window, one fills the last."""
    return features(clips=32, width=4, lengths=(1, 13), seed=4)


@pytest.fixture(scope="module")
def long():
    """10 clips of 14 to 120 frames to train: report D's length, in unequal clips."""
    return features(clips=16, width=4, lengths=(9, 121), seed=10)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def ours(cfg, source):
    """Initial and final state, and the figures, of three epochs by the engine."""
    data = prepared(cfg, source)
    group = group_of([cfg], data)
    group.initialize()
    begun = jax.tree.map(lambda leaf: leaf[0], group.snapshot().state)
    group.compile()
    # Nothing judges the untrained model here: a loss that grows ends no trial.
    records = [group.train_epoch()[0] for _ in range(EPOCHS)]
    state = jax.tree.map(lambda leaf: leaf[0], group.snapshot().state)
    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(state.params))
    return SimpleNamespace(data=data, begun=begun, state=state, records=records)


class Literal:
    """The recipe as one would tell it, from the engine's initial weights."""

    def __init__(self, cfg, data, begun):
        self.cfg, self.data = cfg, data
        flat = jax.tree_util.tree_flatten_with_path(begun.params)[0]
        self.weights = {
            jax.tree_util.keystr(path, simple=True, separator="/"): torch.tensor(
                np.array(leaf), requires_grad=True
            )
            for path, leaf in flat
        }
        self.momentum = {name: torch.zeros_like(each) for name, each in self.weights.items()}
        self.mean, self.var = torch.zeros(cfg.scanner.units), torch.ones(cfg.scanner.units)
        self.mean, self.var = self.mean.double(), self.var.double()
        self.updates = 0

    def trained(self, like):
        """Weights in the engine's structure."""
        paths, structure = jax.tree_util.tree_flatten_with_path(like)
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
        return jax.tree_util.tree_unflatten(
            structure, [self.weights[name].detach().numpy() for name in names]
        )

    def epoch(self, number):
        """Mean loss of the epoch's clips."""
        cfg, train = self.cfg, self.data.clips("train")
        # A pass is in the order of Philox' numbers, keyed by seed and pass.
        drawn = np.random.Philox(key=[cfg.seed, number]).random_raw(len(train)).tolist()
        shuffled = train[sorted(range(len(train)), key=lambda place: drawn[place])]
        total = 0.0
        for start in range(0, len(shuffled), cfg.train.batch_size):
            total += self.batch(shuffled[start : start + cfg.train.batch_size], number)
        return total / len(shuffled)

    def batch(self, clips, epoch):
        cfg, length = self.cfg, self.data.length
        every = cfg.train.tbptt_every or length
        back = (cfg.train.tbptt_length or every) - every
        carries = {clip: (0, self.zeros()) for clip in clips}
        total = 0.0
        for window, begin in enumerate(range(0, length, every)):
            scored = [
                (clip, [t for t in range(begin, begin + every) if t < self.data.lengths[clip]])
                for clip in clips
            ]
            states, passing = {}, {}
            for clip in clips:
                states[clip], passing[clip] = self.walk(clip, carries[clip], begin, every)
            if any(frames for _, frames in scored):
                key = partial(self.key, epoch, window)
                loss = self.loss(scored, states, key, every)
                total += float(loss.detach())
                self.update(loss / len(clips))
            for clip in clips:
                at = max(0, begin + every - back)
                # Where a clip has ended its carry stays the one of its last frame.
                carries[clip] = (at, passing[clip][min(at, self.data.lengths[clip])])
        return total

    def walk(self, clip, carry, begin, every):
        """States by frame, and detached carries before each frame, up to the window's end."""
        place, (h, c) = carry
        states, passing = {}, {min(place, int(self.data.lengths[clip])): (h, c)}
        for t in range(place, min(begin + every, int(self.data.lengths[clip]))):
            h, c = self.cell(self.frame(clip, t), h, c)
            states[t] = h
            passing[t + 1] = (h.detach(), c.detach())
        return states, passing

    def frame(self, clip, t):
        values = self.data.values[self.data.offsets[clip] + t]
        return torch.tensor(values.astype(np.float64))

    def zeros(self):
        zero = torch.zeros(self.cfg.scanner.units, dtype=torch.float64)
        return zero, zero

    def cell(self, x, h, c):
        """The textbook's LSTM; gates i, f, g, o side by side."""
        room = "scanner/layer_0_forward/"
        gates = x @ self.weights[room + "input_kernel"] + self.weights[room + "bias"]
        gates = gates + h @ self.weights[room + "recurrent_kernel"]
        gates = gates + self.weights[room + "recurrent_bias"]
        i, f, g, o = gates.split(self.cfg.scanner.units)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def key(self, epoch, window, clip):
        key = fold(self.cfg.seed, 3, epoch, clip)
        if self.cfg.train.tbptt_every:
            key = jax.random.fold_in(key, window)
        return jax.random.fold_in(key, zlib.crc32(b"after_layer_0"))

    def loss(self, scored, states, key, every):
        """Sum over clips of the weighted losses of their frames in this window."""
        cfg, total = self.cfg, 0.0
        shift = self.normaliser(scored, states)
        for clip, frames in scored:
            rate = cfg.scanner.dropout
            kept = jax.random.bernoulli(key(clip), 1 - rate, (every, cfg.scanner.units))
            kept = torch.tensor(np.array(kept, np.float64)) / (1 - rate)
            for t in frames:
                seen = shift(states[clip][t])
                seen = seen * kept[t % every] if rate else seen
                logits = seen @ self.weights["head/scores/kernel"]
                logits = logits + self.weights["head/scores/bias"]
                label = self.data.dataset.labels[clip]
                weight = (t + 1) / self.data.length if cfg.loss.frame_weights == "linear" else 1
                total = total - weight * torch.log_softmax(logits, 0)[label]
        return total

    def normaliser(self, scored, states):
        if not self.cfg.scanner.batch_norm:
            return lambda h: h
        seen = torch.stack([states[clip][t] for clip, frames in scored for t in frames])
        mean, var = seen.mean(0), seen.var(0, correction=0)
        self.mean = self.mean + 0.1 * (mean.detach() - self.mean)
        self.var = self.var + 0.1 * (var.detach() - self.var)
        scale = self.weights["scanner/after_layer_0/norm/scale"]
        bias = self.weights["scanner/after_layer_0/norm/bias"]
        return lambda h: (h - mean) / torch.sqrt(var + 1e-5) * scale + bias

    def update(self, loss):
        """L2 into the gradient, the whole clipped, then momentum."""
        cfg = self.cfg.optim
        grads = dict(
            zip(self.weights, torch.autograd.grad(loss, list(self.weights.values())), strict=True)
        )
        grads = {name: g + cfg.weight_decay * self.weights[name] for name, g in grads.items()}
        norm = float(torch.sqrt(sum((g**2).sum() for g in grads.values())).detach())
        for name, g in grads.items():
            g = g * min(1, cfg.clip_norm / norm) if cfg.clip_norm else g
            self.momentum[name] = cfg.momentum * self.momentum[name] + g
            new = self.weights[name].detach() - cfg.learning_rate * self.momentum[name]
            self.weights[name] = new.requires_grad_(True)
        self.updates += 1


def fold(seed, *path):
    key = jax.random.key(seed)
    for each in path:
        key = jax.random.fold_in(key, int(each))
    return key


def compare(cfg, source, least_updates):
    """Three epochs by both; weights, statistics and losses must agree."""
    found = ours(cfg, source)
    literal = Literal(cfg, found.data, found.begun)
    losses = [literal.epoch(number) for number in range(EPOCHS)]
    assert literal.updates >= least_updates
    assert found.state.step == literal.updates
    moved = furthest(found.begun.params, found.state.params)
    away = furthest(literal.trained(found.state.params), found.state.params)
    assert moved > 0.05
    assert away < 1e-5 * moved  # the float64 figure is some 1e-15
    assert np.allclose([record.train_loss for record in found.records], losses, rtol=1e-9)
    if cfg.scanner.batch_norm:
        norm = found.state.batch_stats["scanner"]["after_layer_0"]["norm"]
        assert np.allclose(norm["mean"], literal.mean, rtol=1e-9)
        assert np.allclose(norm["var"], literal.var, rtol=1e-9)
    return found, literal


@pytest.mark.slow
def test_windows_of_50_of_120_frames(long):
    """Windows of 50, 50 and 20 frames; a clip that has ended is in none of the later ones."""
    found, _ = compare(recipe(train__tbptt_every=50), long, 10)
    assert found.data.length == 120


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["linear", "uniform"])
def test_windows_of_80_of_120_frames(long, weights):
    changes = {
        "loss__frame_weights": weights,
        "optim__clip_norm": 0.0 if weights == "uniform" else 0.4,
    }
    compare(recipe(train__tbptt_every=80, **changes), long, 10)


@pytest.mark.slow
def test_a_window_that_no_clip_of_the_batch_reaches_makes_no_update(source):
    found, literal = compare(recipe(train__tbptt_every=5), source, 20)
    # Batches of short clips end early: fewer updates than windows.
    assert literal.updates < found.data.clips("train").size // 6 * 3 * 3 + 9


@pytest.mark.slow
def test_the_gradient_reaches_back_further_than_updates_are_apart(source):
    compare(recipe(train__tbptt_every=3, train__tbptt_length=7), source, 20)


@pytest.mark.slow
def test_dropout_and_batch_norm_in_windows(source):
    changes = {"scanner__dropout": 0.4, "scanner__batch_norm": True}
    compare(recipe(train__tbptt_every=5, **changes), source, 20)


@pytest.mark.slow
def test_whole_clips_in_one_update(source):
    compare(recipe(scanner__dropout=0.3), source, 10)


def test_numbers_are_traced_and_trials_that_differ_in_scoring_train_once():
    one, other = settings(), settings(eval__inference="average", head__kind="per_frame")
    assert set(step.hyperparameters(one)) >= {"seed", "scanner.dropout", "train.epochs"}
    assert step.training_id(one) != step.training_id(other)
    same = settings(eval__window=9, eval__stride=4)
    assert step.training_id(one) == step.training_id(same)
    assert step.training_id(one) != step.training_id(settings(seed=1))


def test_seeds_that_differ_in_their_highest_bit_are_two_trials():
    folded = [
        jax.random.key_data(jax.jit(keys.fold_key)(step.hyperparameters(recipe(seed=seed))["seed"]))
        for seed in (5, 5 + 2**31, 2**32 - 1)
    ]
    assert len({tuple(map(int, key)) for key in folded}) == 3
    assert jax.random.key_data(keys.fold_key(5)).tolist() == folded[0].tolist()
