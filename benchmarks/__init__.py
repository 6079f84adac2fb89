"""Ours beside the alternative, in one run each: `python -m benchmarks` runs those that fit."""
