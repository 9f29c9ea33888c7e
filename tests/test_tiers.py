"""The tiers' rules: which tests are quick, that those start no process, and what a default test may spend."""

import ast
import contextlib

import pytest
import tiers
from conftest import ROOT
from slow_tests import SLOW


@pytest.mark.parametrize("mark", sorted(tiers.NOT_QUICK))
def test_marked_tests_are_not_quick(mark):
    assert tiers.is_quick("platform/test_cli.py", "test_x", {"parametrize"}, {"tmp_path"})
    assert not tiers.is_quick("platform/test_cli.py", "test_x", {"parametrize", mark}, {"tmp_path"})


def test_who_uses_postgresql_or_stands_in_a_file_of_processes_is_not_quick():
    assert not tiers.is_quick("storage/test_store.py", "test_x", set(), {"postgresql_url"})
    assert not tiers.is_quick("test_packaging.py", "test_x", set(), set())


def test_slow_tests_and_those_of_four_ranks_are_not_quick():
    file, (name, *_) = next(iter(SLOW.items()))
    assert not tiers.is_quick(file, f"{name}[some]", set(), set())
    assert tiers.is_quick(file, "test_x[1node_x_2ranks]", set(), set())
    assert not tiers.is_quick(file, "test_x[2nodes_x_2ranks]", set(), set())


@pytest.mark.parametrize("file", SLOW)
def test_the_list_of_slow_tests_names_tests_that_are_there(file):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert set(SLOW[file]) <= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_longest_start_first():
    for file in tiers.LONGEST:
        assert (ROOT / "tests" / file).is_file()
    first, *_, last = tiers.LONGEST
    given = [("a.py", {"long"}), (last, {"long"}), (first, {"slow"}), (first, {"long", "mpi"}), ("b.py", set())]
    ordered = sorted(given, key=lambda test: tiers.start_order(*test))
    assert ordered == [given[3], given[1], given[0], given[2], given[4]]


def test_this_test_is_quick_and_may_start_nothing(request):
    assert request.node.get_closest_marker("quick") is not None


def test_a_process_is_refused_even_if_the_refusal_is_swallowed():
    guard = tiers.ProcessGuard()

    def swallow():
        with guard.on(), contextlib.suppress(AssertionError):
            guard.hear("subprocess.Popen", ("program",))

    with pytest.raises(AssertionError, match=r"must start no process: subprocess\.Popen"):
        swallow()
    with guard.on():
        guard.hear("open", ("file",))


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("spent", "marks", "is_too_much"),
    [
        (19.9, {"mpi"}, False),
        (20.1, {"mpi"}, True),
        (20.1, set(), True),
        (300.0, {"long"}, False),
        (300.0, {"soak"}, False),
    ],
)
def test_a_default_test_may_take_twenty_cpu_seconds(spent, marks, is_too_much):
    clock = Clock()
    meter = tiers.CpuMeter(clock)
    clock.now += 1000.0  # an earlier test
    meter.start()
    clock.now += spent
    excess = meter.excess(marks)
    assert (excess is not None) == is_too_much
    assert excess is None or f"it took {spent:.1f} CPU seconds" in excess


def test_what_the_session_shares_is_not_charged_to_its_first_user():
    clock = Clock()
    meter = tiers.CpuMeter(clock)
    meter.start()
    with meter.shared():
        clock.now += 30.0
        with meter.shared():  # a shared fixture that needs another one
            clock.now += 30.0
    clock.now += 19.0
    assert meter.excess(set()) is None
    clock.now += 2.0
    assert "it took 21.0 CPU seconds" in meter.excess(set())
    meter.start()
    assert meter.excess(set()) is None


def test_the_clock_counts_computing():
    before = tiers.cpu_seconds()
    sum(range(200_000))
    assert tiers.cpu_seconds() > before


@pytest.fixture(scope="session")
def of_the_session():
    return tiers.METER.is_sharing


@pytest.fixture
def of_one_test():
    return tiers.METER.is_sharing


def test_only_fixtures_of_the_session_are_shared(of_the_session, of_one_test):
    assert (of_the_session, of_one_test, tiers.METER.is_sharing) == (True, False, False)
