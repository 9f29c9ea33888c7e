"""Tests that are functions of a communicator: on virtual ranks (threads), and over real MPI.

    @on_ranks(PAIR, TWO_BY_TWO)
    def test_something(c: Communicator, other_parameter): ...

becomes a test for each layout, and one in the long tier over MPI, on the first layout of two ranks or else the largest.
MPI starts when the first such test of a size runs, once for all selected ones of all of pytest's workers, as importing
torch and pytest takes longer than most of them: mpiexec runs pytest on every rank with their ids, where the same
decorator gives the functions MPI's communicator. After a failure it starts again with those that have not run, so that
each test has its own outcome.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import ranks
from kept import kept
from proxied import proxied

from atoll.communication.communicator import Communicator, PeerAborted
from atoll.communication.threads import run_virtual_ranks
from atoll.testing.ranks import Layout, layout_name

SUPPORT = Path(__file__).parent
TIMEOUT = 600.0  # of all tests of a size together, which the first of them waits for


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a test runs: the layout of its ranks, and for real ranks what carries their messages."""

    layout: Layout
    # Or proxied (another thread has a proxy of it), mpi, tcp (MPI as between hosts), proxied_mpi, gloo and nccl (sums
    # and broadcasts beside MPI).
    transport: str = "threads"


def threads(layout: Layout, *, prefix: str = "") -> object:
    """A parameter for virtual ranks."""
    return pytest.param(Place(layout), id=prefix + layout_name(layout))


def proxies(layout: Layout) -> object:
    """A parameter for proxies of virtual ranks."""
    return pytest.param(Place(layout, "proxied"), id=f"{layout_name(layout)}_proxied")


def processes(layout: Layout, transport: str = "mpi", *, long: bool = True, marks: Sequence = ()) -> object:
    """A parameter for real ranks."""
    every = [pytest.mark.mpi, pytest.mark.timeout(TIMEOUT), *marks, *([pytest.mark.long] if long else [])]
    return pytest.param(Place(layout, transport), id=f"{layout_name(layout)}_over_{transport}", marks=every)


def _one_over_mpi(layouts: Sequence[Layout]) -> list:
    pairs = [layout for layout in layouts if len(layout) == 2]
    chosen = pairs[0] if pairs else max(layouts, key=len)
    return [processes(chosen)] if len(chosen) > 1 else []


def on_ranks(*layouts: Layout, over: Sequence | None = None) -> Callable[[Callable], Callable]:
    """Make a test of a function whose first parameter is a communicator; `over` are its real ranks."""
    real = _one_over_mpi(layouts) if over is None else list(over)

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def test(place: Place, request: pytest.FixtureRequest, **parameters: object) -> None:
            run(functools.partial(function, **parameters), place, request)

        names = list(inspect.signature(function).parameters)[1:]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in ("place", "request", *names)]
        test.__signature__ = inspect.Signature(parameters)
        return pytest.mark.parametrize("place", [*(threads(layout) for layout in layouts), *real])(test)

    return decorate


def run(function: Callable[[Communicator], None], place: Place, request: pytest.FixtureRequest) -> None:
    """Call `function` on every rank of `place`; raises what it raises."""
    if place.transport == "threads":
        run_virtual_ranks(function, place.layout, timeout=240)
    elif place.transport == "proxied":
        run_virtual_ranks(proxied(function), place.layout, timeout=240)
    elif _world is not None:
        _world.run(function, place)
    else:
        error = _outcome(request)
        assert error is None, error


# The processes that run the tests: one of them starts MPI, and the others read what it found.


def _outcome(request: pytest.FixtureRequest) -> str | None:
    """What a test raised on its ranks; None if it passed."""
    node = request.node
    place = node.callspec.params["place"]
    with kept(request.getfixturevalue("tmp_path_factory"), f"over-{place.transport}-{len(place.layout)}") as found:
        if node.nodeid not in found:
            alike = [
                item.nodeid
                for item in request.session.items
                if item.nodeid not in found
                and isinstance(other := getattr(item, "callspec", None) and item.callspec.params.get("place"), Place)
                and (len(other.layout), other.transport) == (len(place.layout), place.transport)
            ]
            found.update(_start(alike, place, request.config.rootpath))
        return found[node.nodeid]


