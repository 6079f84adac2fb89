"""The five action types of UCF-101's 101 classes.

After K. Soomro, A. R. Zamir and M. Shah, "UCF101: A Dataset of 101 Human Actions Classes From
Videos in The Wild", CRCV-TR-12-01, 2012 (https://arxiv.org/abs/1212.0402).
"""

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

# Archives and file names differ in capitals (HandStandPushups), never in letters.
_TYPE = {name.lower(): kind for kind, names in TYPES.items() for name in names}


def type_of(name: str) -> str | None:
    """Action type of a class; None for a class that is not UCF-101's."""
    return _TYPE.get(name.lower())
