"""Report D's rates, dropouts and clipped norms: ours as one table beside PyTorch, one by one.

    python benchmarks/trials_table.py                       two trials of few clips, for two cores
    python benchmarks/trials_table.py --trials 70 --clips 8600 --epochs 25 --rounds 1   the report's
    python benchmarks/trials_table.py --clips 8 --batch 8 --width 16 --units 8    a first look

The report's 14 rows times five seeds are 70 trials, 60 of which differ (its baseline stands in
each of the three tables): one linear layer of 512, one LSTM of 512, scores of 101 classes at every
of 120 steps, batch normalisation and dropout between, gradients over windows of 30 steps with an
update each, clipped, momentum SGD. Features are made up. PyTorch trains the same with nn.LSTM in a
plain loop. Compared is what a trial's epoch takes, validation included; ours is told by its results
as `seconds.train`, without compiling, which stands beside.

Before that, from the same weights, without dropout and in whole batches, losses of two epochs have
to agree.
"""

import tempfile
import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import same_work
import turns

import vidrec
from vidrec.config import Data
from vidrec.models import interop, losses, scanners
from vidrec.sweeps import ablation, runner
from vidrec.training import runtime

TABLES = ("learning_rate", "dropout", "clipping")
NEAR = 2e-4  # of the largest loss
CLASSES, SEEDS = 101, 5
Parts = dict[str, tuple[np.ndarray, np.ndarray]]


def settings(given: Any) -> vidrec.Config:
    """Report D's shared cell on features that are given."""
    base = replace(
        vidrec.load("experiments/ucf101_lstm.py"), data=Data(kind="features", split="given")
    )
    return vidrec.override(
        base,
        {
            "frames.length": given.frames,
            "train.tbptt_every": min(base.train.tbptt_every, given.frames),
            "train.epochs": given.epochs,
            "train.batch_size": given.batch,
            "scanner.units": given.units,
            "scanner.dense": (given.units,),
            "encoder.width": given.width,
        },
    )


def table(cfg: vidrec.Config, trials: int) -> vidrec.Ablation:
    """So many trials of the published rows, seeds innermost, without those that repeat one."""
    published = [
        row
        for name in TABLES
        for row in ablation.load(f"ablations/{name}.py").rows
        if row.published is not None
    ]
    rows = [{**row.overrides, "seed": seed} for row in published for seed in range(SEEDS)]
    differ = {vidrec.override(cfg, row): row for row in rows}
    return vidrec.Ablation("trials", cfg, list(differ.values())[:trials])


