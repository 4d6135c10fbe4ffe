"""Measurements: `python -m benchmarks.NAME` prints its tables."""
