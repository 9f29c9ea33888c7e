"""The arguments of a projection: a cluster, from a file or bundled here, and numbers of nodes."""

from __future__ import annotations

from pathlib import Path

from atoll.analysis.cluster import Cluster
from atoll.storage import yamlfile

FOLDER = Path(__file__).parent
MAX_NODES, MAX_SCALES = 65536, 64


def cluster(file: str, speed: float | None = None) -> Cluster:
    """The cluster in a file, or the bundled one of that name, with its speed or `speed`. Raises FileError."""
    changes = {} if speed is None else {"speed": speed}
    return yamlfile.load(yamlfile.locate(FOLDER, "cluster", file), Cluster, change=lambda content: content | changes)


def nodes(text: str) -> list[int]:
    """Parse numbers of nodes such as `1,2,8` or `1,2,4,...,256`; dots continue the factor, or the step, before them.

    Raises:
        FileError: if the text is anything else.
    """
    problem = yamlfile.FileError(
        f"--nodes must be increasing numbers from 1 to {MAX_NODES}, such as 1,2,8 or 1,2,4,...,256; got {text[:100]!r}"
    )
    numbers: list[int] = []
    dots = False
    for word in text.replace(" ", "").split(","):
        if word in ("...", "…") and len(numbers) >= 2 and not dots:
            dots = True
            continue
        if (
            not word.isdecimal()
            or len(word) > len(str(MAX_NODES))
            or not 1 <= int(word) <= MAX_NODES
            or (numbers and int(word) <= numbers[-1])
        ):
            raise problem
        if dots:
            numbers += _between(numbers[-2], numbers[-1], int(word))
            dots = False
        numbers.append(int(word))
    if dots or not numbers:
        raise problem
    if len(numbers) > MAX_SCALES:
        raise yamlfile.FileError(f"--nodes must name at most {MAX_SCALES} numbers; {text[:100]!r} names {len(numbers)}")
    return numbers


def _between(first: int, second: int, last: int) -> list[int]:
    """The numbers between `second` and `last`, by the factor or the step from `first` to `second`."""
    grown = second
    numbers: list[int] = []
    while True:
        grown = grown * (second // first) if second % first == 0 else grown + second - first
        if grown >= last:
            return numbers
        numbers.append(grown)
