"""EASGD: elastic averaging (Zhang 2016): identities, its protocol and its traffic; theory: test_easgd_theory.py."""

import paths
import pytest
import replayed
import torch
from center_protocol import all_reduces_cost_a_ring, exchanges_cost_8n, nobody_waits_for_a_late_rank
from on_ranks import on_ranks
from paths import NOISE, RATES, START

from atoll.communication.communicator import Communicator
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.parameter_server.easgd import Easgd
from atoll.methods.parameter_server.elastic_hyperparameters import FORMS
from atoll.methods.sequential.sgd import Sgd
from atoll.testing import CHECKS, Subject, problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, QUADRUPLE, SINGLE, TWO_BY_TWO

PLAIN = {"learning_rate": 0.2, "momentum": 0.0, "weight_decay": 1e-3}


# Identities.


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("beta", ["1", "p"])
def test_gauss_seidel_with_alpha_1_equals_ddp(c: Communicator, beta: str) -> None:
    """beta = 1 is ddp, beta = p is ddp at p times the rate: synchronous DOWNPOUR with tau = 1 (Zhang 2016, eq. 6.1)."""
    factor = 1 if beta == "1" else c.size
    rate = PLAIN["learning_rate"] / c.size
    steps = list(problem.batches(c, problem.NUM_STEPS))
    form = {"form": "gauss_seidel", "tau": 1, "alpha": 1.0, "beta": float(factor)}
    elastic, _ = problem.make(Easgd, c, hyperparameters=form, settings=PLAIN | {"learning_rate": rate})
    ddp, model = problem.make(Ddp, c, settings=PLAIN | {"learning_rate": factor * rate})
    problem.train(elastic, steps)
    problem.train(ddp, steps)
    assert problem.close(problem.vector(elastic.finalize()), problem.vector(model), FLOAT64)


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("form", FORMS)
def test_without_elastic_force_the_center_rests_and_the_workers_are_alone(c: Communicator, form: str) -> None:
    hyperparameters = {"form": form, "tau": 2, "alpha": 0.0, "beta": 0.0}
    method, model = problem.make(Easgd, c, hyperparameters=hyperparameters, settings=PLAIN)
    start = problem.vector(model)
    steps = list(problem.batches(c, 20))
    problem.train(method, steps, meet=c.barrier)
    alone, reference = problem.make(Sgd, c.split(c.rank), settings=PLAIN)
    problem.train(alone, steps)
    assert torch.equal(problem.vector(method.finalize()), start)
    assert problem.close(problem.vector(model), problem.vector(reference), 1e-15)


@on_ranks(SINGLE)
@pytest.mark.parametrize("form", FORMS)
def test_one_rank_equals_the_written_out_updates(c: Communicator, form: str) -> None:
    """With a falling rate, and alpha and beta apart."""
    alpha, beta, tau = 0.2, 0.7, 3
    x = center = START
    pending = 0.0
    for t, (noise, rate) in enumerate(zip(NOISE, RATES, strict=True)):
        exchanges = t % tau == 0
        if form == "gauss_seidel":
            x -= alpha * (x - center) if exchanges else 0.0
            x -= rate * (x - noise)
            center += beta * (x - center) if exchanges else 0.0
            continue
        if exchanges and form == "async_overlap":
            x -= pending
        seen, displacement = x, alpha * (x - center)
        x -= rate * (x - noise)
        if exchanges:
            center += beta * (seen - center)
            x -= 0.0 if form == "async_overlap" else displacement
            pending = displacement
    end = paths.end_of_one_path(c, "easgd", form=form, alpha=alpha, beta=beta, tau=tau)
    assert end == pytest.approx(center, rel=1e-12)


@on_ranks(PAIR)
@pytest.mark.parametrize("form", ["async", "async_overlap"])
@pytest.mark.parametrize("report", ["center", "average"])
def test_one_worker_of_a_dedicated_server_equals_one_rank(c: Communicator, report: str, form: str) -> None:
    """To the last bit, with the default of alpha, a falling rate, and an average of the center after every step."""
    hyperparameters = {"form": form, "tau": 3, "report": report}
    settings = PLAIN | {"schedule": "linear"} | ({} if report == "average" else {"ema": 0.8})
    alone = c.split(c.rank)
    ends = []
    for ranks, server in ((alone, "shared"), (c, "dedicated")):
        optimizers = problem.make_optimizers(Easgd, settings, num_steps=40)
        averages: list = []
        method, _ = problem.make(
            Easgd, ranks, hyperparameters=hyperparameters | {"server": server}, optimizers=optimizers, averages=averages
        )
        steps = list(problem.batches(ranks, 40, num_servers=int(server == "dedicated")))
        problem.train(method, steps, meet=ranks.barrier, pace=averages[0].update, optimizers=optimizers)
        network = method.finalize()
        shown = network if report == "average" else averages[0].model(network)
        ends.append((problem.vector(network), problem.vector(shown)))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


