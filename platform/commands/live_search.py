"""The progress of a running search: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from atoll.analysis.failures import first_line, kind_of, user_frame
from atoll.analysis.formatting import counted, duration, number, of_budget
from atoll.platform.search.stop_rules import Follower, StopRules
from atoll.storage.events import (
    CHANGED,
    Event,
    Migrated,
    ProgressReported,
    Restarted,
    StudyChanged,
    TrialEnded,
    TrialEvent,
    TrialKey,
    TrialLost,
    TrialStarted,
)
from atoll.storage.folder import StudyFolder
from atoll.storage.launches import JournalTail

if TYPE_CHECKING:
    from atoll.platform.study.plan import Plan


@dataclass
class Running:
    """A trial that trains.

    Attributes:
        length: its number of epochs, or of steps.
        report: its newest one.
    """

    number: int
    unit: str
    length: int | None
    report: ProgressReported | None = None

    @classmethod
    def of(cls, started: TrialStarted) -> Running:
        """A trial that has just started."""
        for unit in ("epochs", "steps"):
            if isinstance(length := started.configuration.get(unit), int):
                return cls(started.number, unit, length)
        return cls(started.number, "steps", None)

    def __str__(self) -> str:
        """Its number, how far it has come, its loss, and when it will end."""
        if (report := self.report) is None:
            return f"trial {self.number} has not reported yet"
        done = report.epoch if self.unit == "epochs" else report.step
        of = "" if self.length is None else f" of {self.length}"
        facts = [f"trial {self.number}: {self.unit.removesuffix('s')} {done}{of}"]
        losses = {"validation loss": report.validation_loss, "training loss": report.train_loss}
        facts += [f"{name} {number(value)}" for name, value in losses.items() if value is not None][:1]
        if self.length and 0 < done < self.length:
            facts.append(f"about {duration(report.seconds / done * (self.length - done))} left")
        return ", ".join(facts)


@dataclass
class Tally:
    """A search's state so far, from its journals.

    Attributes:
        ended: the state in which each trial ended last.
        running: the trials that train, by number and attempt.
    """

    direction: str
    ended: dict[int, str] = field(default_factory=dict)
    running: dict[TrialKey, Running] = field(default_factory=dict)
    incumbent: float | None = None
    num_migrations: int = 0

    def take(self, event: Event) -> bool:
        """Count an event; returns whether it ended a trial."""
        self.num_migrations += isinstance(event, Migrated)
        if isinstance(event, TrialEvent):
            self._follow(event)
        if not isinstance(event, TrialEnded):
            return False
        self.ended[event.number] = event.state
        if event.objective is not None:
            better = max if self.direction == "maximize" else min
            self.incumbent = event.objective if self.incumbent is None else better(self.incumbent, event.objective)
        return True

    def _follow(self, event: TrialEvent) -> None:
        match event:
            case TrialStarted():
                self.running[event.key] = Running.of(event)
            case ProgressReported() if event.key in self.running:
                self.running[event.key].report = event
            case TrialEnded() | TrialLost():
                self.running.pop(event.key, None)

    @property
    def num_ended(self) -> int:
        """Number of trials that count towards the budget."""
        return self.count("complete", "pruned", "failed")

    def count(self, *states: str) -> int:
        """Number of trials in these states."""
        return sum(state in states for state in self.ended.values())


class LiveSearch:
    """Shows a running search: a progress bar in a terminal; elsewhere, as in the output of a job, plain lines.

    A line tells the state after each tenth of the budget, and after a minute if there is anything new; if no trial has
    ended meanwhile, how far those that train have come. Failures are told as they happen, the first of each kind, and
    so are restarts.

    Args:
        console: where lines, or a bar, are shown.
        study_name, metric, direction, num_trials: the study's; the (first) objective's metric and direction.
        rules: the study's rules of `stop`, from which each line tells how far the search is; without results yet.
    """

    MAX_TOLD = 10
    INTERVAL = 60.0  # seconds between two lines while there is anything new
    MAX_RUNNING = 4  # trials of which a line tells how far they have come

    def __init__(
        self,
        console: Console,
        study_name: str,
        metric: str,
        direction: str,
        num_trials: int | None,
        rules: StopRules | None = None,
    ) -> None:
        self._console = console
        self._rules = None if rules is None else Follower(rules)
        self._metric = metric
        self._num_trials = num_trials
        self._tally = Tally(direction)
        self._tail: JournalTail | None = None
        self._started: float | None = None  # when the first trial of this start began
        self._before = 0
        self._announced = 0
        self._said = time.monotonic()
        self._is_new = False
        self._told: set[str] = set()  # kinds of failures, and notes
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(study_name, total=num_trials, facts="starting the ranks")

    def __enter__(self) -> LiveSearch:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, folder: StudyFolder) -> None:
        """Read the journals' new lines."""
        first = self._tail is None
        self._tail = self._tail or JournalTail(folder.journals)
        events: list[Event] = []
        while chunks := self._tail.read():
            self._tail.advance(chunks)
            events += (event for chunk in chunks.values() for event in chunk.events)
        ended = [self._tally.take(event) for event in events]
        if self._rules is not None:
            for event in events:
                self._rules.take(event)
        if first:
            self._before = self._tally.num_ended
        else:
            if self._started is None and any(isinstance(event, TrialStarted) for event in events):
                self._started = time.monotonic()
            for event in events:
                self._tell(event)
        self._is_new |= bool(events)
        if any(ended):
            self._bar.update(self._task, completed=self._tally.num_ended, facts=self._facts())
        if not self._console.is_terminal:
            self._say(follows=not first)

    def finish(self) -> None:
        """Print the last line, if trials have ended since the one before."""
        if not self._console.is_terminal and self._tally.num_ended > self._announced:
            line = f"{of_budget(self._tally.num_ended, self._num_trials)}, {self._facts()}"
            self._console.print(Text(line), soft_wrap=True)

    def _tell(self, event: Event) -> None:
        """Print the first failure of each kind when it happens, and what trials have left changed."""
        if isinstance(event, Restarted):
            self._console.print(Text(f"the ranks are started again: {event.reason}"), soft_wrap=True)
        if isinstance(event, StudyChanged) and event.num_trials != self._num_trials:
            self._num_trials = event.num_trials
            self._bar.update(self._task, total=event.num_trials)
        if not isinstance(event, TrialEnded):
            return
        if event.state == "failed" and (kind := kind_of(event.reason)) not in self._told:
            self._once(kind, f"trial {event.number} failed: {first_line(event.reason)}")
            if place := user_frame(event.traceback):
                self._console.print(Text(f"  at {place}"))
        for note in event.notes:
            if note.startswith(CHANGED) and note not in self._told:
                self._once(note, f"trial {event.number}: {note}")

    def _once(self, key: str, line: str) -> None:
        self._told.add(key)
        if len(self._told) <= self.MAX_TOLD:
            self._console.print(Text(line))

    def _say(self, *, follows: bool) -> None:
        """Print a line if one is due."""
        tally, now = self._tally, time.monotonic()
        step = max(1, (self._num_trials or 100) // 10)
        is_late = follows and self._is_new and now - self._said >= self.INTERVAL
        if not is_late and tally.num_ended < self._announced + step:
            return
        line = f"{of_budget(tally.num_ended, self._num_trials)}, {self._facts()}"
        if is_late:
            line += f", {len(tally.running)} training"
            if tally.num_ended == self._announced:
                trials = list(tally.running.values())[: self.MAX_RUNNING]
                line = "; ".join([line, *map(str, trials)])
        self._console.print(Text(line), soft_wrap=True)
        self._announced, self._said, self._is_new = tally.num_ended, now, False

    def _facts(self) -> str:
        tally = self._tally
        facts = [f"best {self._metric} {number(tally.incumbent)}", counted(tally.num_migrations, "migration")]
        if failed := tally.count("failed"):
            facts.append(f"{failed} failed")
        facts += [] if self._rules is None else self._rules.words()
        done, total = tally.num_ended - self._before, self._num_trials
        is_met = self._rules is not None and self._rules.is_met
        if done and self._started is not None and total and tally.num_ended < total and not is_met:
            left = (time.monotonic() - self._started) / done * (total - tally.num_ended)
            facts.append(f"about {duration(left)} left")
        return ", ".join(facts)


def of(console: Console, plan: Plan) -> LiveSearch:
    """That of a resolved study."""
    return LiveSearch(console, plan.study.name, *plan.aim, plan.study.trials, StopRules.of(plan))
