"""Ranks that outlived their launcher: found by the journals, and ended before anything else uses the study's files."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterable, Sequence

from atoll.platform.launch.errors import LaunchError
from atoll.platform.launch.mpiexec import is_rank_of, kill_ranks
from atoll.platform.ranks.launcher_watch import SILENCE
from atoll.storage.events import Event, RankPlaced, StudyEnded, StudyStarted
from atoll.storage.files import make_folder
from atoll.storage.folder import StudyFolder

PATIENCE = 10.0  # of the system, to end what was killed


def end(folder: StudyFolder, events: Iterable[Event]) -> int:
    """End the ranks of a study that nobody runs any more; returns their number. The caller holds the study's lock.

    Args:
        folder: the study's files.
        events: those of its journals.

    Raises:
        LaunchError: if ranks on other hosts still show that they are alive. They end by themselves.
    """
    return end_ranks(folder, _placed_since_the_last_start(events))


def end_ranks(folder: StudyFolder, placed: Sequence[RankPlaced]) -> int:
    """End these ranks, whose launchers are dead; returns their number. Raises LaunchError; see `end`."""
    killed = kill_ranks(folder, placed)
    deadline = time.monotonic() + PATIENCE
    while (left := [r.process for r in killed if is_rank_of(folder, r.process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        raise LaunchError(f"processes {', '.join(map(str, left))} still search {folder.path} and cannot be killed")
    _check_elsewhere(folder, [rank for rank in placed if rank.hostname != socket.gethostname()])
    return len(killed)


def _placed_since_the_last_start(events: Iterable[Event]) -> list[RankPlaced]:
    """The placements of the last start, or none if the study has ended since."""
    placed: list[RankPlaced] = []
    for event in events:
        if isinstance(event, StudyStarted | StudyEnded):
            placed.clear()
        elif isinstance(event, RankPlaced):
            placed.append(event)
    return placed


def _check_elsewhere(folder: StudyFolder, placed: list[RankPlaced]) -> None:
    """Raise LaunchError if a rank on another host has beaten within the time in which ranks miss their launcher."""
    if not placed:
        return
    make_folder(folder.heartbeats)
    clock = folder.heartbeats / f"now-{uuid.uuid4().hex}"  # the clock of the file system, as hosts' clocks differ
    clock.touch()
    now = clock.stat().st_mtime
    clock.unlink(missing_ok=True)
    for rank in placed:
        try:
            silence = now - folder.heartbeat(rank.world_rank).stat().st_mtime
        except FileNotFoundError:
            continue
        if silence < SILENCE:
            raise LaunchError(
                f"rank {rank.world_rank} (process {rank.process} on {rank.hostname}) still searches {folder.path}: it "
                f"was alive {silence:.0f} s ago; it ends within {2 * SILENCE:g} s of its launcher: try again then"
            )
