"""Examines MPI on every rank, for `atoll doctor`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(result_file: str, world: Any) -> None:
    """Examine MPI as one rank of `world`; rank 0 writes the results."""
    import socket

    import torch
    from mpi4py import MPI

    from atoll.communication.communicator import SUMMABLE
    from atoll.communication.ledger import Ledger
    from atoll.communication.mpi import MpiCommunicator, MpiFamily

    family = MpiFamily()
    communicator = MpiCommunicator(
        world.Dup(), [0] * world.size, ledger=Ledger(), poll=lambda: None, spin=False, family=family
    )
    expected = world.size * (world.size + 1) // 2
    wrong = []
    for dtype in SUMMABLE:
        tensor = torch.full((1000,), world.rank + 1, dtype=dtype)
        communicator.sum(tensor)
        if not bool((tensor == expected).all()):
            wrong.append(str(dtype))
    request = communicator.start_sum(torch.ones(1 << 20))
    progress = _within(5.0, request.test)
    world.Barrier()
    mine = (socket.gethostname(), time.time(), torch.cuda.device_count())
    everyone = world.gather(mine)
    if world.rank == 0:
        facts = {
            "size": world.size,
            "library": MPI.Get_library_version().split("\n")[0].strip("\0 "),
            "thread_level": MPI.Query_thread(),
            "is_serialized": MPI.Query_thread() >= MPI.THREAD_SERIALIZED,
            "wrong_sums": wrong,
            "progress": progress,
            "clocks": [clock for _, clock, _ in everyone],
            "gpus": {host: count for host, _, count in everyone},
        }
        Path(result_file).write_text(json.dumps(facts))
    if not progress:
        request.wait()
    family.close()


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True
