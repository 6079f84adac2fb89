"""Generated data with two motions at once, each with a label of its own.

    vidrec train experiments/several.py
    vidrec ablate ablations/several_scanners.py    which scanner sees order, three seeds each

Clips of `motion/several` are generated. One shape changes two of five properties (horizontal
position, vertical position, size, angle, opacity), each in one of two directions. This gives ten
classes, of which every clip has two. Frames without their order show which two properties change,
but not in which direction. So a mean over frames has an average precision of about one half, and a
model that sees order can reach 1.

The encoder is that of `motion`: a small random CNN that never trains.
"""

from vidrec.config import Config, Data, Encoder, Frames, Optim, Scanner, Task, Train


def config() -> Config:
    return Config(
        data=Data(kind="tfds", tfds="motion/several", split="group"),
        task=Task(kind="multilabel"),
        frames=Frames(length=30),
        encoder=Encoder(
            kind="cnn", weights="random", pooling="moments", size=64, standardize=True, pca=48
        ),
        scanner=Scanner(kind="gru", units=64),
        optim=Optim(kind="adam", learning_rate=1e-2, clip_norm=1.0),
        train=Train(epochs=40, batch_size=32, monitor="val_map", patience=12),
    )
