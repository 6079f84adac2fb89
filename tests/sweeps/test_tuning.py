"""A setting is chosen for each row on validation clips, and a width for a number of parameters."""

import json

import numpy as np
import pytest
from helpers.small_datasets import features, settings

from vidrec.config import override
from vidrec.errors import UserError
from vidrec.models import scanners
from vidrec.sweeps import ablation as tables
from vidrec.sweeps import budget, cluster, preview, runner, tuning
from vidrec.sweeps.ablation import Ablation, Row
from vidrec.training import prepare

RATES = (0.001, 0.05, 0.7)
ROWS = [{"scanner.kind": "mean"}, Row({"scanner.kind": "gru"}, name="a GRU")]


def table(rows=ROWS, **more):
    more = {"base": settings(train__epochs=2), "tune": {"optim.learning_rate": RATES}} | more
    return Ablation("t", rows=rows, **{"seeds": 2} | more)


def result(row, accuracy, loss, status="done", test=0.0):
    val = {"accuracy": accuracy, "loss": loss}
    return {"row": row, "status": status, "metrics": {"val": val, "test": {"accuracy": test}}}


def rates(chosen):
    return [row.overrides["optim.learning_rate"] for row in tables.rows(chosen)]


def test_candidates_are_every_row_at_every_value_with_one_seed():
    made = tables.trials(tuning.candidates(table(control=1)))
    assert [(t.config.scanner.kind, t.config.optim.learning_rate, t.seed) for t in made] == [
        (kind, rate, 0) for kind in ("mean", "gru") for rate in RATES
    ]
    assert [t.name for t in made[3:]] == [f"a GRU, learning_rate={rate}" for rate in RATES]
    assert tuning.candidates(table(control=1)).control == 3


def test_the_best_on_validation_is_chosen_whatever_the_test_clips_say():
    tried = [
        *(result(0, 0.5, 1.0, test=1.0), result(1, 0.7, 1.1), result(2, 0.6, 0.9)),
        *(result(3, 0.5, 1.0), result(4, 0.5, 1.2, test=1.0), result(5, 0.4, 1.1)),
    ]
    chosen = tuning.chosen(table(), tried, ["val_accuracy"] * 6)
    assert rates(chosen) == [RATES[1], RATES[0]]  # of equal ones the first
    assert rates(tuning.chosen(table(), tried, ["val_loss"] * 6)) == [RATES[2], RATES[0]]
    assert (chosen.seeds, chosen.name, chosen.tune) == (2, "t", {})
    assert [row.name for row in tables.rows(chosen)] == ["", "a GRU"]


@pytest.mark.parametrize("bad", [result(0, 0.9, float("nan")), result(0, 0.9, 0.1, "diverged")])
def test_a_trial_that_failed_is_never_chosen(bad):
    tried = [bad, result(1, 0.1, 5.0), result(2, 0.2, 6.0), *(result(n, 0, 1.0) for n in (3, 4, 5))]
    assert rates(tuning.chosen(table(), tried, ["val_loss"] * 6))[0] == RATES[1]


def test_a_row_that_sets_what_is_chosen_is_refused():
    with pytest.raises(UserError, match=r"optim\.learning_rate is chosen by validation, and row"):
        tuning.candidates(table([{"optim.learning_rate": 0.1}]))


def test_a_dry_run_lists_the_candidates():
    lines = preview.dry_run(table([{"scanner.kind": "mean"}], base=settings(encoder__pca=4)))
    assert [line["overrides"]["optim.learning_rate"] for line in lines] == list(RATES)


def test_a_table_trains_each_row_at_its_best(tmp_path):
    filled = runner.ablate(table(), tmp_path, dataset=features())
    [tried] = tmp_path.glob("t_tuning-*")
    results = [json.loads(file.read_text()) for file in tried.glob("trials/*/result.json")]
    for row in filled.trials:
        losses = {
            each["overrides"]["optim.learning_rate"]: each["metrics"]["val"]["loss"]
            for each in results
            if each["overrides"]["scanner.kind"] == row["overrides"]["scanner.kind"]
        }
        assert len(losses) == len(RATES)
        assert row["overrides"]["optim.learning_rate"] == min(losses, key=losses.__getitem__)
    assert [(row["row"], row["seed"]) for row in filled.trials] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.slow
def test_jobs_choose_as_one_process_does(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    small = Ablation(
        "t",
        override(tables.load("experiments/motion.py"), {"data.tfds": "motion/clips=60,frames=8"}),
        [{"scanner.kind": "mean"}],
        tune={"optim.learning_rate": (1e-3, 1e-2)},
    )
    more = {"train.epochs": 2, "encoder.size": 16, "frames.length": 8}
    alone = runner.ablate(small, tmp_path / "alone", overrides=more)
    options = cluster.Options(engine="debug")
    folder = cluster.launch(small, tmp_path / "jobs", options, overrides=more)
    assert folder.name == alone.folder.name


# ------------------------------------------------------------------------ a number of parameters

# Those of maps take no vectors; a transformer's width is a multiple of its heads (below).
KINDS = [
    kind
    for kind in (*scanners.OWN, *scanners.CELLS)
    if kind not in ("convlstm", "convgru", "transformer")
]


def counted(cfg, width):
    name = "scanner.dense" if cfg.scanner.kind in ("none", "mean") else "scanner.units"
    value = (width,) if name == "scanner.dense" else width
    return prepare.count_params(override(cfg, {name: value}))


@pytest.mark.parametrize("kind", KINDS)
def test_no_width_comes_nearer_to_the_budget(kind):
    rng = np.random.default_rng(len(kind) + ord(kind[0]))
    cfg = settings(encoder__pca=11, scanner__kind=kind)
    wanted = int(rng.integers(2500, 4000))
    [(name, value)] = budget.widths(cfg, wanted).items()
    width = value[0] if name == "scanner.dense" else value
    assert abs(counted(cfg, width) / wanted - 1) <= 0.05
    around = range(max(1, width - 2), width + 3)
    assert min(abs(counted(cfg, n) - wanted) for n in around) == abs(counted(cfg, width) - wanted)


def test_units_of_a_transformer_suit_its_heads():
    cfg = settings(encoder__pca=11, scanner__kind="transformer", scanner__args={"heads": 2})
    wanted = counted(cfg, 12) - 5
    assert budget.widths(cfg, wanted) == {"scanner.units": 12}


def test_a_budget_that_no_width_meets_is_one_line():
    cfg = settings(encoder__pca=11, scanner__kind="transformer", scanner__args={"heads": 2})
    between = (counted(cfg, 8) + counted(cfg, 12)) // 2
    with pytest.raises(UserError, match=r"scanner.kind = transformer comes no nearer than .* off"):
        budget.widths(cfg, between)


def test_the_table_shows_the_width_and_trains_with_it():
    base = settings(encoder__pca=11)
    [made] = tables.trials(Ablation("t", base, [Row({"scanner.kind": "gru"}, budget=3000)]))
    assert made.config.scanner.units == made.overrides["scanner.units"]
    assert abs(prepare.count_params(made.config) / 3000 - 1) <= 0.05
    # Rows that differ in nothing but their budget stay two rows.
    rows = [Row({}, budget=3000), Row({}, budget=6000)]
    crossed = tables.cross(Ablation("t", base, rows), {"train.epochs": [1]})
    assert len(tables.rows(crossed)) == 2
