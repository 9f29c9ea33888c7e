"""Predicted against measured step times on real links: the error of replaying a recorded trace.

python benchmarks/projection.py [--quick] [--output FOLDER] [--json FILE]

Needs root, iproute2 and network namespaces; without them it says so and ends. Each node is a network namespace, and a
bridge connects them; tbf (token bucket filter) shapes both directions of its link to 50 Mbit/s to 5 Gbit/s. One MPI job
per layout (2 nodes, 4 nodes, 2 nodes of 2 ranks) communicates over TCP. A link's latency and bandwidth are measured by
two ranks that exchange a small and a large message at its rate (within nodes, by all pairs at once); nothing is fitted
to step times. For each method and rate, the trace is recorded without shaping, the replay predicts the step time, and
the step is timed at that rate. The error is predicted over measured, minus 1; the median is of its absolute value. All
namespaces are removed at the end, in any case.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from comparison import report
from job import RANK, build, make_batch

NAMESPACES = "ATOLL_NAMESPACES"  # of the nodes, for ranks
RATES = (50, 200, 1000, 5000)  # Mbit/s
LAYOUTS = {"2 nodes": (2, 1), "4 nodes": (4, 1), "2 nodes of 2": (2, 2)}
WIDTHS = (64, 512, 512, 10)
# Name, hyperparameters, and the period of its steps.
METHODS = {
    "ddp": ("ddp", {}, 4),
    "local_sgd": ("local_sgd", {"H": 8}, 8),
    "daso": ("daso", {"B": 4, "S": 1, "warmup_epochs": 0, "cooldown_epochs": 0, "adaptive": False}, 8),
    "easgd": ("easgd", {"form": "jacobi", "tau": 4}, 4),
    "easgd, asynchronous": ("easgd", {"form": "async", "tau": 4}, 4),
    "ab": ("ab", {"warmup": 0.0, "group_steps": 0.1, "rebound": 0.25, "group_size": 2}, 30),
}
AB_STEPS = 240  # AB's ratios are relative to these
MESSAGES = (8, 1_000_000)  # bytes of the exchanges that measure a link
TCP = {"MPIR_CVAR_CH4_NETMOD": "ofi", "MPIR_CVAR_NOLOCAL": "1", "FI_PROVIDER": "tcp"}
CLONE_NEWNET = 0x40000000


# The network.


def ip(*words: object) -> None:
    """Run iproute2's ip."""
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True, text=True)


def refusal() -> str | None:
    """The reason why namespaces cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"needs iproute2; missing: {', '.join(missing)}"
    try:
        with network(2) as nodes:
            shape(nodes, RATES[0])
    except subprocess.CalledProcessError as error:
        return f"`{' '.join(error.cmd)}` is not permitted here: {error.stderr.strip()}"
    return None


@contextmanager
def network(num_nodes: int):
    """Namespaces connected by a bridge; yields their names."""
    switch, nodes = f"atoll{os.getpid()}s", [f"atoll{os.getpid()}n{k}" for k in range(num_nodes)]
    with ExitStack() as stack:
        for name in (switch, *nodes):
            ip("netns", "add", name)
            stack.callback(ip, "netns", "delete", name)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for k, name in enumerate(nodes):
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "add", "net0", "type", "veth", "peer", "name", f"port{k}", "netns", switch)
            ip("-n", switch, "link", "set", f"port{k}", "master", "bridge", "up")
            ip("-n", name, "address", "add", f"10.0.0.{k + 1}/24", "dev", "net0")
            ip("-n", name, "link", "set", "net0", "up")
        yield nodes


def shape(nodes, rate: int | None) -> None:
    """Limit each node's link to `rate` Mbit/s in each direction; None removes the limit."""
    switch = nodes[0][: nodes[0].rindex("n")] + "s"
    for k, name in enumerate(nodes):
        for namespace, device in ((name, "net0"), (switch, f"port{k}")):
            if rate is None:
                subprocess.run(
                    ["tc", "-n", namespace, "qdisc", "del", "dev", device, "root"], check=False, capture_output=True
                )
            else:
                burst = max(16_000, rate * 125)  # bytes per millisecond
                words = ("root", "tbf", "rate", f"{rate}mbit", "burst", burst, "latency", "400ms")
                line = ["tc", "-n", namespace, "qdisc", "replace", "dev", device, *map(str, words)]
                subprocess.run(line, check=True, capture_output=True, text=True)


# One rank.


