"""Report E: VGG16 on images of three classes, from scratch, frozen, and tuned block by block.

    vidrec train  experiments/transfer_vgg16.py --data.root IMAGES
    vidrec ablate ablations/transfer.py --data.root IMAGES

IMAGES holds one folder of images for each class (or train/, val/ and test/, each with such folders,
with `--data.split given`). An image is a clip of one frame.

Report: A. C. Erthal and F. Lamarca, "Transfer Learning", deep learning assignment 1. 224x224, Adam
at 1e-3, batches of 32, 50 epochs, stopping after 15 epochs without improvement, categorical
cross-entropy.
From scratch with softmax and with ReLU outputs; ImageNet weights frozen (this file); then more and
more of the last blocks trainable.

Published: test accuracy 0.7344 with frozen weights, 0.8516 from scratch, and 0.9531 for the best
row (3-a, some layers trainable). All six rows are in ablations/transfer.py.

Doubtful: the percentages fit 1,034 training, 133 validation and 128 test images, so 3-a and 3-b
differ by one test image. Keras divides ReLU outputs by their sum before categorical cross-entropy,
even if the sum is 0, which gives NaN; here such outputs have the loss -log 1e-7 and no gradient.

Not stated, chosen here: the data set; which blocks 3-a and 3-b train (the last, the last two);
average pooling before the output layer; no augmentation; early stopping on validation loss; a tenth
of the images for testing and a tenth of the rest for validation (`--data.test 128 --data.val 133`
for the report's counts).
"""

from vidrec.config import Config, Data, Encoder, Frames, Optim, Scanner, Train


def config() -> Config:
    return Config(
        data=Data(kind="images", test=0.1, val=0.1),
        frames=Frames(length=1),
        encoder=Encoder(
            kind="vgg16", weights="imagenet", pooling="average", size=224, normalize="caffe"
        ),
        scanner=Scanner(kind="none"),
        optim=Optim(kind="adam", learning_rate=1e-3, epsilon=1e-7),  # Keras' epsilon
        train=Train(epochs=50, batch_size=32, monitor="val_loss", patience=15),
    )
