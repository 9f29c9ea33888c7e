"""What a launcher tells the ranks that it starts, by a file: their place among all ranks of the study."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atoll.platform.search.shared_tickets import Member, TicketLog
from atoll.platform.study.study import Topology
from atoll.platform.study.topology import Shape
from atoll.storage.files import write_whole
from atoll.storage.folder import StudyFolder


@dataclass(frozen=True)
class LaunchSettings:
    """One launch.

    Attributes:
        member: its ranks and workers.
        topology: of this launcher, as in a study file.
        opened_by: the launch that opened the log of tickets.
        is_alone: whether nobody else searched when it began.
        ends: when the launcher's job ends, in seconds since the epoch; None if that is unknown.
        change: the number of the study's last change that its ranks search with.
        definition: the study that they search. Default: that of the study's file.
    """

    member: Member
    topology: dict[str, Any]
    opened_by: int
    is_alone: bool = True
    ends: float | None = None
    change: int = 0
    definition: dict[str, Any] | None = None

    def write(self, folder: StudyFolder) -> None:
        """Write the file."""
        write_whole(folder.launch_settings(self.member.launch), json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, folder: StudyFolder, launch: int) -> LaunchSettings:
        """Read the file of a launch."""
        content = json.loads(Path(folder.launch_settings(launch)).read_text())
        return cls(
            Member.from_json(content["member"]),
            content["topology"],
            content["opened_by"],
            content["is_alone"],
            content["ends"],
            content.get("change", 0),
            content.get("definition"),
        )

    @property
    def shape(self) -> Shape:
        """The launch's workers on each island of the study, which may be none, and their ranks."""
        return Shape(self.member.island_sizes, self.member.num_ranks // self.member.num_workers)

    def arrangement(self) -> Topology:
        """The topology."""
        return Topology.model_validate(self.topology)

    def log(self, folder: StudyFolder) -> TicketLog:
        """The log of tickets."""
        return TicketLog(folder.ticket_log(self.opened_by))

    def asks_to_stop(self, folder: StudyFolder) -> bool:
        """Whether the search, or this launcher, was asked to stop."""
        launcher = folder.launcher_stop_request(self.member.launcher)
        return folder.stop_request.exists() or launcher.exists()
