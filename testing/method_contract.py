"""The contract of every training method, as checks over any communicator: what atoll's trials rely on.

Every check is a function of a communicator and a Subject; all ranks call it together, and it raises AssertionError
where the method breaks the contract. `check_method` runs all of them on virtual ranks.
"""

from __future__ import annotations

import dataclasses
import io
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.methods.common.effects import TrainingShape
from atoll.methods.common.plain import require_plain
from atoll.methods.common.weight_average import WeightAverage
from atoll.methods.method import Batch, Method
from atoll.testing.problem import (
    STILL,
    batches,
    close,
    copied,
    everything,
    gathered,
    make,
    make_model,
    make_normed_model,
    make_optimizers,
    train,
    training,
    vector,
)
from atoll.testing.ranks import Layout, layout_name, layouts

# Sums of p float64 terms in another order, over 50 steps that amplify it little.
FLOAT64 = 1e-12
# Adam divides by the root of a second moment of 1e-8 and less: rounding is amplified.
ADAPTIVE = 1e-9
# Of trainings with checkpoints; enough for a method's first epoch, its last one, and two between.
CHECKPOINTED_EPOCHS, CHECKPOINTED_STEPS = 4, 6
DECAY = 0.8  # of averages of the weights, over some ten steps
AVERAGE = "average of the weights"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A method to be checked, and how.

    Attributes:
        method: its class.
        hyperparameters: of the method, such that all its parts are at work within 50 steps.
        settings: of the optimizer.
        model: seed -> the network, which takes 64 inputs and has 10 outputs.
        falls_to: share of its first value that the training loss must reach within 50 steps.
        passes: how often a step passes over its batch.
        waits: whether ranks wait for one another, so that one seed gives one result. Default: unless the method says
            that it is asynchronous.
        without_exchange: hyperparameters with which replicas do not meet for five steps.
        idle: `mutable` hyperparameters that have no effect with these hyperparameters.
    """

    method: type[Method[Any]]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Callable[[int], nn.Module] = lambda seed: make_model(seed=seed)
    falls_to: float = 0.6
    passes: int = 1
    waits: bool | None = None
    without_exchange: Mapping[str, Any] = field(default_factory=dict)
    idle: Collection[str] = ()

    @property
    def can_be_averaged(self) -> bool:
        """Whether the method supports a moving average of the weights."""
        return "ema" not in self.method.unsupported(self.method.Hyperparameters(**self.hyperparameters))

    def is_in_step(self, num_ranks: int) -> bool:
        """Whether the same seed gives the same numbers on so many ranks."""
        waits = not self.method.asynchronous if self.waits is None else self.waits
        return num_ranks == 1 or waits

    def accepts(self, num_ranks: int) -> bool:
        """Whether the method can use so many ranks."""
        fewest = max(self.method.min_ranks, self.num_servers + 1)
        return fewest <= num_ranks <= (self.method.max_ranks or num_ranks)

    @property
    def num_servers(self) -> int:
        """The ranks, the first ones, that only serve the others."""
        return self.method.num_servers(self.method.Hyperparameters(**self.hyperparameters))

    def batches(self, c: Communicator, num_steps: int, **changes: Any) -> Iterator[Batch]:
        """A rank's batches; `changes` are further arguments of `atoll.testing.problem.batches`."""
        return batches(c, num_steps, method=self.method, num_servers=self.num_servers, **changes)

    def make(self, c: Communicator, *, seed: int = 0, **changes: Any) -> tuple[Any, nn.Module]:
        """The method and its network; `changes` are further arguments of `atoll.testing.problem.make`."""
        hyperparameters = {**self.hyperparameters, **changes.pop("hyperparameters", {})}
        settings = {**self.settings, **changes.pop("settings", {})}
        changes.setdefault("model", self.model(seed))
        return make(self.method, c, hyperparameters=hyperparameters, settings=settings, **changes)


Check = Callable[[Communicator, Subject], None]
CHECKS: dict[str, Check] = {}
_APPLIES: dict[str, Callable[[Subject, int], bool]] = {}


