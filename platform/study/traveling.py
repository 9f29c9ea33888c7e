"""Functions on their way to the ranks: named by a file that ranks can import, or sent by the process that has them.

A function of a script or a notebook travels by value (cloudpickle), through a pipe to rank 0 and from there by MPI. It
never lies on a disk, from which nothing is unpickled.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.platform.study import registry
from atoll.storage.names import NOTEBOOK

Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Traveler:
    """A function with its name.

    Attributes:
        name: by which studies refer to it.
        called: the function.
        is_importable: whether ranks can import it from the file in its name.
    """

    name: str
    called: Function
    is_importable: bool

    def packed(self) -> bytes:
        """The function and where its imports are found, for `unpack`."""
        import cloudpickle

        header = json.dumps({"name": self.name, "path": [str(Path(entry).resolve()) for entry in sys.path]}).encode()
        try:
            content = bytes(cloudpickle.dumps(self.called))
        except Exception as error:
            raise TypeError(
                f"the objective {self.name} cannot travel to the ranks: {error}; make that object inside the function, "
                "or put the function into a module that ranks can import"
            ) from error
        return len(header).to_bytes(8, "big") + header + content


def traveler(called: Function) -> Traveler:
    """The function with a name: file.py:function, or notebook:function if it is in no file.

    Raises:
        TypeError: if it is not a function of one argument.
    """
    plain = inspect.unwrap(called)
    while isinstance(plain, functools.partial):
        plain = plain.func
    try:
        inspect.signature(called).bind(None)
    except (TypeError, ValueError) as error:
        rule = "the objective must be a function of one argument, the trial"
        raise TypeError(f"{rule}; got {called!r}: {error}") from None
    label = getattr(plain, "__qualname__", type(plain).__qualname__)
    try:
        file = Path(inspect.getsourcefile(plain) or "").resolve()
    except TypeError:  # such as an object with __call__
        file = Path()
    if not file.is_file():
        return Traveler(f"{NOTEBOOK}{label}", called, False)
    return Traveler(f"{file}:{label}", called, _is_importable(called, file, label))


def _is_importable(called: Function, file: Path, label: str) -> bool:
    """Whether importing the file by itself gives this function."""
    module = getattr(called, "__module__", "__main__") or "__main__"
    found = getattr(sys.modules.get(module), label, None)
    return file.suffix == ".py" and module == file.stem and found is called


def unpack(content: bytes) -> None:
    """Make a function that has traveled known to this process."""
    import cloudpickle

    size = int.from_bytes(content[:8], "big")
    header = json.loads(content[8 : 8 + size])
    sys.path.extend(entry for entry in header["path"] if entry not in sys.path)
    registry.give(header["name"], cloudpickle.loads(content[8 + size :]))
