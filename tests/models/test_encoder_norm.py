"""An encoder with batch normalisation: whose statistics, of which frames, and that all use them."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import small_datasets

import vidrec
from vidrec.errors import UserError
from vidrec.evaluation import export
from vidrec.evaluation.predict import Classifier, score
from vidrec.io import checkpoint
from vidrec.models import encoders
from vidrec.models.encoders import norm
from vidrec.sweeps import runner
from vidrec.training import loop, prepare
from vidrec.training.loop import Interrupted

NET = """
import flax.linen as nn
from vidrec.models.encoders.base import Conv


class Block(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x, train):
        x = Conv(self.channels, (3, 3), stride=2, name="first")(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.8)(x))


class Net(nn.Module):
    takes_clips = False
    blocks = ("first", "second")

    @nn.compact
    def __call__(self, frames, train=False):
        x = frames / 255.0
        x = Block(4, name="first")(x, train)
        x = Block(6, name="second")(x, train)
        x = nn.Dense(5, name="last")(x.mean((1, 2)))
        return nn.BatchNorm(name="norm", momentum=0.8)(x, use_running_average=not train)


class Clips(Net):
    takes_clips = True

    @nn.compact
    def __call__(self, frames, train=False):
        x = frames.mean((2, 3)).reshape(len(frames), -1) / 255.0
        x = nn.BatchNorm(name="norm", use_running_average=not train, momentum=0.8)(x)
        return nn.Dense(5, name="last")(x)[:, None]


class Normed(nn.Module):
    takes_clips = False

    @nn.compact
    def __call__(self, frames, train=False):
        norm = nn.BatchNorm(name="norm", use_running_average=not train, momentum=0.75)
        return nn.relu(norm(frames.mean((1, 2))))


class Plain(nn.Module):
    takes_clips = False

    @nn.compact
    def __call__(self, frames, train=False):
        return nn.BatchNorm(use_running_average=not train, momentum=0.75)(frames.mean((1, 2)))
"""
SETTINGS = {
    "encoder.size": 8,
    "encoder.trainable": "all",
    "train.epochs": 12,
    "train.batch_size": 4,
    "optim.learning_rate": 0.1,
    "scanner.batch_norm": True,
    "data.test": 0.25,
}


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("nets") / "net.py"
    file.write_text(NET)
    return str(file)


def bright() -> small_datasets.PixelDataset:
    """Clips of two classes, dark and bright, far from the statistics that a network begins with."""
    source = small_datasets.pixels(clips=24)
    arrays = tuple(
        (clip // 4 + 130 + 60 * label).astype(np.uint8)
        for clip, label in zip(source.arrays, source.labels, strict=True)
    )
    return small_datasets.PixelDataset(**{**vars(source), "arrays": arrays})


def settings(net: str, name: str = "Net", **more) -> vidrec.Config:
    given = {"encoder.kind": f"{net}:{name}"} | SETTINGS
    given |= {key.replace("__", "."): value for key, value in more.items()}
    return vidrec.override(small_datasets.settings(), given)


@pytest.fixture(scope="module")
def trained(net, tmp_path_factory):
    """A run from scratch; the report is not looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_write_report", lambda *_: None)
        root = tmp_path_factory.mktemp("runs")
        return Path(runner.run(settings(net), root, name="scratch", dataset=bright())["dir"])


def stats_of(run: Path) -> dict:
    """The encoder's running statistics, as they were saved."""
    tree = checkpoint.read(run / "model")[0]
    fixed = tree.get("constants", {}).get("batch_stats", {})
    return encoders.merge(fixed, tree.get("stats", {}))["encoder"]


def same_answers(run: Path, source: small_datasets.PixelDataset) -> None:
    """Predicting says of each clip what training's own scoring said of it."""
    model = Classifier.load(run, trust_code=True)
    saved = np.load(run / "predictions.npz")
    for part in ("train", "val", "test"):
        for name, logits in zip(saved[f"{part}_names"], saved[f"{part}_logits"], strict=True):
            clip = source.arrays[source.names.index(str(name))]
            np.testing.assert_allclose(model.predict(clip).scores_K, logits, rtol=2e-3, atol=2e-4)


