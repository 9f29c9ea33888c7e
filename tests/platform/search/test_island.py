"""The exchange between workers' roots: in one process, and over MPI."""

import importlib.metadata

import pytest
import ranks
from with_propulate import NEEDS_PROPULATE

CONTRACT = "island_contract"
CASES = [pytest.param(name, layout, id=ranks.case_id(name, layout)) for name, layout in ranks.collect(CONTRACT)]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_threads(name, layout):
    ranks.run_on_thread_world(CONTRACT, name, layout)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "num_ranks", [pytest.param(4, marks=pytest.mark.long), pytest.param(6, marks=pytest.mark.soak)]
)
def test_processes(num_ranks):
    """Also the layouts of fewer ranks, on some of the world's: to start ranks takes longer than all checks."""
    errors = ranks.run_on_mpi(CONTRACT, num_ranks)
    assert set(errors) == {case.id for case in CASES if len(case.values[1]) <= num_ranks}
    assert not any(errors.values()), errors


@NEEDS_PROPULATE
def test_propulate_is_the_version_that_the_adapter_was_written_for():
    assert importlib.metadata.version("propulate") == "1.2.2"
