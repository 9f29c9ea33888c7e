"""The text of what a root has heard."""

import pytest

from atoll.platform.search.heard import Heard, Kind, Notes, read


def test_what_is_noted_is_read_again():
    notes = Notes()
    for event in [
        (Kind.ARRIVED, 3),
        (Kind.ENDED,),
        (Kind.IMMIGRATED, 12, 2),
        (Kind.IMMIGRATED, 9, 1),
        (Kind.LEFT, 8, 0),
        (Kind.LEFT, 8, 3),
        (Kind.PROPOSED, 10),
    ]:
        notes.add(*event)
    text = notes.take(10)
    assert text == "a7em-2.2m1l2l2.3p"
    assert list(read(text, 10)) == [
        Heard(Kind.ARRIVED, 3),
        Heard(Kind.ENDED, 10),
        Heard(Kind.IMMIGRATED, 12, 2),
        Heard(Kind.IMMIGRATED, 9, 1),
        Heard(Kind.LEFT, 8, 0),
        Heard(Kind.LEFT, 8, 3),
        Heard(Kind.PROPOSED, 10),
    ]
    assert notes.take() == ""


def test_only_judgments_are_due_at_a_trials_end():
    notes = Notes()
    notes.add(Kind.ARRIVED, 1)
    assert not notes.has_judged
    notes.add(Kind.JUDGED)
    assert notes.has_judged
    assert notes.take(1) == "aj"
    assert not notes.has_judged


@pytest.mark.parametrize(("text", "found"), [("A1", "'A1' at 0"), ("a1 ", "' ' at 2"), ("a1x1", "'x1' at 2")])
def test_another_text_is_refused(text, found):
    with pytest.raises(ValueError, match=f"must be events, each a letter of sad.* such as .*; got {found}"):
        list(read(text))
