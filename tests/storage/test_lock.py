"""One launcher per study."""

import json
import os
import socket
import subprocess
import sys

import pytest

from atoll.storage.lock import Lock, Locked


def test_a_living_holder_is_named(tmp_path):
    Lock(tmp_path / "lock").acquire()
    with pytest.raises(Locked, match=f"process {os.getpid()} on {socket.gethostname()}"):
        Lock(tmp_path / "lock").acquire()
    assert Lock(tmp_path / "lock").holder()["process"] == os.getpid()


def test_a_released_lock_is_free(tmp_path):
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    lock.release()
    Lock(tmp_path / "lock").acquire()


@pytest.mark.process
def test_a_dead_holder_is_recognised(tmp_path):
    program = (
        "from atoll.storage.lock import Lock; from pathlib import Path\n"
        f"Lock(Path({str(tmp_path)!r}) / 'lock').acquire()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / "lock").exists()
    assert Lock(tmp_path / "lock").holder() is None
    Lock(tmp_path / "lock").acquire()


def test_a_process_number_that_is_used_again_is_another_process(tmp_path):
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    content = json.loads((tmp_path / "lock").read_text())
    (tmp_path / "lock").write_text(json.dumps(content | {"started": "1"}))
    Lock(tmp_path / "lock").acquire()


def test_a_holder_on_another_host_counts_as_dead_once_it_is_silent(tmp_path):
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    content = json.loads((tmp_path / "lock").read_text())
    (tmp_path / "lock").write_text(json.dumps(content | {"hostname": "elsewhere"}))
    with pytest.raises(Locked, match="on elsewhere"):
        Lock(tmp_path / "lock").acquire()
    long_ago = (tmp_path / "lock").stat().st_mtime - 2 * Lock.SILENCE
    os.utime(tmp_path / "lock", (long_ago, long_ago))
    Lock(tmp_path / "lock").acquire()


@pytest.mark.process
def test_only_one_of_many_gets_it(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from atoll.storage.lock import Lock, Locked\n"
        f"lock = Lock(Path({str(tmp_path)!r}) / 'lock')\n"
        "try: lock.acquire(); print('got it', flush=True); time.sleep(3)\n"
        "except Locked: print('refused')"
    )
    started = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(5)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in started)
    assert said == ["got it", *["refused"] * 4]
