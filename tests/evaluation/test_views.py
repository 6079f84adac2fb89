"""Several views of a clip: the mean of their probabilities, whoever is asked."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import trained_runs
from helpers.trained_runs import moving
from scipy import ndimage, special

from vidrec import config
from vidrec.config import Config, Eval, override
from vidrec.errors import UserError
from vidrec.evaluation import export, predict, tasks, views
from vidrec.evaluation.export import loader
from vidrec.evaluation.predict import Classifier
from vidrec.sweeps import runner

WINDOWS = {
    "head.kind": "per_frame",
    "eval.inference": "average",
    "eval.window": 4,
    "eval.stride": 3,
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return trained_runs.made(tmp_path_factory)


def literal_views(frames_THWC, name):
    """The views as one would cut them: crops of 7/8 read between pixels, then mirror images."""
    size = frames_THWC.shape[1]
    side = 7 / 8 * size
    spare = size - side
    corners = [(spare / 2, spare / 2), (0, 0), (0, spare), (spare, 0), (spare, spare)]
    if name == "flip":
        return [frames_THWC, frames_THWC[:, :, ::-1]]
    made = []
    for top, left in corners:
        at = (np.arange(size) + 0.5) * side / size - 0.5
        rows, columns = np.meshgrid(top + at, left + at, indexing="ij")
        cut = [
            np.stack(
                [
                    ndimage.map_coordinates(
                        frame[..., c].astype(float), [rows, columns], order=1, mode="nearest"
                    )
                    for c in range(3)
                ],
                -1,
            )
            for frame in frames_THWC
        ]
        made.append(np.round(np.stack(cut)).astype(np.uint8))
    return made + [each[:, :, ::-1] for each in made] * (name == "ten_crops")


@pytest.mark.parametrize("name", ["flip", "five_crops", "ten_crops"])
def test_views_are_cut_as_one_would(name):
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    ours = np.asarray(views.shown(jnp.asarray(frames), name)).astype(int)
    theirs = literal_views(frames, name)
    assert len(ours) == len(theirs)
    assert max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)) <= 1


@pytest.mark.parametrize("name", ["flip", "five_crops", "ten_crops"])
def test_a_prediction_is_the_mean_over_views(runs, name):
    model = Classifier.load(runs["trained"])
    size = model.cfg.encoder.size
    frames = moving(17, True, 3, size, size)
    several = model.with_eval(Eval(views=name)).predict(frames)
    apart = [model.predict(each).probabilities_K for each in literal_views(frames, name)]
    assert np.ptp(apart, 0).max() > 1e-4
    np.testing.assert_allclose(several.probabilities_K, np.mean(apart, 0), atol=2e-3)
    assert not np.allclose(several.probabilities_K, apart[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "multilabel"])
def test_outputs_of_views_mean_the_mean_of_their_probabilities(kind):
    task = tasks.named(kind)
    outputs = np.random.default_rng(0).normal(0, 3, (4, 5, 3)).astype(np.float32)
    mean = task.averaged(jnp.asarray(outputs), "cross_entropy")
    of = special.expit if kind == "multilabel" else lambda x: special.softmax(x, -1)
    np.testing.assert_allclose(of(np.asarray(mean)), of(outputs).mean(0), rtol=1e-4)


def test_shares_are_averaged_as_shares():
    shares = np.random.default_rng(0).uniform(0, 3, (4, 5, 3)).astype(np.float32)
    mean = tasks.named("clip").averaged(jnp.asarray(shares), "keras_cross_entropy")
    expected = (shares / shares.sum(-1, keepdims=True)).mean(0)
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, WINDOWS], ids=["single", "windows"])
def test_training_evaluation_prediction_and_export_give_one_answer(
    runs, changes, tmp_path, monkeypatch
):
    monkeypatch.setenv("VIDREC_CACHE", str(runs["videos"].parent / "cache"))
    monkeypatch.setattr(runner, "_write_report", lambda *_: None)
    settings = trained_runs.TRAINED | changes | {"eval.views": "five_crops", "train.epochs": 1}
    cfg = trained_runs.settings_of(runs["videos"], settings)
    trained = Path(runner.run(cfg, tmp_path, name="views")["dir"])
    theirs = json.loads((trained / "result.json").read_text())["metrics"]["test"]
    mine = predict.score(trained)["metrics"]["test"]
    for figure in ("loss", "objective", "accuracy", "calibration_error"):
        assert mine[figure] == pytest.approx(theirs[figure], rel=1e-4, abs=1e-5), figure
    saved = np.load(trained / "predictions.npz")
    model = Classifier.load(trained)
    answers = [model.predict(runs["videos"] / str(name)) for name in saved["test_names"]]
    printed = [answer.probabilities_K for answer in answers]
    np.testing.assert_allclose(saved["test_probabilities"], printed, atol=1e-4)
    plain = predict.score(trained, {"eval.views": "one"})["metrics"]["test"]
    assert plain["loss"] != pytest.approx(theirs["loss"], rel=1e-4)
    frames = moving(17, True, 3, cfg.encoder.size, cfg.encoder.size)
    export.export(trained, tmp_path / "exported", platforms=["cpu"])
    _, exported = loader.load(tmp_path / "exported").predict(frames)
    np.testing.assert_allclose(exported, model.predict(frames).probabilities_K, atol=1e-4)
    with pytest.raises(UserError, match=r"eval.views = 'five_crops' .* a stream has one"):
        model.stream(10)


def test_views_are_refused_where_they_cannot_be_had(runs):
    with pytest.raises(UserError, match=r"eval.views = 'flip' .* encoder.trainable = 'none'"):
        override(Config(), {"eval.views": "flip"})
    with pytest.raises(UserError, match=r"eval.views = 'flip' .* has no pixels"):
        override(Config(), {"eval.views": "flip", "data.kind": "features"})
    with pytest.raises(UserError, match=r"eval.views = 'flip' mirrors clips, .* left, right"):
        predict.score(runs["trained"], {"eval.views": "flip"})
    trained = override(Config(), {"encoder.trainable": "all", "eval.views": "flip"})
    assert override(trained, {"encoder.trainable": "none"}).eval.views == "one"
    assert "eval.views" not in config.identifying_settings(Config())
