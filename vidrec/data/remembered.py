"""Keep values in the cache between runs, by a name or by the content of clips."""

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vidrec.config import digest
from vidrec.data import video
from vidrec.data.hashing import index_file
from vidrec.errors import UserError
from vidrec.io.files import Damaged, Missing, read_json, write_json

if TYPE_CHECKING:
    from vidrec.data.datasets.base import Dataset


def remembered(name: str, make: Callable[[], Any]) -> Any:
    """Return a JSON-able value from the cache, made and kept there on first use."""
    file = index_file(name)
    try:
        return read_json(file, ["value"])["value"]
    except (Missing, Damaged):
        value = make()
    except UserError:  # the file cannot be read now, so it is not replaced
        return make()
    # A cache that cannot be written costs time, nothing else.
    with contextlib.suppress(UserError):
        write_json(file, {"value": value}, durable=False)
    return value


def remembered_clips(
    name: str, dataset: "Dataset", make: Callable[[list[int]], Mapping[int, Any]]
) -> dict[int, Any]:
    """Return JSON-able values of clips; the cache stores them by the content of the clips.

    Args:
        name: name of the cache file: a hash of all that values depend on besides the clip.
        dataset: the clips.
        make: returns values for the clips that the cache lacks. Values are not cached for clips
            that it leaves out, nor for clips whose content cannot be read.
    """
    file = index_file(name)
    writable, known = True, {}
    try:
        known = read_json(file, {"clips": dict})["clips"]
    except (Missing, Damaged):
        pass
    except UserError:
        writable = False
    missing = [clip for clip, key in enumerate(dataset.keys) if key not in known]
    made = dict(make(missing)) if missing else {}
    fresh = {dataset.keys[clip]: value for clip, value in made.items() if dataset.has_content(clip)}
    if fresh and writable:
        with contextlib.suppress(UserError):
            write_json(file, {"clips": {**known, **fresh}}, durable=False)
    stored = {clip: known[key] for clip, key in enumerate(dataset.keys) if key in known}
    return stored | made


def decoded_name(what: str, dataset: "Dataset", fps: float) -> str:
    """Return a hash of all that decoding the clips of a data set depends on."""
    decoder = (video.DECODING, video.DECODER)
    return digest(what, *decoder, fps, list(dataset.keys), length=32)