def _always(subject: Subject, num_ranks: int) -> bool:
    return True


def _on_several_ranks(subject: Subject, num_ranks: int) -> bool:
    return num_ranks > 1


def _in_step(subject: Subject, num_ranks: int) -> bool:
    return subject.is_in_step(num_ranks)


def _in_step_on_several_ranks(subject: Subject, num_ranks: int) -> bool:
    return num_ranks > 1 and subject.is_in_step(num_ranks)


def _declares_metrics(subject: Subject, num_ranks: int) -> bool:
    return bool(subject.method.metric_directions)


def _saves(subject: Subject, num_ranks: int) -> bool:
    return subject.method.state_dict is not Method.state_dict


def _changes(subject: Subject, num_ranks: int) -> bool:
    return _saves(subject, num_ranks) and bool(subject.method.mutable)


def _on_replicas(subject: Subject, num_ranks: int) -> bool:
    return num_ranks > 1 and not subject.method.layer_parallel


def _on_one_rank(subject: Subject, num_ranks: int) -> bool:
    return num_ranks == 1


def _averaged(subject: Subject, num_ranks: int) -> bool:
    return subject.can_be_averaged


def _averaged_in_step(subject: Subject, num_ranks: int) -> bool:
    return subject.can_be_averaged and subject.is_in_step(num_ranks)


def _check(applies: Callable[[Subject, int], bool]) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        name = check.__name__.removeprefix("check_")
        CHECKS[name] = check
        _APPLIES[name] = applies
        return check

    return register


def applies(name: str, subject: Subject, num_ranks: int) -> bool:
    """Whether the check `name` says anything about the method on so many ranks."""
    return subject.accepts(num_ranks) and _APPLIES[name](subject, num_ranks)


@_check(_always)
def check_lowers_the_loss_and_all_ranks_end_alike(c: Communicator, subject: Subject) -> None:
    """Training works, and `finalize` returns equal networks."""
    method, _ = subject.make(c, num_epochs=5)
    losses = torch.tensor(train(method, list(subject.batches(c, 50)), meet=c.barrier))
    c.mean(losses)
    first, last = float(losses[:10].mean()), float(losses[-10:].mean())
    assert last < subject.falls_to * first, f"the training loss went from {first:.3g} to {last:.3g} in 50 steps"
    mine = vector(method.finalize())
    assert all(torch.equal(mine, theirs) for theirs in gathered(c, mine)), "the ranks' final networks differ"


@_check(_in_step)
def check_the_same_seed_gives_the_same_numbers(c: Communicator, subject: Subject) -> None:
    """To the last bit, unless ranks do not wait for one another."""
    ends = []
    for _ in range(2):
        method, _ = subject.make(c, num_epochs=2)
        train(method, list(subject.batches(c, 15)))
        ends.append(vector(method.finalize()))
    assert torch.equal(*ends), "two trainings with the same seed differ"


@_check(_declares_metrics)
def check_reports_the_metrics_that_it_declares(c: Communicator, subject: Subject) -> None:
    """After two epochs `metrics` has every name in `metric_directions`, as a number, and directions are directions."""
    declared = subject.method.metric_directions
    for name, direction in declared.items():
        assert "/" not in name, f"metric_directions declares {name}: a name with a slash stays in the curve"
        valid = direction in ("minimize", "maximize", None)
        assert valid, f"metric_directions must be minimize, maximize or None; got {direction!r} for {name}"
    method, _ = subject.make(c, num_epochs=2)
    train(method, list(subject.batches(c, 20)), meet=c.barrier)
    reported = {name: float(value) for name, value in method.metrics().items()}
    method.finalize()
    missing = [name for name in declared if name not in reported]
    assert not missing, (
        f"metric_directions declares {', '.join(missing)}, which metrics does not report after two epochs; it reports "
        f"{', '.join(reported) or 'nothing'}"
    )


