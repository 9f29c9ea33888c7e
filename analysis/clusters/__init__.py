"""What a projection is told: a cluster, in a file or bundled here, and numbers of nodes."""

from __future__ import annotations

from pathlib import Path

from atoll.analysis.cluster import Cluster
from atoll.storage import yamlfile

FOLDER = Path(__file__).parent
MAX_NODES, MAX_SCALES = 65536, 64


def cluster(file: str, speed: float | None = None) -> Cluster:
    """The cluster in a file, or the bundled one of that name; `speed` in place of its own. Raises FileError."""
    changes = {} if speed is None else {"speed": speed}
    return yamlfile.load(yamlfile.locate(FOLDER, "cluster", file), Cluster, change=lambda content: content | changes)


def nodes(text: str) -> list[int]:
    """Numbers of nodes such as `1,2,8` or `1,2,4,...,256`, where dots go on by the factor, or the step, before them.

    Raises:
        FileError: it says no such numbers.
    """
    problem = yamlfile.FileError(
        f"--nodes must be numbers from 1 to {MAX_NODES} that grow, such as 1,2,8 or 1,2,4,...,256; got {text!r}"
    )
    found: list[int] = []
    dots = False
    for word in text.replace(" ", "").split(","):
        if word in ("...", "…") and len(found) >= 2 and not dots:
            dots = True
            continue
        if not word.isdecimal() or not 1 <= int(word) <= MAX_NODES or (found and int(word) <= found[-1]):
            raise problem
        if dots:
            found += _between(found[-2], found[-1], int(word))
            dots = False
        found.append(int(word))
    if dots or not found:
        raise problem
    if len(found) > MAX_SCALES:
        raise yamlfile.FileError(f"--nodes must name at most {MAX_SCALES} numbers; {text!r} names {len(found)}")
    return found


def _between(first: int, second: int, last: int) -> list[int]:
    grown = second
    numbers: list[int] = []
    while True:
        grown = grown * (second // first) if second % first == 0 else grown + second - first
        if grown >= last:
            return numbers
        numbers.append(grown)
