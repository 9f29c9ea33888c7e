"""`atoll doctor` finds what is well, and what is not."""

import pytest
from commands import atoll, called, called_json

from atoll.platform.study import registry
from atoll.platform.workloads import WORKLOADS
from atoll.platform.workloads.workload import Workload

pytestmark = pytest.mark.mpi


def test_a_healthy_machine(tmp_path):
    found = called_json("doctor", cwd=tmp_path)
    with_files = {name for name in WORKLOADS if type(registry.workload(name)).check_data is not Workload.check_data}
    missing = {f"data of {name}" for name in with_files}
    assert "digits_mlp" not in with_files
    assert {f["check"] for f in found if not f["ok"]} == missing
    by_check = {f["check"]: f for f in found}
    assert by_check["MPI launch"]["found"].startswith("a world of 2 ranks")
    assert {"sums", "progress without waiting", "clocks", "GPUs", "store"} <= set(by_check)


@pytest.mark.long
def test_what_it_prints(tmp_path):
    text = atoll("doctor", cwd=tmp_path).stdout
    assert "ok  sums" in text
    assert "FIX data of spoken_digits_mlp: spoken_digits.npz was not found" in text


def test_broken_parts_are_named_with_advice(tmp_path, monkeypatch):
    (tmp_path / "mpiexec").write_text("#!/bin/sh\necho cannot start >&2; exit 3\n")
    (tmp_path / "mpiexec").chmod(0o755)
    monkeypatch.setenv("ATOLL_MPIEXEC", str(tmp_path / "mpiexec"))
    monkeypatch.setenv("ATOLL_STORE", "sqlite:////proc/none/x.db")
    text = called("doctor", cwd=tmp_path, code=1).stdout
    assert "FIX MPI launch" in text
    assert "cannot start" in text
    assert "set ATOLL_MPIEXEC to its path" in text
    assert "FIX store" in text


def test_mixed_mpi_installations_are_named(tmp_path, monkeypatch):
    """A launcher of another MPI starts worlds of one."""
    (tmp_path / "mpiexec").write_text('#!/bin/sh\nshift 2; exec "$@"\n')
    (tmp_path / "mpiexec").chmod(0o755)
    monkeypatch.setenv("ATOLL_MPIEXEC", str(tmp_path / "mpiexec"))
    text = called("doctor", cwd=tmp_path, code=1).stdout
    assert "FIX MPI launch: a world of 1 ranks" in text
