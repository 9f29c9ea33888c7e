"""The files of a study."""

from atoll.storage.folder import StudyFolder, TrialFolder


def test_paths_are_absolute_as_user_code_may_change_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = StudyFolder("s")
    monkeypatch.chdir("/")
    for path in (folder.path, folder.root_journal(0), folder.heartbeat(0), folder.lock, folder.stop_request):
        assert path.is_relative_to(tmp_path / "s")


def test_a_workloads_own_folders_stay_when_checkpoints_are_removed(tmp_path):
    folder = TrialFolder(tmp_path / "trial")
    folder.state(7, 0).mkdir(parents=True)
    folder.state(7, 1).touch()
    folder.manifest.touch()
    folder.remove_checkpoints()
    assert list(folder.path.iterdir()) == [folder.state(7, 0)]
