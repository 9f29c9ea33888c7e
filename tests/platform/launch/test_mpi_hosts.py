"""The hosts of an allocation, and how launchers put ranks on each of them."""

import pytest

from atoll.platform.launch import mpi_hosts
from atoll.platform.launch.mpi_hosts import expanded, of_allocation, of_options, per_host
from atoll.platform.launch.mpi_launcher import Launcher, choose


@pytest.mark.parametrize(
    ("names", "hosts"),
    [
        ("n1", ["n1"]),
        ("n[1-2,07-09]-ib,login", ["n1-ib", "n2-ib", "n07-ib", "n08-ib", "n09-ib", "login"]),
        ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
        ("a,b-2,c[09-11]", ["a", "b-2", "c09", "c10", "c11"]),
    ],
)
def test_slurms_lists_are_expanded(names, hosts):
    assert list(expanded(names)) == hosts


def test_the_hosts_of_a_job(tmp_path):
    (tmp_path / "nodes").write_text("n1\nn1\nn2\nn2\n")
    assert of_allocation({"SLURM_JOB_NODELIST": "n[1-2]"}) == ["n1", "n2"]
    assert of_allocation({"PBS_NODEFILE": str(tmp_path / "nodes")}) == ["n1", "n2"]
    assert of_allocation({"LSB_DJOB_HOSTFILE": str(tmp_path / "nodes")}) == ["n1", "n2"]
    assert of_allocation({"LSB_HOSTS": "n1 n1 n2"}) == ["n1", "n2"]
    assert of_allocation({}) == []


def test_the_hosts_of_options(tmp_path):
    (tmp_path / "hosts").write_text("# mine\nn1 slots=4\nn2:4\n\n")
    assert of_options(["mpiexec", "-hosts", "a,b"]) == ["a", "b"]
    assert of_options(["mpirun", "--host", "a:2,b:2,a:1"]) == ["a", "b"]
    assert of_options(["mpiexec", "-f", str(tmp_path / "hosts")]) == ["n1", "n2"]
    assert of_options(["mpirun", f"--hostfile={tmp_path / 'hosts'}"]) == ["n1", "n2"]
    assert of_options(["srun", "--nodelist=n[1-2]"]) == ["n1", "n2"]
    assert of_options(["mpiexec", "-x", "A"]) == []


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ("mpiexec (Open MPI) 5.0.11", ("--map-by", "ppr:2:node:oversubscribe")),
        ("HYDRA build details:\n    Version: 5.0.2", ("-ppn", "2")),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.11 Build", ("-ppn", "2")),
        ("slurm 23.02.6", ("--ntasks-per-node=2",)),
        ("mpiexec (PALS) 1.2.11", ("--ppn", "2")),
        ("unheard of", ()),
    ],
)
def test_each_launcher_has_an_option_for_ranks_per_host(monkeypatch, said, options):
    monkeypatch.setattr(mpi_hosts, "version", lambda _: said)
    assert per_host(Launcher(("mpiexec", "-x", "A"), ""), 2) == options
    assert per_host(Launcher(("mpiexec", "--map-by", "ppr:4:node"), ""), 2) == ()
    assert per_host(Launcher(("srun", "--ntasks-per-node=4"), ""), 2) == ()


@pytest.mark.process
@pytest.mark.parametrize("mpi", ["mpich", pytest.param("openmpi", marks=pytest.mark.long)], indirect=True)
def test_real_launchers_tell_what_they_are(mpi):
    assert per_host(choose(), 3) == {"mpich": ("-ppn", "3"), "openmpi": ("--map-by", "ppr:3:node:oversubscribe")}[mpi]
