"""Report A's table of twelve models, to its stopping rule: ours beside PyTorch and Keras on JAX.

    python benchmarks/units_table.py                        on two cores, the six smallest models
    python benchmarks/units_table.py --models 12 --seeds 3  the report's, and three seeds of each
    python benchmarks/units_table.py --clips 40 --models 2 --epochs 3 --sides torch     a first look

LSTM, GRU and Deep LSTM of 50, 100, 200 and 500 units over made-up features, 30 frames of 512; Adam
at 1e-3, batches of 50, at most --epochs, stopping after 15 without 1e-4 of improvement of the loss
on a fifth of the clips, the best weights kept and tested. Ours is one table, with compiling,
scoring and its report; the others train the same models one after another in this process.

Before that, from the same weights and in whole batches, losses after each of three epochs have to
agree. Sides stop at epochs of their own, so each is also told for as many epochs as ours trained:
its own seconds, and what its later epochs of that model take for those it lacks or has too many.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import same_work
import turns

import vidrec
from vidrec.config import Data
from vidrec.models import interop, scanners
from vidrec.sweeps import runner
from vidrec.training import runtime

Parts = dict[str, tuple[np.ndarray, np.ndarray]]
NEAR = 5e-4  # of the largest loss; Adam's epsilon stands elsewhere in Keras
CHECKED = 3  # epochs


@dataclass
class Fit:
    """One trained model: its row and seed, seconds of each epoch and in all, validation losses."""

    row: int
    seed: int
    epochs: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    accuracy: float = 0.0

    def at(self, epochs: int) -> float:
        """Seconds for so many epochs, by the later ones, which compile nothing."""
        return self.seconds + (epochs - len(self.epochs)) * float(np.median(self.epochs[-5:]))


def table(models: int, seeds: int, epochs: int) -> vidrec.Ablation:
    """Report A's smallest models, kinds in turn, on features that are given."""
    whole = vidrec.load("ablations/units_keras.py")
    base = replace(vidrec.load(whole.base), data=Data(kind="features", split="given"))
    rows = sorted(whole.rows, key=lambda row: row.overrides["scanner.units"])[:models]
    base = vidrec.override(base, {"train.epochs": epochs, "encoder.width": 512})
    return replace(whole, base=base, rows=rows, seeds=seeds, control=0)


def ours(made: vidrec.Ablation, source: Any) -> list[Fit]:
    """The table as it is asked for."""
    with tempfile.TemporaryDirectory() as folder:
        done = runner.ablate(made, folder, dataset=source)
    return [
        Fit(
            each["row"],
            each["seed"],
            # A group's seconds, shared out: its trials train together.
            epochs=[each["seconds"]["train"] / each["trials_in_group"] / each["epochs"]]
            * each["epochs"],
            accuracy=each["metrics"]["test"]["accuracy"],
        )
        for each in done.trials
    ]


