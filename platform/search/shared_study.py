"""What the launchers that search one study share, in the view of one root."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from atoll.platform.search.launch_settings import LaunchSettings
from atoll.platform.search.other_launchers import Reader
from atoll.platform.search.shared_tickets import SharedTickets
from atoll.platform.search.tickets import Ticket
from atoll.storage.folder import StudyFolder
from atoll.storage.launches import JournalTail


@dataclass
class SharedStudy:
    """One root's access.

    Args:
        folder: the study's files.
        settings: those of its launch.
        sizes: the journals' sizes up to which all roots of the launch read them at the start.
        is_first: whether this is root 0, which owns the launch's tickets and reads the others' journals.
        makes_way: whether the ranks end when the study changes, to start again.
    """

    folder: StudyFolder
    settings: LaunchSettings
    sizes: Mapping[str, int]
    is_first: bool
    makes_way: bool = True

    def __post_init__(self) -> None:
        self._log = self.settings.log(self.folder)

    @property
    def joins(self) -> bool:
        """Whether others searched the study when the launch began."""
        return not self.settings.is_alone

    def asks_to_stop(self) -> bool:
        """Whether the search, or the launcher, was asked to stop."""
        return self.settings.asks_to_stop(self.folder)

    def has_changed(self) -> bool:
        """Whether a change of the study waits, with which the ranks are to start again."""
        return self.makes_way and self.folder.change(self.settings.change + 1).exists()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the launcher's job ends."""
        return None if self.settings.ends is None else self.settings.ends - time.time()

    def tickets(self, fill: Callable[[Ticket], Ticket]) -> SharedTickets:
        """The tickets of the study.

        Args:
            fill: completes a new one.
        """
        return SharedTickets(self._log, self.settings.member.launch, fill, lambda: not self.has_changed())

    def reader(self) -> Reader | None:
        """Reads the journals of the others; None on other roots than the first."""
        if not self.is_first:
            return None
        tail = JournalTail(self.folder.journals, self.sizes, without=self.settings.member.launch)
        return Reader(tail, self._log)
