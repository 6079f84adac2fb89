"""Training from pixels and on frames as users run it: what stays frozen, what is learned."""

import json
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_datasets import group_of, one, pixels, prepared, settings, train
from helpers.trained_runs import write_videos

import vidrec
from vidrec.cli import main
from vidrec.config import override
from vidrec.io import checkpoint
from vidrec.models import encoders
from vidrec.training import batches, feeds, step

CNN3 = {
    "encoder.kind": "cnn3",
    "encoder.pooling": "dense",
    "encoder.width": 5,
    "encoder.size": 8,
    "encoder.trainable": "last_block",
}


def frozen_in_part(**changes):
    return override(settings(**changes), CNN3)


# ------------------------------------------------------------------ frozen blocks


@pytest.fixture(scope="module")
def tuned():
    """Two trials whose last block trained, with decay and clipping: (prepared, group's state)."""
    decayed = {"optim__weight_decay": 0.1, "optim__clip_norm": 0.5, "train__epochs": 2}
    configs = [frozen_in_part(seed=seed, **decayed) for seed in (0, 1)]
    data = prepared(configs[0], pixels())
    group = group_of(configs, data)
    group.initialize()
    before = jax.tree.map(np.array, group.feed.shared.frozen)
    last, records = train(group)
    chex.assert_trees_all_equal(group.feed.shared.frozen, before)
    return data, last.state, records


@pytest.mark.slow
def test_frozen_blocks_are_one_copy_that_no_optimiser_sees(tuned):
    data, state, _ = tuned
    fixed = data.frozen.params["encoder"]
    assert set(fixed) == {"block1", "block2"}
    drawn = encoders.init(data.encoder, frozen_in_part().encoder)["params"]
    chex.assert_trees_all_equal(fixed, {name: drawn[name] for name in fixed})
    assert set(state.params["encoder"]) == {"block3", "dense"}
    # Momentum has one array for each that trains, and nothing else of such a size.
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim > 1]
    assert sorted(moments) == sorted(leaf.shape for leaf in jax.tree.leaves(state.params))
    assert all(shape[0] == 2 for shape in moments)  # the trials' axis, which nothing frozen has
    kernel = fixed["block2"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 16, 32)
    assert not np.array_equal(
        one(state.params, 0)["encoder"]["block3"]["conv1"]["kernel"],
        drawn["block3"]["conv1"]["kernel"],
    )


class Alone:
    """One trial's first batch, and what its step needs."""

    def __init__(self, cfg):
        self.cfg, data = cfg, prepared(cfg, pixels())
        group = group_of([cfg], data)
        group.initialize()
        self.spec, self.hyper = group.spec, step.hyperparameters(cfg)
        self.resident = jax.tree.map(jnp.asarray, feeds.resident(data))
        self.state = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), group.snapshot().state)
        clips = data.clips("train")[: cfg.train.batch_size]
        valid = jnp.ones(clips.shape, bool)
        self.batch = batches.gather(
            self.resident,
            batches.Clips(clips, valid),
            batches.Sampling(cfg, data.length, self.hyper["seed"], 0),
        )

    def step(self, state, frozen):
        return step.train_step(self.spec, state, self.hyper, frozen, self.batch)

    def loss(self, params):
        window = step.Window(self.batch, None, 0, self.batch.mask_BT)
        arguments = (self.spec, self.state, self.hyper, self.resident.frozen, window)
        return step.summed_loss(*arguments)(params)[0]


@pytest.mark.slow
def test_decay_and_clipping_see_what_trains_and_no_more():
    rate, decay, most = 0.05, 0.3, 0.5
    changes = {"optim__weight_decay": decay, "optim__clip_norm": most, "optim__kind": "sgd"}
    alone = Alone(frozen_in_part(optim__learning_rate=rate, **changes))
    state, _ = jax.jit(alone.step)(alone.state, alone.resident.frozen)
    before = alone.state.params
    clips = len(alone.batch.labels_B)
    gradient = jax.jit(jax.grad(alone.loss))(before)
    pulled = jax.tree.map(lambda g, p: np.asarray(g / clips + decay * p), gradient, before)
    norm = np.sqrt(sum((leaf.astype(float) ** 2).sum() for leaf in jax.tree.leaves(pulled)))
    assert norm > 2 * most  # it is clipped
    expected = jax.tree.map(lambda p, g: p - rate * most / norm * g, before, pulled)
    chex.assert_trees_all_close(state.params, expected, atol=1e-6)


@pytest.mark.slow
def test_a_steps_arithmetic_falls_with_each_frozen_block():
    def flops(trainable: str) -> float:
        alone = Alone(override(frozen_in_part(), {"encoder.trainable": trainable}))
        lowered = jax.jit(alone.step).lower(alone.state, alone.resident.frozen)
        return lowered.compile().cost_analysis()["flops"]

    head, one_block, two, everything = map(flops, ("head", "last_block", "last_two_blocks", "all"))
    assert head < one_block < two < everything


# ------------------------------------------------------------------ frames, then clips


