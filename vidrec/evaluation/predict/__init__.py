"""Apply a trained model to new videos: files, streams, overlays, other data sets.

model = vidrec.Classifier.load("runs/my_videos-1a2b3c4d")
answer = model.predict("new.mp4")
print(answer.label, answer.confidence)
for window in answer.windows:
    print(window.start, window.end, window.label)
"""

from vidrec.evaluation.predict.answers import as_text, lines, listed, write_csv
from vidrec.evaluation.predict.choosing import choose
from vidrec.evaluation.predict.classifier import Classifier
from vidrec.evaluation.predict.drawing import overlay
from vidrec.evaluation.predict.prediction import Answer, Prediction, Window
from vidrec.evaluation.predict.scoring import score
from vidrec.evaluation.predict.streams import Stream

__all__ = [
    "Answer",
    "Classifier",
    "Prediction",
    "Stream",
    "Window",
    "as_text",
    "choose",
    "lines",
    "listed",
    "overlay",
    "score",
    "write_csv",
]
