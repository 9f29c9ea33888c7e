"""Layouts of virtual ranks: which rank is on which node, and their names."""

from __future__ import annotations

from collections.abc import Iterable

Layout = tuple[int, ...]  # the node of each rank

SINGLE, PAIR, TWO_NODES = (0,), (0, 0), (0, 1)
TRIPLE, QUADRUPLE = (0, 0, 0), (0, 0, 0, 0)
TWO_BY_TWO, FOUR_NODES = (0, 0, 1, 1), (0, 1, 2, 3)


def layout_name(layout: Layout) -> str:
    """The name of a layout, such as 2nodes_x_2ranks, or 1+2ranks where nodes differ."""
    sizes = [layout.count(node) for node in sorted(set(layout))]
    if len(set(sizes)) > 1:
        return f"{'+'.join(map(str, sizes))}ranks"
    return f"{len(sizes)}node{'s' * (len(sizes) > 1)}_x_{sizes[0]}rank{'s' * (sizes[0] > 1)}"


def layouts(sizes: Iterable[int]) -> list[Layout]:
    """For each number of ranks all of them on one node, and if they are even also on two nodes."""
    chosen: list[Layout] = []
    for size in sizes:
        chosen.append((0,) * size)
        if size % 2 == 0:
            chosen.append((0,) * (size // 2) + (1,) * (size // 2))
    return chosen
