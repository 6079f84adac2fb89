"""Early stopping, divergence and best weights, against the rule read to oneself."""

import numpy as np
import pytest
from helpers.small_datasets import settings

from vidrec.training.stopping import Figures, Progress, Status, after_epoch

UNTRAINED = 2.0


def last_epoch(curve, epochs, patience=0, min_delta=0.0, target=0.0, monitor="val_loss"):
    """(why, epochs trained, best epoch) by reading the rule to oneself."""
    best, best_epoch = np.inf, 0
    for epoch, (train_loss, val_loss, accuracy) in enumerate(curve, start=1):
        if not train_loss <= 10 * UNTRAINED or train_loss == np.inf:
            return Status.DIVERGED, epoch, best_epoch
        figure = -accuracy if monitor == "val_accuracy" else val_loss
        if figure < best - min_delta:
            best, best_epoch = figure, epoch
        if target and accuracy >= target:
            return Status.TARGET, epoch, best_epoch
        if patience and epoch - best_epoch == patience:
            return Status.STOPPED, epoch, best_epoch
        if epoch == epochs:
            return Status.FINISHED, epoch, best_epoch
    raise AssertionError("the curve is too short")


def decided(curve, cfg):
    """(progress at the end, epoch whose weights were kept last) along a curve of figures."""
    progress, kept = Progress(untrained_loss=UNTRAINED), 0
    for train_loss, val_loss, accuracy in curve:
        if not progress.active:
            break
        progress = after_epoch(
            cfg, progress, Figures(train_loss, 1.0, True, val_loss, {"accuracy": accuracy})
        )
        kept = progress.epoch if progress.improved else kept
    return progress, kept


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_stopping_follows_a_literal_reading_of_the_rule(monitor):
    rng = np.random.default_rng(5)
    # Figures on a coarse grid make plateaus and ties; some are no numbers.
    train_loss = rng.integers(1, 8, (60, 12)) / 4.0
    train_loss[rng.random(train_loss.shape) < 0.02] = rng.choice([np.nan, np.inf, 20.25])
    val_loss = rng.integers(1, 7, (60, 12)) / 4.0
    accuracy = rng.integers(0, 9, (60, 12)) / 8.0
    for each in (val_loss, accuracy):
        each[rng.random(each.shape) < 0.1] = np.nan
    curves = np.stack([train_loss, val_loss, accuracy], -1)
    seen = set()
    for patience, min_delta, target, epochs in [
        (0, 0.0, 0.0, 12),
        (1, 0.0, 0.0, 12),
        (3, 0.0, 0.0, 12),
        (3, 0.25, 0.0, 12),
        (0, 0.25, 0.875, 9),
        (2, 0.125, 1.0, 7),
    ]:
        cfg = settings(
            train__monitor=monitor,
            train__patience=patience,
            train__min_delta=min_delta,
            train__target=target,
            train__epochs=epochs,
        )
        for curve in curves:
            wanted = last_epoch(curve, epochs, patience, min_delta, target, monitor)
            found, kept = decided(curve, cfg)
            assert (found.status, found.epoch, found.best_epoch) == wanted
            assert kept == wanted[2]
            assert not found.active
            seen.add(wanted[0])
    assert seen == set(Status) - {Status.RUNNING}


def test_without_validation_the_last_epoch_counts_as_best():
    cfg = settings(train__epochs=5, train__patience=2)
    found, kept = decided([(1.0, None, None)] * 5, cfg)
    assert found.best_epoch == kept == 5
    assert found.status == Status.FINISHED


@pytest.mark.parametrize(
    ("loss", "finite", "status"),
    [
        (20.0, True, Status.RUNNING),  # ten times the untrained loss, and no more
        (20.01, True, Status.DIVERGED),
        (1.0, False, Status.DIVERGED),
        (float("nan"), True, Status.DIVERGED),
        (float("inf"), True, Status.DIVERGED),
    ],
)
def test_a_trial_diverges_by_its_loss_or_by_what_is_not_finite(loss, finite, status):
    before = Progress(epoch=3, best_score=1.0, best_epoch=2, untrained_loss=UNTRAINED)
    after = after_epoch(
        settings(train__epochs=9), before, Figures(loss, 1.0, finite, 0.5, {"accuracy": 0.9})
    )
    assert after.status == status
    # A diverged epoch is never the best one, whatever its validation says.
    assert after.best_epoch == (4 if status == Status.RUNNING else 2)


def test_words_of_result_json():
    words = {status: status.word for status in Status}
    assert words.pop(Status.RUNNING) == "running"
    assert words.pop(Status.DIVERGED) == "diverged"
    assert set(words.values()) == {"done"}
    assert [bool(status.reason) for status in Status] == [False, True, True, True, True]


def test_balanced_accuracy_can_be_what_is_watched():
    cfg = settings(train__epochs=3, train__monitor="val_balanced_accuracy")
    progress = Progress(untrained_loss=UNTRAINED)
    best = []
    for accuracy, balanced in ((0.9, 0.5), (0.8, 0.6), (0.95, 0.55)):
        val = {"accuracy": accuracy, "balanced_accuracy": balanced}
        progress = after_epoch(cfg, progress, Figures(1.0, 1.0, True, 1.0, val))
        best.append(progress.best_epoch)
    assert best == [1, 2, 2]