# The protocol: nobody waits for a late rank, and an early one does not pull the center away from the rest.


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("late", [0, -1], ids=["owner", "last"])
@pytest.mark.parametrize("form", ["async", "async_overlap"])
def test_nobody_waits_for_a_late_rank(c: Communicator, form: str, late: int) -> None:
    nobody_waits_for_a_late_rank(c, "easgd", late, form=form, tau=2)


@on_ranks(TWO_BY_TWO)
@pytest.mark.parametrize("late", [1, -1], ids=["first", "last"])
@pytest.mark.parametrize("form", ["async", "async_overlap"])
def test_nobody_waits_for_a_late_worker_of_a_dedicated_server(c: Communicator, form: str, late: int) -> None:
    nobody_waits_for_a_late_rank(c, "easgd", late, form=form, tau=2, server="dedicated")


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("late", [0, -1], ids=["owner", "last"])
def test_ranks_that_left_keep_their_pull_on_the_center(c: Communicator, late: int) -> None:
    """At rate 0 an exchange moves x_i and c by opposite amounts, so their sum stays, and all of them end at its mean.

    One rank exchanges when the others have long finished. If those no longer counted, the center would end where it and
    that rank meet.
    """
    late %= c.size
    method, model = problem.make(
        Easgd,
        c,
        hyperparameters={"tau": 1},
        settings={"learning_rate": problem.STILL, "weight_decay": 0.0},
        steps_per_epoch=150 if c.rank == late else 1,  # the others have an epoch of a single exchange
    )
    start = problem.vector(model)
    problem.fill(model, float(c.rank))
    steps = list(problem.batches(c, 150, batch_size=1))
    word = torch.zeros(1)
    if c.rank == late:
        for other in range(c.size):
            if other != late:
                c.receive(word, other, tag=5)
        for batch in steps:
            method.step(batch)
    else:
        method.step(steps[0])
        c.send(word, late, tag=5)
    center = problem.vector(method.finalize())
    mean = (start + sum(range(c.size))) / (c.size + 1)
    # (1 - 0.9/p)^150 of the distance is left: 4e-17 for four ranks; then 150 roundings.
    assert problem.close(center, mean, 1e-13)


@on_ranks(QUADRUPLE)
@pytest.mark.parametrize("stale_replicas", [True, False])
def test_the_replica_of_a_rank_that_left_exchanges_as_often_as_each_of_those_at_work(
    c: Communicator, stale_replicas: bool
) -> None:
    """At rate 0, with three ranks at work in turns: the fourth one's last replica moves after every third exchange.

    Without stale replicas it does not, as in Zhang 2016.
    """
    alpha, beta = 0.3, 0.8  # apart, so that the order of exchanges matters
    one = torch.ones(1, dtype=torch.float64)
    method, model = paths.build(
        "easgd",
        c,
        replica=c.rank * one,
        center=10 * one,
        rate=problem.STILL,
        tau=1,
        alpha=alpha,
        beta=beta,
        stale_replicas=stale_replicas,
        steps_per_epoch=1 if c.rank == 3 else 10**9,
    )
    x, center = [float(rank) for rank in range(4)], 10.0

    def exchange(rank: int) -> None:
        nonlocal center
        x[rank], center = x[rank] - alpha * (x[rank] - center), center + beta / 4 * (x[rank] - center)

    turns = [3, 0, 1, 2, 2, 1, 0, 0, 0]
    for number, turn in enumerate(turns):
        if c.rank == turn:
            method.step(paths.batch(0 * one))
        _let_all_be_served(c)  # also rank 3, that it leaves
        exchange(turn)
        if stale_replicas and number > 0 and number % 3 == 0:
            exchange(3)
        if c.rank < 3:
            assert model.x.item() == pytest.approx(x[c.rank], rel=1e-14), number
    assert float(paths.shown(method)) == pytest.approx(center, rel=1e-13)


