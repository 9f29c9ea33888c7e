"""A folder that cannot be written is told with the reason, and looking leaves nothing behind."""

import errno

import disks
import pytest
from sqlalchemy.engine import URL

from atoll.storage import writable
from atoll.storage.store import Store
from atoll.storage.writable import NEEDED, NotWritable, check_writable, store_problem

MOUNTS = (pytest.mark.process, pytest.mark.may_skip)


def mounts(test):
    for mark in MOUNTS:
        test = mark(test)
    return test


def problem(path, **options):
    with pytest.raises(NotWritable) as raised:
        check_writable(path, "the study's folder", "name another one", **options)
    assert str(raised.value).startswith(f"the study's folder {path} cannot be written: ")
    assert str(raised.value).endswith("; name another one")
    return str(raised.value)


def url(file):
    return URL.create("sqlite", database=str(file))


def test_a_folder_that_can_be_made_is_not_made(tmp_path):
    check_writable(tmp_path / "a/b/c", "the folder", "")
    check_writable(tmp_path, "the folder", "")
    assert list(tmp_path.iterdir()) == []


@mounts
def test_a_full_disk_is_told_with_its_free_bytes(tmp_path):
    with disks.small(tmp_path / "disk", "64k") as disk:
        assert f"its file system is full: 65,536 bytes are free, and at least {NEEDED:,} are needed" in problem(
            disk / "s"
        )
        assert list(disk.iterdir()) == []
        check_writable(disk / "s", "the folder", "", needed=1 << 15)
        (disk / "ballast").write_bytes(bytes(1 << 16))
        assert "is full: 0 bytes are free, and at least 32,768" in problem(disk, needed=1 << 15)
        assert "is full: 0 bytes are free" in store_problem(url(disk / "atoll.db"))


@mounts
def test_room_for_more_than_is_tried_is_compared_with_the_free_bytes(tmp_path):
    with disks.small(tmp_path / "disk", "2m") as disk:
        check_writable(disk, "the folder", "", needed=2 << 20)
        assert "full: 2,097,152 bytes are free, and at least 2,097,153 are needed" in problem(
            disk, needed=(2 << 20) + 1
        )


@mounts
def test_a_file_system_without_inodes_is_told(tmp_path):
    with disks.small(tmp_path / "disk", "4m", nr_inodes="3") as disk:
        for name in "ab":
            (disk / name).touch()
        assert "has no inodes left for new files (4,194,304 bytes are free)" in problem(disk / "s")


@mounts
def test_a_read_only_mount_is_told(tmp_path):
    Store(f"sqlite:///{tmp_path}/atoll.db").close()
    with disks.read_only(tmp_path):
        assert "its file system is mounted read-only" in problem(tmp_path / "s")
        assert "its file system is mounted read-only" in problem(tmp_path)
        assert store_problem(url(tmp_path / "atoll.db")) == (
            f"the store {tmp_path}/atoll.db cannot be written: its file system is mounted read-only"
        )
        assert "mounted read-only" in store_problem(url(tmp_path / "new.db"))


def test_missing_rights_are_told(tmp_path):
    Store(f"sqlite:///{tmp_path}/atoll.db").close()
    with disks.as_another_user(tmp_path):
        assert f"this user must not write to {tmp_path};" in problem(tmp_path / "s")
        assert "this user must not write to" in store_problem(url(tmp_path / "atoll.db"))


def test_a_limit_of_the_process_is_told(tmp_path):
    with disks.files_of_at_most(1 << 17):
        told = problem(tmp_path)
    assert f"files may have at most 131,072 bytes (ulimit -f), and at least {NEEDED:,} are needed" in told
    assert list(tmp_path.iterdir()) == []


def test_a_quota_is_told(tmp_path, monkeypatch):
    def no_quota(_file):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(writable.os, "fsync", no_quota)
    assert f"your disk quota there is used up: less than {NEEDED:,} bytes are left" in problem(tmp_path)


def test_a_file_in_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file is no folder" in problem(tmp_path / "file/s")


def test_stores_that_are_no_files_are_not_looked_at():
    assert store_problem(URL.create("sqlite", database=":memory:")) is None
    assert store_problem(URL.create("postgresql+psycopg", host="nowhere", database="atoll")) is None
