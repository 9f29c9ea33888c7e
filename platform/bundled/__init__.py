"""Benchmark and cluster files that come with atoll."""

from pathlib import Path

from atoll.platform import yamlfile

FOLDERS = {"benchmark": "benchmarks", "cluster": "clusters"}


def names(kind: str) -> list[str]:
    """The names of the files of a kind, `benchmark` or `cluster`."""
    return sorted(path.stem for path in (Path(__file__).parent / FOLDERS[kind]).glob("*.yaml"))


def locate(kind: str, given: str) -> Path:
    """The file that is given, or the bundled one of that name. Raises FileError."""
    found = Path(given)
    if found.is_file() or found.suffix in (".yaml", ".yml", ".json"):
        return found
    if given not in names(kind):
        raise yamlfile.FileError(
            f"there is no {kind} file {given}, and none of that name is bundled; bundled are {', '.join(names(kind))}"
        )
    return Path(__file__).parent / FOLDERS[kind] / f"{given}.yaml"
