"""Where the nodes of an EASGD tree are, and how often they send (Zhang 2016, section 6.1)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A node's place in the tree.

    Nodes are numbered: first the leaves, 0..p-1, the root last. Periods are in steps of the node's rank.
    """

    number: int
    rank: int
    parent: int | None
    children: tuple[int, ...]
    tau_up: int
    tau_down: int


def plant(num_leaves: int, degree: int, scheme: str, tau_fast: int, tau_slow: int) -> list[Place]:
    """The tree over `num_leaves` ranks, and each node's periods."""
    sizes = [num_leaves]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // degree))
    first = [sum(sizes[:level]) for level in range(len(sizes))]
    places = []
    for level, size in enumerate(sizes):
        for j in range(size):
            is_root = level == len(sizes) - 1
            below = range(j * degree, min((j + 1) * degree, sizes[level - 1])) if level else range(0)
            tau_up, tau_down = tau_fast, tau_slow
            if scheme == "multi_scale":
                tau_up = tau_fast if level == 0 else tau_slow
                tau_down = tau_fast if level == 1 else tau_slow
            places.append(
                Place(
                    number=first[level] + j,
                    rank=j * degree**level,
                    parent=None if is_root else first[level + 1] + j // degree,
                    children=tuple(first[level - 1] + child for child in below),
                    tau_up=tau_up,
                    tau_down=tau_down,
                )
            )
    return places
