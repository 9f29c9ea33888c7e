"""The exchange between workers' roots over MPI."""

import importlib.metadata

import pytest
import ranks

CONTRACT = "island_contract"
pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def over_mpi():
    return {size: ranks.run_on_mpi(CONTRACT, size) for size in (1, 2, 3, 4, 6)}


@pytest.mark.parametrize(
    ("name", "layout"),
    [pytest.param(name, layout, id=ranks.case_id(name, layout)) for name, layout in ranks.collect(CONTRACT)],
)
def test_island(name, layout, over_mpi):
    error = over_mpi[len(layout)].get(ranks.case_id(name, layout), "did not run: an earlier check failed")
    assert error is None, error


def test_propulate_is_the_version_that_the_adapter_was_written_for():
    assert importlib.metadata.version("propulate") == "1.2.2"
