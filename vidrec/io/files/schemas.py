"""Define the keys and types of the files of runs, in the form that `content.read_json` checks."""

FIGURE_NAMES = tuple(
    f"{name}?"
    for name in (
        *("accuracy", "loss", "avg_f1", "clips", "top1", "top5", "top10", "calibration_error"),
        *("map", "chance", "micro_f1", "macro_f1", "exact"),
        *("nonfinite", "clip_accuracy", "video_accuracy", "balanced_accuracy", "majority"),
    )
)
_NUMBER, _NUMBER_OR_NONE = (int, float), (int, float, type(None))
_FIGURES = {
    **dict.fromkeys(FIGURE_NAMES, _NUMBER_OR_NONE),
    "f1?": {"*": _NUMBER_OR_NONE},
    **{"confusion?": [[int]], "co_occurrence?": [[int]], "ap?": {"*": _NUMBER_OR_NONE}},
}
RESULT_HOLDS = {
    **{"id?": str, "status": str, "metrics": {"*": _FIGURES}},
    **{"seed?": int, "name?": str, "row?": (int, str), "row_name?": (str, type(None))},
    **{"overrides?": dict, "published?": (dict, type(None)), "doubtful?": (list, type(None))},
    **{"why?": (str, type(None)), "params?": int, "epochs?": int, "best_epoch?": _NUMBER_OR_NONE},
    "counts?": {"*": {"expected": int, "scored": int, "unreadable": int}},
    **{"unreadable?": [{"path": str, "reason": str}], "unreadable_names?": [str]},
    **{"damaged?": {"*": str}, "data_warnings?": [str], "seconds?": {"*": _NUMBER}},
    "split?": {
        **{"id?": str, "copied_tests?": int},
        **{"leaks_into_test?": bool, "recordings_known?": bool},
    },
    **{"another_task?": str, "fold?": int, "fitted?": dict, "task?": str},
    "parent?": {"dir": str, "epochs": int},
    **{"classes?": [str], "data?": dict, "versions?": dict, "dir?": str},
}
TABLE_HOLDS = {
    "trials": [
        {
            **{"id": str, "row": (int, str), "seed": int, "overrides": dict},
            **{"group?": str, "row_name?": (str, type(None)), "params?": _NUMBER_OR_NONE},
            **{"published?": (dict, type(None)), "doubtful?": (list, type(None))},
            **{"another_task?": str, "fold?": int},
        }
    ],
    **{"notes?": [str], "folds?": str},
    **{
        "name?": str,
        "question?": str,
        "source?": str,
        "command?": str,
        "data?": dict,
        "read?": list,
        "axes?": (dict, list, type(None)),
    },
}
SEARCH_HOLDS = {
    **{"name": str, "id": str, "config": dict, "space": {"*": dict}, "clips": {"*": int}},
    **{"halving": int, "rungs": [int], "at_once": int},
    **{"figure": str, "command?": str, "data?": dict, "classes?": [str]},
    "found": [
        {
            **{"number": int, "round": int, "params": dict, "id": str, "state": str, "why": str},
            **{"epochs": int, "rungs": [list], "end": (list, type(None))},
            "same_as": (int, type(None)),
        }
    ],
    "more": {
        "chosen?": {
            **{"number": int, "params": dict, "accuracy": _NUMBER, "table": str, "seeds": int},
            **dict.fromkeys(("test_accuracy", "low", "high"), _NUMBER_OR_NONE),
        },
        "importance?": {"*": _NUMBER},
    },
}
GROUP_HOLDS = {
    "members": [str],
    "trials": [{"id": str, "config": dict, "folder": str, "about": dict, "data?": str}],
    "parts?": int,
}
CONFIG_HOLDS = {
    "data?": {"kind?": str, "tfds?": str, "root?": str},
    "task?": {"kind?": str},
    **{"scanner?": {"kind?": str}, "encoder?": {"kind?": str}},
}
ENVIRONMENT_HOLDS = {"command?": str, "versions?": {"*": str}}
MODEL_HOLDS = {"layers": [{"name?": str, "kind?": str, "params?": _NUMBER_OR_NONE}]}
DATA_HOLDS = {"fingerprint": str, "clips": {"*": [str]}}
JOBS_HOLDS = {"engine": str, "jobs": [{"group": str, "job": str, "log": str}]}
LINE_HOLDS = {
    **{"trial?": str, "epoch": int, "status": str},
    **dict.fromkeys(("val/accuracy?", "val/balanced_accuracy?"), _NUMBER_OR_NONE),
    **dict.fromkeys(("train/loss?", "val/loss?", "grad/norm?"), _NUMBER_OR_NONE),
}
