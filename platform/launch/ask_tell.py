"""Searches whose loop belongs to the caller: it asks for trials, evaluates them as it likes, and tells the results.

The search itself is the usual one, in threads of this process, one for each trial that may be under way: samplers,
pruning, journal and store are the same. Only the worker differs: it hands its trial over, and waits to be told.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from atoll.communication.thread_world import ThreadWorld, WorldFailed, run_in_threads
from atoll.platform.launch import room
from atoll.platform.launch.lifecycle import Ending
from atoll.platform.launch.supervise import Run, run_study
from atoll.platform.ranks.search import arrange_launch
from atoll.platform.search.launch_settings import LaunchSettings
from atoll.platform.search.restore import earlier
from atoll.platform.search.search_loop import SearchLoop
from atoll.platform.search.shared_study import SharedStudy
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.plan import Plan
from atoll.platform.study.topology import Place
from atoll.platform.trial.failure import Stopped
from atoll.platform.trial.outcome import Outcome
from atoll.platform.trial.progress import Progress
from atoll.platform.trial.training import Hooks
from atoll.storage import launches
from atoll.storage.events import TrialKey

log = logging.getLogger("atoll.launch")

INTERVAL = 0.002  # seconds between two looks of a waiting thread


@dataclass
class Handed:
    """A trial in the caller's hands.

    Attributes:
        configuration, number, attempt, folder: the trial's.
        reports: reports that the search has not taken in yet, each with a place for its verdict.
        told: the outcome, once the caller has told it.
        reason: why the trial has ended before it was told, if it has.
    """

    configuration: Configuration
    number: int
    attempt: int
    folder: Path | None
    reports: queue.SimpleQueue[tuple[Progress, queue.SimpleQueue[bool]]] = field(default_factory=queue.SimpleQueue)
    told: Outcome | None = None
    reason: Exception | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take_in(self, hooks: Hooks) -> None:
        """Take in the reports."""
        while not self.reports.empty():
            progress, verdict = self.reports.get()
            hooks.on_progress(progress)
            verdict.put(hooks.prunes is not None and hooks.prunes(progress))

    def tell(self, outcome: Outcome) -> bool:
        """Tell the outcome; false if the trial has ended before."""
        with self.lock:
            if self.reason is None:
                self.told = outcome
            return self.reason is None

    def end(self, reason: Exception) -> bool:
        """End the trial; false if it was told before."""
        with self.lock:
            if self.told is None:
                self.reason = reason
            return self.told is None


class _Hands:
    """In a worker's place: hands trials over."""

    def __init__(self, places: list[Place], handed: queue.Queue[Handed], check: Callable[[], None]) -> None:
        self.places = places
        self._handed = handed
        self._check = check

    def evaluate(
        self,
        configuration: Configuration,
        hooks: Hooks,
        *,
        test: bool = False,
        folder: Path | None = None,
        trial: TrialKey | None = None,
    ) -> Outcome:
        """Hand a trial over, and return what the caller tells."""
        number, attempt = trial or (0, 0)
        handed = Handed(configuration, number, attempt, folder)
        self._handed.put(handed)
        while handed.told is None:
            self._check()
            hooks.serve()
            handed.take_in(hooks)
            if (reason := hooks.interrupt()) is not None and handed.end(reason):
                state: Literal["lost", "failed"] = "lost" if isinstance(reason, Stopped) else "failed"
                return Outcome(state, None, {}, 0.0, None, [], 0.0, reason=str(reason))
            time.sleep(INTERVAL)
        handed.take_in(hooks)
        return handed.told

    def dismiss(self, serve: Callable[[], None] = lambda: None) -> None:
        """Nobody else is here."""


class AskTell:
    """The search behind the calls; a thread runs it until `close`.

    Args:
        plan: the resolved and checked study.
        url: the store's.
        resuming, accept_changes: see `run_study`.
    """

    STARTING = 120.0  # seconds

    def __init__(self, plan: Plan, url: str, *, resuming: bool, accept_changes: bool) -> None:
        room.check(plan.study, url, log.warning)
        self._plan = plan
        self._handed: queue.Queue[Handed] = queue.Queue()
        self._wanted = threading.Semaphore(0)  # trials that were asked for
        self._is_complete = False
        self._run: Run | None = None
        self._error: BaseException | None = None
        self.ending: Ending | None = None
        options = {"resuming": resuming, "accept_changes": accept_changes}
        self._thread = threading.Thread(target=self._search, args=(url, options), name="search", daemon=True)
        self._thread.start()
        self._wait(lambda: self._run is not None)

    def ask(self) -> Handed:
        """The next trial.

        Raises:
            RuntimeError: if the search has ended.
        """
        self._wanted.release()
        while True:
            try:
                return self._handed.get(timeout=0.05)
            except queue.Empty:
                self.check()

    def close(self) -> Ending | None:
        """End the search: trials that were not told are lost."""
        if self._run is not None and self._thread.is_alive():
            self._is_complete = True
            self._run.member.stop_request.touch()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.ending

    def check(self) -> None:
        """Raise RuntimeError if the search has ended, or the error with which it has."""
        if self._error is not None:
            raise self._error
        if not self._thread.is_alive():
            ending = self.ending
            why = "" if ending is None else f": {ending.state}{f', {ending.reason}' if ending.reason else ''}"
            raise RuntimeError(f"the search of {self._plan.study.name} has ended{why}")

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + self.STARTING
        while not condition():
            self.check()
            if time.monotonic() > end:
                raise TimeoutError(f"the search did not start within {self.STARTING:g} s")
            time.sleep(INTERVAL)

    def _search(self, url: str, options: dict[str, bool]) -> None:
        try:
            self.ending = run_study(
                self._plan,
                url,
                follow=lambda _: None,
                run_ranks=self._ranks,
                is_complete=lambda: self._is_complete,
                resuming=options["resuming"],
                accept_changes=options["accept_changes"],
            )
        except BaseException as error:
            self._error = error

    def _ranks(self, run: Run) -> str | None:
        def watch() -> None:
            run.follow(run.folder)

        def rank(world: ThreadWorld) -> None:
            self._loop(run, world)

        self._run = run
        try:
            run_in_threads(run.study.topology.shape().world_size, rank, watch=watch)
        except WorldFailed:
            raise
        except Exception as error:
            return f"a rank failed: {type(error).__name__}: {error}"
        return None

    def _loop(self, run: Run, world: ThreadWorld) -> None:
        settings = LaunchSettings.read(run.folder, run.member.launch)
        places: Sequence[Place] = arrange_launch(settings, world)
        place = places[world.rank]
        island = world.split(place.island)
        assert island is not None
        hands = _Hands([place], self._handed, world.check)
        (sizes, *_) = world.allgather(launches.whole_sizes(run.folder.journals) if world.rank == 0 else {})
        mailboxes = world.mailbox(), island.mailbox()
        loop = SearchLoop.assemble(
            run.member.plan,
            run.folder,
            hands,
            *mailboxes,
            settings.shape.island_sizes,
            launch=run.member.launch,
            # Whoever asks may hold trials back that the ranks would wait for.
            shared=SharedStudy(run.folder, settings, sizes, is_first=world.rank == 0, makes_way=False),
            change=settings.change,
            may_start=self._is_wanted,
            **earlier(run.folder),
        )
        loop.run()

    def _is_wanted(self) -> bool:
        """Whether a trial was asked for, which this thread then starts."""
        return self._wanted.acquire(blocking=False)
