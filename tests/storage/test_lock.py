"""One launcher per study, by the system's locks, and on file systems that have none."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from atoll.storage.lock import Lock, Locked

HOLDING = (
    "import sys, time; from pathlib import Path; from atoll.storage.lock import Lock, Locked\n"
    "lock = Lock(Path(sys.argv[1]))\n"
    "try: lock.acquire(); print('got it', flush=True); time.sleep(float(sys.argv[2]))\n"
    "except Locked as error: print(error)"
)


def refuse(_file, _how):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.fixture
def without_locks(monkeypatch):
    """The file system has no locks, as Lustre mounted without -o flock."""
    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture(params=["flock", "name"])
def lock(request, tmp_path):
    """A lock that nobody holds."""
    if request.param == "name":
        request.getfixturevalue("without_locks")
    return Lock(tmp_path / "lock")


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_living_holder_is_named(lock, tmp_path):
    lock.acquire()
    with pytest.raises(Locked, match=f"process {os.getpid()} on {socket.gethostname()}"):
        Lock(tmp_path / "lock").acquire()
    assert Lock(tmp_path / "lock").holder()["process"] == os.getpid()


def test_a_released_lock_is_free(lock, tmp_path):
    lock.acquire()
    lock.release()
    assert Lock(tmp_path / "lock").holder() is None
    again = Lock(tmp_path / "lock")
    again.acquire()
    again.release()


def test_only_one_of_many_gets_it(lock, tmp_path):
    """Also from a dead holder, whose file each of them may find."""
    for _ in range(20):
        (tmp_path / "lock").write_text(json.dumps({"hostname": socket.gethostname(), "process": 1, "started": "0"}))
        locks = [Lock(tmp_path / "lock") for _ in range(8)]

        def gets_it(one):
            try:
                one.acquire()
            except Locked:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            got = [one for one, has in zip(locks, pool.map(gets_it, locks), strict=True) if has]
        assert len(got) == 1
        got[0].release()


@pytest.mark.process
def test_the_system_frees_a_dead_holders_lock(tmp_path):
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "lock"), "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "got it\n"
        assert Lock(tmp_path / "lock").holder()["process"] == holder.pid
        with pytest.raises(Locked, match=f"process {holder.pid}"):
            Lock(tmp_path / "lock").acquire()
        holder.kill()
    assert (tmp_path / "lock").exists()
    assert Lock(tmp_path / "lock").holder() is None
    Lock(tmp_path / "lock").acquire()


def test_what_the_file_says_of_a_lock_of_the_system_frees_nothing(tmp_path):
    """As for another container of the same hostname, which does not see the holder's process."""
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    rewrite(tmp_path / "lock", process=2**22 + 1, started="1")
    with pytest.raises(Locked, match=f"process {2**22 + 1}"):
        Lock(tmp_path / "lock").acquire()


def test_a_lock_of_an_older_atoll_is_respected(tmp_path, without_locks, monkeypatch):
    Lock(tmp_path / "lock").acquire()
    content = json.loads((tmp_path / "lock").read_text())
    del content["system"]
    (tmp_path / "lock").write_text(json.dumps(content))
    monkeypatch.undo()
    with pytest.raises(Locked, match=f"process {os.getpid()}"):
        Lock(tmp_path / "lock").acquire()
    assert Lock(tmp_path / "lock").holder()["process"] == os.getpid()


def test_a_process_number_that_is_used_again_is_another_process(tmp_path, without_locks):
    Lock(tmp_path / "lock").acquire()
    rewrite(tmp_path / "lock", started="1")
    Lock(tmp_path / "lock").acquire()


@pytest.mark.parametrize("elsewhere", [{"hostname": "elsewhere"}, {"system": "another container"}])
def test_a_holder_elsewhere_counts_as_dead_once_it_is_silent(tmp_path, without_locks, elsewhere):
    Lock(tmp_path / "lock").acquire()
    rewrite(tmp_path / "lock", **elsewhere)
    with pytest.raises(Locked, match="is running as process"):
        Lock(tmp_path / "lock").acquire()
    long_ago = (tmp_path / "lock").stat().st_mtime - 2 * Lock.SILENCE
    os.utime(tmp_path / "lock", (long_ago, long_ago))
    Lock(tmp_path / "lock").acquire()


def test_somebody_who_only_looks_keeps_nobody_from_the_lock(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        looking = pool.submit(lambda: [Lock(tmp_path / "lock").holder() for _ in range(2000)])
        for _ in range(50):
            lock = Lock(tmp_path / "lock")
            lock.acquire()
            lock.release()
        looking.result()


def test_a_folder_that_was_deleted_and_made_again_has_a_lock_of_its_own(tmp_path):
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    (tmp_path / "lock").unlink()
    Lock(tmp_path / "lock").acquire()


def test_a_lock_file_that_is_removed_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(Lock, "REFRESH_INTERVAL", -1.0)
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    (tmp_path / "lock").unlink()
    lock.refresh()
    with pytest.raises(Locked, match="is running as process"):
        Lock(tmp_path / "lock").acquire()
    lock.release()
    Lock(tmp_path / "lock").acquire()


def test_a_holder_notices_that_another_one_has_taken_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(Lock, "REFRESH_INTERVAL", -1.0)
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    (tmp_path / "lock").unlink()
    Lock(tmp_path / "lock").acquire()
    with pytest.raises(Locked, match="is running as process"):
        lock.refresh()


def test_a_folder_that_is_away_for_a_while_does_no_harm(lock, tmp_path, monkeypatch):
    monkeypatch.setattr(Lock, "REFRESH_INTERVAL", -1.0)
    (tmp_path / "study").mkdir()
    lock = Lock(tmp_path / "study" / "lock")
    lock.acquire()
    (tmp_path / "study").rename(tmp_path / "away")
    lock.refresh()
    (tmp_path / "away").rename(tmp_path / "study")
    lock.refresh()
    with pytest.raises(Locked, match="is running as process"):
        Lock(tmp_path / "study" / "lock").acquire()


def test_a_lock_that_cannot_be_written_is_named_and_free(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*lock'"):
            Lock(tmp_path / "lock").acquire()
    Lock(tmp_path / "lock").acquire()
