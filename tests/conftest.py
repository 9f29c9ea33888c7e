"""Fixtures for all tests."""

import os
from pathlib import Path

import browser
import pytest
import torch

ROOT = Path(__file__).parent.parent

torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI nothing skips: a test that would is told as failed. (may_skip: it needs rights that CI may lack.)"""
    report = yield
    may_skip = item.get_closest_marker("may_skip") is not None
    if report.skipped and "ATOLL_CI" in os.environ and not may_skip:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} must not skip in CI: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch, tmp_path_factory):
    """Tests must not write into somebody's store, nor depend on their data folder."""
    monkeypatch.delenv("ATOLL_STORE", raising=False)
    monkeypatch.delenv("ATOLL_DATA", raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.fixture(scope="session")
def chromium():
    """One Chromium for all tests; `browser.opened` gives each a context of its own."""
    with browser.launched() as started:
        yield started


@pytest.fixture
def page(chromium):
    """A page in a context of its own; errors of its programs and answers that failed fail the test."""
    with browser.opened(chromium, 1500, 1100) as opened:
        yield opened
        assert opened.failures == []


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory):
    """A real PostgreSQL server of the tests' own."""
    pgserver = pytest.importorskip("pgserver", reason="the pgserver package starts PostgreSQL; it is not installed")
    pytest.importorskip("psycopg", reason="PostgreSQL needs atoll[postgres]")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server
    server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server, request):
    name = f"test_{abs(hash(request.node.nodeid))}"
    postgresql_server.psql(f"CREATE DATABASE {name};")
    return postgresql_server.get_uri(database=name).replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture(scope="session")
def shared_data():
    """The folder with real data files for tests."""
    folder = Path(os.environ.get("ATOLL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data files are not there: {folder}; ATOLL_TEST_DATA names another folder")
    return folder