def _start(tests: Sequence[str], place: Place, root: Path) -> dict[str, str | None]:
    """Run tests on real ranks, up to the first that fails."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        plan.write_text(json.dumps({"tests": list(tests), "transport": place.transport, "root": str(root)}))
        environment = ranks.TCP if place.transport == "tcp" else None
        done = ranks.mpiexec(
            len(place.layout), str(SUPPORT / "rank_of_tests.py"), str(plan), timeout=TIMEOUT - 20, env=environment
        )
        results = Path(folder) / "outcomes.json"
        outcomes = dict(map(json.loads, results.read_text().splitlines())) if results.exists() else {}
    missing = [test for test in tests if test not in outcomes]
    if missing and not any(outcomes.values()):
        error = f"the ranks ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        # Some code of pytest's own: no test could run. Else the first that is missing has ended a rank.
        outcomes |= dict.fromkeys(missing if done.returncode in range(2, 6) else missing[:1], error)
    return outcomes


# A rank that mpiexec has started: runs pytest on the same tests.

_world: _World | None = None


class _World:
    """The real ranks, as one of them sees them."""

    def __init__(self, transport: str, folder: Path) -> None:
        import torch
        from mpi4py import MPI

        from atoll.communication.mpi import MpiCommunicator

        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self._control = self._world.Dup()
        self._file = folder / "outcomes.json"
        self._kind = MpiCommunicator
        self._passes = proxied if transport == "proxied_mpi" else lambda function: function
        self._aborts: list = []
        torch.set_num_threads(1)
        if transport == "nccl":
            from atoll.communication.nccl import NcclCommunicator

            torch.cuda.set_device(self._world.rank)
            self._kind = NcclCommunicator
        elif transport == "gloo":
            from gloo_communicator import GlooCommunicator

            self._kind = GlooCommunicator

    def run(self, function: Callable[[Communicator], None], place: Place) -> None:
        from atoll.communication.ledger import Ledger
        from atoll.communication.mpi import MpiFamily

        family = MpiFamily()
        communicator = self._kind(
            self._world.Dup(), place.layout, ledger=Ledger(), poll=self._poll, spin=False, family=family
        )
        error = None
        try:
            self._passes(function)(communicator)
            family.close()
        except Exception as reason:
            error = f"rank {self._world.rank}: {traceback.format_exc()}"
            if not isinstance(reason, PeerAborted):
                others = [rank for rank in range(self._world.size) if rank != self._world.rank]
                self._aborts = [self._control.isend(None, rank) for rank in others]
        errors = [e for e in self._world.allgather(error) if e]
        if errors:
            raise AssertionError("\n".join(errors))

    def _poll(self) -> None:
        status = self._mpi.Status()
        if self._control.Iprobe(status=status):
            raise PeerAborted(status.source)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Rank 0 notes what became of each test."""
        if self._world.rank == 0 and (report.when == "call" or report.outcome != "passed"):
            error = None if report.passed else str(report.longrepr)
            with self._file.open("a") as file:
                file.write(json.dumps([report.nodeid, error]) + "\n")


def main(plan: Path) -> None:
    """Run the tests that `plan` names on this rank."""
    global _world
    given = json.loads(plan.read_text())
    _world = _World(given["transport"], plan.parent)
    os.chdir(given["root"])
    code = pytest.main(
        # what is pending after a failure would disturb the tests that follow, so that ends it
        ["-x", "-q", "-m", "", "-p", "no:cacheprovider", *given["tests"]],
        plugins=[_world],
    )
    sys.stdout.flush()
    if code != 0:
        _world._world.Abort(0 if code == 1 else int(code))
