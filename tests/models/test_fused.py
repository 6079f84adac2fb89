"""The kernel for all frames equals the loop over frames: values, gradients, groups, directions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidrec.models import cells, fused, recurrence, scanners

KINDS = {"lstm": cells.LSTM, "gru": cells.GRU}


class Case(NamedTuple):
    """A scan's arrays, and weights of a sum over all that it returns."""

    arrays: dict
    mask_BT: jax.Array
    shares: dict


def case(kind, sizes, seed, trials=None):
    """Random arrays of (clips, frames, units); a leading axis of trials where asked for."""
    clips, frames, units = sizes
    gates = KINDS[kind].gates
    rng = np.random.default_rng(seed)

    def draw(*shape):
        shape = shape if trials is None else (trials, *shape)
        return jnp.asarray(rng.normal(0, 0.5, shape), jnp.float32)

    arrays = {
        "inputs": draw(clips, frames, gates * units),
        "recurrent_kernel": draw(units, gates * units),
        "recurrent_bias": draw(gates * units),
        "h": draw(clips, units),
        "c": draw(clips, units),
    }
    mask_BT = jnp.asarray(rng.random((clips, frames)) < 0.7)
    plain = np.random.default_rng(seed + 1)
    shapes = {"y": (clips, frames, units), "h": (clips, units), "c": (clips, units)}
    shares = {name: plain.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return Case(arrays, mask_BT, shares)


def total(scan, cell, given, reverse, bound, arrays):
    """A weighted sum of outputs and last carry."""
    weights = {name: arrays[name] for name in ("recurrent_kernel", "recurrent_bias")}
    carry = arrays["h"]
    if isinstance(cell, cells.LSTM):
        weights.pop("recurrent_bias")
        carry = cells.LSTMCarry(arrays["h"], arrays["c"])
    args = (cell, weights, arrays["inputs"], given.mask_BT, carry)
    y, end = scan(*args, reverse=reverse, bound=bound)
    y = jnp.where(given.mask_BT[..., None], y, 0)
    h, c = end if isinstance(cell, cells.LSTM) else (end, jnp.zeros_like(end))
    shares = given.shares
    return (y * shares["y"]).sum() + (h * shares["h"]).sum() + (c * shares["c"]).sum()


def assert_near(ours, truth):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, truth)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("reverse", "bound"), [(False, None), (True, 0.05)])
def test_equals_the_loop(kind, reverse, bound):
    """Sizes that fit no tile; a mask with gaps; a carry that is given; a bound on derivatives."""
    given = case(kind, (5, 4, 20), seed=3)
    cell = KINDS[kind](20)
    bound = None if bound is None else jnp.asarray(bound)
    with jax.default_matmul_precision("highest"):
        both = [
            jax.jit(
                jax.value_and_grad(
                    lambda arrays, scan=scan: total(scan, cell, given, reverse, bound, arrays)
                )
            )(given.arrays)
            for scan in (fused.scan_cell, recurrence.scan_time)
        ]
    assert_near(*both)
    if bound is not None:  # the bound was met, or it would show nothing
        free = jax.grad(lambda a: total(recurrence.scan_time, cell, given, reverse, None, a))
        moved = np.abs(free(given.arrays)["inputs"] - both[1][1]["inputs"]).max()
        assert moved > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_trials_is_one_launch_with_each_trials_own_weights(kind):
    given = case(kind, (3, 4, 17), seed=5, trials=3)
    cell = KINDS[kind](17)

    def slopes(scan):
        one = jax.grad(lambda arrays: total(scan, cell, given, False, None, arrays))
        return jax.jit(jax.vmap(one))(given.arrays)

    with jax.default_matmul_precision("highest"):
        assert_near(slopes(fused.scan_cell), slopes(recurrence.scan_time))
        launches = str(jax.make_jaxpr(lambda: slopes(fused.scan_cell))()).count("pallas_call")
    assert launches == 2  # forward and backward


def test_bfloat16_rounds_the_operands_alone():
    given = case("lstm", (4, 6, 16), seed=7)
    low, exact = (cells.LSTM(16, dtype=name) for name in ("bfloat16", "float32"))

    def value(scan, cell):
        return total(scan, cell, given, False, None, given.arrays)

    loop, ours = value(recurrence.scan_time, low), value(fused.scan_cell, low)
    assert abs(ours - loop) < 0.02 * abs(loop) + 0.02
    assert value(fused.scan_cell, exact) != ours


def test_scanners_take_the_form_that_is_asked_for():
    scanner = scanners.Recurrent(cells.GRU(12), layers=2, bidirectional="concat")
    x = jax.random.normal(jax.random.key(0), (3, 5, 7))
    mask_BT = scanners.lengths_to_mask(jnp.array([5, 2, 0]), 5)
    variables = scanner.init(jax.random.key(1), x, mask_BT)

    def traced(form):
        with recurrence.scan_form(form):
            return jax.make_jaxpr(lambda v: scanner.apply(v, x, mask_BT))(variables)

    assert "pallas_call" in str(traced("kernel"))
    assert "pallas_call" not in str(traced("loop"))
    assert "unroll=4" in str(traced("unroll4"))
    with pytest.raises(ValueError, match="quick"), recurrence.scan_form("quick"):
        pass
    with recurrence.scan_form("kernel"), jax.default_matmul_precision("highest"):
        ours = scanner.apply(variables, x, mask_BT)
    with jax.default_matmul_precision("highest"):
        assert_near(ours, scanner.apply(variables, x, mask_BT))


@pytest.mark.parametrize(
    ("trials", "clips", "units"), [(1, 128, 512), (1, 50, 200), (16, 50, 200), (300, 7, 64)]
)
def test_programs_that_wait_for_each_other_fit_on_the_device(trials, clips, units):
    blocks = fused.blocks_for(trials, clips, units, processors=132)
    tiles = trials * -(-clips // blocks.clips)
    assert blocks.slices == 1 or tiles * blocks.slices <= 132
    products = -(-units // blocks.inner) * blocks.inner // blocks.units
    assert blocks.slices <= products
    # No program is left without a product.
    assert (blocks.slices - 1) * -(-products // blocks.slices) < products


def test_doubles_stay_doubles_in_a_scanner():
    """The carry begins in the precision of the projected inputs, whatever features come in."""
    with jax.enable_x64(True):
        scanner = scanners.Recurrent(cells.LSTM(6))
        x = jnp.ones((2, 3, 4), jnp.float32)
        params = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64), scanner.init(jax.random.key(0), x)
        )
        y, _ = scanner.apply(params, x)
    assert y.dtype == jnp.float64
