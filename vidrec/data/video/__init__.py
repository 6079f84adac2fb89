"""Decode and encode video files (PyAV): only the requested frames, resized while decoding.

Frame i is the i-th that a player shows, whatever the container declares; with `fps` it is the frame
on screen at i / fps seconds. Times come from the timestamps. Frames are turned and mirrored as the
display matrix says. Frames without a colour tag are taken as BT.709 from 720 rows on, else as
BT.601. A file with at least one frame is readable, and notes say what it lacks. Any other file
raises `UnreadableClip` with the reason.

The modules:

- `container` opens files and decodes packets;
- `promises` compares what a container declares with what was decoded;
- `timing` says when frames are shown;
- `scaling` turns and resizes frames;
- `opening` is one interface for videos and pictures;
- `reading` and `seeking` use all of these;
- `writing` encodes.
"""

import av

from vidrec.data.video.reading import declared, read, shown, stream
from vidrec.data.video.scaling import Scaler
from vidrec.data.video.timing import Clock
from vidrec.data.video.writing import write, write_timed
from vidrec.errors import UnreadableClip

__all__ = [
    "DECODER",
    "DECODING",
    "Clock",
    "Scaler",
    "UnreadableClip",
    "declared",
    "read",
    "shown",
    "stream",
    "write",
    "write_timed",
]

DECODING = 2  # increase it if a file gives other frames than before, to discard stored results
DECODER = av.__version__
