"""Results folders as training leaves them: made up, but every figure follows from the logits."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from vidrec.config import Config

MOTIONS = (
    *("grows", "moves_down", "moves_left", "moves_right", "moves_up"),
    *("pulses_in", "pulses_out", "shrinks", "turns_left", "turns_right"),
)
_VERBS = ("Carrying", "Cutting", "Dropping", "Folding", "Kicking", "Lifting", "Painting")
_VERBS += ("Pulling", "Riding", "Throwing", "Washing")
_THINGS = ("Ball", "Bicycle", "Box", "Carpet", "Chair", "Door", "Horse", "Kite", "Table", "Tree")
MANY = tuple(sorted(v + t for v, t in itertools.product(_VERBS, _THINGS)))[:101]
CLIPS = {"train": 3, "val": 1, "test": 1}  # portions of the clips that a split holds


def _softmax(logits_BK: np.ndarray) -> np.ndarray:
    exp_BK = np.exp(logits_BK - logits_BK.max(1, keepdims=True))
    return exp_BK / exp_BK.sum(1, keepdims=True)


def _scores(logits_BK: np.ndarray, labels_B: np.ndarray, classes: tuple[str, ...]) -> dict:
    """The figures of one split, by the plainest definitions."""
    num = len(classes)
    confusion_KK = np.zeros((num, num), int)
    np.add.at(confusion_KK, (labels_B, logits_BK.argmax(1)), 1)
    hits_K = confusion_KK.diagonal()
    f1_K = 2 * hits_K / np.maximum(confusion_KK.sum(0) + confusion_KK.sum(1), 1)
    place_B = (logits_BK > logits_BK[np.arange(len(labels_B)), labels_B][:, None]).sum(1)
    likelihood_B = _softmax(logits_BK)[np.arange(len(labels_B)), labels_B]
    return {
        "accuracy": float(hits_K.sum() / len(labels_B)),
        "loss": float(-np.log(likelihood_B).mean()),
        "avg_f1": float(f1_K.mean()),
        "f1": dict(zip(classes, f1_K.tolist(), strict=True)),
        "top5": float((place_B < 5).mean()),
        "top10": float((place_B < 10).mean()),
        "confusion": confusion_KK.tolist(),
    }


def _predictions(classes, skill, seed, per_class, steps) -> dict[str, np.ndarray]:
    """Logits whose errors belong to clips (shared by all trials) and to the seed, half and half."""
    num, arrays = len(classes), {}
    own = np.random.default_rng((seed, int(skill * 1000)))
    for i, (split, share) in enumerate(CLIPS.items()):
        shared = np.random.default_rng(i)
        labels_B = np.repeat(np.arange(num), share * per_class)
        noise_BK = shared.normal(size=(len(labels_B), num)) + own.normal(size=(len(labels_B), num))
        noise_BK[np.arange(len(labels_B)), labels_B ^ 1 if num % 2 == 0 else labels_B] += 1
        easy = 2.0 if split == "train" else 0.0
        noise_BK[np.arange(len(labels_B)), labels_B] += skill + easy
        arrays[f"{split}_logits"] = noise_BK.astype(np.float32)
        arrays[f"{split}_labels"] = labels_B.astype(np.int32)
        names = [f"{classes[c]}/{split}_{b:04d}.avi" for b, c in enumerate(labels_B)]
        arrays[f"{split}_names"] = np.array(names)
        arrays[f"{split}_groups"] = np.array(
            [f"{split}g{b // 4:03d}" for b in range(len(labels_B))]
        )
        if steps:
            chance_L = np.linspace(1 / num, (noise_BK.argmax(1) == labels_B).mean(), steps)
            arrays[f"{split}_steps"] = own.uniform(size=(len(labels_B), steps)) < chance_L
    return arrays


def _samples(arrays: dict[str, np.ndarray], count: int, frames: int = 8) -> dict[str, np.ndarray]:
    """A bright square that crosses a dark field, for some clips of the test split."""
    own = np.random.default_rng(5)
    wrong = arrays["test_logits"].argmax(1) != arrays["test_labels"]
    which = np.concatenate([np.flatnonzero(wrong)[: count // 2], np.flatnonzero(~wrong)[:count]])
    which = which[:count]
    film = own.integers(0, 60, (len(which), frames, 64, 64, 3)).astype(np.uint8)
    for i, t in itertools.product(range(len(which)), range(frames)):
        film[i, t, 20:40, 5 * t : 5 * t + 18] = own.integers(120, 255, 3)
    return {"frames": film, "names": arrays["test_names"][which]}


def _curves(rng, epochs: int, final: dict, trial: str) -> list[dict]:
    rise = 1 - np.exp(-np.arange(1, epochs + 1) / (epochs / 4))
    return [
        {
            "trial": trial,
            "epoch": e + 1,
            "train/loss": float(2.3 * (1 - r) + final["train"]["loss"] + rng.normal() * 0.01),
            "val/loss": float(2.3 * (1 - r) + final["val"]["loss"] + rng.normal() * 0.04),
            "val/accuracy": float(final["val"]["accuracy"] * (0.2 + 0.8 * r)),
            "grad/norm": float(3 * (1 - r) + 0.1),
            "perf/seconds": 0.4,
        }
        for e, r in enumerate(rise)
    ]


LAYERS = [
    {
        "name": "encoder",
        "kind": "CNN, frozen",
        "input": "30×64×64×3",
        "output": "30×32",
        "params": 0,
    },
    {"name": "lstm_0", "kind": "LSTM, 64 units", "input": "30×32", "output": "64", "params": 24832},
    {"name": "output", "kind": "Dense", "input": "64", "output": "K", "params": 650},
]


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def run(
    folder: Path,
    *,
    classes: tuple[str, ...] = MOTIONS,
    skill: float = 3.0,
    seed: int = 0,
    row: str = "lstm",
    trial: str = "a1b2c3d4",
    overrides: dict | None = None,
    published: dict | None = None,
    status: str = "done",
    leaked: bool | str = False,
    per_class: int = 20,
    steps: int = 0,
    samples: int = 8,
    params: int = 25482,
    epochs: int = 20,
    split_id: str = "5f0c1d2e",
) -> Path:
    """One trial's folder. Higher skill, fewer errors; a diverged trial has curves and no scores."""
    config = dataclasses.asdict(Config(seed=seed))
    config["data"]["tfds"] = "motion"
    for name, value in (overrides or {}).items():
        section, field = name.split(".")
        config[section][field] = value
    arrays = _predictions(classes, skill, seed, per_class, steps)
    metrics = {s: _scores(arrays[f"{s}_logits"], arrays[f"{s}_labels"], classes) for s in CLIPS}
    rng = np.random.default_rng((seed, 3))
    lines = _curves(rng, epochs, metrics, trial)
    done = status == "done"
    if not done:
        lines = lines[:2]
        lines[-1] |= {"train/loss": None, "val/loss": None}
    counts = {
        s: {"expected": len(arrays[f"{s}_labels"]) + (s == "test"), "unreadable": int(s == "test")}
        for s in CLIPS
    }
    for count in counts.values():
        count["scored"] = count["expected"] - count["unreadable"] if done else 0
    result = {
        "id": trial,
        "name": "motion",
        "row": row,
        "seed": seed,
        "status": status,
        "why": "" if done else "the loss of epoch 2 is not finite",
        "overrides": overrides or {},
        "published": published or {},
        "counts": counts,
        "unreadable": [{"path": "grows/broken <1>.avi", "reason": "no video stream"}],
        "metrics": metrics if done else {},
        "params": params,
        "epochs": len(lines),
        "best_epoch": min(range(len(lines)), key=lambda e: lines[e]["val/loss"] or 9) + 1,
        "seconds": {"compile": 3.25 + seed, "train": 7.5 + seed / 3},
        "split": {"id": split_id, "leaked": leaked},
        "classes": list(classes),
        "versions": {"vidrec": "0.1.0", "jax": "0.10.2", "python": "3.11.7"},
        "dir": str(folder),
    }
    _write(folder / "result.json", result)
    _write(folder / "config.json", config)
    environment = {
        "command": f"python launch.py train experiments/motion.py --seed {seed}",
        "versions": result["versions"],
        "devices": ["cpu:0"],
    }
    _write(folder / "environment.json", environment)
    _write(folder / "model.json", {"layers": LAYERS, "classes": list(classes)})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    if done:
        np.savez(folder / "predictions.npz", **arrays)
        if samples:
            np.savez(folder / "samples.npz", **_samples(arrays, samples))
    return folder