def enter(namespace: str) -> None:
    """Move this process, which must have one thread, to a namespace."""
    with Path("/run/netns", namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


class Bench:
    """One rank's methods; rank 0 reads commands from its standard input."""

    def __init__(self, per_node: int) -> None:
        import torch
        from mpi4py import MPI
        from torch import nn

        from atoll.communication.mpi import MpiFamily

        torch.set_num_threads(1)
        self.world, self.family, self.per_node = MPI.COMM_WORLD, MpiFamily(), per_node
        self.methods = {}
        torch.manual_seed(0)
        layers = [m for a, b in itertools.pairwise(WIDTHS) for m in (nn.Linear(a, b), nn.ReLU())]
        self.model = nn.Sequential(*layers[:-1])
        self.batch = make_batch((WIDTHS[0],))

    def serve(self) -> None:
        """Execute the commands, one after another."""
        while True:
            line = json.loads(sys.stdin.readline()) if self.world.rank == 0 else None
            line = self.world.bcast(line)
            if line is None:
                return
            answer = getattr(self, line.pop("do"))(**line)
            if self.world.rank == 0:
                print(json.dumps(answer), flush=True)

    def exchange(self, distance: int, everywhere: bool, size: int, rounds: int) -> float:
        """Median seconds in which rank 0 and the rank at `distance` exchange `size` bytes.

        With `everywhere`, all pairs of ranks at that distance do so concurrently.
        """
        import numpy as np

        mine, theirs = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        place = self.world.rank % (2 * distance) if everywhere else self.world.rank
        partner = {0: self.world.rank + distance, distance: self.world.rank - distance}.get(place)
        times = []
        for _ in range(rounds):
            self.world.Barrier()
            started = time.perf_counter()
            if partner is not None:
                self.world.Sendrecv(mine, partner, 0, theirs, partner, 0)
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])

    def method(self, label: str):
        """The method, made at its first use, with its communicator and trace."""
        import copy

        from atoll.communication.ledger import Ledger
        from atoll.communication.mpi import MpiCommunicator
        from atoll.communication.trace import Trace

        if label not in self.methods:
            name, hyperparameters, _ = METHODS[label]
            trace = Trace()
            communicator = MpiCommunicator(
                self.world.Dup(),
                [rank // self.per_node for rank in range(self.world.size)],
                ledger=Ledger(trace),
                poll=lambda: None,
                spin=self.world.size <= len(os.sched_getaffinity(0)),
                family=self.family,
                name=label,
            )
            model = copy.deepcopy(self.model)
            context = {"num_epochs": 1, "steps_per_epoch": AB_STEPS if name == "ab" else 10**9}
            settings = {"learning_rate": 1e-3}
            method = build(name, hyperparameters, model, communicator, settings, inputs=self.batch.inputs, **context)
            self.methods[label] = (method, communicator, trace)
        return self.methods[label]

    def _steps(self, label: str, num_steps: int, *, records: bool) -> float:
        """The step time of the slowest rank in seconds."""
        from mpi4py import MPI

        method, communicator, trace = self.method(label)
        self.world.Barrier()
        if records:
            trace.begin()
        started = time.perf_counter()
        for _ in range(num_steps):
            method.step(self.batch)
            communicator.progress()
            if records:
                trace.end_step()
        seconds = (time.perf_counter() - started) / num_steps
        trace.pause()
        center = getattr(method, "_center", None)
        if center is not None:  # its owner keeps serving until all ranks have finished
            method._meet()
        return self.world.allreduce(seconds, MPI.MAX)

    def record(self, label: str, num_steps: int) -> list:
        """The traces of all ranks."""
        self._steps(label, num_steps, records=False)
        self._steps(label, num_steps, records=True)
        shared = {"num_ranks": self.world.size, "ranks_per_node": self.per_node, "grows": True}
        return self.world.gather(shared | self.methods[label][2].as_dict())

    def measure(self, label: str, num_steps: int, blocks: int) -> float:
        """The step time in seconds: the median over blocks, after a warm-up block."""
        times = [self._steps(label, num_steps, records=False) for _ in range(blocks + 1)]
        return statistics.median(times[1:])


# The driver.


class Ranks:
    """An MPI job whose ranks wait for commands."""

    def __init__(self, nodes, per_node: int) -> None:
        from atoll.platform.launch import job_variables, mpi_launcher

        environment = job_variables.rank_environment() | TCP | {RANK: str(per_node), NAMESPACES: ",".join(nodes)}
        line = [*mpi_launcher.choose().command, "-n", str(len(nodes) * per_node), sys.executable, __file__]
        self._job = subprocess.Popen(
            line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        from atoll.platform.launch import mpiexec

        mpiexec.end_job(self._job)

    def tell(self, do: str | None, **arguments):
        """Send a command; returns rank 0's answer."""
        self._job.stdin.write(json.dumps(None if do is None else {"do": do, **arguments}) + "\n")
        self._job.stdin.flush()
        if do is None:
            return self._job.wait(60)
        answer = self._job.stdout.readline()
        if not answer:
            raise SystemExit("the ranks have ended")
        return json.loads(answer)

    def link(self, distance: int, *, everywhere: bool = False):
        """Latency and bandwidth between rank 0 and the rank at `distance`."""
        from atoll.analysis.cluster import Link

        small, large = (
            self.tell("exchange", distance=distance, everywhere=everywhere, size=size, rounds=11) for size in MESSAGES
        )
        bandwidth = (MESSAGES[1] - MESSAGES[0]) / max(1e-9, large - small)
        return Link(microseconds=small * 1e6, gigabytes_per_second=bandwidth / 1e9)


def compare(layout: str, rates, blocks: int) -> list[dict]:
    """Predicted and measured step times of all methods at all rates in one layout."""
    from atoll.analysis.cluster import Cluster, Link
    from atoll.analysis.replay import replay

    num_nodes, per_node = LAYOUTS[layout]
    rows = []
    with network(num_nodes) as nodes, Ranks(nodes, per_node) as ranks:
        inside = ranks.link(1, everywhere=True) if per_node > 1 else Link(microseconds=0, gigabytes_per_second=1e3)
        for rate, (label, (_, _, period)) in itertools.product(rates, METHODS.items()):
            steps = max(24, 2 * period)
            shape(nodes, None)
            traces = ranks.tell("record", label=label, num_steps=2 * steps)
            shape(nodes, rate)
            between = ranks.link(per_node)
            cluster = Cluster(
                name="namespaces",
                ranks_per_node=per_node,
                node=inside,
                network=between,
                algorithm="recursive_halving",
                overlaps=False,
            )
            predicted = replay(traces, cluster, num_nodes)
            seconds = ranks.tell("measure", label=label, num_steps=steps, blocks=blocks)
            rows.append(
                {
                    "layout": layout,
                    "rate": rate,
                    "method": label,
                    "latency": between.latency,
                    "bandwidth": between.bandwidth,
                    "compute": predicted.compute,
                    "predicted": predicted.step,
                    "measured": seconds,
                    "error": predicted.step / seconds - 1,
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
        ranks.tell(None)
    return rows


def tables(rows: list[dict]) -> str:
    """A table by method, and one of all rows."""
    text = [
        "| method | median error | largest | settings |",
        "| --- | --- | --- | --- |",
    ]
    for label in METHODS:
        errors = [row["error"] for row in rows if row["method"] == label]
        if errors:
            shown = statistics.median(map(abs, errors)), max(errors, key=abs), len(errors)
            text.append("| {} | {:.1%} | {:+.1%} | {} |".format(label, *shown))
    text += [
        "",
        "Milliseconds per step.",
        "",
        "| layout | Mbit/s | link | method | computing | predicted | measured | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        link = f"{row['latency'] * 1e6:.0f} us, {row['bandwidth'] * 8e-6:.0f} Mbit/s"
        times = (f"{1000 * row[key]:.2f}" for key in ("compute", "predicted", "measured"))
        cells = (row["layout"], row["rate"], link, row["method"], *times, f"{row['error']:+.1%}")
        text.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(text) + "\n"


def main() -> None:
    if RANK in os.environ:
        per_node = int(os.environ[RANK])
        enter(os.environ[NAMESPACES].split(",")[int(os.environ["PMI_RANK"]) // per_node])
        Bench(per_node).serve()
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rates, two layouts, one block of steps")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write table and JSON here")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces are removed
    if reason := refusal():
        print(f"skipped: {reason}")
        return
    layouts, rates = (list(LAYOUTS), RATES) if not options.quick else (["2 nodes", "2 nodes of 2"], (200, 1000))
    rows = [row for layout in layouts for row in compare(layout, rates, blocks=1 if options.quick else 3)]
    middle = statistics.median(abs(row["error"]) for row in rows)
    words = (
        "Ranks in network namespaces connected by shaped links, over TCP; two ranks measured each link by exchanging "
        "messages at its rate. "
        f"Over {len(rows)} settings the median of |predicted / measured - 1| is {middle:.1%}."
    )
    title = "Predicted against measured step times"
    report(options, title, words, tables(rows), {"median_error": middle, "rows": rows})


if __name__ == "__main__":
    main()
