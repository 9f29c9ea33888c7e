"""What one of pytest's workers has found is there for the others."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def kept(folders: pytest.TempPathFactory, name: str) -> Iterator[dict]:
    """A JSON object of this session; while one worker is in the body, which may add to it, the others wait.

    Args:
        folders: the fixture `tmp_path_factory`.
        name: the object's name.
    """
    own = folders.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with (common / f"kept-{name}.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        before = file.read()
        found = json.loads(before or "{}")
        yield found
        if (after := json.dumps(found)) != before:
            file.truncate(0)
            file.write(after)
