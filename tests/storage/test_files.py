"""Files are written whole, are on disk when they are said to be, and are readable by those they are shared with."""

import errno
import json
import os
import sqlite3
import stat
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from commands import called
from ranks import SUPPORT

from atoll.dashboard import access
from atoll.dashboard.app import create_app
from atoll.storage import files
from atoll.storage.files import write_whole
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter
from atoll.storage.lock import Lock
from atoll.storage.store import Store, StoreError


@pytest.fixture
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def log(monkeypatch):
    """What is synced and replaced, in that order."""
    noted = []
    sync, replace = os.fsync, Path.replace

    def noting_sync(file):
        noted.append(("sync", os.fstat(file).st_ino))
        sync(file)

    def noting_replace(path, target):
        noted.append(("replace", path.stat().st_ino))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    return noted


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_synced_before_it_replaces_another_and_its_folder_after(tmp_path, log):
    file = tmp_path / "f.json"
    for text in ("old", "new"):
        log.clear()
        write_whole(file, text)
        number = file.stat().st_ino
        assert log == [("sync", number), ("replace", number), ("sync", tmp_path.stat().st_ino)]
        assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_new_folders_and_journals_are_synced_by_name(tmp_path, log):
    folder = StudyFolder(tmp_path / "s")
    folder.create()
    assert {("sync", folder.path.stat().st_ino), ("sync", tmp_path.stat().st_ino)} <= set(log)
    JournalWriter(folder.root_journal(0)).close()
    assert ("sync", folder.journals.stat().st_ino) in log


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_with_the_files_name(tmp_path, monkeypatch):
    def full(self, *_, **__):
        with open("/dev/full", "w") as file:
            file.write("x")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*study.json'"):
        write_whole(tmp_path / "study.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_what_fails_on_the_way_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "f.json"
    write_whole(file, "old")

    def full(_path):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(file, "new")
    assert (file.read_text(), list(tmp_path.iterdir())) == ("old", [file])


def test_a_link_stays_a_link_and_a_mode_a_mode(tmp_path):
    file, link = tmp_path / "f.json", tmp_path / "link.json"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to(file)
    write_whole(link, "new")
    assert link.is_symlink()
    assert (file.read_text(), mode(file)) == ("new", 0o600)


def test_what_is_no_file_is_written_into(tmp_path):
    write_whole(Path("/dev/null"), "text")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def reachable(path, home, bit):
    """Whether `bit` of a file's rights lets somebody read it, and enter the folders on the way from `home`."""
    folders = [folder for folder in path.parents if folder.is_relative_to(home) and folder != home]
    return bool(mode(path) & 0o444 & bit) and all(mode(folder) & 0o111 & bit for folder in folders)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "umask", "folders", "store"),
    [
        (None, 0o022, 0o700, 0o600),
        (None, 0o002, 0o700, 0o600),
        ("group", 0o022, 0o750, 0o640),
        ("group", 0o007, 0o770, 0o660),
        ("all", 0o022, 0o755, 0o644),
    ],
    indirect=["umask"],
)
def test_a_searchs_files_are_their_owners_unless_they_are_shared(tmp_path, monkeypatch, share, umask, folders, store):
    monkeypatch.setenv("RAISED", "none")
    monkeypatch.setenv("ATOLL_SHARE", share or "")
    study = {"name": "s", "workload": f"{SUPPORT / 'raising.py'}:Raising", "method": "local_sgd", "trials": 1}
    home = tmp_path / "home"
    home.mkdir()
    (home / "s.json").write_text(json.dumps(study | {"space": {"batch_size": 2}}))
    called("search", "s.json", "--outside", "--in-process", cwd=home)
    made = set(home.rglob("*")) - {home / "s.json"}
    assert {"atoll.db", "study.json", "lock", "root-00000.jsonl", "launcher.jsonl"} <= {path.name for path in made}
    assert {mode(path) for path in made if path.is_dir()} == {folders}
    assert {mode(home / "atoll.db"), mode(home / "atoll-studies/s/study.json")} == {store}
    for group, bit in ((True, 0o070), (False, 0o007)):
        shared = share == "all" or (share == "group" and group)
        assert {path for path in made if reachable(path, home, bit)} == (made if shared else set())
    called("export", "s", "-o", "new/best.yaml", cwd=home)  # where the user wants it, for whom the umask says
    assert (mode(home / "new"), mode(home / "new/best.yaml")) == (0o777 & ~umask, 0o666 & ~umask)


@pytest.mark.parametrize("umask", [0o022], indirect=True)
def test_files_in_a_folder_that_is_there_already_are_their_owners(tmp_path, umask):
    """Such as one that the user has made: the folder keeps its mode."""
    folder = StudyFolder(tmp_path / "s")
    folder.path.mkdir(mode=0o755)
    folder.create()
    assert mode(folder.path) == 0o755
    assert {mode(path) for path in folder.path.iterdir()} == {0o700}
    lock = Lock(folder.lock)
    lock.acquire()
    lock.release()
    assert mode(folder.lock) == 0o600


def test_a_store_that_is_there_keeps_its_mode(tmp_path):
    file = tmp_path / "atoll.db"
    for share in (0o644, 0o600):
        Store(f"sqlite:///{file}").close()
        file.chmod(share)
        Store(f"sqlite:///{file}").close()
        assert mode(file) == share


def test_a_store_of_another_user_is_told(tmp_path):
    file = tmp_path / "atoll.db"
    Store(f"sqlite:///{file}").close()
    file.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who may read everything
            folder = tmp_path
            while folder != Path(tempfile.gettempdir()) and folder != folder.parent:
                folder.chmod(0o755)
                folder = folder.parent
            os.seteuid(65534)
        with pytest.raises(StoreError, match=r"cannot be read by this user: its owner shares it with `chmod g\+r`"):
            Store(f"sqlite:///{file}", read_only=True)
    finally:
        os.seteuid(user)


def test_an_unknown_share_is_refused(monkeypatch):
    monkeypatch.setenv("ATOLL_SHARE", "world")
    with pytest.raises(ValueError, match="ATOLL_SHARE must be none, group, all; got 'world'"):
        files.rights()


def test_the_copy_of_a_private_store_is_private(tmp_path):
    file = tmp_path / "atoll.db"
    file.touch(mode=0o600)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((Path(__file__).parent / "schemas" / "0006.sql").read_text())
    Store(f"sqlite:///{file}").close()
    assert mode(tmp_path / "atoll.db.schema-0006") == 0o600


def test_no_token_is_written_to_a_file(tmp_path, monkeypatch):
    """It is in the printed link and in cookies, whose key comes from it, only."""
    monkeypatch.chdir(tmp_path)
    token = access.new_token()
    client = create_app(Store(f"sqlite:///{tmp_path}/atoll.db"), token=token).server.test_client()
    assert client.get(f"/?token={token}").status_code == 302
    key = client.application.secret_key
    assert client.get("/").status_code == 200
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert token.encode() not in file.read_bytes()
        assert key not in file.read_bytes()
