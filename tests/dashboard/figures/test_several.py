"""Figures of several studies side by side."""

from frames import trials, words

from atoll.dashboard.figures import several
from atoll.dashboard.figures.several import Compared


def compared(name, objectives, **changes):
    fields = {"metric": "accuracy", "direction": "maximize", "target": 0.8, "started": 100.0} | changes
    return Compared(name, trials=trials(objectives), **fields)


def test_studies_side_by_side():
    both = [compared("a", [0.5, 0.9]), compared("b", [0.7, None, 0.75])]
    figure = several.best_so_far(both, "trials")
    assert [(list(t.x), list(t.y)) for t in figure.data] == [([1, 2], [0.5, 0.9]), ([1, 3], [0.7, 0.75])]
    met, missed = several.times_to_target(both)
    assert (met["trials"], met["busy seconds"], met["wall seconds"]) == (2, 2, 3)
    assert missed["trials"] is None
    assert list(several.objectives(both).data[0].median) == [0.7]
    frame = trials([0.9, 0.5, 0.7]).assign(seconds=[3.0, 1.0, 2.5])
    front = several.tradeoff([Compared("a", "loss", "minimize", None, 0.0, frame)], "seconds").data[0]
    assert (list(front.x), list(front.y)) == ([1.0], [0.5])
    assert "None of these" in words(several.best_so_far([compared("c", [None])], "trials"))
