"""Failures by kind, and by choice: unstable choices stay in the search space, so readers must see their cost."""

from __future__ import annotations

import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from atoll.storage.models import TrialRow

_RANK = re.compile(r" \(rank \d+ on [^()]*\)$")
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?|\bnan\b|\binf\b")
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)
_ROOT = Path(__file__).resolve().parent.parent
_OURS = ("analysis", "communication", "methods", "platform", "searchspaces", "storage")


@dataclass(frozen=True)
class KindOfFailure:
    """Failed trials whose reasons differ only in numbers, addresses, ranks and hosts.

    Attributes:
        kind: the reason with `#` for each number.
        count: the number of trials.
        trial: the number of the first of them.
        reason: that trial's reason.
        place: the line of the user's code that raised it; empty without a traceback.
    """

    kind: str
    count: int
    trial: int
    reason: str
    place: str


def kind_of(reason: str | None) -> str:
    """A reason without what differs between failures of one kind."""
    return _NUMBER.sub("#", _RANK.sub("", reason or "unknown"))


def first_line(reason: str | None, width: int = 300) -> str:
    """The first line of a reason, cut to a width."""
    line = next(iter((reason or "").strip().splitlines()), "unknown")
    return line if len(line) <= width else f"{line[:width]} ..."


def by_kind(trials: Iterable[TrialRow]) -> list[KindOfFailure]:
    """The kinds of failures, the most frequent first."""
    failed: dict[str, list[TrialRow]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: (trial.number, trial.attempt)):
        if trial.state == "failed":
            failed[kind_of(trial.reason)].append(trial)
    kinds = [
        KindOfFailure(kind, len(some), some[0].number, some[0].reason or "unknown", user_frame(some[0].traceback))
        for kind, some in failed.items()
    ]
    return sorted(kinds, key=lambda kind: (-kind.count, kind.trial))


def user_frame(traceback: str | None, *, or_any: bool = True) -> str:
    """The last line in a traceback that is neither atoll's nor an installed package's, else the last if `or_any`."""
    frames = [(Path(file), line, name) for file, line, name in _FRAME.findall(traceback or "")]
    theirs = [frame for frame in frames if not _is_a_library(frame[0])] or (frames if or_any else [])
    if not theirs:
        return ""
    file, line, name = theirs[-1]
    return f"{file}, line {line}, in {name}"


def _is_a_library(file: Path) -> bool:
    is_ours = file.is_relative_to(_ROOT) and file.relative_to(_ROOT).parts[0] in _OURS
    installed = "site-packages" in file.parts or file.is_relative_to(sysconfig.get_path("stdlib"))
    return is_ours or installed or str(file).startswith("<")


@dataclass(frozen=True)
class ChoiceFailures:
    """One value of one hyperparameter: its trials, its failed trials, and their most frequent reason."""

    name: str
    value: str
    num_trials: int
    num_failed: int
    reason: str

    @property
    def share(self) -> float:
        """The share of failed trials among those with this value."""
        return self.num_failed / self.num_trials


def by_choice(trials: Iterable[TrialRow]) -> list[ChoiceFailures]:
    """For each categorical or Boolean hyperparameter with several values: its values, most failures first."""
    ended: dict[tuple[str, str], list[TrialRow]] = defaultdict(list)
    for trial in trials:
        if trial.state in ("complete", "pruned", "failed"):
            for name, value in trial.hyperparameters.items():
                if isinstance(value, str | bool):
                    ended[name, str(value)].append(trial)
    varied = [name for name, _ in ended]
    rows = [
        ChoiceFailures(name, value, len(some), sum(t.state == "failed" for t in some), _main_reason(some))
        for (name, value), some in ended.items()
        if varied.count(name) > 1
    ]
    order = list(dict.fromkeys(varied))
    return sorted(rows, key=lambda row: (order.index(row.name), -row.share, row.value))


def _main_reason(trials: Iterable[TrialRow]) -> str:
    kinds = [(trial.reason or "").partition(":")[0] for trial in trials if trial.state == "failed"]
    return max(set(kinds), key=lambda kind: (kinds.count(kind), kind)) if kinds else ""
