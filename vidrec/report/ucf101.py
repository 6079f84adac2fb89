"""Define what only UCF-101 needs: action types, and the changes of classes in report D.

The types are those of K. Soomro, A. R. Zamir and M. Shah, "UCF101: A Dataset of 101 Human Actions
Classes From Videos in The Wild", CRCV-TR-12-01, 2012 (https://arxiv.org/abs/1212.0402).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidrec import config
from vidrec.config import shipped

# The file describes report D. PUBLISHED in it has the changes of classes from frame CNN to LSTM.
EXPERIMENT = shipped.Shipped("experiments/ucf101_lstm.py")

TYPES: dict[str, tuple[str, ...]] = {
    "Human-Object Interaction": (
        *("ApplyEyeMakeup", "ApplyLipstick", "BlowDryHair", "BrushingTeeth", "CuttingInKitchen"),
        *("Hammering", "HulaHoop", "JugglingBalls", "JumpRope", "Knitting", "Mixing"),
        *("MoppingFloor", "Nunchucks", "PizzaTossing", "ShavingBeard", "SkateBoarding"),
        *("SoccerJuggling", "Typing", "WritingOnBoard", "YoYo"),
    ),
    "Body-Motion Only": (
        *("BabyCrawling", "BlowingCandles", "BodyWeightSquats", "HandstandPushups"),
        *("HandstandWalking", "JumpingJack", "Lunges", "PullUps", "PushUps"),
        *("RockClimbingIndoor", "RopeClimbing", "Swing", "TaiChi", "TrampolineJumping"),
        *("WalkingWithDog", "WallPushups"),
    ),
    "Human-Human Interaction": (
        *("BandMarching", "Haircut", "HeadMassage", "MilitaryParade", "SalsaSpin"),
    ),
    "Playing Musical Instruments": (
        *("Drumming", "PlayingCello", "PlayingDaf", "PlayingDhol", "PlayingFlute"),
        *("PlayingGuitar", "PlayingPiano", "PlayingSitar", "PlayingTabla", "PlayingViolin"),
    ),
    "Sports": (
        *("Archery", "BalanceBeam", "BaseballPitch", "Basketball", "BasketballDunk", "BenchPress"),
        *("Biking", "Billiards", "Bowling", "BoxingPunchingBag", "BoxingSpeedBag", "BreastStroke"),
        *("CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot", "Diving", "Fencing"),
        *("FieldHockeyPenalty", "FloorGymnastics", "FrisbeeCatch", "FrontCrawl", "GolfSwing"),
        *("HammerThrow", "HighJump", "HorseRace", "HorseRiding", "IceDancing", "JavelinThrow"),
        *("Kayaking", "LongJump", "ParallelBars", "PoleVault", "PommelHorse", "Punch", "Rafting"),
        *("Rowing", "Shotput", "Skiing", "Skijet", "SkyDiving", "SoccerPenalty", "StillRings"),
        *("SumoWrestling", "Surfing", "TableTennisShot", "TennisSwing", "ThrowDiscus"),
        *("UnevenBars", "VolleyballSpiking"),
    ),
}

# Class names of archives and of files differ only in capitals (HandStandPushups).
_TYPE = {name.lower(): kind for kind, names in TYPES.items() for name in names}


def type_of(name: str) -> str | None:
    """Return the action type of a class; None for a class that is not UCF-101's."""
    return _TYPE.get(name.lower())


def confusions_by_type(
    counts_KK: np.ndarray, classes: Sequence[str]
) -> dict[str, list[dict[str, Any]]] | None:
    """Sort confusions into those within and across action types, most frequent first.

    Within a type a confusion is easily understood; across types it is not.

    Args:
        counts_KK: clips of true class (row) predicted as class (column).
        classes: names by class number.

    Returns:
        The keys "within" and "across"; None if a class is not UCF-101's.
    """
    types = [type_of(name) for name in classes]
    if None in types:
        return None
    counts_KK = np.array(counts_KK)
    np.fill_diagonal(counts_KK, 0)
    confusions: dict[str, list[dict[str, Any]]] = {"within": [], "across": []}
    order = np.argsort(-counts_KK.ravel(), kind="stable")
    for cell in order[: np.count_nonzero(counts_KK)]:
        i, j = divmod(int(cell), len(classes))
        side = "within" if types[i] == types[j] else "across"
        confusions[side].append(
            {
                "true": classes[i],
                "predicted": classes[j],
                "count": int(counts_KK[i, j]),
                "types": (types[i], types[j]),
            }
        )
    return confusions


def published_changes(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Mapping[str, Sequence[float]]:
    """Return the changes in report D, {class: (accuracy before, after)}, for two runs' settings.

    Report D compared a model of single frames with an LSTM, both on UCF-101. For any other two runs
    the result is empty.
    """
    scanners = [settings.get("scanner", {}).get("kind") for settings in (before, after)]
    if scanners != ["none", "lstm"] or not (_of_ucf101(before) and _of_ucf101(after)):
        return {}
    return config.load_user(f"{shipped.find(EXPERIMENT)}:PUBLISHED")["class_changes"]


def _of_ucf101(settings: Mapping[str, Any]) -> bool:
    data = settings["data"]
    return data["kind"] == "ucf101" or data["tfds"].startswith("ucf101")
