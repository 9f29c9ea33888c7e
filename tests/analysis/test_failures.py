"""Failures by kind: what differs between two of one kind is masked, and the user's line is found."""

import sysconfig
from pathlib import Path

import pytest

import atoll.analysis.failures as failures
from atoll.analysis.failures import by_kind, kind_of, user_frame
from atoll.storage.models import TrialRow

ROOT = Path(failures.__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("ValueError: got 1 x 28 x 28 (rank 3 on node-07)", "ValueError: got # x # x #"),
        ("E: <object at 0x7f12ab> (rank 0 on a)", "E: <object at #>"),
        ("Diverged: at step 12: the loss is nan", "Diverged: at step #: the loss is #"),
        ("E: -1.5e-7 is below 0", "E: # is below #"),
        (None, "unknown"),
    ],
)
def test_numbers_addresses_ranks_and_hosts_are_masked(reason, kind):
    assert kind_of(reason) == kind


def frame(file, line, name):
    return f'  File "{file}", line {line}, in {name}\n    code\n'


def test_the_users_own_line_is_told_not_the_librarys_beneath():
    text = "Traceback (most recent call last):\n" + "".join(
        [
            frame(ROOT / "platform/trial/worker.py", 1, "_run"),
            frame("/home/me/user.py", 24, "measure"),
            frame("/env/lib/python3.11/site-packages/torch/nn/functional.py", 3, "linear"),
            frame(f"{sysconfig.get_path('stdlib')}/contextlib.py", 4, "inner"),
            frame("<frozen importlib>", 5, "load"),
        ]
    )
    assert user_frame(text) == "/home/me/user.py, line 24, in measure"
    ours = frame(ROOT / "methods/a.py", 1, "x") + frame(ROOT / "methods/b.py", 2, "y")
    assert user_frame(ours) == f"{ROOT}/methods/b.py, line 2, in y"
    assert user_frame(None) == ""


def test_the_most_frequent_kind_comes_first_with_its_first_trial():
    reasons = {4: "A: 4", 3: "A: 3", 2: "B", 1: None}
    trials = [TrialRow(number=n, attempt=0, state="failed", reason=r) for n, r in reasons.items()]
    trials.append(TrialRow(number=0, attempt=0, state="lost", reason="A: 0"))
    found = [(k.kind, k.count, k.trial, k.reason) for k in by_kind(trials)]
    assert found == [("A: #", 2, 3, "A: 3"), ("unknown", 1, 1, "unknown"), ("B", 1, 2, "B")]
