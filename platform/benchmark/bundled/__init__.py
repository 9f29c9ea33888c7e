"""Benchmark files that come with atoll."""

from pathlib import Path

BENCHMARKS = Path(__file__).parent / "benchmarks"
