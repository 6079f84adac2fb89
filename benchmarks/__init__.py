"""Compare vidrec with alternatives, both in one run: `python -m benchmarks` runs those that fit."""
