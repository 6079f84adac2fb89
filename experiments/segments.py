"""Generated data with a label for each frame: motions with background between them.

    vidrec train experiments/segments.py
    vidrec ablate segment_scanners        the comparison of scanners over it

None of the five reports did this. A frame shows where a shape is, not how it moves, and the data
has each clip also played backwards. So a model that sees a single frame cannot tell a motion from
its reversal or from rest. A recurrence that only looks back labels each frame when it arrives, so
it recognises a motion some frames after the start of the motion. A predicted segment counts as
found if it overlaps the true one by half.

Data set and settings were chosen by looking at test clips; docs/how-to/labels.md has the figures on
clips that were drawn afterwards (motion/segments/seed=1).
"""

from vidrec.config import (
    Config,
    Data,
    Encoder,
    Frames,
    Head,
    Loss,
    Optim,
    Scanner,
    Task,
    Train,
)


def config() -> Config:
    return Config(
        data=Data(kind="tfds", tfds="motion/segments", split="group"),
        task=Task(kind="segmentation"),
        frames=Frames(rule="whole"),
        encoder=Encoder(
            kind="cnn", weights="random", pooling="moments", size=32, standardize=True, pca=40
        ),
        scanner=Scanner(kind="gru", units=64, dropout=0.3),
        head=Head(kind="per_frame"),
        loss=Loss(frame_weights="uniform"),
        optim=Optim(kind="adam", learning_rate=1e-2, clip_norm=1.0, schedule="cosine"),
        train=Train(epochs=20, batch_size=16, monitor="val_f1_50"),
    )
