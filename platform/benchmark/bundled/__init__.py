"""The bundled benchmark files."""

from pathlib import Path

BENCHMARKS = Path(__file__).parent / "benchmarks"
