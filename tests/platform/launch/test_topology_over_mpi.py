"""Where ranks are on several hosts, however MPI numbers them: two hostnames on one machine."""

import os

import hosts_of_tests
import pytest
import yaml
from commands import STABLE, atoll, journal_lines

from atoll.platform.launch.mpi_launcher import choose

pytestmark = [pytest.mark.mpi, pytest.mark.long, pytest.mark.may_skip]


@pytest.mark.parametrize("mpi", ["mpich", "openmpi"], indirect=True)
def test_the_ranks_of_a_worker_are_on_one_host(tmp_path, monkeypatch, mpi):
    command = hosts_of_tests.launcher(tmp_path, mpi, choose().command[0])
    round_robin = " --map-by node:oversubscribe" if mpi == "openmpi" else " -ppn 1"
    monkeypatch.setenv("ATOLL_MPIEXEC", command + round_robin)
    study = {"name": "s", "method": "ddp", "workload": "digits_mlp", "trials": 2, "epochs": 1, "space": STABLE}
    study["topology"] = {"workers": 2, "ranks": 2, "bind": "cores"}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    atoll("search", "s.yaml", cwd=tmp_path)
    placed = sorted(journal_lines(tmp_path / "atoll-studies" / "s", "host"), key=lambda line: line["world_rank"])
    first, second = hosts_of_tests.NAMES
    assert [line["hostname"] for line in placed] == [first, first, second, second]
    assert [line["started_as"] for line in placed] == [0, 2, 1, 3]
    assert [line["node"] for line in placed] == [0, 0, 1, 1]
    cores = len(os.sched_getaffinity(0))
    assert [line["cores"] for line in placed] == [max(1, cores // 2)] * 4
