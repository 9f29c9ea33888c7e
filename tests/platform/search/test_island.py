"""The exchange between workers' roots: in one process, and over MPI."""

import importlib.metadata

import pytest
import ranks

CONTRACT = "island_contract"
CASES = [pytest.param(name, layout, id=ranks.case_id(name, layout)) for name, layout in ranks.collect(CONTRACT)]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_threads(name, layout):
    ranks.run_on_thread_world(CONTRACT, name, layout)


@pytest.mark.mpi
@pytest.mark.long
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 6])
def test_processes(num_ranks):
    errors = ranks.run_on_mpi(CONTRACT, num_ranks)
    assert errors
    assert not any(errors.values()), errors


def test_propulate_is_the_version_that_the_adapter_was_written_for():
    assert importlib.metadata.version("propulate") == "1.2.2"
