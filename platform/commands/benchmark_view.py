"""A benchmark's definition in words, as `atoll benchmark NAME --show` prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from atoll.analysis.formatting import counted, number
from atoll.platform.commands.description import sampler

if TYPE_CHECKING:
    from atoll.platform.benchmark.benchmark_file import Benchmark
    from atoll.platform.benchmark.resolved import Entry

WIDTH = 100
_LABELS = 12


def lines(benchmark: Benchmark, entries: Sequence[Entry]) -> Iterator[str]:
    """The whole definition, in lines of at most `WIDTH` characters."""
    yield benchmark.name
    yield from textwrap.wrap(benchmark.description, WIDTH)
    yield ""
    yield from _labeled("tuning", _tuning(benchmark), indent=0)
    confirmation = benchmark.confirmation
    best = "the best configuration" if confirmation.best == 1 else f"the {confirmation.best} best configurations"
    yield from _labeled("confirmation", f"{best} of each tuning, {counted(confirmation.seeds, 'seed')} each", indent=0)
    for entry in entries:
        yield ""
        yield f"{entry.workload}: {entry.method}"
        yield from _entry(entry)


def _tuning(benchmark: Benchmark) -> str:
    """The budget, the sampler and the objective of all tunings."""
    tuning = benchmark.tuning
    budgets = [counted(tuning.trials, "trial")] if tuning.trials is not None else []
    budgets += [f"{tuning.busy_seconds:g} worker-seconds"] if tuning.busy_seconds is not None else []
    said = f"{counted(tuning.repeats, 'repeat')} of {' or '.join(budgets)}"
    said += f", {counted(tuning.islands, 'island')} of {counted(tuning.workers, 'worker')}"
    said += f"; sampler {sampler(tuning.sampler.model_dump())}"
    return said if tuning.objective is None else f"{said}; objective {tuning.objective.name}"


def _entry(entry: Entry) -> Iterator[str]:
    workload, method = entry.trains
    yield from _labeled("trains", f"{method} on {workload}, {_size(entry)}")
    if entry.target is not None:
        side = "at least" if entry.direction == "maximize" else "at most"
        yield from _labeled("target", f"{entry.metric} of {side} {number(entry.target)}")
    searched = {one.name for one in entry.searched}
    hidden = {*searched, *entry.without_effect}
    for owner, settings in entry.settings.items():
        # None stands for a value that the method derives.
        acting = {name: value for name, value in settings.items() if name not in hidden and value is not None}
        said = [f"{name} {_value(value)}" for name, value in acting.items()]
        yield from _labeled(owner, ", ".join(said))
    if not entry.is_tuned:
        yield from _labeled("searched", "nothing: untuned")
        return
    bound = entry.num_configurations
    size = "" if bound is None else f", {counted(bound, 'configuration')}"
    yield from _labeled("searched", f"{counted(len(searched), 'hyperparameter')}{size}")
    for one in entry.searched:
        default = "inactive by default" if one.default is None else f"default {_value(one.default)}"
        yield from _labeled("", f"{one.name}: {one.domain}; {default}")
    for constraint in entry.constraints:
        yield from _labeled("", f"constraint: {constraint}")


def _size(entry: Entry) -> str:
    """Ranks, length and batch."""
    said = counted(entry.ranks, "rank")
    if entry.ranks_per_node is not None and entry.ranks > 1:
        said += f" ({entry.ranks_per_node} per node)"
    said += f", {counted(entry.length, entry.unit.removesuffix('s'))}"
    if entry.patience is not None:
        said += f", stopped early after {counted(entry.patience, 'evaluation')} without improvement"
    if entry.batch is None or entry.batch_per_rank is None:
        return f"{said}, batch searched"
    said += f", batch {entry.batch:,}"
    return said if entry.ranks == 1 else f"{said} ({entry.batch_per_rank:,} per rank)"


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if value == "" else number(value)


def _labeled(label: str, text: str, indent: int = 2) -> Iterator[str]:
    """The text next to its label, wrapped; nothing without a text."""
    start = " " * indent + label.ljust(_LABELS) + " "
    yield from textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
