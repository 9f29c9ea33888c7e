"""This launcher's part in a study: it opens it, or joins others that search it, and leaves it.

Any number of launchers search a study at once, each with ranks of its own, and none is a server. Who has the study's
lock *leads*: records the journals in the store, and closes launches whose launcher has died. When the leader leaves,
another one takes the lock. The last one to leave writes the study's end.

    launcher A                     the study's folder                    launcher B
       |  takes the lock, opens         |                                    |
       |------------------------------->| journals, tickets                  |
       |  ranks claim tickets           |         joins: a launch, a place   |
       |<------------------------------>|<-----------------------------------|
       |  leaves (a time limit)         |         ranks claim tickets        |
       |  closes its launch, unlocks -->|<---------------------------------->|
                                        |  takes the lock, leads             |
                                        |<-----------------------------------|
"""

from __future__ import annotations

import errno
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from atoll.platform.launch import changing, closing, lifecycle, orphans, provenance_log, same_study, time_limit
from atoll.platform.launch.errors import LaunchError
from atoll.platform.search import pausing, shared_tickets
from atoll.platform.search.extension import Extension
from atoll.platform.search.launch_settings import LaunchSettings
from atoll.platform.search.resume import PastTrial
from atoll.platform.search.shared_tickets import Member, TicketLog
from atoll.platform.search.stop_rules import StopRules
from atoll.platform.study.plan import Plan
from atoll.storage import launches, liveness
from atoll.storage.events import LauncherJoined, LauncherLeft, RankPlaced, TrialKey
from atoll.storage.files import make_folder
from atoll.storage.folder import StudyFolder
from atoll.storage.journal import JournalWriter
from atoll.storage.lock import Lock, Locked, running_as
from atoll.storage.process import Process
from atoll.storage.shared_log import SharedLogError

log = logging.getLogger("atoll.launch")

_GONE = (errno.ENOENT, errno.ESTALE)

START_TIMEOUT = 900.0  # seconds that a launcher may take to open a study: it may have to hash much data
LEAVING = 5.0  # seconds to write the end
LAST_WAIT = 120.0  # seconds for the former leader to finish recording, and its `on_trial`
MAX_DEATHS = 5  # of launchers during one trial, before it is suspected


