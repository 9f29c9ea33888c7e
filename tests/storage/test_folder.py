"""The files of a study."""

from atoll.storage.folder import StudyFolder


def test_paths_are_absolute_as_user_code_may_change_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = StudyFolder("s")
    monkeypatch.chdir("/")
    for path in (folder.path, folder.root_journal(0), folder.heartbeat(0), folder.lock, folder.stop_request):
        assert path.is_relative_to(tmp_path / "s")
