"""What a table would take is counted from shapes, as a plain sum counts it."""

import jax
import jax.numpy as jnp
import pytest
from helpers.small_datasets import features, settings

from vidrec.data import splits
from vidrec.sweeps import check, cost, preview
from vidrec.sweeps.ablation import Ablation, product
from vidrec.training import prepare


def counted(fn, *shapes):
    return cost.operations(jax.make_jaxpr(fn)(*(jnp.zeros(shape) for shape in shapes)).jaxpr)


def test_products_convolutions_and_loops_are_counted():
    assert counted(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert counted(lambda a, b: jnp.einsum("nij,njk->nik", a, b), (4, 3, 5), (4, 5, 7)) == 840
    conv = counted(
        lambda x, w: jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        (2, 8, 8, 3),
        (3, 3, 3, 6),
    )
    assert conv == 2 * 27 * (2 * 8 * 8 * 6)

    def looped(a, b):
        return jax.lax.scan(lambda x, _: (jax.nn.relu(x @ b), None), a, length=11)[0]

    assert counted(jax.jit(looped), (3, 5), (5, 5)) == 11 * 2 * 3 * 5 * 5

    small = jax.make_jaxpr(lambda a, b: a @ (b @ b))(jnp.zeros((3, 5)), jnp.zeros((5, 5))).jaxpr
    assert cost.operations(small, up_to=2 * 3 * 5 * 5) == 2 * 3 * 5 * 5

    def either(a, b):
        return jax.lax.cond(a.sum() > 0, lambda: a @ b @ b, lambda: a @ b)

    assert counted(either, (3, 5), (5, 5)) == 2 * 2 * 3 * 5 * 5


def test_an_epoch_of_the_mean_is_a_product_forwards_and_two_back():
    """The head alone computes: its gradient is one more product, as nothing lies before it."""
    cfg = settings(
        scanner__kind="mean", data__kind="features", encoder__width=7, data__classes=tuple("abc")
    )
    found = cost.of(cfg, train=15, val=7, frames=100)
    head = 2 * 7 * 3
    assert found.small + found.large == 2 * 15 * head + 7 * head
    assert found.data == 4 * (100 * 7 + 3 * 22)
    assert found.state > 2 * 4 * (7 * 3 + 3)


def test_time_grows_with_epochs_and_falls_with_the_rate():
    one = cost.Cost(0, 0, 1e9, 4e9)
    once = cost.seconds(one, 20, 1e9, 2e9) - cost.seconds(one, 10, 1e9, 2e9)
    assert once == pytest.approx(10 * cost.REST * 3)
    assert min(cost.measured_rates(settings())) > 1e5


def test_a_table_is_estimated_by_group_where_its_data_is(tmp_path, monkeypatch):
    here = settings(data__kind="tfds")
    axes = {"scanner.kind": ["mean", "gru"], "optim.clip_norm": [0, 1]}
    table = Ablation("table", here, product(axes))
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path))
    assert [g["bytes"] for g in preview.estimates(table)] == [None] * 2
    assert not list(tmp_path.rglob("*.array_record*"))  # nothing was generated to be counted
    monkeypatch.setattr(cost.datasets, "load_if_there", lambda data, load: features())
    mean, gru = preview.estimates(table)
    assert mean["trials"] == gru["trials"] == 2
    assert mean["epochs"] == [here.train.epochs] * 2
    assert mean["batch_size"] == here.train.batch_size
    split = splits.make(features(), here.data)
    assert (mean["train"], mean["val"]) == (len(split.train), len(split.val))
    assert 0 < mean["bytes"] < gru["bytes"]
    assert cost.COMPILE < mean["seconds"] < gru["seconds"]
    # What is trained already takes no time.
    ids = [trial["id"] for trial in preview.dry_run(table)]
    for done, left in ((ids[:1], [1, 2]), (ids[:2], [2]), (ids, [])):
        todo = [id_ not in done for id_ in ids]
        assert [g["trials"] for g in preview.estimates(table, left=todo)] == left
    # Rows that differ in scoring only are trained once.
    scored = [{"head.kind": "per_frame", "eval.inference": name} for name in ("single", "vote")]
    [both] = preview.estimates(Ablation("table", here, scored))
    assert both["trials"] == 1


def test_what_is_traced_has_the_parameters_that_are_counted():
    assert check.check(settings()) == prepare.count_params(settings())
