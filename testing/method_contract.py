"""The contract of every training method, as checks over any communicator: what atoll's trials rely on.

Every check is a function of a communicator and a Subject; all ranks call it together, and it raises AssertionError
where the method breaks the contract. `check_method` runs all of them on virtual ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.methods.method import Method
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
    vector,
)
from atoll.testing.ranks import Layout, layout_name, layouts

# Sums of p float64 terms in another order, over 50 steps that amplify it little.
FLOAT64 = 1e-12
# Adam divides by the root of a second moment of 1e-8 and less: rounding is amplified.
ADAPTIVE = 1e-9


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
    """

    method: type[Method[Any]]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: Callable[[int], nn.Module] = lambda seed: make_model(seed=seed)
    falls_to: float = 0.6
    passes: int = 1
    waits: bool | None = None
    without_exchange: Mapping[str, Any] = field(default_factory=dict)

    def is_in_step(self, num_ranks: int) -> bool:
        """Whether the same seed gives the same numbers on so many ranks."""
        waits = not self.method.asynchronous if self.waits is None else self.waits
        return num_ranks == 1 or waits

    def accepts(self, num_ranks: int) -> bool:
        """Whether the method can use so many ranks."""
        return self.method.min_ranks <= num_ranks <= (self.method.max_ranks or num_ranks)

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


def _saves(subject: Subject) -> bool:
    return subject.method.state_dict is not Method.state_dict


def _saves_in_step(subject: Subject, num_ranks: int) -> bool:
    return _saves(subject) and subject.is_in_step(num_ranks)


def _saves_on_several_ranks(subject: Subject, num_ranks: int) -> bool:
    return _saves(subject) and num_ranks > 1


def _on_replicas(subject: Subject, num_ranks: int) -> bool:
    return num_ranks > 1 and not subject.method.layer_parallel


def _on_one_rank(subject: Subject, num_ranks: int) -> bool:
    return num_ranks == 1


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
    losses = torch.tensor(train(method, list(batches(c, 50, method=method)), meet=c.barrier))
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
        train(method, list(batches(c, 15, method=method)))
        ends.append(vector(method.finalize()))
    assert torch.equal(*ends), "two trainings with the same seed differ"


@_check(_on_one_rank)
def check_one_rank_sends_nothing(c: Communicator, subject: Subject) -> None:
    """There is nobody to send to."""
    method, _ = subject.make(c)
    train(method, list(batches(c, 10, method=method)))
    method.finalize()
    assert c.ledger.wire_bytes() == 0, f"one rank has sent {c.ledger.wire_bytes()} bytes"


@_check(_in_step_on_several_ranks)
def check_p_ranks_see_the_batches_that_one_rank_sees(c: Communicator, subject: Subject) -> None:
    """The first step's mean loss over p ranks with batch b is that of one rank with batch p b."""
    method, _ = subject.make(c)
    (loss,) = train(method, list(batches(c, 1, method=method)))
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
    train(method, list(batches(c, 5, method=method)), steps_per_epoch=5, meet=c.barrier)
    end = vector(method.finalize())
    # Means and merges of equal numbers round.
    assert close(end, start, 1e-14), "the network moves although the schedule has come down to 0"


@_check(_saves_in_step)
def check_continues_from_saved_state_bit_for_bit(c: Communicator, subject: Subject) -> None:
    """Saving changes nothing, and what is saved is all that training depends on."""
    method, _ = subject.make(c, num_epochs=4, model=make_normed_model())
    steps = list(batches(c, 40, method=method))
    train(method, steps[:20])
    state = method.state_dict()
    kept = copied(state)
    train(method, steps[20:])
    _assert_equal(state, kept, "training has changed a saved state: state_dict must return copies")
    again, _ = subject.make(c, num_epochs=4, model=make_normed_model(seed=5))
    again.load_state_dict(state)
    train(again, steps[20:])
    _assert_equal(state, kept, "training has changed a loaded state: load_state_dict must copy")
    ends = [everything(m.finalize()) for m in (method, again)]
    assert torch.equal(*ends), "training that continues from a saved state ends elsewhere"


@_check(_saves_on_several_ranks)
def check_state_round_trips(c: Communicator, subject: Subject) -> None:
    """What is saved, loaded and saved again is the same, and so is the network to be evaluated."""
    method, _ = subject.make(c)
    train(method, list(batches(c, 20, method=method)), meet=c.barrier)
    state = copied(method.state_dict())
    again, _ = subject.make(c, seed=5)
    again.load_state_dict(state)
    _assert_equal(again.state_dict(), state, "a state that is loaded and saved again is another one")
    shown = [vector(m.evaluation_model()) for m in (method, again)]
    assert torch.equal(*shown), "the network to be evaluated is another one after loading"


def _assert_equal(state: dict[str, Any], expected: dict[str, Any], message: str) -> None:
    torch.testing.assert_close(
        state, expected, rtol=0, atol=0, equal_nan=True, msg=lambda difference: f"{message}\n{difference}"
    )


@_check(_on_several_ranks)
def check_a_nan_reaches_every_rank(c: Communicator, subject: Subject) -> None:
    """A rank that sees NaN must not leave the others waiting, and all end with NaN.

    The ranks keep pace: NaN climbs a tree only as long as the ranks above still take steps.
    """
    method, _ = subject.make(c, num_epochs=3)
    steps = list(batches(c, 30, method=method))
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
            train(method, list(batches(c, 10, method=method)))
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
    train(method, list(batches(c, 5)))
    assert normalization.running_mean is not None
    mean = normalization.running_mean.clone()
    c.mean(mean)
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
