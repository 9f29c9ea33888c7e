"""`atoll doctor` finds what is well, and what is not; `atoll measure-cluster` describes the allocation."""

import json
import os
import subprocess
import sys

import hosts_of_tests
import pytest
import yaml
from commands import atoll, called, called_json

from atoll.analysis.cluster import Cluster
from atoll.platform.commands.doctor import judge
from atoll.platform.launch.examination import Examination
from atoll.platform.launch.mpi_launcher import choose

BOTH = ["mpich", pytest.param("openmpi", marks=pytest.mark.long)]


@pytest.mark.mpi
@pytest.mark.parametrize("mpi", BOTH, indirect=True)
def test_a_healthy_machine(tmp_path, mpi):
    found = called_json("doctor", cwd=tmp_path)
    assert {f["check"] for f in found if not f["ok"]} == set()
    by_check = {f["check"]: f["found"] for f in found}
    name = {"mpich": "MPICH ", "openmpi": "Open MPI "}[mpi]
    assert by_check["MPI library"].startswith(f"mpi4py loads {name}")
    launcher = choose()
    assert by_check["MPI launcher"] == f"{launcher}, as {launcher.reason}"
    assert by_check["MPI launch"].startswith(f"a world of 2 ranks; {name}")
    assert {"sums", "progress without waiting", "clocks", "GPUs", "store"} <= set(by_check)
    assert not any("data" in check for check in by_check)  # nobody has asked for it


@pytest.mark.mpi
@pytest.mark.long
def test_what_it_prints_of_the_data_that_it_is_asked_for(tmp_path):
    text = atoll("doctor", "--data", tmp_path, cwd=tmp_path).stdout
    assert "ok  sums" in text
    assert "ok  data of digits_mlp: available" in text
    assert "FIX data of spoken_digits_mlp: spoken_digits.npz was not found" in text
    named = atoll("doctor", "--workload", "spoken_digits_mlp", cwd=tmp_path, code=1).stdout
    assert "FIX data of spoken_digits_mlp: spoken_digits.npz was not found" in named
    assert "digits_mlp: available" not in named


@pytest.mark.mpi
def test_broken_parts_are_named_with_advice(tmp_path, monkeypatch):
    (tmp_path / "mpiexec").write_text("#!/bin/sh\necho cannot start >&2; exit 3\n")
    (tmp_path / "mpiexec").chmod(0o755)
    monkeypatch.setenv("ATOLL_MPIEXEC", str(tmp_path / "mpiexec"))
    monkeypatch.setenv("ATOLL_STORE", "sqlite:////proc/none/x.db")
    text = called("doctor", cwd=tmp_path, code=1).stdout
    assert "FIX MPI launch" in text
    assert "cannot start" in text
    assert "set ATOLL_MPIEXEC to it" in text
    assert "FIX store" in text


@pytest.mark.mpi
def test_mixed_mpi_installations_are_named(tmp_path, monkeypatch):
    """A launcher of another MPI starts worlds of one."""
    (tmp_path / "mpiexec").write_text('#!/bin/sh\nshift 2; exec "$@"\n')
    (tmp_path / "mpiexec").chmod(0o755)
    monkeypatch.setenv("ATOLL_MPIEXEC", str(tmp_path / "mpiexec"))
    text = called("doctor", cwd=tmp_path, code=1).stdout
    assert "FIX MPI launch: a world of 1 rank;" in text


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ATOLL_MPIEXEC", "mpirum -x A", "FIX MPI launcher: ATOLL_MPIEXEC must name a program that can be started"),
        ("MPI4PY_LIBMPI", "/none/libmpi.so", "FIX MPI library: mpi4py cannot load one: "),
    ],
)
def test_what_cannot_start_ranks_is_told(tmp_path, monkeypatch, name, value, told):
    monkeypatch.setenv(name, value)
    assert told in called("doctor", cwd=tmp_path, code=1).stdout


