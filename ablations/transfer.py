"""Report E: how much of VGG16 should be trained on images of three classes?

From scratch with softmax and with ReLU outputs (1), ImageNet weights all frozen (2), and more and
more of the last blocks trained (3-a to 3-c). The report's test set had 128 images, so 3-a and 3-b
differ by one image. It does not state which blocks 3-a and 3-b train: here the last and the last
two.

The report's losses of ReLU outputs are computed as in Keras, and training minimises the same loss
here. Ours is in the columns `objective`, since `loss` counts outputs that are all zero as equal
probabilities.
"""

from vidrec.sweeps.ablation import Ablation, Row

COLUMNS = (
    "train_accuracy",
    "train_loss",
    "val_accuracy",
    "val_loss",
    "test_accuracy",
    "test_loss",
    "seconds_train",
)
SCRATCH = {"encoder.weights": "random", "encoder.trainable": "all"}
RELU = {"head.activation": "relu", "loss.kind": "keras_cross_entropy"}
SETTINGS = {
    "1 softmax": SCRATCH,
    "1 relu": SCRATCH | RELU,
    "2 frozen": {"encoder.weights": "imagenet", "encoder.trainable": "none"},
    "3-a": {"encoder.weights": "imagenet", "encoder.trainable": "last_block"},
    "3-b": {"encoder.weights": "imagenet", "encoder.trainable": "last_two_blocks"},
    "3-c": {"encoder.weights": "imagenet", "encoder.trainable": "all"},
}
# Accuracy and loss in training, validation and test; minutes
PUBLISHED = {
    "1 softmax": (0.9004, 0.2484, 0.9248, 0.2142, 0.8516, 0.3616, 12),
    "1 relu": (0.5571, 5.7159, 0.5789, 5.7387, 0.5938, 5.5647, 7),
    "2 frozen": (0.795, 0.4854, 0.8346, 0.5555, 0.7344, 0.7321, 5),
    "3-a": (0.9981, 0.012, 0.985, 0.0568, 0.9531, 0.1363, 3),
    "3-b": (0.9894, 0.0328, 0.9774, 0.0718, 0.9453, 0.1223, 5),
    "3-c": (0.9836, 0.0542, 0.985, 0.0605, 0.9453, 0.1455, 14),
}


def row(name: str) -> Row:
    *scores, minutes = PUBLISHED[name]
    figures = dict(zip(COLUMNS, (*scores, 60 * minutes), strict=True))
    return Row(SETTINGS[name], published=figures, name=name)


def ablation() -> Ablation:
    return Ablation(
        name="transfer",
        question="How much of a pretrained network should be trained on?",
        base="experiments/transfer_vgg16.py",
        rows=[row(name) for name in PUBLISHED],
        control=2,
        read=(*COLUMNS, "train_objective", "val_objective", "test_objective"),
        citation="Report E: A. C. Erthal and F. Lamarca, Transfer Learning, table 2",
    )
