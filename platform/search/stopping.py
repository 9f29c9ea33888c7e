"""One root's part in the study's rules of `stop`: root 0 decides, and informs the others when a rule is met.

No ticket is given out from then on, and a worker that has ended a trial starts no other one before root 0 has answered,
or a small share of the trial's time has passed: a ticket that it holds ahead may be one trial too many. Running trials
are trained to the end, or stopped, as the study says. Where several launchers search a study, each root 0 knows the
results of all from their journals, and decides by the same rules; the decision that was recorded first counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atoll.platform.search import fitting
from atoll.platform.search.regret import Bound, Bounding
from atoll.platform.search.stop_rules import StopRules
from atoll.storage.events import Event, RegretBounded, StopRuleMet, TrialKey

if TYPE_CHECKING:
    from atoll.communication.mailbox import Mailbox  # needs MPI, which the launcher does without
    from atoll.platform.search.population import Losses
    from atoll.platform.search.resume import Past, PastTrial
    from atoll.platform.study.plan import Plan
    from atoll.searchspaces.space import Gene

ENDED, MET, HEARD = 16, 17, 18


@dataclass(frozen=True)
class Ended:
    """A trial's end, as root 0 hears of it.

    Attributes:
        number, attempt, state: the trial's.
        losses: to minimize; None unless it is complete.
        genes: of a complete trial, if a bound of the regret is wanted.
    """

    number: int
    attempt: int
    state: str
    losses: Losses | None = None
    genes: dict[str, Gene] | None = None


class Stopping:
    """One root's access to the rules.

    Args:
        plan: the resolved study.
        mailbox: the mailbox of all roots.
        past, events: what is recorded.
        record: writes a line into the root's journal; used at root 0.

    Attributes:
        is_over: whether a rule is met, so that no further trial may start.
    """

    def __init__(
        self, plan: Plan, mailbox: Mailbox, past: Past, events: Iterable[Event], record: Callable[[Event], None]
    ) -> None:
        self._plan = plan
        self._mailbox = mailbox
        self._record = record
        self._rules = StopRules.of(plan)
        self._bounding: Bounding | None = None
        self._is_closing = False
        self._is_new = True  # whether anything has been heard since the last decision
        self._num_unheard = 0  # ends of trials that root 0 has not answered
        self.is_over = False
        self._is_recorded = False
        if self._rules is None:
            return
        self._rules.take_past(past, events)
        self.is_over = self._rules.met() is not None
        self._is_recorded = self._rules.is_recorded
        if self._rules.stop.regret is not None and mailbox.rank == 0:
            self._bounding = Bounding(plan.space, plan.study.seed, self._rules.num_bounded)
            for trial in past.counted():
                self._add(trial)

    @property
    def stops_running(self) -> bool:
        """Whether running trials are to stop."""
        return self.is_over and self._rules is not None and self._rules.stop.running == "stop"

    def ended(self, trial: TrialKey, state: str, losses: Losses | None, hyperparameters: Mapping[str, Any]) -> None:
        """A trial of this worker has ended."""
        if self._rules is None or state not in ("complete", "pruned", "failed"):
            return
        is_complete = state == "complete"
        genes = self._genes(hyperparameters) if is_complete and self._rules.stop.regret else None
        ended = Ended(*trial, state, losses if is_complete else None, genes)
        self._mailbox.send(ended, 0, ENDED)
        self._num_unheard += 1
        self.serve()

    def may_start(self) -> bool:
        """Whether root 0 has heard of all that this worker has ended."""
        return self._num_unheard == 0 or self.is_over

    def elsewhere(self, trial: PastTrial) -> None:
        """A trial of another launcher has ended; to be called at root 0."""
        if self._rules is not None:
            self._rules.take_trial(trial)
            self._add(trial)
            self._is_new = True
            self._decide()

    def met_elsewhere(self, event: StopRuleMet) -> None:
        """Another launcher has recorded that a rule is met."""
        if self._rules is not None:
            self._rules.take_met(event)
            if self._rules.is_recorded:
                self.is_over = self._is_recorded = True

    def serve(self) -> None:
        """Take in the messages that have arrived; at root 0, decide."""
        if self._rules is None:
            return
        heard = []
        while (message := self._mailbox.take(ENDED)) is not None:
            self._take(message[1])
            heard.append(message[0])
        if self._mailbox.take(MET) is not None:
            self.is_over = True
        if self._bounding is not None and (bound := self._bounding.take()) is not None:
            self._take_bound(bound)
        if self._mailbox.rank == 0:
            self._decide()
        for root in heard:
            self._mailbox.send(self.is_over, root, HEARD)
        while (message := self._mailbox.take(HEARD)) is not None:
            self._num_unheard -= 1
            self.is_over |= message[1]

    def finish(self, wait: Callable[[Callable[[], bool]], None]) -> None:
        """Wait until all of this worker's results are heard, and for the bound that is being computed, the last one."""
        self._is_closing = True
        wait(lambda: self._num_unheard == 0 and (self._bounding is None or not self._bounding.is_busy))
        self.serve()

    def _take(self, ended: Ended) -> None:
        assert self._rules is not None
        self._is_new = True
        self._rules.take(ended.number, ended.attempt, ended.state, ended.losses)
        if self._bounding is not None and ended.genes is not None and ended.losses is not None:
            self._bounding.add(ended.number, ended.genes, ended.losses[0])

    def _add(self, trial: PastTrial) -> None:
        """A recorded trial for the bounds; not one outside of the space, which may have changed."""
        assert self._rules is not None
        if self._bounding is None or trial.state != "complete" or not self._rules.compares(trial.epochs, trial.steps):
            return
        if (genes := self._genes(trial.hyperparameters, trial.configured)) is None:
            return
        self._bounding.add(trial.number, genes, self._rules.losses(trial.objective, trial.objectives)[0])

    def _genes(
        self, hyperparameters: Mapping[str, Any], configured: Mapping[str, Any] | None = None
    ) -> dict[str, Gene] | None:
        """The genes of a trial; None if it is outside of the space."""
        space = self._plan.space
        values = fitting.completed(hyperparameters, configured or {}, space)
        try:
            fitting.check_inside(values, space)
        except fitting.Outside:
            return None
        return space.encode(values)

    def _take_bound(self, bound: Bound) -> None:
        assert self._rules is not None
        self._is_new = True
        sign = -1.0 if self._plan.objectives[0].direction == "maximize" else 1.0
        event = RegretBounded(
            bound=bound.value, incumbent=sign * bound.incumbent, num_trials=bound.num_trials,
            length=self._rules.length, seconds=bound.seconds,
        )  # fmt: skip
        self._record(event)
        self._rules.take_bound(event)

    def _decide(self) -> None:
        assert self._rules is not None
        if not self._is_new:
            return
        self._is_new = False
        if self._bounding is not None and not self.is_over and not self._is_closing:
            self._bounding.start()
        if self._is_recorded or (met := self._rules.met()) is None:
            return
        self._is_recorded = self.is_over = True
        self._mailbox.send_to(
            self._mailbox.others(), None, MET
        )  # first: the line is synced to disk, which takes a while
        self._record(self._rules.event(met))
