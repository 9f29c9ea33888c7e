"""Benchmark files that come with atoll."""

from pathlib import Path


def names(kind: str) -> list[str]:
    """The names of the files of a kind, such as `benchmarks`."""
    return sorted(path.stem for path in (Path(__file__).parent / kind).glob("*.yaml"))


def find(kind: str, name: str) -> Path | None:
    """The file of that name, or None where there is none."""
    return Path(__file__).parent / kind / f"{name}.yaml" if name in names(kind) else None
