"""Does augmentation help if there are few clips?

    vidrec ablate ablations/augmentation.py

Motion from pixels: a small CNN and a GRU, trained together on 10, 20 and 40 clips a class, each
without augmentation and with crops, rotations by up to ten degrees, and changes of brightness,
contrast and colour. All rows have the same validation and test clips and the same number of
updates. Motions to the left and to the right are different classes, so clips are not mirrored. None
of the five reports did this.
"""

from vidrec.config import Config, Data, Encoder, Frames, Optim, Scanner, Train
from vidrec.sweeps.ablation import Ablation, Row

CHANGED = {
    "augment.crop": 0.6,
    "augment.rotation": 10.0,
    "augment.brightness": 0.3,
    "augment.contrast": 0.3,
    "augment.color": 0.3,
}


def base() -> Config:
    return Config(
        data=Data(kind="tfds", tfds="motion", split="group", val=0.15, per_class="10"),
        frames=Frames(length=8, rule="uniform"),
        encoder=Encoder(
            kind="cnn3",
            weights="random",
            trainable="all",
            pooling="dense",
            width=128,
            size=24,
            normalize="unit",
        ),
        scanner=Scanner(kind="gru", units=64),
        optim=Optim(kind="adam", learning_rate=1e-3, clip_norm=1.0),
        train=Train(epochs=20, batch_size=16, batches_per_epoch=25, monitor="val_accuracy"),
    )


def ablation() -> Ablation:
    return Ablation(
        name="augmentation",
        question="Does augmentation help if there are few clips?",
        base=base(),
        rows=[
            Row({"data.per_class": few} | changes, name=f"{few} clips a class{words}")
            for few in ("10", "20", "40")
            for words, changes in (("", {}), (", augmented", CHANGED))
        ],
        seeds=3,
        read=("test_accuracy", "val_accuracy", "train_accuracy"),
    )