SCANNERS = (("mean", 0.6, 330), ("lstm", 3.6, 25482), ("gru", 3.7, 19274))


def ablation(
    folder: Path,
    *,
    rows: tuple[tuple[str, float, int], ...] = SCANNERS,
    axis: str = "scanner.kind",
    values: tuple | None = None,
    seeds: int = 3,
    control: str | int = "mean",
    published: dict[str, dict] | None = None,
    dubious: dict[str, list[str]] | None = None,
    meta: dict | None = None,
    diverged: tuple[tuple[str, int], ...] = (),
    by_index: bool = False,
    missing: tuple[tuple[str, int], ...] = (),
    **options: Any,
) -> Path:
    """Rows (name, skill, parameters) times seeds, called by name or counted.

    `published` and `dubious` are by row; `meta` replaces entries of ablation.json.
    """
    trials = []
    values = values or [row[0] for row in rows]
    for place, ((row, skill, params), value) in enumerate(zip(rows, values, strict=True)):
        for seed in range(seeds):
            trial = f"{len(trials):08x}"
            entry = {
                "id": trial,
                "row": place if by_index else row,
                "row_name": row,
                "seed": seed,
                "overrides": {axis: value},
                "params": params,
                "group": "g0",
                "published": (published or {}).get(row, {}),
                "doubtful": (dubious or {}).get(row, []),
            }
            trials.append(entry)
            if (row, seed) in missing:
                continue
            status = "diverged" if (row, seed) in diverged else "done"
            given = {key: entry[key] for key in ("row", "seed", "overrides", "params", "published")}
            run(
                folder / "trials" / trial,
                trial=trial,
                skill=skill,
                status=status,
                **(options | given),
            )
    text = {
        "name": "scanners",
        "question": "Does a recurrence over frame features beat their mean,\nand which one?",
        "axes": {axis: [t["overrides"][axis] for t in trials[::seeds]]},
        "control": control,
        "seeds": seeds,
        "on": "motion",
        "published": {},
        "trials": trials,
        "data": {"name": "motion", "texture": 0.15, "noise": 0.09, "shake": 1.5, "clips": 1000},
    }
    _write(folder / "ablation.json", text | (meta or {}))
    return folder


