"""Report B: families of recurrences over frozen features, UCF-11.

    vidrec train  experiments/ucf11_recurrent.py --data.root UCF11
    vidrec ablate ablations/units_torch.py --data.root UCF11

Report: "Video classification using recurrent neural networks", deep learning course report. LSTM,
GRU, two stacked LSTMs and ConvLSTM of 64 to 512 units; BiLSTM is described (outputs joined by
concatenation or sum) without a figure. Parameters are counted as PyTorch does, two bias vectors a
gate; the ConvLSTM has one.

Published: best ConvLSTM-256, accuracy 0.80, average F1 0.79; GRU-256 0.78 and 0.77; LSTM-128 (this
file) 0.76 and 0.75. All sixteen rows are in ablations/units_torch.py.

Doubtful: the report says ten categories and lists UCF-11's eleven. Its times fall as models grow
(GRU-512 30 s, GRU-64 103 s), so they were not measured on an idle machine. All figures are from
single runs and have two digits.

The parameter counts imply: 512 features a frame, eleven classes, ConvLSTM over 512 maps with 3x3
kernels and one bias, averaged over the map before the output layer.

Not stated, chosen here: VGG16 with ImageNet weights; 30 frames spread over the clip; Adam at 1e-3,
batches of 32, at most 100 epochs, stopping after 15 epochs without a better loss on validation
clips; a fixed split by group (for nearly every test clip, a random split trains on clips of the
same recording: ablations/leakage.py measures the effect; `--data.fold 1 … 25` leaves one group
out).
"""

from vidrec.config import Config, Data, Encoder, Frames, Optim, Scanner, Train


def config() -> Config:
    return Config(
        data=Data(kind="ucf11", split="group"),
        frames=Frames(length=30, rule="uniform"),
        encoder=Encoder(
            kind="vgg16", weights="imagenet", pooling="average", size=224, normalize="caffe"
        ),
        scanner=Scanner(kind="lstm", units=128, bias="double", init="torch", forget_bias=0.0),
        optim=Optim(kind="adam", learning_rate=1e-3),
        train=Train(epochs=100, batch_size=32, monitor="val_loss", patience=15),
    )
