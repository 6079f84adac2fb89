"""Generated data: ten motions in pairs, each pair a motion and its time reversal.

    vidrec train experiments/motion.py
    python launch.py                                the comparison of scanners over it

None of the five reports did this. Clips are generated, so nothing is downloaded. Neither a frame
nor an unordered set of frames tells a class from its partner: a model that ignores order is at
chance within a pair.

The encoder is a small random CNN that never trains. Its features say where in the frame each of its
channels responds. They are standardized by the training split's statistics, reduced to 48
components and stored, so that training takes seconds.
"""

from vidrec.config import Config, Data, Encoder, Frames, Optim, Scanner, Train


def config() -> Config:
    return Config(
        data=Data(kind="tfds", tfds="motion", split="group"),
        frames=Frames(length=30),
        encoder=Encoder(
            kind="cnn", weights="random", pooling="moments", size=64, standardize=True, pca=48
        ),
        scanner=Scanner(kind="lstm", units=64),
        optim=Optim(kind="adam", learning_rate=1e-2, clip_norm=1.0),
        train=Train(epochs=30, batch_size=32, monitor="val_loss", patience=10),
    )
