"""One command that brings home every figure of a GPU: see `python -m benchmarks.gpu --help`."""

import sys
from pathlib import Path

# The other benchmarks are scripts that import each other by their bare names.
sys.path.insert(0, str(Path(__file__).parents[1]))