@on_ranks(QUADRUPLE)
def test_a_dedicated_server_moves_the_replicas_of_workers_that_left(c: Communicator) -> None:
    """At rate 0, with two of three workers at work in turns: the third one's last replica moves after every second."""
    alpha, beta = 0.3, 0.8
    one = torch.ones(1, dtype=torch.float64)
    given = {"rate": problem.STILL, "tau": 1, "alpha": alpha, "beta": beta, "server": "dedicated"}
    method, model = paths.build(
        "easgd",
        c,
        replica=c.rank * one,
        center=10 * one,
        steps_per_epoch=1 if c.rank == 3 else 10**9,
        **given,
    )
    x, center = [float(rank) for rank in range(4)], 10.0

    def exchange(rank: int) -> None:
        nonlocal center
        x[rank], center = x[rank] - alpha * (x[rank] - center), center + beta / 3 * (x[rank] - center)

    for number, turn in enumerate([3, 1, 2, 2, 1, 1, 1]):
        if c.rank == turn:
            method.step(paths.batch(0 * one))
        _let_all_be_served(c)
        exchange(turn)
        if number > 0 and number % 2 == 0:
            exchange(3)
        if c.rank in (1, 2):
            assert model.x.item() == pytest.approx(x[c.rank], rel=1e-14), number
    assert float(paths.shown(method)) == pytest.approx(center, rel=1e-13)


@on_ranks(PAIR)
@pytest.mark.parametrize("form", ["async", "async_overlap"])
@pytest.mark.parametrize("stale_replicas", [True, False])
def test_only_without_stale_replicas_are_all_forces_opposite(c: Communicator, form: str, stale_replicas: bool) -> None:
    """At rate 0 sum(x_i) + c stays over the epochs, of which rank 1 has a single exchange, and rank 0 four.

    A stale replica moves the center, and not the replica that its rank goes on with.
    """
    one = torch.ones(1, dtype=torch.float64)
    steps_per_epoch = 4 if c.rank == 0 else 1
    given = {"rate": problem.STILL, "tau": 1, "steps_per_epoch": steps_per_epoch, "stale_replicas": stale_replicas}
    method, model = paths.build("easgd", c, replica=c.rank * one, center=0 * one, form=form, **given)
    sums = []
    for _ in range(3):
        for turn in (1, 0, 0, 0, 0):
            if c.rank == turn:
                method.step(paths.batch(0 * one))
            _let_all_be_served(c)
        center = float(paths.shown(method))
        sums.append(sum(map(float, problem.gathered(c, model.x))) + center)
    if stale_replicas:
        assert all(abs(total - 1.0) > 0.1 for total in sums)
    else:
        assert sums == pytest.approx([1.0] * 3, rel=1e-14)


@on_ranks(PAIR)
def test_without_stale_replicas_the_center_goes_to_the_rank_at_work(c: Communicator) -> None:
    """The tail of Zhang 2016, section 4.3.3: at rate 0 it ends where it and the last rank at work meet."""
    one = torch.ones(1, dtype=torch.float64)
    steps_per_epoch = 150 if c.rank == 0 else 1
    method, _ = paths.build(
        "easgd",
        c,
        replica=c.rank * one,
        center=10 * one,
        rate=problem.STILL,
        tau=1,
        steps_per_epoch=steps_per_epoch,
        stale_replicas=False,
    )
    if c.rank == 1:
        method.step(paths.batch(0 * one))
    _let_all_be_served(c)
    for _ in range(150 if c.rank == 0 else 0):
        method.step(paths.batch(0 * one))
    assert float(paths.shown(method)) == pytest.approx((10 + 0.9 / 2 * (1 - 10)) / 2, rel=1e-13)


@on_ranks(PAIR, TWO_BY_TWO)
def test_nobody_has_left_when_an_epoch_begins(c: Communicator) -> None:
    """Else the first that asks would move the center for all the others, who then exchange themselves as well."""
    one = torch.ones(1, dtype=torch.float64)
    method, _ = paths.build(
        "easgd", c, replica=c.rank * one, center=10 * one, rate=problem.STILL, tau=1, beta=0.8, steps_per_epoch=3
    )
    for _ in range(3):
        method.step(paths.batch(0 * one))
    before = float(paths.shown(method))
    replica = float(problem.gathered(c, method.state_dict()["descent"]["model"]["state"])[-1])
    if c.rank == c.size - 1:
        method.step(paths.batch(0 * one))
    c.barrier()
    assert float(paths.shown(method)) == pytest.approx(before + 0.8 / c.size * (replica - before), rel=1e-14)


