"""Replays the recorded traces of ranks on a described cluster: which steps of which ranks the simulator follows.

A trace holds the order of its steps in some stretches of the training only. Of those, windows are chosen that fit a
budget of events; `simulator.py` follows each of them, and the means over all are the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atoll.analysis.cluster import Cluster
from atoll.analysis.formatting import counted
from atoll.analysis.simulator import Piece, Simulator, Totals

MAX_RANKS = 64  # to follow of ranks that act alike; communication costs are those of all
MAX_EVENTS, FEWEST_STEPS = 300_000, 64  # of all ranks, in one replay
NUM_WINDOWS = 4  # per stretch of steps whose order is known
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples are spread evenly, and in step with no period
MAX_CENTER = 1024  # ranks of an asynchronous method, all of which are followed
MAX_UNKNOWN = 0.05  # share of the followed steps
MAX_STEPS = 4096  # to follow of a part of a network, from its first step on
MAX_ASSUMED = 0.05  # share of all waits that may be for operations posted before the window

Trace = Mapping[str, Any]  # of one rank, as `communication/trace.py` writes it


class CannotReplay(ValueError):
    """The recorded traces cannot be replayed, or not on this cluster."""


@dataclass(frozen=True)
class Replayed:
    """Means over the steps and ranks that were followed, in seconds.

    Attributes:
        step: from the end of a step to the next one's.
        compute: computing in a step.
        exposed: waiting for communication in a step.
        num_steps: the number of steps that were followed.
    """

    step: float
    compute: float
    exposed: float
    num_steps: int


def replay(
    traces: Sequence[Trace],
    cluster: Cluster,
    num_nodes: int,
    *,
    until: int | None = None,
    per_epoch: int = 1,
    work: float = 1.0,
    seed: int = 0,
) -> Replayed:
    """The mean step on a cluster, over the first `until` steps, as methods change their steps while they train.

    Args:
        traces: of all ranks of the measured worker, or of its first node's ranks and its last rank if the others act
            like these.
        cluster, num_nodes: where.
        until: number of measured steps that count. Default: all.
        per_epoch: steps of an epoch, which ranks with parts of one network may share out unevenly.
        work: what a rank computes per step, relative to what was measured.
        seed: for drawing from the samples of a pattern's times.

    Raises:
        CannotReplay: if no steps were recorded, the recorded part is too small, or ranks wait for operations that
            nobody has posted.
    """
    total = min(trace["num_steps"] for trace in traces)
    if total == 0:
        raise CannotReplay("no steps were recorded")
    stretches = _stretches(traces, min(total, until or total))
    if not stretches:
        raise CannotReplay("its steps have more events than a trace can hold")
    roles = _roles(traces, cluster, num_nodes)
    if traces[0]["grows"] and any(map(_waits_for_messages, traces)):
        raise CannotReplay(
            "its ranks wait for messages from one another, which at other numbers of ranks have other senders: these "
            "are not recorded"
        )
    if not traces[0]["grows"]:  # messages must not lack their senders: from the first step on, by whole epochs
        most = min(stretches[0][1], MAX_STEPS)
        windows = [(0, most // per_epoch * per_epoch or most)]
    else:
        windows = _windows(stretches, max(FEWEST_STEPS, round(MAX_EVENTS / len(roles) / _events_per_step(traces))))
    measured_per_node = _measured_per_node(traces, cluster)
    parts = []
    for number, (first, num_steps) in enumerate(windows):
        window = _Window(traces, first, num_steps, seed + number)
        simulator = Simulator(
            cluster,
            num_nodes,
            [window.pieces(role) for role in roles],
            grows=traces[0]["grows"],
            measured_per_node=measured_per_node,
            service=traces[0].get("service"),
            work=work,
        )
        parts.append(_means(simulator.run(), len(roles), window.num_unknown))
    num_steps = sum(part.num_steps for part in parts)
    return Replayed(
        step=math.fsum(part.step * part.num_steps for part in parts) / num_steps,
        compute=math.fsum(part.compute * part.num_steps for part in parts) / num_steps,
        exposed=math.fsum(part.exposed * part.num_steps for part in parts) / num_steps,
        num_steps=num_steps,
    )


def _means(totals: Totals, num_ranks: int, num_unknown: int) -> Replayed:
    """The means of one window, unless too much of it had to be guessed."""
    if totals.num_assumed > MAX_ASSUMED * totals.num_waits + num_ranks:
        raise CannotReplay(
            f"{totals.num_assumed} of {totals.num_waits} waits are for operations that no recorded rank has posted: "
            "the ranks' steps were too varied to be recorded completely"
        )
    if num_unknown > MAX_UNKNOWN * totals.num_steps:
        raise CannotReplay(
            f"{num_unknown} of {totals.num_steps} steps were not recorded, as there were too many kinds of steps"
        )
    return Replayed(
        step=totals.seconds / totals.most_steps,
        compute=totals.compute / totals.num_steps,
        exposed=totals.exposed / totals.num_steps,
        num_steps=totals.most_steps,
    )


def _stretches(traces: Sequence[Trace], total: int) -> list[tuple[int, int]]:
    """First and end steps of the stretches, within the first `total` steps, whose order all ranks have recorded."""
    common: list[tuple[int, int]] = [(0, total)]
    for trace in traces:
        own: list[tuple[int, int]] = []
        for first, runs in trace["segments"]:
            end = first + sum(count for place, count in runs if _ends_step(trace, place))
            if own and own[-1][1] == first:
                own[-1] = own[-1][0], end
            else:
                own.append((first, end))
        both = ((max(a, c), min(b, d)) for a, b in common for c, d in own)
        common = [(first, end) for first, end in both if first < end]
    return common


def _windows(stretches: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """First steps and lengths of the windows: all stretches whole, or of each as much as `most` steps allow.

    An action that is repeated every so many steps must not be met too often or too seldom: windows begin anywhere.
    """
    num_recorded = sum(end - first for first, end in stretches)
    if num_recorded <= most:
        return [(first, end - first) for first, end in stretches]
    sections = [
        (first + (end - first) * k // NUM_WINDOWS, first + (end - first) * (k + 1) // NUM_WINDOWS)
        for first, end in stretches
        for k in range(NUM_WINDOWS)
    ]
    windows = []
    for number, (first, end) in enumerate(sections):
        size, length = end - first, max(1, (end - first) * most // num_recorded)
        offset = int(size * (number * GOLDEN % 1))
        over = max(0, offset + length - size)  # wraps around to the section's beginning, so that all steps count alike
        windows += [(first + offset, length - over)] + ([(first, over)] if over else [])
    return windows


def _events_per_step(traces: Sequence[Trace]) -> float:
    """Mean number of a rank's events in a step, its end included."""
    patterns = [pattern for trace in traces for pattern in trace["patterns"]]
    steps = sum(trace["num_steps"] for trace in traces)
    return float(sum(pattern["count"] * (len(pattern["events"]) + 1) for pattern in patterns) / steps)