@_check(_on_one_rank)
def check_one_rank_sends_nothing(c: Communicator, subject: Subject) -> None:
    """There is nobody to send to."""
    method, _ = subject.make(c)
    train(method, list(subject.batches(c, 10)))
    method.finalize()
    assert c.ledger.wire_bytes() == 0, f"one rank has sent {c.ledger.wire_bytes()} bytes"


@_check(_in_step_on_several_ranks)
def check_p_ranks_see_the_batches_that_one_rank_sees(c: Communicator, subject: Subject) -> None:
    """The first step's mean loss over p ranks with batch b is that of one rank with batch p b."""
    method, _ = subject.make(c)
    (loss,) = train(method, list(subject.batches(c, 1)))
    method.finalize()  # completes what is under way
    mean = torch.tensor([loss], dtype=torch.float64)
    c.mean(mean)
    alone = c.split(c.rank)
    whole = list(batches(alone, 1, batch_size=8 * c.size, method=subject.method))
    if subject.accepts(1):
        reference, _ = subject.make(alone)
        (expected,) = train(reference, whole)
        reference.finalize()
    else:
        (batch,) = whole
        expected = float(nn.functional.cross_entropy(subject.model(0)(batch.inputs), batch.targets))
    assert abs(float(mean) - expected) <= ADAPTIVE * expected, f"{c.size} ranks lose {float(mean)}, one {expected}"


@_check(_always)
def check_a_learning_rate_of_0_holds_the_network(c: Communicator, subject: Subject) -> None:
    """Every change scales with the rate that the schedule has at its step, not with that of the method's start."""
    settings = {**subject.settings, "schedule": "linear", "min_lr": 0.0}
    optimizers = make_optimizers(subject.method, settings, num_steps=100)
    method, model = subject.make(c, optimizers=optimizers)
    start = vector(model)
    optimizers.set_step(100)
    train(method, list(subject.batches(c, 5)), steps_per_epoch=5, meet=c.barrier)
    end = vector(method.finalize())
    # Means and merges of equal numbers round.
    assert close(end, start, 1e-14), "the network moves although the schedule has come down to 0"


@_check(_saves)
def check_continues_from_a_checkpoint_at_any_step(c: Communicator, subject: Subject) -> None:
    """One at a random step of each epoch: taking it changes nothing, and it is all that training depends on.

    Ranks that do not wait for one another go on from the same state, with the same network to be evaluated.
    """
    steps = list(subject.batches(c, CHECKPOINTED_EPOCHS * CHECKPOINTED_STEPS))
    if not subject.is_in_step(c.size):
        curve = torch.tensor(_interrupted(c, subject, steps)[0])
        c.mean(curve)
        first, last = float(curve[:CHECKPOINTED_STEPS].mean()), float(curve[-CHECKPOINTED_STEPS:].mean())
        # Few steps need not lower it, but it must not jump, nor be NaN.
        assert last < 1.2 * first, f"the loss of an interrupted training goes from {first:.3g} to {last:.3g}"
        return
    expected, expected_end = _uninterrupted(c, subject, steps)
    cuts = ", ".join(map(str, _cuts(subject, c.size)))
    for what, run in (("whose state is saved", _saved), ("that continues from its saved state", _interrupted)):
        losses, end = run(c, subject, steps)
        number = next((n for n, (a, b) in enumerate(zip(losses, expected, strict=True), 1) if a != b), None)
        assert number is None, f"a training {what} after steps {cuts} has another loss in step {number}"
        assert torch.equal(end, expected_end), f"a training {what} after steps {cuts} ends elsewhere"