def ours(made: vidrec.Ablation, source: Any) -> dict[str, float]:
    """Seconds of the whole table, of compiling, and of training it."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = runner.ablate(made, folder, dataset=source)
    # Every trial of a group tells the group's seconds.
    share = {
        name: sum(each["seconds"][name] / each["trials_in_group"] for each in done.trials)
        for name in ("compile", "train")
    }
    epochs = sum(each["epochs"] for each in done.trials)
    return {"whole": time.perf_counter() - began, "epochs": epochs, **share}


def in_torch(cfg: vidrec.Config, parts: Parts, begin: Any = None) -> dict[str, list[float]]:
    """Losses of each epoch of a plain loop; `begin` are weights of ours."""
    import torch
    from torch.nn import functional

    torch.manual_seed(cfg.seed)
    device, scanner = turns.torch_device(), cfg.scanner
    given = {name: [torch.tensor(each).to(device) for each in two] for name, two in parts.items()}
    count = given["train"][0].shape[1]
    weight_T = torch.tensor(np.array(losses.frame_weights(1.0, 0, count, count)), device=device)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            [dense] = scanner.dense
            self.dense = torch.nn.Linear(given["train"][0].shape[-1], dense)
            self.norms = torch.nn.ModuleList(
                [torch.nn.BatchNorm1d(dense), torch.nn.BatchNorm1d(scanner.units)]
            )
            self.lstm = torch.nn.LSTM(dense, scanner.units, batch_first=True)
            self.scores = torch.nn.Linear(scanner.units, CLASSES)
            self.drop = torch.nn.Dropout(scanner.dropout)

        def forward(self, x: Any, carry: Any) -> tuple[Any, Any]:
            x = self._between(self.dense(x), 0)
            x, carry = self.lstm(x, carry)
            return self.scores(self._between(x, 1)), carry

        def _between(self, x: Any, place: int) -> Any:
            normal = self.norms[place](x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return self.drop(normal)

    net = Net()
    if begin:
        _give(net, cfg, begin)
    net.lstm.bias_hh_l0.requires_grad_(False).zero_()  # ours has one bias
    net.to(device)
    weights = [each for each in net.parameters() if each.requires_grad]
    sgd = torch.optim.SGD(weights, cfg.optim.learning_rate, cfg.optim.momentum)

    def loss(scores: Any, labels: Any, first: int) -> Any:
        steps = scores.shape[1]
        each = functional.cross_entropy(
            scores.transpose(1, 2), labels.long()[:, None].expand(-1, steps), reduction="none"
        )
        return (each * weight_T[first : first + steps]).sum(1)

    def train_batch(x: Any, y: Any) -> float:
        carry, total = None, 0.0
        for first in range(0, count, cfg.train.tbptt_every):
            scores, carry = net(x[:, first : first + cfg.train.tbptt_every], carry)
            carry = tuple(each.detach() for each in carry)
            value = loss(scores, y, first).mean()
            sgd.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(weights, cfg.optim.clip_norm)
            sgd.step()
            total += value.item() * len(x)
        return total

    found: dict[str, list[float]] = {"train": [], "val": []}
    for _ in range(cfg.train.epochs):
        net.train()
        x, y = given["train"]
        batches = torch.randperm(len(x), device=device).split(cfg.train.batch_size)
        found["train"].append(sum(train_batch(x[b], y[b]) for b in batches) / len(x))
        net.eval()
        x, y = given["val"]
        with torch.no_grad():
            pairs = zip(x.split(cfg.eval.batch_size), y.split(cfg.eval.batch_size), strict=True)
            total = sum(loss(net(x, None)[0], y, 0).sum().item() for x, y in pairs)
        found["val"].append(total / len(x))
    return found


def _give(net: Any, cfg: vidrec.Config, begin: Any) -> None:
    """Our weights, under PyTorch's names."""
    import torch

    state = interop.to_torch(scanners.build(cfg.scanner), begin["scanner"])
    named = {f"lstm.{name}": each for name, each in state.items()}
    dense = {"dense": begin["dense_0"], "scores": begin["head"]["scores"]}
    for name, each in dense.items():
        named |= {f"{name}.weight": np.asarray(each["kernel"]).T, f"{name}.bias": each["bias"]}
    tensors = {name: torch.tensor(np.array(each)) for name, each in named.items()}
    wrong = net.load_state_dict(tensors, strict=False)
    left_out = [name for name in wrong.missing_keys if not name.startswith("norms.")]
    if left_out or wrong.unexpected_keys:
        raise SystemExit(f"weights do not fit: {left_out} {wrong.unexpected_keys}")


def check(cfg: vidrec.Config, source: Any) -> float:
    """Two epochs of whole batches from the same weights, without dropout."""
    whole = {
        "scanner.dropout": 0.0,
        "optim.learning_rate": 1e-3,
        "train.epochs": 2,
        "train.batch_size": len(source.given["train"]),
    }
    plain = vidrec.override(cfg, whole)
    begin, found = same_work.begun(plain, source)
    other = in_torch(plain, same_work.arrays(source), begin)
    return max(turns.compare(f"torch, {part}", other[part], found[part], NEAR) for part in found)


def main() -> None:
    """Checks, then trains both sides in turns, each round anew."""
    runtime.use_cores()  # before JAX starts
    small = jax.default_backend() == "cpu"
    words = turns.arguments(__doc__)
    turns.sizes(words, trials=2 if small else 70, clips=128 if small else 1024)
    turns.sizes(words, epochs=2, rounds=3, batch=128, frames=120, width=1024, units=512)
    given = words.parse_args()
    cfg = settings(given)
    made = table(cfg, given.trials)
    classes = [f"class {k}" for k in range(CLASSES)]

    def clips(train: int) -> Any:
        return same_work.signals(
            (train, max(1, train // 10), 1), (given.frames, given.width), classes
        )

    turns.tell("comparing losses")
    furthest = check(cfg, clips(8))
    source = clips(given.clips)
    parts = same_work.arrays(source)
    configs = [trial.config for trial in ablation.trials(made)]
    tables: list[dict[str, float]] = []
    spent: dict[str, list[float]] = {turns.OURS: [], "torch": []}
    for turn in range(given.rounds):
        turns.tell(f"round {turn + 1}: {turns.OURS}")
        tables.append(ours(made, source))
        spent[turns.OURS].append(tables[-1]["train"] / tables[-1]["epochs"])
        turns.tell(f"round {turn + 1}: torch")
        began = time.perf_counter()
        epochs = sum(len(in_torch(each, parts)["train"]) for each in configs)
        spent["torch"].append((time.perf_counter() - began) / epochs)
    answer = {
        "work": "report D's tables, seconds a trial and epoch",
        "table": turns.shown(given, "rounds") | {"trained": len(configs)},
        "sides": turns.figures(spent),
        "losses_off_at_most": furthest,
        "our_tables": [{name: round(x, 2) for name, x in each.items()} for each in tables],
        "versions": turns.versions("torch"),
    }
    turns.show(answer, given.json)


if __name__ == "__main__":
    main()