def _roles(traces: Sequence[Trace], cluster: Cluster, num_nodes: int) -> list[int]:
    """For every simulated rank, the place in `traces` of the recorded rank as which it acts."""
    if not traces[0]["grows"]:
        return list(range(len(traces)))
    g, per_node = cluster.ranks_per_node, traces[0]["ranks_per_node"]
    if traces[0].get("service") is not None:  # the load on a center grows with every rank: none can be left out
        if num_nodes * g > MAX_CENTER:
            raise CannotReplay(
                f"all ranks of an asynchronous method are simulated, at most {MAX_CENTER}; {num_nodes} nodes have "
                f"{num_nodes * g}"
            )
        return [0] + [len(traces) - 1] * (num_nodes * g - 1)
    num_ranks = max(1, min(num_nodes, MAX_RANKS // g)) * g
    roles = [number % min(per_node, len(traces)) for number in range(num_ranks)]
    # The last recorded rank, of another node perhaps, stands for those like it in the second half.
    half, last = num_ranks // 2, per_node - 1
    return [len(traces) - 1 if n >= half and role == last else role for n, role in enumerate(roles)]


def _measured_per_node(traces: Sequence[Trace], cluster: Cluster) -> int:
    """Ranks of a measured node, which must divide the cluster's if a node's ranks take turns (DASO)."""
    per_node, g = int(traces[0]["ranks_per_node"]), cluster.ranks_per_node
    events = (event for trace in traces for pattern in trace["patterns"] for event in pattern["events"])
    if g % per_node and any(event[0] == "post" and event[2] == "peers" for event in events):
        raise CannotReplay(
            f"the ranks of a node take turns: it was measured with {counted(per_node, 'rank')} per node, and the "
            f"cluster must have a multiple of that; {cluster.name} has {g}"
        )
    return per_node


def _waits_for_messages(trace: Trace) -> bool:
    """Whether a rank waits for messages other than a center's; what an earlier piece has posted may be one."""
    for pattern in trace["patterns"]:
        posts = [event for event in pattern["events"] if event[0] == "post"]
        if not any(map(_is_message, posts)):
            continue
        done = 0
        for event in pattern["events"]:
            done += event[0] == "post"
            if event[0] == "wait" and (event[1] > done or _is_message(posts[done - event[1]])):
                return True
    return False


def _is_message(post: Sequence[Any]) -> bool:
    return len(post) > len(("post", "kind", "span", "size", "payload")) and post[2] != "center"


def _ends_step(trace: Trace, place: int) -> bool:
    """Whether a piece is the last of its step; of unrecorded ones, -1 is the last of its step and -2 is not."""
    return place == -1 if place < 0 else bool(trace["patterns"][place]["is_last"])


class _Window:
    """Consecutive steps of all ranks.

    Args:
        traces: of the recorded ranks.
        first, num_steps: the steps.
        seed: for drawing from the samples of a pattern's times.

    Attributes:
        num_unknown: pieces of unrecorded kinds so far, summed over ranks.
    """

    def __init__(self, traces: Sequence[Trace], first: int, num_steps: int, seed: int) -> None:
        self.num_unknown = 0
        self._traces = traces
        self._first, self._num_steps = first, num_steps
        self._rng = np.random.default_rng(seed)
        self._stretching = [[_stretching(pattern) for pattern in trace["patterns"]] for trace in traces]

    def pieces(self, role: int) -> Iterator[Piece]:
        """The pieces of a rank that acts as that recorded rank."""
        trace, stretching = self._traces[role], self._stretching[role]
        begin, runs = next((begin, runs) for begin, runs in reversed(trace["segments"]) if begin <= self._first)
        following = itertools.chain(runs, *(later for other, later in trace["segments"] if other > begin))
        step = begin
        for place in itertools.chain.from_iterable(itertools.repeat(place, count) for place, count in following):
            own, is_last = step, _ends_step(trace, place)
            step += is_last
            if own < self._first:
                continue
            if own == self._first + self._num_steps:
                return
            if place < 0:
                self.num_unknown += 1
                yield Piece((), (0.0,), is_last)
                continue
            pattern = trace["patterns"][place]
            gaps = pattern["samples"][self._rng.integers(len(pattern["samples"]))]
            yield Piece(pattern["events"], [gap * stretching[place] for gap in gaps], is_last)


def _stretching(pattern: Mapping[str, Any]) -> float:
    """The factor by which the samples of a pattern have the mean of all its steps."""
    sampled = math.fsum(itertools.chain.from_iterable(pattern["samples"])) / len(pattern["samples"])
    return pattern["seconds"] / sampled if sampled else 1.0
