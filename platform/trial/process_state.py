"""What user code may change in its process and leave behind: how each is read, and put back."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's functions look up names, and take fifty times as long
import contextlib
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as module_state

_MISSING = object()


@dataclass(frozen=True)
class Item:
    """One thing that a trial may change.

    Attributes:
        name: as a note tells it.
        read: the present state.
        write: puts a state back.
        of_thread: whether each thread has its own.
        is_told: whether a change is worth a note; every trial draws random numbers.
        shows: whether a note tells the two states.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    of_thread: bool = False
    is_told: bool = True
    shows: bool = False


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(flags: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


_BACKENDS = (
    (torch.backends.cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32")),
    (torch.backends.cuda.matmul, ("allow_tf32",)),
)


def _backend_flags() -> list[bool]:
    return [getattr(backend, flag) for backend, flags in _BACKENDS for flag in flags]


def _set_backend_flags(values: list[bool]) -> None:
    wanted = iter(values)
    for backend, flags in _BACKENDS:
        for flag in flags:
            if getattr(backend, flag) != (value := next(wanted)):
                setattr(backend, flag, value)


def _autocast() -> tuple[bool, bool]:
    return torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def _set_autocast(flags: tuple[bool, bool]) -> None:
    torch.set_autocast_enabled("cpu", flags[0])
    torch.set_autocast_enabled("cuda", flags[1])


def _set_default_device(device: torch.device) -> None:
    # With a default device of its own, every operation of torch is slower.
    torch.set_default_device(None)
    if torch.get_default_device() != device:
        torch.set_default_device(device)


def _flushes_denormals() -> bool:
    smallest = sys.float_info.min
    return smallest / 2 == 0.0


def _print_options() -> dict[str, Any]:
    return dict(vars(torch._tensor_str.PRINT_OPTS))


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "a folder that is gone"


def _environment() -> dict[bytes, bytes]:
    return dict(os.environ._data)  # type: ignore[attr-defined]  # which takes a twentieth of the time


def _set_environment(variables: dict[bytes, bytes]) -> None:
    for name in os.environb.keys() - variables.keys():
        del os.environb[name]
    for name, value in variables.items():
        if os.environb.get(name) != value:
            os.environb[name] = value


# torch's DataLoader handles SIGCHLD once for all, to notice workers that die; without it they are waited for.
_LEFT_ALONE = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
_SIGNALS = tuple(int(number) for number in signal.valid_signals() - _LEFT_ALONE)


def _handlers() -> list[Any]:
    return [_signal.getsignal(number) for number in _SIGNALS]


def _set_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None and _signal.getsignal(number) != handler:
            signal.signal(number, handler)


_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


def _timers() -> list[bool]:
    """Which timers will send a signal."""
    return [signal.getitimer(timer)[0] > 0 for timer in _TIMERS]


def _stop_timers(running: list[bool]) -> None:
    for timer, was_running in zip(_TIMERS, running, strict=True):
        if not was_running:
            signal.setitimer(timer, 0)


def _warnings_filters() -> list[Any]:
    """Those for Python's own categories: packages add others for theirs when they are imported, which harms nobody."""
    return [entry for entry in warnings.filters if entry[2].__module__ == "builtins"]


def _set_warnings_filters(filters: list[Any]) -> None:
    of_packages = [entry for entry in warnings.filters if entry[2].__module__ != "builtins"]
    warnings.filters[:] = [*of_packages, *filters]  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _streams() -> tuple[Any, ...]:
    """The three objects, each with whether it is closed."""
    return tuple((stream, getattr(stream, "closed", False)) for stream in (sys.stdin, sys.stdout, sys.stderr))


def _set_streams(streams: tuple[Any, ...]) -> None:
    for number, (name, (stream, was_closed)) in enumerate(zip(("stdin", "stdout", "stderr"), streams, strict=True)):
        if getattr(stream, "closed", False) and not was_closed:
            # Closing sys.stdout leaves its file descriptor open.
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
        else:
            setattr(sys, name, stream)


def _files_of_streams() -> list[tuple[int, int] | None]:
    return [_file_of(number) for number in range(3)]


def _file_of(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@cache
def torchs_attributes() -> list[tuple[Any, dict[str, Any]]]:
    """torch's classes of modules and optimizers, and `nn.init` and `nn.functional`, with their attributes.

    They are read once: torch itself does not change them, and what a trial has changed is put back.
    """
    kinds = [*vars(nn).values(), *vars(torch.optim).values()]
    classes = {kind for kind in kinds if isinstance(kind, type) and kind.__module__.startswith("torch.")}
    owners: list[Any] = [nn.init, nn.functional, *sorted(classes, key=lambda kind: kind.__qualname__)]
    return [(owner, dict(vars(owner))) for owner in owners]


def changed_attributes() -> list[str]:
    """torch's own functions, and attributes of its classes, that are not as they were; puts them back."""
    changed = []
    for owner, before in torchs_attributes():
        now = vars(owner)
        if now == before:
            continue
        for name in [name for name, value in before.items() if now.get(name, _MISSING) is not value]:
            changed.append(f"{owner.__name__}.{name}")
            setattr(owner, name, before[name])
        if not isinstance(owner, ModuleType):  # a submodule that is imported later becomes an attribute
            for name in [name for name in now if name not in before]:
                changed.append(f"{owner.__name__}.{name}")
                delattr(owner, name)
    return changed


_HOOKS = tuple(name for name in vars(module_state) if name.startswith("_global_") and name.endswith("hooks"))


def _hooks() -> list[Any]:
    """torch's hooks of all modules."""
    return [(name, dict(getattr(module_state, name))) for name in _HOOKS]


def _set_hooks(hooks: list[Any]) -> None:
    for name, before in hooks:
        present = getattr(module_state, name)
        present.clear()
        present.update(before)


def _set_random_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])


ITEMS = (
    Item("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype, shows=True),
    Item("torch's default device", torch.get_default_device, _set_default_device, of_thread=True, shows=True),
    Item("torch's number of threads", torch.get_num_threads, torch.set_num_threads, of_thread=True, shows=True),
    Item("torch's deterministic algorithms", _deterministic, _set_deterministic, shows=True),
    Item("torch's detection of anomalies", _anomaly, lambda flags: torch.autograd.set_detect_anomaly(*flags)),
    Item("torch's precision of float32 products", torch.get_float32_matmul_precision,
         torch.set_float32_matmul_precision, shows=True),
    Item("torch's flags of cuDNN and CUDA", _backend_flags, _set_backend_flags),
    Item("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled, of_thread=True, shows=True),
    Item("torch's autocast", _autocast, _set_autocast, of_thread=True),
    Item("the flushing of denormal numbers", _flushes_denormals, torch.set_flush_denormal, of_thread=True, shows=True),
    Item("torch's print options", _print_options, lambda options: vars(torch._tensor_str.PRINT_OPTS).update(options)),
    Item("torch's hooks of all modules", _hooks, _set_hooks),
    Item("numpy's print options", np.get_printoptions, lambda options: np.set_printoptions(**options), of_thread=True),
    Item("numpy's handling of errors", np.geterr, lambda options: np.seterr(**options), of_thread=True),
    Item("random states", lambda: (random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()),
         _set_random_state, is_told=False),
    Item("the working directory", _folder, os.chdir, shows=True),
    Item("the environment", _environment, _set_environment),
    Item("the handlers of signals", _handlers, _set_handlers),
    Item("the timers", _timers, _stop_timers),
    Item("the filters of warnings", _warnings_filters, _set_warnings_filters),
    Item("the umask", lambda: f"{_umask():04o}", lambda mask: os.umask(int(mask, 8)), shows=True),
    Item("the standard streams", _streams, _set_streams),
    Item("Python's recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, shows=True),
)  # fmt: skip


class StandardFiles:
    """The files behind the three standard streams, which user code may close or redirect."""

    def __init__(self) -> None:
        self._files = _files_of_streams()
        self._kept = [None if file is None else os.dup(number) for number, file in enumerate(self._files)]

    def restore(self) -> list[str]:
        """Put them back; returns those that have changed."""
        changed = []
        for number, (file, kept) in enumerate(zip(self._files, self._kept, strict=True)):
            if kept is not None:
                if _file_of(number) != file:
                    os.dup2(kept, number)
                    changed.append(f"file descriptor {number}")
                with contextlib.suppress(OSError):
                    os.close(kept)
        return changed
