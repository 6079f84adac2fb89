"""Arguments of a user's class: a dictionary that is checked, hashed, saved and read back."""

import copy
import json
import pickle
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

import vidrec
from vidrec import config
from vidrec.cli import main
from vidrec.errors import UserError

GIVEN = {"peepholes": True, "sizes": [1, 2.5], "how": "soft"}


def settings(args) -> vidrec.Config:
    return config.override(vidrec.Config(), {"scanner.args": args})


@dataclass
class Cell:
    units: int
    peepholes: bool = True
    rate: float = 0.1
    sizes: tuple[int, ...] = ()
    how: Literal["soft", "hard"] = "soft"
    anything: Any = None
    hidden: int = field(default=0, init=False)


def test_a_configuration_with_arguments_stays_a_key_and_reads_back_as_itself():
    cfg = settings(GIVEN)
    assert cfg.scanner.args == {"peepholes": True, "sizes": (1, 2.5), "how": "soft"}
    saved = json.loads(json.dumps(config.to_dict(cfg)))
    assert saved["scanner"]["args"] == GIVEN
    for same in (config.from_dict(saved), pickle.loads(pickle.dumps(cfg)), copy.deepcopy(cfg)):
        assert same == cfg
        assert hash(same) == hash(cfg)
    with pytest.raises(TypeError, match="cannot be changed"):
        cfg.scanner.args["peepholes"] = False


def test_arguments_are_part_of_what_a_trial_is_and_none_leave_it_as_it_was():
    def identity(cfg):
        return config.identifying_settings(cfg), config.signature(cfg)

    plain, other = identity(vidrec.Config()), identity(settings({"peepholes": False}))
    assert identity(settings({})) == plain
    assert "scanner.args" not in plain[0]
    assert len({config.digest(*identity(settings(GIVEN))), config.digest(*other)}) == 2
    assert identity(settings({"a": 1, "b": 2})) == identity(settings({"b": 2, "a": 1}))


def test_the_command_line_takes_json():
    words = ["train", "my_videos", "--scanner.args", json.dumps(GIVEN), "--encoder.args={}"]
    _, given = main.parse(words)
    assert given == {"scanner.args": settings(GIVEN).scanner.args, "encoder.args": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{peepholes: true}", r"should be a dictionary, such as '{\"peepholes\": true}'"),
        ("[1]", "should be a dictionary"),
        ('{"a": {"b": 1}}', r"scanner.args.a = {'b': 1} should be a number, a text"),
    ],
)
def test_what_is_no_dictionary_of_plain_values_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        config.parse("scanner.args", text)


def test_arguments_belong_to_a_class_and_go_with_it():
    cfg = settings({"peepholes": True})
    other = {"scanner.kind": "gru"}
    assert config.override(cfg, other).scanner.args == {}
    assert config.cleared(cfg, other) == {"scanner.args": "scanner.kind"}
    assert config.override(cfg, other | {"scanner.args": {"x": 1}}).scanner.args == {"x": 1}


def test_arguments_take_the_types_of_the_fields():
    given = {"peepholes": False, "rate": 1, "sizes": (3,), "how": "hard", "anything": "x"}
    found = config.checked_args("scanner.args", given, Cell, reserved={"units"})
    assert found == given
    assert type(found["rate"]) is float


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"peephole": 1}, r"scanner.args: Cell has no field 'peephole'; did you mean 'peepholes'"),
        ({"zzz": 1}, r"no field 'zzz'; it has peepholes, rate, sizes, how, anything$"),
        ({"hidden": 1}, r"no field 'hidden'"),
        ({"units": 3}, r"'units' is a setting of its own, scanner.units"),
        ({"peepholes": 1}, r"scanner.args.peepholes = 1 should be True or False"),
        ({"rate": "x"}, r"scanner.args.rate = 'x' should be a number"),
        ({"how": "sof"}, r"should be one of soft, hard \(did you mean 'soft'\?\)"),
        ({"sizes": 3}, r"scanner.args.sizes = 3 should be a list"),
    ],
)
def test_an_argument_that_does_not_fit_is_one_line(given, words):
    with pytest.raises(UserError, match=words) as told:
        config.checked_args("scanner.args", given, Cell, reserved={"units"})
    assert "\n" not in str(told.value)
