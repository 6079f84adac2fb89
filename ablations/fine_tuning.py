"""Does augmentation help if a pretrained encoder is tuned on few clips?

    vidrec ablate fine_tuning --data.root FOLDER --folds 5

FOLDER holds a folder of files for each class, as for `my_videos`. The last block of an
EfficientNet-Lite0 (ImageNet, the extra `pretrained`) and a GRU train on three and on six clips a
class, each without augmentation and with half of the clips mirrored, crops, and changes of
brightness, contrast and colour. Statistics of batch normalization stay those of ImageNet. Name
classes that mirroring turns into each other with `--augment.flip_exchanges`. None of the five
reports did this.
"""

from vidrec.config import Config, Data, Encoder, Frames, Optim, Scanner, Train
from vidrec.sweeps.ablation import Ablation, Row

CHANGED = {
    "augment.flip": 0.5,
    "augment.crop": 0.6,
    "augment.brightness": 0.3,
    "augment.contrast": 0.3,
    "augment.color": 0.3,
}


def base() -> Config:
    return Config(
        data=Data(kind="videos", split="group", fps=10, test=0.3, val=0.1, per_class="3"),
        frames=Frames(length=4, rule="uniform"),
        encoder=Encoder(
            kind="efficientnet_lite0", size=96, trainable="last_block", batch_norm="frozen"
        ),
        scanner=Scanner(kind="gru", units=64, dropout=0.2),
        optim=Optim(kind="adam", learning_rate=1e-3, clip_norm=1.0),
        train=Train(epochs=6, batch_size=8, batches_per_epoch=8, monitor="val_loss"),
    )


def ablation() -> Ablation:
    return Ablation(
        name="fine_tuning",
        question="Does augmentation help if a pretrained encoder is tuned on few clips?",
        base=base(),
        rows=[
            Row({"data.per_class": few} | changes, name=f"{few} clips a class{words}")
            for few in ("3", "6")
            for words, changes in (("", {}), (", augmented", CHANGED))
        ],
        seeds=3,
        read=("test_accuracy", "val_accuracy", "train_accuracy"),
    )
