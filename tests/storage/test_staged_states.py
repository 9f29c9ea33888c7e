"""A trial takes another one's state: staged by links, then in place of its own; whole, or not at all."""

import json

import pytest

from atoll.storage import folder as folders
from atoll.storage.folder import TrialFolder

TRAINING = ({"rate": {0: 0.1, 3: 0.2}}, 4)


def trial(path, step, content, size=2):
    folder = TrialFolder(path)
    path.mkdir()
    for rank in range(size):
        folder.state(step, rank).write_text(f"{content}{rank}")
    folder.manifest.write_text(json.dumps({"step": step, "training": {"size": size, "of": content}}))
    return folder


def state(folder):
    step, training, _ = folder.read_manifest()
    return training["of"], [folder.state(step, rank).read_text() for rank in range(training["size"])]


@pytest.fixture
def pair(tmp_path):
    return trial(tmp_path / "mine", 3, "mine"), trial(tmp_path / "theirs", 3, "theirs")


def test_a_staged_state_takes_the_place_of_the_trials_own_for_its_training_only(pair):
    mine, theirs = pair
    mine.stage(theirs, 3, *TRAINING)
    assert state(mine) == ("mine", ["mine0", "mine1"])
    mine.adopt(TRAINING[0], 5)  # it goes on as before
    assert state(mine) == ("mine", ["mine0", "mine1"])
    mine.adopt(*TRAINING)
    assert state(mine) == ("mine", ["mine0", "mine1"])  # forgotten
    mine.stage(theirs, 3, *TRAINING)
    mine.adopt(*TRAINING)
    mine.adopt(*TRAINING)
    assert state(mine) == ("theirs", ["theirs0", "theirs1"])
    assert state(theirs) == ("theirs", ["theirs0", "theirs1"])
    assert len(list(mine.path.iterdir())) == 3


@pytest.mark.parametrize("calls", range(5))
def test_an_adoption_that_was_cut_off_is_completed_later(pair, monkeypatch, calls):
    """After each of the changes of files that it makes."""
    mine, theirs = pair
    mine.stage(theirs, 3, *TRAINING)
    count = 0

    def limited(make):
        def change(*arguments, **options):
            nonlocal count
            count += 1
            if count > calls:
                raise KeyboardInterrupt
            return make(*arguments, **options)

        return change

    with monkeypatch.context() as patch:
        for name in ("unlink", "replace"):
            patch.setattr(folders.Path, name, limited(getattr(folders.Path, name)))
        patch.setattr(folders, "write_whole", limited(folders.write_whole))
        with pytest.raises(KeyboardInterrupt):
            mine.adopt(*TRAINING)
    mine.adopt(*TRAINING)
    assert state(mine) == ("theirs", ["theirs0", "theirs1"])


def test_what_cannot_be_staged_leaves_the_trials_own(pair, monkeypatch):
    mine, theirs = pair
    with pytest.raises(FileNotFoundError, match="no whole state of step 6"):
        mine.stage(theirs, 6, *TRAINING)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "write_whole", full)
    with pytest.raises(OSError, match="No space"):
        mine.stage(theirs, 3, *TRAINING)
    mine.adopt(*TRAINING)
    assert state(mine) == ("mine", ["mine0", "mine1"])
    assert len(list(mine.path.iterdir())) == 3
