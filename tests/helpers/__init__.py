"""Helpers that tests share: data sets, videos, runs and results made on the spot."""
