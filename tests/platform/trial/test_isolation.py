"""One trial does not reach the next: each thing that user code may change is put back, and told."""

import contextlib
import os
import random
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from atoll.platform.trial.isolation import isolated
from atoll.platform.trial.process_state import ITEMS, changed_attributes


def ignore(*_):
    pass


def zero(tensor, *_, **__):
    return tensor.data.zero_()


def confuse_streams():
    sys.stdout = sys.stderr


CHANGES = {
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's number of threads": lambda: torch.set_num_threads(3),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch's detection of anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "torch's precision of float32 products": lambda: torch.set_float32_matmul_precision("medium"),
    "torch's flags of cuDNN and CUDA": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch's grad mode": lambda: torch.set_grad_enabled(False),
    "torch's autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "the flushing of denormal numbers": lambda: torch.set_flush_denormal(True),
    "torch's print options": lambda: torch.set_printoptions(precision=9, sci_mode=True),
    "torch's hooks of all modules": lambda: nn.modules.module.register_module_forward_hook(ignore),
    "numpy's print options": lambda: np.set_printoptions(precision=3),
    "numpy's handling of errors": lambda: np.seterr(all="raise"),
    "the working directory": lambda: os.chdir("/"),
    "the environment": lambda: os.environ.update(ATOLL_DATA="a secret"),
    "the handlers of signals": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "the timers": lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 100),
    "the filters of warnings": lambda: warnings.simplefilter("error"),
    "the umask": lambda: os.umask(0o777),
    "the standard streams": confuse_streams,
    "Python's recursion limit": lambda: sys.setrecursionlimit(5000),
    "file descriptor 1": lambda: os.close(1),
    "init.kaiming_uniform_": lambda: setattr(nn.init, "kaiming_uniform_", zero),
    "Linear.__constants__": lambda: setattr(nn.Linear, "__constants__", []),
    "Linear.new": lambda: setattr(nn.Linear, "new", 1),
    "functional.relu": lambda: setattr(nn.functional, "relu", zero),
    "SGD.step": lambda: setattr(torch.optim.SGD, "step", zero),
}


def state():
    return {item.name: item.read() for item in ITEMS if item.name != "random states"}


def test_there_is_a_change_for_every_item():
    assert {item.name for item in ITEMS if item.is_told} <= CHANGES.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_it_is_put_back_and_told(name):
    before, notes = state(), []
    with isolated(notes):
        CHANGES[name]()
    assert state() == before
    assert changed_attributes() == []
    os.fstat(1)
    assert len([note for note in notes if name in note]) == 1  # torch may change its own environment in addition
    assert "secret" not in str(notes)


def test_all_at_once_and_after_an_exception():
    before, notes = state(), []
    with contextlib.suppress(KeyError), isolated(notes):
        for change in CHANGES.values():
            change()
        raise KeyError
    assert state() == before
    for name in CHANGES:
        assert any(name in note for note in notes), name


def test_nothing_is_told_of_a_trial_that_changes_nothing():
    notes = []
    with isolated(notes):
        random.random()
    assert notes == []


def test_random_states_are_put_back_and_not_told():
    def drawn():
        return random.random(), np.random.random(), float(torch.rand(()))

    notes = []
    with isolated(notes):
        first = drawn()
    assert (drawn(), notes) == (first, [])


def test_a_trials_handler_of_childrens_ends_is_heard_in_trials_only():
    def fails(_number, _frame):  # as torch's does if a process that loads data has failed
        raise RuntimeError("a child has ended")

    before = signal.getsignal(signal.SIGCHLD)
    with isolated([]):
        signal.signal(signal.SIGCHLD, fails)
    signal.raise_signal(signal.SIGCHLD)  # the rank is at its own work
    with pytest.raises(RuntimeError, match="a child has ended"), isolated([]):
        signal.raise_signal(signal.SIGCHLD)
    assert signal.getsignal(signal.SIGCHLD) is before
    with isolated([]):
        signal.signal(signal.SIGCHLD, before)
    with isolated([]):
        assert signal.getsignal(signal.SIGCHLD) is before


def test_a_closed_stream_is_opened_again(monkeypatch):
    monkeypatch.setattr(sys, "stdout", open(1, "w", closefd=False))  # noqa: SIM115
    notes = []
    with isolated(notes):
        sys.stdout.close()
    assert not sys.stdout.closed
    assert notes == ["the trial changed the standard streams; put back"]


def test_what_cannot_be_put_back_is_told(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    notes = []
    with isolated(notes):
        os.chdir("/")
        (tmp_path / "gone").rmdir()
    assert len(notes) == 1
    assert "the working directory, which cannot be put back: FileNotFoundError" in notes[0]


def test_a_thread_puts_back_only_what_is_its_own(tmp_path, monkeypatch):
    """Another rank's trial may be using the rest."""
    monkeypatch.chdir(tmp_path)
    seen, notes = {}, []

    def rank():
        with isolated(notes):
            torch.set_grad_enabled(False)
            torch.set_default_device("meta")
            np.seterr(all="raise")
            os.environ["LEFT"] = "1"
            os.chdir("/")
        seen.update(grad=torch.is_grad_enabled(), device=torch.get_default_device(), errors=np.geterr()["divide"])

    monkeypatch.setenv("LEFT", "0")
    thread = threading.Thread(target=rank)
    thread.start()
    thread.join()
    assert seen == {"grad": True, "device": torch.device("cpu"), "errors": "warn"}
    assert (os.environ["LEFT"], os.getcwd()) == ("1", "/")
    assert len(notes) == 3


def test_it_takes_little_of_a_trials_time():
    def seconds():
        started = time.process_time()
        for _ in range(10):
            with isolated([]):
                pass
        return (time.process_time() - started) / 10

    seconds()  # reads torch's classes
    assert min(seconds() for _ in range(5)) < 0.004  # 0.001 on an idle machine
