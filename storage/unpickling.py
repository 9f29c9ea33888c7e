"""Reads untrusted pickles: a pickle can call anything that it names, so only arrays and given classes are allowed."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from typing import IO, Any, ClassVar

Names = Collection[tuple[str, str]]


class ArrayUnpickler(pickle.Unpickler):
    """Reads plain values, arrays, and given classes; anything else raises UnpicklingError.

    Args:
        file: the file to read.
        rule: the permitted content, for the error message.
        classes: modules and names of further permitted classes.
        options: options of pickle.Unpickler.
    """

    ARRAYS: ClassVar[Names] = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("_codecs", "encode"),
        }
    )

    def __init__(self, file: IO[bytes], rule: str, classes: Names = (), **options: Any) -> None:
        super().__init__(file, **options)
        self._rule = rule
        self._classes = classes

    def find_class(self, module: str, name: str) -> Any:
        """The class or function that the pickle names."""
        if (module, name) not in self.ARRAYS and (module, name) not in self._classes:
            raise pickle.UnpicklingError(f"{self._rule}; got {module}.{name}")
        return super().find_class(module, name)