def test_what_trained_is_scored_with_the_statistics_that_it_learned(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["metrics"]["train"]["accuracy"] == 1.0
    assert result["metrics"]["test"]["accuracy"] == 1.0
    mean = stats_of(trained)["norm"]["mean"]
    assert np.abs(mean).max() > 0.05  # it began at 0
    same_answers(trained, bright())
    again = score(trained, dataset=bright(), trust_code=True)
    assert again["metrics"]["test"]["accuracy"] == 1.0


def test_an_export_has_them_too(trained, tmp_path):
    export.export(trained, tmp_path / "out", platforms=["cpu"], trust_code=True)
    spec = importlib.util.spec_from_file_location("loader", tmp_path / "out" / "loader.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    exported, model = loader.load(tmp_path / "out"), Classifier.load(trained, trust_code=True)
    for clip in bright().arrays[:4]:
        frames = exported.pick(clip)
        want = model.predict(clip).probabilities_K
        np.testing.assert_allclose(exported(frames[None])[0], want, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_them(net, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_write_report", lambda *_: None)
    ends = []

    class Stops(loop.Silent):
        def epoch(self, number, records):
            ends.append(number)

        def should_stop(self):
            return ends == [1, 2]

    class Stopping(runner.Reporter):
        def group(self, name, members):
            return Stops()

    with pytest.raises(Interrupted):
        runner.run(settings(net), tmp_path, name="run", dataset=bright(), screen=Stopping())
    result = runner.run(settings(net), tmp_path, name="run", dataset=bright())
    assert result["resumed_epoch"] == 2
    one, other = (checkpoint.read(Path(d) / "model")[0] for d in (result["dir"], trained))
    assert small_datasets.same(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["all", "last_block", "head"])
def test_fine_tuning_begins_with_the_statistics_of_the_weights(trainable, net, trained, tmp_path):
    """Those of blocks that stay, stay; the others go on from there."""
    cfg = settings(
        net, encoder__weights=str(trained), encoder__trainable=trainable, train__epochs=1
    )
    before = stats_of(trained)
    data = prepare.prepare(cfg, dataset=bright())
    begun = small_datasets.group_of([cfg], data)
    begun.initialize()
    drawn = begun.snapshot().state.batch_stats["encoder"]
    frozen = {"all": set(), "last_block": {"first"}, "head": {"first", "second"}}[trainable]
    for name in before.keys() - frozen:
        assert small_datasets.same(small_datasets.one(drawn[name], 0), before[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_write_report", lambda *_: None)
        run = Path(runner.run(cfg, tmp_path, name="tuned", dataset=bright())["dir"])
    after = stats_of(run)
    for name in before:
        assert small_datasets.same(after[name], before[name]) == (name in frozen), name
    same_answers(run, bright())


def test_blocks_that_stay_normalise_by_their_own_statistics(net):
    """Where nothing moves, a head's training loss over frozen blocks is that of scoring."""
    file = Path(net).with_name("head.py")
    last = 'nn.BatchNorm(name="norm", momentum=0.8)(x, use_running_average=not train)'
    assert last in NET
    file.write_text(NET.replace(last, "x"))
    cfg = settings(
        str(file),
        encoder__trainable="head",
        frames__rule="whole",
        optim__learning_rate=0.0,
        scanner__batch_norm=False,
        train__batch_size=32,
    )
    data = prepare.prepare(cfg, dataset=bright())
    variables = encoders.init(data.encoder, cfg.encoder)
    rng = np.random.default_rng(3)
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 2, leaf.shape).astype(np.float32), variables["batch_stats"]
    )
    frozen = prepare._frozen(cfg, data.encoder, variables)
    data = dataclasses.replace(data, frozen=frozen)
    group = small_datasets.group_of([cfg], data)
    _, [[record]] = small_datasets.train(group, epochs=1)
    untrained = group.score(data.clips("train")).losses_B.mean()
    assert record.train_loss == pytest.approx(untrained, rel=1e-5)


@pytest.mark.parametrize(
    "how",
    ["alone", *(pytest.param(how, marks=pytest.mark.slow) for how in ("spread", "accumulated"))],
)
def test_statistics_are_of_valid_frames_alone(how, net):
    """A NumPy loop over the clips' own frames; padding of clips and of batches counts nothing."""
    cfg = settings(
        net,
        "Plain",
        train__epochs=3,
        train__batch_size=32,
        frames__rule="whole",
        scanner__batch_norm=False,
        train__grad_accum=7 if how == "accumulated" else 1,
    )
    source = bright()
    data = prepare.prepare(cfg, dataset=source)
    over = {"how": "batch", "on": jax.devices()[:4]} if how == "spread" else {}
    last, _ = small_datasets.train(small_datasets.group_of([cfg], data, **over))
    [stats] = small_datasets.one(last.state, 0).batch_stats["encoder"].values()
    frames = np.concatenate([source.arrays[clip] for clip in data.clips("train")])
    values = frames.astype(np.float64).mean((1, 2))
    if how == "accumulated":
        assert np.isfinite(stats["mean"]).all()
        assert np.isfinite(stats["var"]).all()
        return
    mean, var = np.zeros(3), np.ones(3)
    for _ in range(3):
        mean = 0.75 * mean + 0.25 * values.mean(0)
        var = 0.75 * var + 0.25 * values.var(0)
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], var, rtol=1e-4)


def truth(params: dict, stats: dict, clips: list[np.ndarray], labels: np.ndarray, frozen: bool):
    """Return the mean loss over the clips' own frames, one clip after another, no frame padded."""
    import jax.numpy as jnp

    values = [jnp.asarray(clip, jnp.float32).mean((1, 2)) for clip in clips]
    frames = jnp.concatenate(values)
    mean, var = (stats["mean"], stats["var"]) if frozen else (frames.mean(0), frames.var(0))
    scale, bias = params["encoder"]["norm"]["scale"], params["encoder"]["norm"]["bias"]
    scores = params["head"]["scores"]
    total = 0.0
    for value, label in zip(values, labels, strict=True):
        normed = (value - mean[None]) / jnp.sqrt(var + 1e-5)[None] * scale[None] + bias[None]
        logits = jax.nn.relu(normed).mean(0) @ scores["kernel"] + scores["bias"]
        total = total - jax.nn.log_softmax(logits)[int(label)]
    return total / len(clips)


@pytest.mark.parametrize(
    ("statistics", "how"),
    [
        ("frozen", "accumulated"),
        ("trained", "alone"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("frozen", "alone"),
                ("frozen", "spread"),
                ("frozen", "two at once"),
                ("trained", "spread"),
                ("trained", "two at once"),
            )
        ),
    ],
)
def test_scale_and_bias_train_under_frozen_and_under_trained_statistics(statistics, how, net):
    """Three steps of gradient descent, written plainly; frozen, parts of a batch change nothing."""
    cfg = settings(
        net,
        "Normed",
        encoder__batch_norm=statistics,
        train__epochs=3,
        train__batch_size=32,
        train__grad_accum=7 if how == "accumulated" else 1,
        frames__rule="whole",
        scanner__kind="mean",
        scanner__batch_norm=False,
        optim__kind="sgd",
    )
    source = bright()
    data = prepare.prepare(cfg, dataset=source)
    stats = {"mean": np.array([110, 130, 150.0]), "var": np.array([2000, 1500, 900.0])}
    stats = {name: value.astype(np.float32) for name, value in stats.items()}
    place = "collections" if statistics == "frozen" else "init_batch_stats"
    given = {"encoder": {"norm": stats}}
    given = {"batch_stats": given} if statistics == "frozen" else given
    data = dataclasses.replace(data, frozen=data.frozen._replace(**{place: given}))
    over = {"how": "batch", "on": jax.devices()[:4]} if how == "spread" else {}
    cfgs = [cfg, vidrec.override(cfg, {"seed": 5})] if how == "two at once" else [cfg]
    over |= {"how": "vmap"} if how == "two at once" else {}
    group = small_datasets.group_of(cfgs, data, **over)
    group.initialize()
    params = small_datasets.one(group.snapshot().state.params, 0)
    last, _ = small_datasets.train(group)
    clips = [source.arrays[clip] for clip in data.clips("train")]
    labels = source.labels[data.clips("train")]
    for _ in range(3):
        slope = jax.grad(truth)(params, stats, clips, labels, statistics == "frozen")
        params = jax.tree.map(lambda value, by: value - 0.1 * by, params, slope)
    found = small_datasets.one(last.state, 0)
    assert small_datasets.furthest(found.params, params) < 1e-5
    assert small_datasets.furthest(params["encoder"]["norm"]["scale"], np.ones(3)) > 1e-3
    if statistics == "frozen":
        assert not found.batch_stats


def test_statistics_of_no_batch_normalization_are_not_frozen(net):
    with pytest.raises(UserError, match=r"kind = 'vgg9' has no batch normalization"):
        vidrec.override(vidrec.Config(), {"encoder.kind": "vgg9", "encoder.batch_norm": "frozen"})
    file = Path(net).with_name("without.py")
    file.write_text(
        "import flax.linen as nn\n\nclass Net(nn.Module):\n    takes_clips = False\n\n"
        "    @nn.compact\n    def __call__(self, x, train=False):\n"
        "        return nn.Dense(3)(x.mean((1, 2)) / 255)\n"
    )
    cfg = settings(str(file), encoder__batch_norm="frozen")
    with pytest.raises(UserError, match=r"kind = .* has no batch normalization"):
        prepare.prepare(cfg, dataset=bright())
    with pytest.raises(UserError, match=r"kind = .* has no batch normalization"):
        prepare.abstract(cfg)
    begun = vidrec.override(
        vidrec.Config(), {"encoder.kind": "resnet18", "encoder.batch_norm": "frozen"}
    )
    assert vidrec.override(begun, {"encoder.kind": "cnn"}).encoder.batch_norm == "trained"


@pytest.mark.slow
def test_frozen_statistics_are_those_of_the_weights_to_the_end(net, trained, tmp_path, monkeypatch):
    """Though every block trains; scoring, predicting and the saved model use them, too."""
    monkeypatch.setattr(runner, "_write_report", lambda *_: None)
    cfg = settings(
        net, encoder__weights=str(trained), encoder__batch_norm="frozen", train__epochs=2
    )
    run = Path(runner.run(cfg, tmp_path, name="tuned", dataset=bright())["dir"])
    assert small_datasets.same(stats_of(run), stats_of(trained))
    same_answers(run, bright())
    before, after = (checkpoint.read(each / "model")[0]["trained"] for each in (trained, run))
    assert small_datasets.furthest(before["encoder"], after["encoder"]) > 1e-3


@pytest.mark.slow
def test_an_encoder_of_clips_keeps_them_too(net, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_write_report", lambda *_: None)
    # With seed 0 the rate of 0.1 makes this one diverge.
    cfg = settings(net, "Clips", seed=1, scanner__kind="none", scanner__batch_norm=False)
    run = Path(runner.run(cfg, tmp_path, name="clips", dataset=bright())["dir"])
    assert json.loads((run / "result.json").read_text())["metrics"]["train"]["accuracy"] == 1.0
    assert (stats_of(run)["norm"]["mean"] > 0.1).all()
    same_answers(run, bright())


@pytest.mark.slow
def test_a_frozen_encoder_takes_those_of_its_weights(net, trained, tmp_path, monkeypatch):
    """Extracted features, predicted, evaluated."""
    monkeypatch.setattr(runner, "_write_report", lambda *_: None)
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    cfg = settings(net, encoder__weights=str(trained), encoder__trainable="none")
    data = prepare.prepare(cfg, dataset=bright())
    kept = data.saved["encoder"]
    assert small_datasets.same(kept["batch_stats"], stats_of(trained))
    [clip] = data.clips("test")[:1]
    want = data.dataset.arrays[clip]
    given = encoders.build(cfg.encoder).apply(kept, want)
    found = data.values[data.offsets[clip] :][: data.lengths[clip]]
    np.testing.assert_allclose(found, given, rtol=1e-4, atol=1e-5)
    run = Path(runner.run(cfg, tmp_path, name="frozen", dataset=bright())["dir"])
    assert json.loads((run / "result.json").read_text())["metrics"]["test"]["accuracy"] == 1.0
    same_answers(run, bright())


def test_a_norm_that_says_so_itself_is_left_alone():
    """One that always takes its running statistics, or has a mask of its own."""
    import flax.linen as nn
    import jax.numpy as jnp

    x = jnp.arange(12.0).reshape(4, 3)
    mask = jnp.array([True, True, False, False])
    for layer, given in (
        (nn.BatchNorm(use_running_average=True), {}),
        (nn.BatchNorm(), {"use_running_average": True}),
        (nn.BatchNorm(use_running_average=False), {"mask": mask[:, None]}),
    ):
        variables = layer.init(jax.random.key(0), x, **given)
        plain = layer.apply(variables, x, mutable=["batch_stats"], **given)
        with norm.batch_statistics(jnp.array([True, False, False, False])):
            ours = layer.apply(variables, x, mutable=["batch_stats"], **given)
        assert small_datasets.same(plain, ours)
    layer = nn.BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), x)
    plain = layer.apply(variables, x[:2], mutable=["batch_stats"])
    with norm.batch_statistics(mask):
        ours = layer.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(ours[0][:2], plain[0], rtol=1e-5)
    assert small_datasets.furthest(ours[1], plain[1]) < 1e-5
    with norm.batch_statistics(jnp.zeros(4, bool)):
        y, kept = layer.apply(variables, x, mutable=["batch_stats"])
    assert np.isfinite(y).all()
    assert small_datasets.same(kept["batch_stats"], variables["batch_stats"])


def test_weights_of_another_encoder_are_refused(net, trained):
    cfg = settings(net, "Plain", encoder__weights=str(trained))
    with pytest.raises(UserError, match=r"differ in|another one"):
        prepare.prepare(cfg, dataset=bright())


def test_a_name_deeper_inside_is_no_frozen_block():
    import flax.linen as nn
    import jax.numpy as jnp

    class Outer(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            return nn.remat(type(self.inner))(use_running_average=False, name="first")(x)

    class Encoder(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False, name="first")(x)
            return Outer(nn.BatchNorm(), name="second")(x)

    x = jnp.arange(12.0).reshape(4, 3)
    variables = Encoder().init(jax.random.key(0), x)

    def loss(params):
        with norm.batch_statistics(None, frozen=[("first",)]):
            return Encoder().apply(variables | {"params": params}, x, mutable=["batch_stats"])

    _, changed = loss(variables["params"])
    before, after = variables["batch_stats"], changed["batch_stats"]
    assert small_datasets.same(before["first"], after["first"])
    assert not small_datasets.same(before["second"], after["second"])
    gradient = jax.grad(lambda params: (loss(params)[0] ** 3).sum())(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
