"""Your own videos: a folder with one folder of files a class.

    python launch.py train experiments/my_videos.py --data.root FOLDER
    python launch.py predict runs/my_videos-ID FILE.mp4

Any file that PyAV opens; also train/, val/ and test/ folders, or a labels.csv (path, label, group,
split). A file that cannot be read is named in the result; `--data.strict True` makes it fatal.

Clips cut from one recording are too alike to be told apart by an honest test. Where names carry the
recording (`_g01_`), or a groups.csv or `--data.groups 'REGEX'` names it, all of it goes to one side
of the split; elsewhere each file counts as its own, and the score may flatter.

It runs as it stands on a laptop: a small random CNN that never trains, 30 frames spread over each
clip. Better features, where you have the weights:

    --encoder.kind squeezenet --encoder.weights FILE.h5 --encoder.pooling average \\
        --encoder.size 224 --encoder.normalize caffe --encoder.pca 0
"""

from vidrec.config import Config, Data, Encoder, Frames, Optim, Scanner, Train


def config() -> Config:
    return Config(
        data=Data(kind="videos", split="group"),
        frames=Frames(length=30, rule="uniform"),
        encoder=Encoder(
            kind="cnn", weights="random", pooling="moments", size=96, standardize=True, pca=32
        ),
        scanner=Scanner(kind="gru", units=64, dropout=0.2),
        optim=Optim(kind="adam", learning_rate=2e-3, clip_norm=1.0),
        train=Train(epochs=60, batch_size=16, monitor="val_loss", patience=15),
    )