@pytest.mark.slow
def test_frames_are_tuned_then_read_out_for_a_whole_data_set(tmp_path, monkeypatch, capfd):
    """Report D's two commands on a folder of tiny videos: the layer tuned first is what is read."""
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    videos = write_videos(tmp_path / "videos")
    tiny = {
        "data.kind": "videos",
        "data.split": "random",
        "data.fold": 0,
        "data.root": str(videos),
        "encoder.kind": "cnn3",
        "encoder.width": 12,
        "encoder.size": 16,
        "encoder.normalize": "unit",
        "train.epochs": 2,
        "train.batch_size": 4,
    }

    def command(experiment: str, **more):
        words = [f"--{name}={value}" for name, value in (tiny | more).items()]
        place = ["--json", f"--workdir={tmp_path}"]
        with pytest.raises(SystemExit) as left:
            main.main(["train", f"experiments/{experiment}.py", *place, *words])
        assert left.value.code == 0
        return json.loads(capfd.readouterr().out)

    frames = command("ucf101_frames", **{"encoder.weights": "random"})
    clips = {"frames.length": 8, "train.tbptt_every": 4, "scanner.units": 4, "scanner.dense": 5}
    lstm = command("ucf101_lstm", **clips, **{"encoder.weights": str(tmp_path / "ucf101_frames")})
    assert frames["status"] == lstm["status"] == "done"
    tuned = checkpoint.read(Path(frames["dir"]) / "model")[0]
    read_by = checkpoint.read(Path(lstm["dir"]) / "model")[0]["encoder"]["params"]
    layer = tuned["trained"]["encoder"]["dense"]
    chex.assert_trees_all_equal(read_by["dense"], layer)
    chex.assert_trees_all_equal(read_by["block1"], tuned["fixed"]["encoder"]["block1"])
    assert lstm["id"] != frames["id"]


# ------------------------------------------------------------------ report C

SMALL = str(Path(__file__).parents[2] / "benchmarks" / "small_pixels.py")
HE = {"encoder.init": "own"}
MODELS = {
    "cnn3": {"encoder.width": 256, "scanner.kind": "lstm", "head.kind": "flatten"},
    f"{SMALL}:C3D": {"encoder.width": 1024, "scanner.kind": "none", "head.kind": "last"} | HE,
    f"{SMALL}:VGG9": {"encoder.width": 500, "scanner.kind": "none", "head.kind": "flatten"} | HE,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.rpartition(":")[2])
def test_report_cs_models_fit_32_clips(kind, tmp_path):
    """8 frames of 16x16; C3D and VGG9 at an eighth of their channels, from He's weights."""
    settings = {
        "data.kind": f"{SMALL}:clips",
        "data.tfds": "",
        "data.split": "random",
        "data.val": 0,
        "data.test": 8,
        "encoder.kind": kind,
        "encoder.size": 16,
        "frames.length": 8,
        "frames.rule": "uniform",
        "train.epochs": 60,
        "train.batches_per_epoch": 0,
        "train.target": 0,
    }
    base = vidrec.load("experiments/ucf11_pixels.py")
    result = vidrec.train(override(base, settings | MODELS[kind]), tmp_path)
    assert result["counts"]["train"]["scored"] == 32
    assert result["metrics"]["train"]["accuracy"] == 1


# ------------------------------------------------------------------ report E


@pytest.mark.slow
def test_report_es_six_variants_on_frames_of_real_clips(real_data, tmp_path):
    """The whole VGG16 at 32x32, its "ImageNet" a file of random weights: that all of it runs."""
    keras = pytest.importorskip("keras")
    weights = tmp_path / "vgg16.weights.h5"
    keras.applications.VGG16(weights=None, include_top=False).save_weights(weights)
    program = Path(SMALL).with_name("transfer_images.py")
    words = [real_data / "skyrim_human_actions", weights, "--encoder=vgg16", "--size=32"]
    few = ["--epochs=2", "--frames=1", f"--workdir={tmp_path}", "--json"]
    fast = {name: each for name, each in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, program, *words, *few],
        env=fast | {"VIDREC_CACHE": str(tmp_path / "cache")},
        cwd=program.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert [row["row"] for row in answer["rows"]] == [
        "1 softmax",
        "1 relu",
        "2 frozen",
        "3-a",
        "3-b",
        "3-c",
    ]
    for row in answer["rows"]:
        # Two steps at the report's rate may leave a whole VGG16 diverged, and that is recorded.
        assert row["status"] in ("done", "diverged")
        for part in ("train", "val", "test"):
            assert 0 <= row[f"{part}_accuracy"] <= 1
            assert np.isfinite(row[f"{part}_loss"])
    page = Path(answer["report"])
    assert (page.parent / "figures" / "curves.svg").is_file()
    trained = [
        json.loads(file.read_text())["params"] for file in page.parent.glob("trials/*/result.json")
    ]
    assert len(set(trained)) == 4  # head, one block, two, everything
    assert min(trained) == 512 * 3 + 3