# Checkpoints.


@on_ranks(SINGLE)
@pytest.mark.parametrize("report", ["center", "average"])
def test_the_overlapped_form_continues_from_a_checkpoint(c: Communicator, report: str) -> None:
    hyperparameters = {"form": "async_overlap", "tau": 3, "report": report}
    subject = Subject(method=Easgd, hyperparameters=hyperparameters, settings=PLAIN)
    CHECKS["continues_from_a_checkpoint_at_any_step"](c, subject)


@on_ranks(PAIR)
@pytest.mark.parametrize("form", ["async", "async_overlap"])
def test_an_answer_acts_at_its_own_step_whether_or_not_states_are_saved(c: Communicator, form: str) -> None:
    """Ranks at work in turns, so that exchanges have one order; the overlapped form pulls tau steps after it asks."""

    def make() -> tuple[Easgd, torch.nn.Module]:
        start = torch.tensor([1.0 + c.rank], dtype=torch.float64)
        return paths.build("easgd", c, replica=start, center=0 * start, rate=0.1, tau=3, form=form)

    ends = []
    for saves in (False, True):
        method, model = make()
        for number in range(16):
            if c.rank == number % 2:
                method.step(paths.batch(torch.ones(1, dtype=torch.float64)))
            _let_all_be_served(c)
            if saves:
                state = method.state_dict()
                method, model = make()
                method.load_state_dict(state)
        ends.append((model.x.item(), float(paths.shown(method))))
    assert ends[0] == ends[1]


@on_ranks(PAIR)
def test_a_rank_that_leaves_before_it_has_asked_since_a_checkpoint_has_no_pull(c: Communicator) -> None:
    """The owner does not know its replica."""
    one = torch.ones(1, dtype=torch.float64)
    given = {"replica": c.rank * one, "center": 10 * one, "rate": problem.STILL, "tau": 3, "beta": 0.8}
    method, _ = paths.build("easgd", c, **given, steps_per_epoch=2)
    method.step(paths.batch(0 * one))
    state = method.state_dict()
    center = float(paths.shown(method))
    method, model = paths.build("easgd", c, **given, steps_per_epoch=2)
    method.load_state_dict(state)
    method.step(paths.batch(0 * one))  # the last of the epoch
    _let_all_be_served(c)
    if c.rank == 0:
        method.step(paths.batch(0 * one))
        replica = model.x.item()
        method.step(paths.batch(0 * one))  # asks
        center += 0.8 / 2 * (replica - center)
    c.barrier()
    shown = problem.gathered(c, torch.tensor([center], dtype=torch.float64))[0]
    assert float(paths.shown(method)) == pytest.approx(float(shown), rel=1e-14)


def _let_all_be_served(c: Communicator) -> None:
    c.barrier()
    for _ in range(3):  # whatever has been sent is seen
        c.progress()
    c.barrier()


# Traffic.


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("form", ["async", "async_overlap"])
def test_bytes_of_exchanges_with_the_center(c: Communicator, form: str) -> None:
    exchanges_cost_8n(c, "easgd", form=form)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("form", ["async", "async_overlap"])
def test_bytes_of_exchanges_with_a_dedicated_server(c: Communicator, form: str) -> None:
    exchanges_cost_8n(c, "easgd", form=form, server="dedicated")


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("form", ["jacobi", "gauss_seidel"])
def test_bytes_of_synchronous_forms(c: Communicator, form: str) -> None:
    all_reduces_cost_a_ring(c, "easgd", num=7, form=form, tau=3)


# A replay with everything at once: several ranks, a falling rate, decay, clipping, alpha and beta apart.


@on_ranks(PAIR, QUADRUPLE)
@pytest.mark.parametrize("report", ["center", "average"])
@pytest.mark.parametrize("form", FORMS)
def test_it_equals_its_replay(c: Communicator, form: str, report: str) -> None:
    replayed.elastic(c, "easgd", form=form, report=report)


@on_ranks(PAIR, QUADRUPLE)
@pytest.mark.parametrize("report", ["center", "average"])
@pytest.mark.parametrize("form", ["async", "async_overlap"])
def test_it_equals_its_replay_with_a_dedicated_server(c: Communicator, form: str, report: str) -> None:
    replayed.elastic(c, "easgd", form=form, report=report, server="dedicated")
