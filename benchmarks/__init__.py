"""Measure tokenflight beside the least that the same work could cost: `python -m benchmarks`."""