# Without torch and what else the search needs, but with mpi4py, as where somebody has begun to install.
WITHOUT_TORCH = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] == "torch" else find(name, package)
sys.modules["torch"] = None
"""


@pytest.mark.mpi
def test_it_works_without_torch(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TORCH)
    done = subprocess.run(
        [sys.executable, "-m", "atoll", "doctor", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    found = {f["check"]: f for f in json.loads(done.stdout)}
    assert [check for check, f in found.items() if not f["ok"]] == ["packages"]
    assert found["MPI launch"]["found"].startswith("a world of 2 ranks")
    assert "sums" not in found


def facts(*hostnames, links=(), **changed):
    rank = {"cores": [0, 1], "gpus": 0, "python": "3.11.7", "atoll": "0.1.0", "executable": "python", "offset": 0.0}
    ranks = [rank | {"hostname": name, "folder": None} for name in hostnames]
    measured = [{"hosts": list(pair), "latency": 2e-6, "bandwidth": speed * 1e9} for pair, speed in links]
    well = {"size": len(ranks), "library": "MPICH 5", "thread_level": 2, "is_serialized": True, "wrong_sums": [],
            "progress": True, "links": measured, "together": None, "overlaps": False, "ranks": ranks}  # fmt: skip
    return well | changed


def judged(found, expected=(), unseen=()):
    examination = Examination(found["size"], found, expected=list(expected), unseen=list(unseen))
    return {f.check: f for f in judge(examination, hosts=True, launcher="mpiexec")}


def test_hosts_without_ranks_are_named():
    found = judged(facts("a.site", "b.site"), expected=["a", "b", "c"])["hosts"]
    assert (found.ok, found.found) == (False, "ranks run on 2 of 3: a.site, b.site; without ranks: c")
    assert judged(facts("a.site", "b.site"), expected=["a", "b"])["hosts"].ok


def test_hosts_that_do_not_see_the_folder_are_named():
    of = facts("a", "b", "c")
    of["ranks"][1]["folder"] = "FileNotFoundError: No such file or directory"
    found = judged(of, unseen=[1, 2])["study folder"]
    assert not found.ok
    assert found.found == "b: FileNotFoundError: No such file or directory; c: its files are not seen here"


def test_hosts_with_other_software_or_clocks_are_named():
    of = facts("a", "b")
    of["ranks"][1] |= {"python": "3.12.1", "offset": -2.0}
    found = judged(of)
    assert not found["software"].ok
    assert "b: Python 3.12.1, atoll 0.1.0, python" in found["software"].found
    assert (found["clocks"].ok, found["clocks"].found) == (False, "the hosts' clocks differ by at most 2.000 s")


def test_slow_links_are_named():
    links = [(("a", "b"), 10.0), (("b", "c"), 9.0), (("c", "d"), 1.0), (("a", "a"), 20.0)]
    found = judged(facts("a", "b", "c", "d", links=links))
    assert not found["links between hosts"].ok
    assert found["links between hosts"].found == "3 measured, median 2 microseconds and 9 GB/s; c - d has 1 GB/s"
    assert found["links within hosts"].ok


def test_who_runs_open_mpi_as_root_is_told_what_to_set():
    (found,) = judge(Examination(2, {}, "mpiexec has detected an attempt to run as root."), hosts=False, launcher="m")
    assert "OMPI_ALLOW_RUN_AS_ROOT=1" in found.advice


@pytest.mark.mpi
@pytest.mark.long
@pytest.mark.may_skip
@pytest.mark.parametrize("mpi", ["mpich", "openmpi"], indirect=True)
def test_every_host_of_an_allocation_is_examined(tmp_path, monkeypatch, mpi):
    monkeypatch.setenv("ATOLL_MPIEXEC", hosts_of_tests.launcher(tmp_path, mpi, choose().command[0]))
    found = {f["check"]: f for f in called_json("doctor", "--hosts", cwd=tmp_path)}
    assert found["MPI launch"]["found"].startswith("a world of 4 ranks")
    assert found["hosts"]["found"] == f"ranks run on 2 of 2: {', '.join(hosts_of_tests.NAMES)}"
    assert found["study folder"]["ok"]
    assert found["study folder"]["found"] == f"every host reads and writes {tmp_path}"
    assert found["links within hosts"]["found"].startswith("2 measured")
    assert found["links between hosts"]["found"].startswith("1 measured")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".atoll")] == []


@pytest.mark.mpi
@pytest.mark.long
@pytest.mark.may_skip
def test_a_measured_cluster_is_one_for_projections(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOLL_MPIEXEC", hosts_of_tests.launcher(tmp_path, "mpich", choose().command[0]))
    called("measure-cluster", "-o", "mine.yaml", "--name", "mine", cwd=tmp_path)
    cluster = Cluster.model_validate(yaml.safe_load((tmp_path / "mine.yaml").read_text()))
    assert (cluster.name, cluster.ranks_per_node, cluster.algorithm) == ("mine", 2, "hierarchical")
    assert "MPICH" in cluster.description
    assert "2 links within hosts and 1 between them" in cluster.description
    assert 1 <= cluster.ports <= 2
    refused = called("measure-cluster", "-o", "mine.yaml", cwd=tmp_path, code=2)
    assert "must be a new file" in refused.stderr
