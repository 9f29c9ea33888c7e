"""Names of optimizers and schedules that are not atoll's: a file's, a package's, or the workload's."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Literal

Kind = Literal["optimizer", "schedule"]
OF_WORKLOAD = "workload"
# Of torch.optim, by what keeps them from training here.
_UNUSABLE = {
    "lbfgs": "it evaluates the loss several times in a step",
    "rprop": "its step sizes take no notice of the learning rate's schedule",
    "sparseadam": "it takes sparse gradients only",
}


@cache
def installed(kind: Kind) -> dict[str, str]:
    """Locations of what installed packages register for a kind, by name."""
    return {point.name: point.value for point in entry_points(group=f"atoll.{kind}s")}


def is_own(kind: Kind, name: str) -> bool:
    """Whether a name has the form of an own one's: file.py:function, workload, or an entry point."""
    return name == OF_WORKLOAD or name.rpartition(":")[0].endswith(".py") or name in installed(kind)


def check(kind: Kind, name: str, known: tuple[str, ...]) -> None:
    """Raise ValueError unless `name` is one of `known`, or has the form of an own one's."""
    if name in known or is_own(kind, name):
        return
    if kind == "optimizer" and name in _UNUSABLE:
        raise ValueError(f"torch's {name} cannot train here: {_UNUSABLE[name]}")
    raise ValueError(
        f"{kind} must be one of {', '.join(known)}, file.py:function, {OF_WORKLOAD} (the workload's own), or an entry "
        f"point of the group atoll.{kind}s; got {name!r}"
    )