def in_torch(cfg: vidrec.Config, parts: Parts, fit: Fit, begin: Any = None) -> None:
    """A plain loop over nn.LSTM or nn.GRU and a linear layer; `begin` are weights of ours."""
    import torch

    torch.manual_seed(cfg.seed)
    made = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cfg.scanner.kind]
    units, rule = cfg.scanner.units, cfg.train
    device = turns.torch_device()
    given = {name: [torch.tensor(each).to(device) for each in two] for name, two in parts.items()}
    classes = len(np.unique(parts["train"][1]))
    layers = made(given["train"][0].shape[-1], units, cfg.scanner.layers, batch_first=True)
    head = torch.nn.Linear(units, classes)
    if begin:
        state = interop.to_torch(_scanner(cfg), begin["scanner"])
        layers.load_state_dict({name: torch.tensor(each) for name, each in state.items()})
        head.weight.data = torch.tensor(np.asarray(begin["head"]["scores"]["kernel"]).T)
        head.bias.data = torch.tensor(np.asarray(begin["head"]["scores"]["bias"]))
    for name, each in layers.named_parameters():
        if cfg.scanner.kind == "lstm" and name.startswith("bias_hh"):
            each.requires_grad_(False).zero_()  # Keras' LSTM has one bias
    layers, head = layers.to(device), head.to(device)
    both = torch.nn.ModuleList([layers, head])
    weights = [each for each in both.parameters() if each.requires_grad]
    adam = torch.optim.Adam(weights, cfg.optim.learning_rate, eps=cfg.optim.epsilon)
    entropy = torch.nn.functional.cross_entropy
    least, waited, kept = np.inf, 0, both.state_dict()

    def scores(x: torch.Tensor) -> torch.Tensor:
        return head(layers(x)[0][:, -1])

    for _ in range(rule.epochs):
        began = time.perf_counter()
        x, y = given["train"]
        for chosen in torch.randperm(len(x), device=device).split(rule.batch_size):
            adam.zero_grad()
            entropy(scores(x[chosen]), y[chosen].long()).backward()
            adam.step()
        with torch.no_grad():
            loss = entropy(scores(given["val"][0]), given["val"][1].long()).item()
        if loss < least - rule.min_delta:
            least, waited = loss, 0
            kept = {name: each.clone() for name, each in both.state_dict().items()}
        else:
            waited += 1
        fit.losses.append(loss)
        fit.epochs.append(time.perf_counter() - began)
        if rule.patience and waited >= rule.patience:
            break
    both.load_state_dict(kept)
    with torch.no_grad():
        right = scores(given["test"][0]).argmax(1) == given["test"][1]
    fit.accuracy = right.float().mean().item()


def in_keras(cfg: vidrec.Config, parts: Parts, fit: Fit, begin: Any = None) -> None:
    """A Sequential model and its `fit`; `begin` are weights of ours."""
    import keras

    keras.utils.set_random_seed(cfg.seed)
    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[cfg.scanner.kind]
    units, count, rule = cfg.scanner.units, cfg.scanner.layers, cfg.train
    layers = [kind(units, return_sequences=i < count - 1) for i in range(count)]
    x, y = parts["train"]
    head = keras.layers.Dense(len(np.unique(y)))
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers, head])
    if begin:
        for layer, each in zip(
            layers, interop.to_keras(_scanner(cfg), begin["scanner"]), strict=True
        ):
            layer.set_weights(each)
        scores = begin["head"]["scores"]
        head.set_weights([np.asarray(scores["kernel"]), np.asarray(scores["bias"])])
    model.compile(
        keras.optimizers.Adam(cfg.optim.learning_rate, epsilon=cfg.optim.epsilon),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, *_: Any) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, _: int, logs: dict[str, float] | None = None) -> None:
            fit.epochs.append(time.perf_counter() - self.began)
            fit.losses.append(logs["val_loss"])

    stop = keras.callbacks.EarlyStopping(
        patience=rule.patience or rule.epochs,
        min_delta=rule.min_delta,
        restore_best_weights=True,
    )
    model.fit(
        x,
        y,
        batch_size=rule.batch_size,
        epochs=rule.epochs,
        validation_data=parts["val"],
        callbacks=[stop, Watch()],
        verbose=0,
    )
    fit.accuracy = model.evaluate(*parts["test"], verbose=0)[1]


OTHERS: dict[str, Callable[..., None]] = {"torch": in_torch, "keras on jax": in_keras}


def one_after_another(side: Callable[..., None], made: vidrec.Ablation, parts: Parts) -> list[Fit]:
    """Every row with every seed."""
    fits = []
    for place, row in enumerate(made.rows):
        for seed in range(made.seeds):
            fit = Fit(place, seed)
            began = time.perf_counter()
            side(vidrec.override(made.base, {**row.overrides, "seed": seed}), parts, fit)
            fit.seconds = time.perf_counter() - began
            fits.append(fit)
    return fits


