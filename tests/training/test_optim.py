"""The optimiser chain against NumPy loops, PyTorch, and itself with static numbers."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidrec import config
from vidrec.errors import UserError
from vidrec.training import optim

UPDATES = 10
SHAPES = {"w": (3, 4), "b": (4,)}


def numbers(**changes):
    return {
        "optim.learning_rate": 0.1,
        "optim.momentum": 0.9,
        "optim.b1": 0.9,
        "optim.b2": 0.999,
        "optim.weight_decay": 0.0,
        "optim.clip_norm": 0.0,
    } | {f"optim.{name}": value for name, value in changes.items()}


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}

    # Gradients of very unequal size, so that some updates are clipped and some are not.
    def gradient():
        scale = 10 ** rng.uniform(-1, 1)
        return {n: (scale * rng.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}

    return params, [gradient() for _ in range(UPDATES)]


def ours(cfg, hyper, params, gradients, updates_per_epoch=5, epochs=2):
    """Parameters after every gradient, one compiled step with traced numbers."""

    @jax.jit
    def step(params, state, gradient, hyper, epochs):
        chain = optim.build(cfg, hyper, updates_per_epoch, epochs)
        updates, state = chain.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, params)
    state = optim.build(cfg, hyper, updates_per_epoch, epochs).init(params)
    path = []
    for gradient in gradients:
        params, state = step(params, state, gradient, hyper, epochs)
        path.append(params)
    return path


def literal_momentum(params, gradients, rate, momentum, decay, clip):
    """L2, then the clip over all arrays together, then momentum, in float64."""
    params = {name: value.astype(np.float64) for name, value in params.items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    path, clipped = [], 0
    for gradient in gradients:
        gradient = {name: gradient[name] + decay * params[name] for name in params}
        norm = math.sqrt(sum((value**2).sum() for value in gradient.values()))
        if clip and norm > clip:
            clipped += 1
            gradient = {name: value * clip / norm for name, value in gradient.items()}
        for name in params:
            velocity[name] = momentum * velocity[name] + gradient[name]
            params[name] = params[name] - rate * velocity[name]
        path.append(dict(params))
    return path, clipped


@pytest.mark.parametrize("clip", [0.0, 5.0])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_momentum_with_l2_and_clip(problem, clip, decay):
    want, clipped = literal_momentum(*problem, 0.05, 0.9, decay, clip)
    assert clip == 0 or 0 < clipped < UPDATES
    hyper = numbers(learning_rate=0.05, weight_decay=decay, clip_norm=clip)
    got = ours(config.Optim(kind="momentum"), hyper, *problem)
    for mine, literal in zip(got, want, strict=True):
        chex.assert_trees_all_close(mine, literal, rtol=1e-5, atol=1e-5)


def test_plain_sgd_has_no_momentum(problem):
    want, _ = literal_momentum(*problem, 0.05, 0.0, 0.0, 0.0)
    got = ours(config.Optim(kind="sgd"), numbers(learning_rate=0.05), *problem)
    chex.assert_trees_all_close(got[-1], want[-1], rtol=1e-5, atol=1e-5)


def by_torch(make, params, gradients, clip=0.0):
    torch = pytest.importorskip("torch")
    weights = [torch.nn.Parameter(torch.tensor(value)) for value in params.values()]
    optimiser = make(torch, weights)
    for gradient in gradients:
        for weight, value in zip(weights, gradient.values(), strict=True):
            weight.grad = torch.tensor(value)
        if clip:
            torch.nn.utils.clip_grad_norm_(weights, clip)
        optimiser.step()
    return {name: w.detach().numpy() for name, w in zip(params, weights, strict=True)}


TORCH = {
    # An epsilon this large shows where it is added.
    "adam": lambda t, w: t.optim.Adam(w, 0.01, betas=(0.9, 0.999), eps=0.3, weight_decay=0.1),
    "rmsprop": lambda t, w: t.optim.RMSprop(w, 0.01, alpha=0.99, eps=0.3, weight_decay=0.1),
    "momentum": lambda t, w: t.optim.SGD(w, 0.01, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", TORCH)
def test_equals_torch_with_l2(problem, kind):
    want = by_torch(TORCH[kind], *problem)
    hyper = numbers(learning_rate=0.01, weight_decay=0.1)
    got = ours(config.Optim(kind=kind, epsilon=0.3), hyper, *problem)
    chex.assert_trees_all_close(got[-1], want, rtol=1e-4, atol=1e-5)


def test_adam_has_two_decays_of_its_own(problem):
    want = by_torch(lambda t, w: t.optim.Adam(w, 0.01, betas=(0.6, 0.95)), *problem)
    hyper = numbers(learning_rate=0.01, b1=0.6, b2=0.95)
    got = ours(config.Optim(kind="adam"), hyper, *problem)
    chex.assert_trees_all_close(got[-1], want, rtol=1e-4, atol=1e-5)
    other = ours(config.Optim(kind="adam"), hyper | {"optim.momentum": 0.1}, *problem)
    chex.assert_trees_all_equal(got[-1], other[-1])


def test_equals_torch_with_clip(problem):
    want = by_torch(lambda t, w: t.optim.Adam(w, 0.01), *problem, clip=5.0)
    got = ours(config.Optim(kind="adam"), numbers(learning_rate=0.01, clip_norm=5.0), *problem)
    chex.assert_trees_all_close(got[-1], want, rtol=1e-4, atol=1e-5)


def test_decoupled_decay_equals_torch_adamw(problem):
    want = by_torch(lambda t, w: t.optim.AdamW(w, 0.01, weight_decay=0.5), *problem)
    hyper = numbers(learning_rate=0.01, weight_decay=0.5)
    got = ours(config.Optim(kind="adam", decoupled=True), hyper, *problem)
    chex.assert_trees_all_close(got[-1], want, rtol=1e-4, atol=1e-5)
    coupled = ours(config.Optim(kind="adam"), hyper, *problem)
    assert abs(coupled[-1]["w"] - want["w"]).max() > 1e-2


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "rmsprop"])
def test_no_decay_and_no_clip_change_nothing(problem, kind):
    params, gradients = problem
    plain = ours(config.Optim(kind=kind), numbers(), *problem)
    far = ours(config.Optim(kind=kind), numbers(clip_norm=1e30), *problem)
    decoupled = ours(config.Optim(kind=kind, decoupled=True), numbers(), params, gradients)
    chex.assert_trees_all_equal(plain[-1], far[-1], decoupled[-1])


def test_a_clip_at_the_preactivations_leaves_gradients_alone(problem):
    cfg = config.Optim(kind="momentum", clip_mode="preactivation")
    there = ours(cfg, numbers(clip_norm=0.1), *problem)
    off = ours(config.Optim(kind="momentum"), numbers(), *problem)
    here = ours(config.Optim(kind="momentum"), numbers(clip_norm=0.1), *problem)
    chex.assert_trees_all_equal(there[-1], off[-1])
    assert not np.allclose(here[-1]["w"], off[-1]["w"])


@pytest.mark.parametrize(
    "kind", ["adam", *(pytest.param(x, marks=pytest.mark.slow) for x in ("momentum", "rmsprop"))]
)
def test_a_trial_in_a_group_equals_it_alone(problem, kind):
    params, gradients = problem
    cfg = config.Optim(kind=kind, schedule="cosine")
    rng = np.random.default_rng(1)
    many = {
        "optim.learning_rate": rng.uniform(1e-3, 1e-1, 4),
        "optim.momentum": rng.uniform(0, 0.99, 4),
        "optim.b1": rng.uniform(0, 0.99, 4),
        "optim.b2": rng.uniform(0.5, 0.999, 4),
        "optim.weight_decay": np.array([0, 1e-3, 0, 0.2]),
        "optim.clip_norm": np.array([0, 5, 0.5, 50]),
    }
    many = {name: value.astype(np.float32) for name, value in many.items()}
    epochs = np.array([2, 3, 4, 2])

    def train(hyper, epochs):
        chain = optim.build(cfg, hyper, 5, epochs)
        state, weights = chain.init(params), jax.tree.map(jnp.asarray, params)
        for gradient in gradients:
            updates, state = chain.update(gradient, state, weights)
            weights = optax.apply_updates(weights, updates)
        return weights

    grouped = jax.jit(jax.vmap(train))(many, epochs)
    for trial in range(4):
        alone = {name: float(value[trial]) for name, value in many.items()}
        static = ours(cfg, alone, *problem, epochs=int(epochs[trial]))
        mine = jax.tree.map(lambda leaf, n=trial: leaf[n], grouped)
        chex.assert_trees_all_close(mine, static[-1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam", "rmsprop"])
def test_state_has_one_form_for_all_numbers(problem, kind):
    forms = [
        optim.build(config.Optim(kind=kind), numbers(**changes), 5, 2).init(problem[0])
        for changes in ({}, {"weight_decay": 0.1}, {"clip_norm": 5.0}, {"momentum": 0.0})
    ]
    chex.assert_trees_all_equal_structs(*forms)
    chex.assert_trees_all_equal_shapes_and_dtypes(*forms)


def literal_factor(schedule, warmup, count, per_epoch, epochs):
    warm, total = warmup * per_epoch, epochs * per_epoch
    if count < warm:
        return (count + 1) / warm
    done = (count - warm) / (total - warm)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(done, 1)))
    if schedule == "step":
        return 0.1 ** ((done >= 0.5) + (done >= 0.75))
    return 1.0


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
@pytest.mark.parametrize("warmup", [0, 2])
def test_schedules(schedule, warmup):
    cfg = config.Optim(kind="sgd", schedule=schedule, warmup_epochs=warmup)
    gradients = [{"w": np.ones(1, np.float32)}] * 44
    path = ours(cfg, numbers(), {"w": np.zeros(1, np.float32)}, gradients, 4, jnp.int32(10))
    steps = -np.diff([0.0] + [float(params["w"][0]) for params in path]) / 0.1
    want = [literal_factor(schedule, warmup, count, 4, 10) for count in range(44)]
    np.testing.assert_allclose(steps, want, atol=1e-4)


def test_an_optimiser_of_the_users_own(problem, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import optax\n"
        "def lion(cfg, hyper):\n"
        "    return optax.lion(hyper['optim.learning_rate'], b1=hyper['optim.momentum'])\n"
    )
    cfg = dataclasses.replace(config.Optim(), kind=f"{file}:lion")
    got = ours(cfg, numbers(learning_rate=0.01), *problem)
    want, chain = jax.tree.map(jnp.asarray, problem[0]), optax.lion(0.01, b1=0.9)
    state = chain.init(want)
    for gradient in problem[1]:
        updates, state = chain.update(gradient, state, want)
        want = optax.apply_updates(want, updates)
    chex.assert_trees_all_close(got[-1], want, rtol=1e-5)
    with pytest.raises(UserError, match=r"optim\.decoupled"):
        optim.build(dataclasses.replace(cfg, decoupled=True), numbers(), 5, 2)


class Variants(chex.TestCase):
    """Compiled or not, the same update; its derivative by the gradient as differences say."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_update(self):
        params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}
        gradient = jax.tree.map(lambda leaf: leaf - 2.0, params)
        for kind in ("sgd", "momentum", "adam", "rmsprop"):
            chain = optim.build(config.Optim(kind=kind), numbers(clip_norm=1.0), 5, 2)
            state = chain.init(params)
            got, after = self.variant(chain.update)(gradient, state, params)
            want, _ = chain.update(gradient, state, params)
            chex.assert_trees_all_close(got, want, rtol=1e-6)
            chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
            chex.assert_tree_all_finite(got)

    def test_gradients(self):
        with jax.enable_x64(True):
            params = jnp.arange(6.0).reshape(2, 3)
            gradient = jnp.linspace(-1.0, 2.0, 6).reshape(2, 3)

            def update(gradient, rate, decay):
                hyper = numbers(learning_rate=rate, weight_decay=decay, clip_norm=3.0)
                chain = optim.build(config.Optim(kind="momentum"), hyper, 5, 2)
                return chain.update(gradient, chain.init(params), params)[0]

            chex.assert_numerical_grads(update, (gradient, 0.1, 0.2), order=1, atol=1e-6)