def doubtful(folder: Path) -> Path:
    """Learning rates with published figures, one of them doubtful, and a diverged trial."""
    rates = (0.0003, 0.0005, 0.001, 10.0)
    figures = {
        "learning_rate=0.0003": {
            "test_accuracy": 0.63,
            "test_top5": 0.869,
            "train_accuracy": 0.885,
        },
        "learning_rate=0.0005": {"test_accuracy": 0.6565, "test_top5": 0.8835},
        "learning_rate=0.001": {"test_accuracy": 0.958, "test_top5": 0.8774},
    }
    names = tuple(f"learning_rate={rate:g}" for rate in rates)
    return ablation(
        folder,
        rows=tuple(zip(names, (2.6, 3.0, 3.05, 0.2), (25482,) * 4, strict=True)),
        axis="optim.learning_rate",
        values=rates,
        by_index=True,
        control=1,
        published=figures,
        dubious={"learning_rate=0.001": ["test_accuracy"]},
        diverged=((names[3], 0), (names[3], 1), (names[3], 2), (names[2], 1)),
        meta={
            "name": "learning_rate",
            "question": "How fast may it learn?",
            "source": "a report of single runs",
            "published": {"class_changes": {"grows": [0.18, 0.36]}},
        },
        steps=30,
    )


def many_classes(folder: Path) -> Path:
    """One hundred and one classes, three rows, two seeds."""
    return ablation(folder, classes=MANY, seeds=2, per_class=12, steps=60)