class Membership:
    """The part of one launcher, from `enter` to `leave`.

    Attributes:
        plan, folder: the study and its files.
        launch, settings: the present launch, and what its ranks are told.
        leads: whether this launcher leads.
    """

    settings: LaunchSettings

    LEAD_INTERVAL = 1.0
    DEATHS_INTERVAL = 2.0

    def __init__(self, plan: Plan, folder: StudyFolder, lock: Lock, *, leads: bool) -> None:
        self.plan = plan
        self.folder = folder
        self.leads = leads
        self.launch = 0
        self._lock = lock
        self._launcher = 0
        self._change = 0
        self._own_lock: Lock | None = None
        self._opened_by = 0
        self._log = TicketLog(folder.ticket_log(0))
        self._looked = self._searched = time.monotonic()
        self._job_ends = time_limit.end_of_job(plan.study.walltime)
        self._is_told = False

    @classmethod
    def enter(
        cls,
        plan: Plan,
        url: str,
        *,
        resuming: bool | None,
        accept_changes: bool = False,
        belongs_to: Mapping[str, Any] | None = None,
    ) -> Membership:
        """Open a study, or, if `resuming` is None, join it if others search it.

        Raises:
            LaunchError, Locked: if it cannot be.
        """
        folder = lifecycle.study_folder(plan.study)
        make_folder(folder.path)
        lock, deadline = Lock(folder.lock), time.monotonic() + START_TIMEOUT
        while True:
            leads, member = _acquired(lock, required=resuming is not None), None
            try:
                member = cls(plan, folder, lock, leads=leads)
                if not (others := liveness.launchers(folder)):
                    if leads:
                        member._open(url, resuming, accept_changes, belongs_to)
                        return member
                elif resuming is not None:
                    raise Locked(running_as(next(iter(others.values()))))
                elif member._join():
                    return member
            except BaseException:
                if member is not None:
                    member._end()
                if leads:
                    lock.release()
                raise
            if leads:
                lock.release()
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"{folder.path} is being started by another launcher, which has not finished within "
                    f"{START_TIMEOUT:g} s; see its output"
                )
            time.sleep(0.2)

    # Entering.

    def _open(
        self, url: str, resuming: bool | None, accept_changes: bool, belongs_to: Mapping[str, Any] | None
    ) -> None:
        """Start or continue the study; nobody else searches it."""
        prepared = lifecycle.prepare(
            self.plan, url, resuming=resuming, accept_changes=accept_changes, belongs_to=belongs_to
        )
        self._begin(prepared.launch)
        self._change = prepared.change
        self._opened_by = prepared.launch
        for former in self.folder.tickets.glob("*.log*"):
            former.unlink(missing_ok=True)  # what still uses it belongs to launches that are closed
        for left in self.folder.launchers.iterdir():  # by launchers that have died
            if left.stem != f"{self._launcher:05d}":
                left.unlink(missing_ok=True)
        self._log = TicketLog(self.folder.ticket_log(self._opened_by))
        self._log.create()
        past, study = prepared.history.past, self.plan.study
        reached = (
            pausing.restored(self.plan, self.folder, prepared.history.events, past)[1] if study.pauses_trials else {}
        )
        num_islands = study.topology.islands
        longer = Extension.of(study, self.plan.length, self.folder, past).tickets(self.plan, num_islands, reached)
        begun = past.begun(num_islands, reached=reached, longer=longer)
        with self._log.turn():
            self._log.append(shared_tickets.opened(study.trials, begun, past.started()))
            self._place(study.topology.shape().island_sizes)

    def _join(self) -> bool:
        """Join the launchers that search the study; false if there are none, after all, or not yet."""
        if not self.folder.exists():
            return False
        study = self.plan.study
        if (path := self.folder.newest_ticket_log()) is None:
            return False
        self._log, self._opened_by = TicketLog(path), int(path.stem)
        if not self._is_searched():
            return False
        same_study.check_joins(self.folder, self.plan)
        found = changing.InForce.read(self.folder)
        if found.waiting:  # the others are about to take it up
            return False
        self._change = found.number
        provenance_log.current(self.plan, self.folder, resuming=True, accept_changes=False)
        with launches.next_launch(self.folder.journals, closes=()) as lines:
            self._begin(lines.launch)
            joins = False
            try:
                with self._log.turn():
                    if joins := self._is_searched():
                        self._place(self._spread(study.topology.shape().island_sizes))
            except SharedLogError as error:
                if error.errno not in _GONE:
                    raise
            finally:
                if not joins:
                    self._end()
            if not joins:
                return False
            lines.append(self._joined(), sync=True)
        return True

    def _is_searched(self) -> bool:
        """Whether a launcher that lives takes part; not if the log was removed, as somebody opens the study anew."""
        try:
            self._log.read()
        except SharedLogError as error:
            if error.errno not in _GONE:
                raise
            return False
        return any(map(self._lives, self._log.book.members.values()))

    def _spread(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The workers of each island of the study: those of fewer islands go where there are fewest."""
        present = self._log.book.island_sizes()
        if len(sizes) == len(present):
            return sizes
        order = sorted(range(len(present)), key=lambda island: (present[island], island))
        spread = [0] * len(present)
        for island, size in zip(order, sizes, strict=False):
            spread[island] = size
        return tuple(spread)

    def _begin(self, launch: int) -> None:
        self.launch = self._launcher = launch
        self._own_lock = Lock(self.folder.launcher_lock(launch))
        self._own_lock.acquire()

    def _place(self, island_sizes: tuple[int, ...]) -> None:
        """Give the launch its place among the others', and tell its ranks. To be called in a turn."""
        topology = self.plan.study.topology
        num_ranks = sum(island_sizes) * topology.ranks
        while True:
            member = self._log.book.place(self.launch, self._launcher, island_sizes, num_ranks)
            is_alone = not self._log.book.members
            if self._log.append(shared_tickets.joined(member)):
                break
        content = topology.model_dump(mode="json")
        searched = json.loads(self.folder.definition.read_text())  # by another launcher's change, maybe
        self.settings = LaunchSettings(
            member,
            content,
            self._opened_by,
            is_alone,
            self._job_ends,
            searched.get("changes", 0),
            searched["definition"],
        )
        self.settings.write(self.folder)

    def _joined(self) -> LauncherJoined:
        process, member = Process.current(), self.member
        return LauncherJoined(
            launcher=self._launcher,
            hostname=process.hostname,
            process=process.pid,
            num_ranks=member.num_ranks,
            num_workers=member.num_workers,
        )

    # While the ranks search.

    @property
    def member(self) -> Member:
        """The place of this launch's ranks and workers among those of all launchers."""
        return self.settings.member

    @property
    def stop_request(self) -> Path:
        """The file that asks this launcher alone to stop."""
        return self.folder.launcher_stop_request(self._launcher)

    def asks_to_stop(self) -> bool:
        """Whether the search, or this launcher, was asked to stop."""
        return self.settings.asks_to_stop(self.folder)

    def others(self) -> list[Member]:
        """The other launchers that live."""
        self._log.read()
        others = (m for m in self._log.book.members.values() if m.launcher != self._launcher)
        return [member for member in others if self._lives(member)]

    def waiting(self) -> frozenset[TrialKey]:
        """The interrupted trials that wait for ranks, as a launcher has died or left; none if no trial may start."""
        self.close_the_dead()
        self._log.read()
        if not self._log.book.queued or self.launch not in self._log.book.members or self.folder.failure.exists():
            return frozenset()
        return frozenset((t.number, t.attempt) for t in self._log.book.queued) if self._may_go_on() else frozenset()

    def has_tickets(self) -> bool:
        """Whether trials are left to start, and the budgets of seconds are not used up."""
        self._log.read()
        return bool(self._log.book.available(1)) and self._may_go_on()

    def _may_go_on(self) -> bool:
        study, history = self.plan.study, lifecycle.History.read(self.folder)
        if lifecycle.met_rule(StopRules.of(self.plan), study, history) is not None:
            return False
        return not history.past.used_up(None, study.seconds, study.busy_seconds)

    def look(self) -> None:
        """Show that this launcher lives, lead if nobody does, and then close the dead. Cheap: to be called often."""
        assert self._own_lock is not None
        self._own_lock.refresh()
        self._stop_in_time()
        now = time.monotonic()
        if self.leads:
            self._lock.refresh()
        elif now - self._looked >= self.LEAD_INTERVAL:
            self._looked = now
            with suppress(OSError):  # as on a full disk
                self.leads = _acquired(self._lock)
        if self.leads and now - self._searched >= self.DEATHS_INTERVAL:
            self._searched = now
            try:
                self.close_the_dead()
            except OSError as error:  # as on a full disk, or a file system that is away: later
                log.warning("launchers that have died cannot be closed: %s", error)

    def is_late(self, seconds: float | None) -> bool:
        """Whether ranks that were asked to stop so many seconds ago must end now: by stop_grace, or the job's limit."""
        if seconds is None:
            return False
        is_over = self._job_ends is not None and time.time() > self._job_ends - LEAVING
        return is_over or seconds > self.plan.study.stop_grace

    def _stop_in_time(self) -> None:
        """Ask the launcher's ranks to stop when stop_grace is left of the job's time."""
        if self._job_ends is None or self._is_told:
            return
        if (left := self._job_ends - time.time()) <= self.plan.study.stop_grace + LEAVING:
            self._is_told = True
            log.warning("the job's time limit is in %.0f s: running trials stop; --continue goes on", left)
            with suppress(OSError):  # as on a full disk
                self.stop_request.touch()

    def _lives(self, member: Member) -> bool:
        return Lock(self.folder.launcher_lock(member.launcher)).holder() is not None

    def close_the_dead(self) -> None:
        """Queue the trials of launchers that have died again, once their ranks have ended."""
        self._log.read()
        others = [m for m in self._log.book.members.values() if m.launcher != self._launcher]
        for member in others:
            if self._lives(member) or not self._has_ended(member):
                continue
            reason = f"its launcher {member.launcher} died"
            with self._log.turn():
                self._log.read()
                if member.launch in self._log.book.members:
                    with launches.next_launch(self.folder.journals, closes={member.launch}) as lines:
                        lines.append(LauncherLeft(launcher=member.launcher, reason="found dead by another launcher"))
                        # The death of a whole launcher, such as at a time limit, is rarely a trial's fault.
                        self._close(member.launch, lines, reason, lambda trial: trial.attempt >= MAX_DEATHS)
                    log.warning("launcher %d of the study died: its trials are queued again", member.launcher)
            self.folder.launcher_lock(member.launcher).unlink(missing_ok=True)

    def _has_ended(self, member: Member) -> bool:
        """Whether the ranks of a dead launcher have ended; those of this host are killed."""
        events = launches.events_of(self.folder.journals, {member.launch})
        placed = [event for event in events if isinstance(event, RankPlaced)]
        try:
            orphans.end_ranks(self.folder, placed)
        except LaunchError:  # on another host, which misses its launcher within a minute
            return False
        return True

    def _close(self, launch: int, lines: JournalWriter, reason: str, is_suspected: Callable[[PastTrial], bool]) -> None:
        closing.close(self.plan, self.folder, self._log, launch, lines, reason, is_suspected)

    @contextmanager
    def next_launch(self, reason: str, suspected: Collection[int] | None) -> Iterator[JournalWriter]:
        """End this launch, as its ranks have died or finished, and begin the next one, with the changes that wait."""
        sizes = self.member.island_sizes
        with self._log.turn():
            self._log.read()
            with launches.next_launch(self.folder.journals, closes={self.launch}) as lines:
                if self.has_changed():
                    sizes = self._take_up(lines)
                self._close(self.launch, lines, reason, lifecycle.suspects(suspected))
                self.launch = lines.launch
                self._place(sizes)
                yield lines

    def has_changed(self) -> bool:
        """Whether a change of the study waits, with which the ranks are to start again."""
        return changing.newest(self.folder) > self._change

    def _take_up(self, lines: JournalWriter) -> tuple[int, ...]:
        """Go on with the changed study; the first launcher that does so writes it. In a turn.

        Returns:
            The workers of this launch on each island.
        """
        found, own = changing.InForce.read(self.folder), self.plan.study
        kept = {name: getattr(own, name) for name in changing.NOT_STORED}
        study = found.study()
        joined = self._launcher != self._opened_by
        topology = own.topology if joined else study.topology
        self.plan = Plan.of(study.model_copy(update=kept | {"topology": topology}))
        self._change = found.number
        if found.waiting:
            history = lifecycle.History.read(self.folder)
            version = provenance_log.latest(self.folder)
            if version is not None and found.breeds(history.past):
                version = provenance_log.respaced(version, self.plan.space)
                provenance_log.write(self.folder, version, lines)
            number = None if version is None else version.number
            for event in changing.take_up(found, self.plan, history.past, number):
                lines.append(event, sync=True)
            changing.write_definition(self.folder, found)
            while not self._log.append(shared_tickets.budget(study.trials)):
                pass
        return self.member.island_sizes if joined else topology.shape().island_sizes

    # Leaving.

    def leave(self, reason: str, suspected: Collection[int] | None) -> bool:
        """Close this launch; returns whether nobody else searches the study, so that its end is to be written.

        Args:
            reason: why its running trials are lost, if there are any.
            suspected: the workers that died first; None if unknown.
        """
        self.close_the_dead()
        with self._log.turn():
            if self.others():
                with launches.next_launch(self.folder.journals, closes={self.launch}) as lines:
                    lines.append(LauncherLeft(launcher=self._launcher, reason=reason))
                    self._close(self.launch, lines, reason, lifecycle.suspects(suspected))
                return False
            # A launcher that comes now does not join a study that ends.
            self._log.close([self.launch])
        return self.leads or self._leads_at_last()

    def _leads_at_last(self) -> bool:
        """Wait for the lock of a leader that has left and still records; false if somebody opens the study anew."""
        deadline = time.monotonic() + LAST_WAIT
        while not self.leads and time.monotonic() < deadline:
            if self.folder.newest_ticket_log() != self._log.path:
                return False
            self.leads = _acquired(self._lock)
            time.sleep(0.0 if self.leads else 0.2)
        return self.leads

    def release(self) -> None:
        """Give the locks back."""
        self._end()
        if self.leads:
            self._lock.release()

    def _end(self) -> None:
        if self._own_lock is None:
            return
        self._own_lock.release()
        self._own_lock = None
        for file in (self.folder.launcher_lock(self._launcher), self.stop_request):
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _acquired(lock: Lock, *, required: bool = False) -> bool:
    try:
        lock.acquire()
    except Locked:
        if required:
            raise
        return False
    return True