@_check(_changes)
def check_mutable_hyperparameters_act_from_the_step_of_their_change(c: Communicator, subject: Subject) -> None:
    """Each `mutable` one acts on what follows, also where the state has a value of its own for it.

    Changing it there and back at once changes nothing.
    """
    steps = list(subject.batches(c, CHECKPOINTED_EPOCHS * CHECKPOINTED_STEPS))
    (cut, *_) = _cuts(subject, c.size)
    first = _Attempt(c, subject, [])
    next(done for done in first.train(steps) if done == cut)
    state = _written_and_read(first.state_dict())
    unchanged = _ended(_Attempt(c, subject, list(first.losses)), state, first.hyperparameters, steps)
    for name, value in _mutable(subject, c).items():
        other = {name: _other(subject, name, value)}
        there, back = _Attempt(c, subject, [], changes=other), _Attempt(c, subject, [])
        there.load_state_dict(state)
        there.method.change(first.hyperparameters)
        back.load_state_dict(_written_and_read(there.state_dict()))
        back.method.change(there.hyperparameters)
        _assert_equal(back.state_dict(), state, f"changing {name} there and back changes the state")
        changed = _Attempt(c, subject, list(first.losses), changes=other)
        end = _ended(changed, state, first.hyperparameters, steps)
        assert bool(end.isfinite().all()), f"a training whose {name} changes ends in NaN or infinite values"
        if subject.is_in_step(c.size):
            assert not torch.equal(end, unchanged), f"changing {name} from {value} to {other[name]} has no effect"


def _ended(attempt: _Attempt, state: dict[str, Any], before: object, steps: Sequence[Batch]) -> Tensor:
    """The final network of a training that goes on from a state with its own hyperparameters."""
    attempt.load_state_dict(state)
    attempt.method.change(before)
    for _ in attempt.train(steps):
        pass
    return torch.cat([everything(network) for network in attempt.end()])


def _other(subject: Subject, name: str, value: float) -> float:
    """Another valid value: the double, or half of it."""
    try:
        subject.method.Hyperparameters(**{**subject.hyperparameters, name: 2 * value})
    except ValueError:
        return value // 2 if isinstance(value, int) else value / 2
    return 2 * value


def _mutable(subject: Subject, c: Communicator) -> dict[str, Any]:
    """The hyperparameters that may change and have an effect, with their values."""
    hyperparameters = subject.method.Hyperparameters(**subject.hyperparameters)
    shape = TrainingShape(
        num_ranks=c.size,
        num_nodes=len(set(c.nodes)),
        num_epochs=CHECKPOINTED_EPOCHS,
        steps_per_epoch=CHECKPOINTED_STEPS,
    )
    idle = subject.method.without_effect(hyperparameters, shape)
    names = [name for name in subject.method.mutable if name not in idle and name not in subject.idle]
    values = {name: getattr(hyperparameters, name) for name in names}
    return {name: value for name, value in values.items() if value}


def _cuts(subject: Subject, num_ranks: int) -> list[int]:
    """After how many steps states are saved: a random number for each epoch, equal on all ranks."""
    seed = f"{subject.method.__name__} {sorted(subject.hyperparameters.items())} {num_ranks}"
    choose = random.Random(seed)
    ends = [CHECKPOINTED_STEPS * number for number in range(1, CHECKPOINTED_EPOCHS)]
    if not subject.method.resumable_within_epoch:
        return ends
    within = [choose.randrange(end - CHECKPOINTED_STEPS + 1, end + 1) for end in ends]
    return [*within, ends[-1] + choose.randrange(1, CHECKPOINTED_STEPS)]