def check(made: vidrec.Ablation, others: Sequence[str]) -> float:
    """Trains the smallest model of each kind a few epochs from the same weights on every side."""
    source = same_work.signals((32, 16, 4), (30, 512), made_classes(made))
    parts, furthest, seen = same_work.arrays(source), 0.0, set()
    for row in made.rows:
        kind = row.overrides["scanner.kind"], row.overrides["scanner.layers"]
        if kind in seen:
            continue
        seen.add(kind)
        whole = {"train.batch_size": 32, "train.epochs": CHECKED, "train.patience": 0}
        cfg = vidrec.override(made.base, {**row.overrides, **whole})
        begin, losses = same_work.begun(cfg, source)
        for name in others:
            fit = Fit(0, 0)
            OTHERS[name](cfg, parts, fit, begin)
            off = turns.compare(f"{name}, {row.name}", fit.losses, losses["val"], NEAR)
            furthest = max(furthest, off)
    return furthest


def made_classes(made: vidrec.Ablation) -> tuple[str, ...]:
    """The report's four."""
    return vidrec.load("experiments/ucf101_four_classes.py").data.classes


def _scanner(cfg: vidrec.Config) -> scanners.Recurrent:
    return scanners.build(cfg.scanner)


def main() -> None:
    """Checks, trains every side --rounds times, and tells totals and what an epoch takes."""
    runtime.use_cores()  # before JAX starts
    small = jax.default_backend() == "cpu"
    words = turns.arguments(__doc__)
    turns.sizes(words, models=6 if small else 12, seeds=1, rounds=1, clips=399, epochs=1000)
    words.add_argument("--sides", nargs="+", choices=OTHERS, default=OTHERS, metavar="SIDE")
    given = words.parse_args()
    made = table(given.models, given.seeds, given.epochs)
    counts = (given.clips - given.clips // 5, given.clips // 5, given.clips * 2 // 5)
    source = same_work.signals(counts, (30, 512), made_classes(made))
    parts = same_work.arrays(source)
    turns.tell("comparing losses of every side")
    furthest = check(made, given.sides)
    spent: dict[str, list[float]] = {name: [] for name in (turns.OURS, *given.sides)}
    as_it_went: dict[str, list[dict[str, float]]] = {name: [] for name in spent}
    for turn in range(given.rounds):
        trained: dict[str, list[Fit]] = {}
        for name in spent:
            turns.tell(f"round {turn + 1}: {name}")
            jax.clear_caches()  # compiling counts on every side
            began = time.perf_counter()
            if name == turns.OURS:
                trained[name] = ours(made, source)
            else:
                trained[name] = one_after_another(OTHERS[name], made, parts)
            total = time.perf_counter() - began
            if name == turns.OURS:
                spent[name].append(total)
            else:
                pairs = zip(trained[name], trained[turns.OURS], strict=True)
                spent[name].append(sum(fit.at(len(mine.epochs)) for fit, mine in pairs))
            as_it_went[name].append(told(total, trained[name]))
    answer = {
        "work": "report A's table",
        "table": turns.shown(given, "sides", "rounds"),
        "sides": turns.figures(spent),
        "losses_off_at_most": furthest,
        "as_it_went": as_it_went,
        "versions": turns.versions("torch", "keras"),
    }
    turns.show(answer, given.json)


def told(total: float, fits: Sequence[Fit]) -> dict[str, float]:
    """A side's own total, the epochs it trained, and what its models reached."""
    epochs = sum(len(fit.epochs) for fit in fits)
    training = sum(sum(fit.epochs) for fit in fits)
    return {
        "seconds": round(total, 2),
        "epochs": epochs,
        "seconds_an_epoch": round(total / epochs, 4),
        "seconds_in_epochs": round(training, 2),
        "test_accuracy": round(float(np.mean([fit.accuracy for fit in fits])), 3),
    }


if __name__ == "__main__":
    main()
