"""What the three tiers of the tests promise, and what holds the tests to it.

quick      no process, browser or PostgreSQL server is started
default    no test takes more than CPU_LIMIT seconds of CPU with its child processes, unless its `cpu_limit` says why
long       no promise
soak       no promise: longer forms of tests of the other tiers
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext

import pytest
from slow_tests import SLOW

CPU_LIMIT = 20.0
# CI's machines are shared: cores that others' threads use too need up to twice the CPU seconds for the same work.
SHARED_MACHINE = 2.0
NOT_QUICK = frozenset({"mpi", "process", "browser", "slow", "long", "soak"})
UNLIMITED = frozenset({"long", "soak"})
STARTING_FIXTURES = frozenset({"postgresql_server", "new_postgresql_url", "postgresql_url"})
# Files all of whose tests start processes, or share a fixture that does.
STARTING_FILES = frozenset(
    {
        "methods/test_gpu.py",
        "test_packaging.py",
    }
)
_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.exec"})


# Long tests that take longest: one that begins last leaves the other core idle for as long as it takes.
LONGEST = (
    "test_tutorial.py", "results/test_fresh_install.py", "platform/launch/test_chaos.py",
    "platform/launch/test_checkpoints.py", "platform/launch/test_promotion.py",
    "platform/launch/test_loader_workers.py", "platform/launch/test_over_mpi.py",
    "platform/launch/test_isolate.py", "test_examples.py",
)  # fmt: skip


def start_order(file: str, marks: Collection[str]) -> int:
    """The order in which tests start, of files relative to tests/; those that are alike keep their order."""
    return LONGEST.index(file) if "long" in marks and file in LONGEST else len(LONGEST)


def is_quick(file: str, test: str, marks: Collection[str], fixtures: Collection[str]) -> bool:
    """Whether a test belongs to the quick tier.

    Args:
        file: its file, relative to tests/.
        test: its name with its parameters' id.
        marks: the names of its marks.
        fixtures: the names of its fixtures.
    """
    name, _, parameters = test.partition("[")
    # Two ranks show most of what four do.
    is_slow = name in SLOW.get(file, ()) or "2nodes_x_2ranks" in parameters or "3ranks" in parameters
    starts = file in STARTING_FILES or not STARTING_FIXTURES.isdisjoint(fixtures)
    return not is_slow and not starts and NOT_QUICK.isdisjoint(marks)


class ProcessGuard:
    """Refuses the start of processes while it is on; a test that swallows the refusal is told of it at its end."""

    def __init__(self) -> None:
        self._is_on = False
        self._refused: list[str] = []

    def install(self) -> None:
        """Hear of every start of a process from now on."""
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        """An audit event; raises AssertionError for the start of a process."""
        if self._is_on and event in _STARTS:
            self._refused.append(f"{event}{arguments}"[:300])
            raise AssertionError(f"a quick test must start no process: {self._refused[-1]}; mark it `process`")

    @contextmanager
    def on(self) -> Iterator[None]:
        """Refuse within this context.

        Raises:
            AssertionError: at its end, if something was refused.
        """
        self._is_on = True
        self._refused.clear()
        try:
            yield
        finally:
            self._is_on = False
        assert not self._refused, f"a quick test must start no process: {self._refused[0]}; mark it `process`"


def cpu_seconds() -> float:
    """What this process has computed, and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


class CpuMeter:
    """The CPU seconds of one test after another: setup, call and teardown, without what the whole session shares.

    Attributes:
        is_sharing: whether what is spent now belongs to the session.
    """

    def __init__(self, clock: Callable[[], float] = cpu_seconds) -> None:
        self._clock = clock
        self._started = clock()
        self._shared = 0.0
        self.is_sharing = False

    def start(self) -> None:
        """A test begins."""
        self._started = self._clock()
        self._shared = 0.0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """What is spent here is not the test's own: it makes, or ends, what later tests use too."""
        if self.is_sharing:
            yield
            return
        self.is_sharing, before = True, self._clock()
        try:
            yield
        finally:
            self.is_sharing = False
            self._shared += self._clock() - before

    def excess(self, marks: Collection[str], limit: float = CPU_LIMIT) -> str | None:
        """Why a test that has ended breaks its tier's promise; None if it keeps it.

        Args:
            marks: the names of its marks.
            limit: its own, of a mark `cpu_limit` that says why it needs more.
        """
        spent = self._clock() - self._started - self._shared
        if spent <= limit or not UNLIMITED.isdisjoint(marks):
            return None
        return f"it took {spent:.1f} CPU seconds; this test of the default tier may take {limit:g}: mark it `long`"


METER = CpuMeter()


class SessionFixtures:
    """A plugin that charges the fixtures of the session to no test.

    A plugin of its own, because pytest asks no conftest.py of a folder about fixtures of the whole session.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef) -> Iterator[object]:
        """Set a fixture up."""
        with METER.shared() if fixturedef.scope == "session" else nullcontext():
            return (yield)