class _Attempt:
    """A method made afresh, its schedule, and its training from step `len(losses)` on."""

    def __init__(
        self,
        c: Communicator,
        subject: Subject,
        losses: list[float],
        *,
        seed: int = 0,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.hyperparameters = subject.method.Hyperparameters(**{**subject.hyperparameters, **changes})
        num_steps = CHECKPOINTED_EPOCHS * CHECKPOINTED_STEPS
        settings = {**subject.settings, "schedule": "linear", "ema": DECAY if subject.can_be_averaged else 0.0}
        self._optimizers = make_optimizers(subject.method, settings, num_steps)
        averages: list[WeightAverage] = []
        self.method, self.model = subject.make(
            c,
            num_epochs=CHECKPOINTED_EPOCHS,
            steps_per_epoch=CHECKPOINTED_STEPS,
            model=make_normed_model(seed),
            optimizers=self._optimizers,
            hyperparameters=dict(changes),
            averages=averages if subject.can_be_averaged else None,
        )
        self.average = averages[0] if averages else None
        self.losses, self._meet = losses, c.barrier

    def train(self, steps: Sequence[Batch]) -> Iterator[int]:
        pace = (lambda: None) if self.average is None else self.average.update
        return training(self.method, steps, self.losses, CHECKPOINTED_STEPS, self._meet, pace, self._optimizers)

    def state_dict(self) -> dict[str, Any]:
        state = self.method.state_dict()
        return state if self.average is None else {**state, AVERAGE: self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.method.load_state_dict({name: value for name, value in state.items() if name != AVERAGE})
        if self.average is not None:
            self.average.load_state_dict(state[AVERAGE])

    def end(self) -> list[nn.Module]:
        """The final network, and its average."""
        network = self.method.finalize()
        return [network] if self.average is None else [network, self.average.model(network)]


def _uninterrupted(c: Communicator, subject: Subject, steps: Sequence[Batch]) -> tuple[list[float], Tensor]:
    """The losses and the final network of a training without checkpoints."""
    attempt = _Attempt(c, subject, [])
    for _ in attempt.train(steps):
        pass
    return attempt.losses, torch.cat([everything(network) for network in attempt.end()])


def _saved(c: Communicator, subject: Subject, steps: Sequence[Batch]) -> tuple[list[float], Tensor]:
    """The same of a training whose state is saved, but never loaded."""
    attempt, cuts, states = _Attempt(c, subject, []), _cuts(subject, c.size), []
    for done in attempt.train(steps):
        if done in cuts:
            state = attempt.state_dict()
            states.append((state, copied(state)))
    for state, kept in states:
        _assert_equal(state, kept, "training has changed a saved state: state_dict must return copies")
    return attempt.losses, torch.cat([everything(network) for network in attempt.end()])


def _interrupted(c: Communicator, subject: Subject, steps: Sequence[Batch]) -> tuple[list[float], Tensor]:
    """The same of a training that goes on from each of its states with another object and other networks."""
    attempt, loaded = _Attempt(c, subject, []), []
    for number, cut in enumerate(_cuts(subject, c.size), 1):
        next(done for done in attempt.train(steps) if done == cut)
        before, network = attempt, everything(attempt.model)
        saved = before.state_dict()
        assert torch.equal(everything(attempt.model), network), "state_dict has changed the network"
        require_plain(saved)
        state = _written_and_read(saved)
        attempt = _Attempt(c, subject, attempt.losses, seed=5 * number)
        attempt.load_state_dict(state)
        loaded.append((state, saved))
        for name in ("metrics", "inner_ranks"):
            reports = [getattr(one.method, name)() for one in (attempt, before)]
            _assert_equal(reports[0], reports[1], f"{name} reports something else after loading")
        if not subject.is_in_step(c.size):
            _assert_equal(attempt.state_dict(), saved, "a state that is loaded and saved again is another one")
            shown = [vector(one.method.evaluation_model()) for one in (attempt, before)]
            assert torch.equal(*shown), "the network to be evaluated is another one after loading"
    for _ in attempt.train(steps):
        pass
    for state, kept in loaded:
        _assert_equal(state, kept, "training has changed a loaded state: load_state_dict must copy")
    networks = attempt.end()
    mine = torch.cat([vector(network) for network in networks])
    assert all(torch.equal(mine, theirs) for theirs in gathered(c, mine)), "the ranks' final networks differ"
    return attempt.losses, torch.cat([everything(network) for network in networks])


def _written_and_read(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    read: dict[str, Any] = torch.load(file, weights_only=True)
    return read


def _assert_equal(state: object, expected: object, message: str) -> None:
    place = _difference(state, expected, "")
    assert place is None, f"{message}; they differ in {place or 'their type'}"


def _difference(a: object, b: object, place: str) -> str | None:
    """Where two states first differ; None if they are equal. NaN equals NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return None if alike and bool(((a == b) | (a.isnan() & b.isnan())).all()) else place
    if type(a) is not type(b):
        return place
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return place
        parts = [(f"{place}[{key!r}]", a[key], b[key]) for key in a]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return place
        parts = [(f"{place}[{number}]", x, y) for number, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if a == b or (a != a and b != b) else place
    return next((found for name, x, y in parts if (found := _difference(x, y, name)) is not None), None)


@_check(_averaged)
def check_the_average_is_of_what_is_evaluated(c: Communicator, subject: Subject) -> None:
    """Without a decay the average of the weights is the network to be evaluated, or its mean over ranks."""
    averages: list[WeightAverage] = []
    method, _ = subject.make(c, model=make_normed_model(), averages=averages)
    train(method, list(subject.batches(c, 10)), meet=c.barrier)
    latest = method.evaluation_model()  # ranks have met, so a center stands still
    (average,) = averages
    average.update()
    mean = everything(latest)
    c.mean(mean)
    # Means of ranks' numbers, in another order.
    assert close(everything(average.model(latest)), mean, 1e-15), (
        "the average of the weights is not of what `evaluation_model` returns: define `evaluated`, or name ema in "
        "`unsupported`"
    )
    method.finalize()  # receives what is under way


@_check(_averaged_in_step)
def check_the_average_weighs_each_step_and_changes_none(c: Communicator, subject: Subject) -> None:
    """It is the weighted mean over steps of the networks to be evaluated, and training does not see it."""
    method, _ = subject.make(c)
    networks = []
    for _ in training(method, list(subject.batches(c, 10)), [], steps_per_epoch=5):
        networks.append(vector(method.evaluation_model()))
        c.mean(networks[-1])
    end = vector(method.finalize())
    averages: list[WeightAverage] = []
    method, _ = subject.make(c, settings={"ema": DECAY}, averages=averages)
    (average,) = averages
    train(method, list(subject.batches(c, 10)), steps_per_epoch=5, pace=average.update)
    network = method.finalize()
    assert torch.equal(vector(network), end), "the average of the weights has changed the training"
    weights = [(1 - DECAY) * DECAY ** (10 - step) / (1 - DECAY**10) for step in range(1, 11)]
    expected = torch.stack([weight * one for weight, one in zip(weights, networks, strict=True)]).sum(0)
    assert close(vector(average.model(network)), expected, FLOAT64), "the average is not the mean over the steps"


@_check(_on_several_ranks)
def check_a_nan_reaches_every_rank(c: Communicator, subject: Subject) -> None:
    """A rank that sees NaN must not leave the others waiting, and all end with NaN.

    The ranks keep pace: NaN climbs a tree only as long as the ranks above still take steps.
    """
    method, _ = subject.make(c, num_epochs=3)
    steps = list(subject.batches(c, 30))
    if c.rank == c.size - 1 or subject.method.layer_parallel:
        steps[5] = dataclasses.replace(steps[5], inputs=steps[5].inputs * float("nan"))
    train(method, steps, pace=c.barrier)
    assert torch.isnan(vector(method.finalize())).any(), "a rank's NaN is not in all final networks"


@_check(_in_step_on_several_ranks)
def check_evaluation_is_no_traffic_and_disturbs_nothing(c: Communicator, subject: Subject) -> None:
    """`evaluation_model` changes neither the training nor the bytes that the method is said to send."""
    results = []
    for evaluates in (False, True):
        method, model = subject.make(c, model=make_normed_model())
        before = c.ledger.wire_bytes()
        for epoch in range(2):
            train(method, list(subject.batches(c, 10)))
            if evaluates:
                counters = [int(m[1].num_batches_tracked) for m in (method.evaluation_model(), cast(Any, model))]
                expected = [subject.passes * 10 * (epoch + 1)] * 2
                assert counters == expected, f"batches that the running statistics count: {counters}, not {expected}"
        trained = method.finalize()
        sent = c.ledger.wire_bytes() - before
        results.append((vector(trained), everything(trained), sent))
    (without, all_without, sent_without), (with_, all_with, sent_with) = results
    assert torch.equal(with_, without), "evaluation has changed the training"
    # Means over ranks of the statistics in between add up to the same, in another order.
    assert close(all_with, all_without, FLOAT64), "evaluation has changed the running statistics"
    assert sent_with == sent_without, "evaluation is counted as the method's traffic: it is for Context.untracked"


@_check(_on_replicas)
def check_finalize_averages_running_statistics(c: Communicator, subject: Subject) -> None:
    """At a learning rate of nearly 0 the final ones are the mean over all replicas."""
    normalization = nn.BatchNorm1d(8)
    model = nn.Sequential(nn.Linear(64, 8), normalization, nn.Linear(8, 10)).double()
    for parameter in model.parameters():
        c.broadcast(parameter.data)
    settings = {"learning_rate": STILL, "momentum": 0.0, "weight_decay": 0.0}
    method, _ = subject.make(c, model=model, hyperparameters=subject.without_exchange, settings=settings)
    train(method, list(subject.batches(c, 5)))
    assert normalization.running_mean is not None
    mean = normalization.running_mean.clone()
    if c.rank < subject.num_servers:
        mean.zero_()
    c.sum(mean)
    mean /= c.size - subject.num_servers
    final = method.finalize()[1].running_mean
    # a few additions in another order
    assert close(final, mean, 1e-15), "the final running statistics are not the mean of all replicas'"


def check_method(
    method: type[Method[Any]],
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    ranks: Collection[int] = (1, 2, 4),
    model: Callable[[int], nn.Module] | None = None,
    falls_to: float = 0.6,
    passes: int = 1,
    waits: bool | None = None,
    without_exchange: Mapping[str, Any] | None = None,
    skip: Collection[str] = (),
    timeout: float = 60.0,
) -> None:
    """Check that a method keeps the contract of methods, on virtual ranks.

    Args:
        method: its class.
        hyperparameters: of the method, such that all its parts are at work within 50 steps.
        settings: of the optimizer.
        ranks: numbers of ranks; an even number is also put on two nodes. The method's min_ranks and max_ranks apply.
        model: seed -> the network, which takes 64 inputs and has 10 outputs. Default: one hidden layer.
        falls_to, passes, waits, without_exchange: as in Subject.
        skip: names of checks, of those in CHECKS, that do not apply to this method.
        timeout: seconds for each check.

    Raises:
        AssertionError: with every check that failed, on which ranks, and why.
        ValueError: if nothing is left to check, or a name in `skip` is no check's.

    Example:
        >>> from atoll.methods.data_parallel.local_sgd import LocalSgd
        >>> check_method(LocalSgd, hyperparameters={"H": 3}, without_exchange={"H": 100}, ranks=(2,))
    """
    subject = Subject(
        method=method,
        hyperparameters=hyperparameters or {},
        settings=settings or {},
        model=model or Subject.model,
        falls_to=falls_to,
        passes=passes,
        waits=waits,
        without_exchange=without_exchange or {},
    )
    unknown = set(skip) - CHECKS.keys()
    if unknown:
        raise ValueError(f"skip must name checks, which are {', '.join(CHECKS)}; got {', '.join(sorted(unknown))}")
    sizes = [size for size in ranks if subject.accepts(size)]
    if not sizes:
        raise ValueError(f"{method.__name__} can use none of the numbers of ranks {list(ranks)}")
    failures = []
    for layout in layouts(sizes):
        for name in CHECKS:
            if name not in skip and applies(name, subject, len(layout)):
                failure = _failure(name, subject, layout, timeout)
                if failure is not None:
                    failures.append(f"{name} on {layout_name(layout)}: {failure}")
    if failures:
        listed = "\n".join(f"- {failure}" for failure in failures)
        raise AssertionError(f"{method.__name__} breaks the contract of methods:\n{listed}")


def _failure(name: str, subject: Subject, layout: Layout, timeout: float) -> str | None:
    """Why a check failed; None if it passed."""
    try:
        run_virtual_ranks(lambda c: CHECKS[name](c, subject), layout, timeout=timeout)
    except AssertionError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
