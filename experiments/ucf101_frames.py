"""Report D, first part: a pretrained CNN whose top layers are tuned on UCF-101's frames.

    vidrec train   experiments/ucf101_frames.py --data.root UCF101
    vidrec extract experiments/ucf101_lstm.py --data.root UCF101 \\
        --encoder.weights runs/ucf101_frames-ID
    vidrec compare runs/ucf101_frames-ID runs/ucf101_lstm-ID

Report: P. Srinivasan, "Action Recognition in Short Clips", IE598 homework 3. A CNN pretrained on
ImageNet, only its top layers trained on frames of UCF-101; the 1024 outputs of a fully connected
layer are what the LSTM of experiments/ucf101_lstm.py reads. The class of a video is decided by the
average over its frames.

Published: no accuracy of the frame model as a whole; per class ApplyEyeMakeup 0.18, HighJump 0.189,
Basketball 0.84, BoxingPunchingBag 0.367, BodyWeightSquats 0.067, JumpRope 0.

Doubtful: the text names "the given VGG-NET for CIFAR-10", which has no ImageNet weights.

Not stated, chosen here: VGG16; its last block and a new layer of 1024 train; one random frame of a
clip at a time, from frames sampled once a second (all frames at 224x224 would be 360 GB; these are
14 GB, held in memory), and the average of log-probabilities over these frames; momentum SGD at
1e-3, batches of 32, 20 epochs, the best epoch by accuracy on a tenth of the training clips held out
by group; split 1.
"""

from vidrec.config import Config, Data, Encoder, Eval, Frames, Head, Optim, Scanner, Train


def config() -> Config:
    return Config(
        data=Data(kind="ucf101", split="given", fold=1, val=0.1, fps=1),
        frames=Frames(length=1),
        encoder=Encoder(
            kind="vgg16",
            weights="imagenet",
            trainable="last_block",
            pooling="dense",
            width=1024,
            size=224,
            normalize="caffe",
        ),
        scanner=Scanner(kind="none"),
        head=Head(kind="per_frame"),
        optim=Optim(kind="momentum", learning_rate=1e-3),
        train=Train(epochs=20, batch_size=32, monitor="val_accuracy"),
        eval=Eval(inference="average", window=1, stride=1),  # every frame is a clip of its own
    )
