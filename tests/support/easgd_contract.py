"""The identities, protocols and traffic of source 003's methods, as checks over any communicator."""

from __future__ import annotations

import math
import types
from collections.abc import Callable

import paths
import problem
import pytest
import torch
from ranks import on_layouts

from atoll.communication.communicator import Communicator
from atoll.communication.ledger import Ledger
from atoll.methods import METHODS
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.parameter_server.downpour import Downpour
from atoll.methods.parameter_server.eamsgd import Eamsgd
from atoll.methods.parameter_server.easgd import Easgd
from atoll.methods.parameter_server.easgd_tree import EasgdTree, plant
from atoll.methods.parameter_server.elastic_base import FORMS
from atoll.methods.parameter_server.mdownpour import Mdownpour
from atoll.methods.sequential.msgd import Msgd
from atoll.methods.sequential.sgd import Sgd
from atoll.platform.study import registry

SINGLE, PAIR, TWO_BY_TWO = (0,), (0, 0), (0, 0, 1, 1)
# Sums of p float64 terms in another order, over 50 steps that amplify it little.
FLOAT64 = 1e-12
PLAIN = {"learning_rate": 0.2, "momentum": 0.0, "weight_decay": 1e-3}
ASYNCHRONOUS = [
    ("easgd", {"form": "async", "tau": 2}),
    ("easgd", {"form": "async_overlap", "tau": 2}),
    ("eamsgd", {"tau": 2}),
    ("downpour", {"tau": 2}),
    ("adownpour", {"tau": 2}),
    ("mvadownpour", {"tau": 2}),
    ("mdownpour", {}),
    ("easgd_tree", {"degree": 2, "tau_slow": 2}),
]


# Identities.


@on_layouts(PAIR, TWO_BY_TWO)
def check_gauss_seidel_with_alpha_1_equals_ddp(c: Communicator) -> None:
    """beta = 1 is ddp, beta = p is ddp at p times the rate: synchronous DOWNPOUR with tau = 1 (6.1)."""
    for beta, factor in ((1.0, 1), (float(c.size), c.size)):
        rate = PLAIN["learning_rate"] / c.size
        steps = list(problem.batches(c, problem.NUM_STEPS))
        form = {"form": "gauss_seidel", "tau": 1, "alpha": 1.0, "beta": beta}
        elastic, _ = problem.make(Easgd, c, hyperparameters=form, settings=PLAIN | {"learning_rate": rate})
        ddp, model = problem.make(Ddp, c, settings=PLAIN | {"learning_rate": factor * rate})
        problem.train(elastic, steps)
        problem.train(ddp, steps)
        assert problem.close(problem.vector(elastic.finalize()), problem.vector(model), FLOAT64), beta


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_without_elastic_force_the_center_rests_and_the_workers_are_alone(c: Communicator) -> None:
    for form in FORMS:
        made, model = problem.make(
            Easgd, c, hyperparameters={"form": form, "tau": 2, "alpha": 0.0, "beta": 0.0}, settings=PLAIN
        )
        start = problem.vector(model)
        steps = list(problem.batches(c, 20))
        problem.train(made, steps, meet=c.barrier)
        alone, reference = problem.make(Sgd, c.split(c.rank), settings=PLAIN)
        problem.train(alone, steps)
        assert torch.equal(problem.vector(made.finalize()), start), form
        assert problem.close(problem.vector(model), problem.vector(reference), 1e-15), form


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_eamsgd_without_momentum_equals_easgd(c: Communicator) -> None:
    steps = list(problem.batches(c, 30))
    forms = FORMS if c.size == 1 else ("jacobi", "gauss_seidel")
    for form in forms:
        easgd, _ = problem.make(Easgd, c, hyperparameters={"form": form, "tau": 3}, settings=PLAIN)
        problem.train(easgd, steps)
        expected = problem.vector(easgd.finalize())
        for momentum_form in ("nesterov", "heavy_ball"):
            h = {"form": form, "tau": 3, "momentum_form": momentum_form}
            eamsgd, _ = problem.make(Eamsgd, c, hyperparameters=h, settings=PLAIN)
            problem.train(eamsgd, steps)
            # The heavy ball adds v = -lr g where the others subtract lr g in one rounding.
            assert problem.close(problem.vector(eamsgd.finalize()), expected, FLOAT64), (form, momentum_form)


@on_layouts(SINGLE)
def check_downpour_on_one_rank_is_sgd_and_mdownpour_is_msgd(c: Communicator) -> None:
    steps = list(problem.batches(c, 40))
    momentum = PLAIN | {"learning_rate": 0.05, "momentum": 0.9}
    for method, hyperparameters, sequential, settings in (
        (Downpour, {"tau": 1}, Sgd, PLAIN),
        (Downpour, {"tau": 7}, Sgd, PLAIN),
        (Mdownpour, {}, Msgd, momentum),
    ):
        made, _ = problem.make(method, c, hyperparameters=hyperparameters, settings=settings)
        reference, model = problem.make(sequential, c, settings=settings)
        problem.train(made, steps)
        problem.train(reference, steps)
        assert problem.close(problem.vector(made.finalize()), problem.vector(model), FLOAT64), method


@on_layouts(SINGLE)
def check_one_rank_equals_the_written_out_updates(c: Communicator) -> None:
    """On x^2 / 2 with a known noise, by the source's equations for one path."""
    eta, delta, alpha, beta, tau, rate = 0.3, 0.6, 0.2, 0.7, 3, 0.1
    noise = torch.randn(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64).tolist()
    start = 2.0

    def sgd() -> list[float]:
        x = [start]
        for n in noise:
            x.append(x[-1] - eta * (x[-1] - n))
        return x

    def nesterov(x: float, v: float, n: float) -> float:
        return delta * v - eta * (x + delta * v - n)

    def elastic(momentum: Callable[[float, float, float], float], overlap: bool = False) -> float:
        x, v, center, pending = start, 0.0, start, 0.0
        for t, n in enumerate(noise):
            d = 0.0
            if t % tau == 0:
                if overlap:
                    x -= pending
                d, pending = alpha * (x - center), alpha * (x - center)
                center += beta * (x - center)
            v = momentum(x, v, n)
            x += v - (0.0 if overlap else d)
        return center

    def gauss_seidel() -> float:
        x, center = start, start
        for t, n in enumerate(noise):
            x -= alpha * (x - center) if t % tau == 0 else 0.0
            x -= eta * (x - n)
            center += beta * (x - center) if t % tau == 0 else 0.0
        return center

    def msgd() -> float:
        x, v = start, 0.0
        for n in noise:
            v = nesterov(x, v, n)
            x += v
        return x

    def moving(values: list[float]) -> float:
        z = start
        for value in values:
            z = (1 - rate) * z + rate * value
        return z

    iterates = sgd()
    # The clock of the center's average ticks with every push: every third iterate, and the last push finds the next.
    centers = [iterates[0], *iterates[0:37:tau], iterates[39]]

    def plain(x: float, v: float, n: float) -> float:
        return -eta * (x - n)

    def heavy_ball(x: float, v: float, n: float) -> float:
        return delta * v - eta * (x - n)

    ties = {"alpha": alpha, "beta": beta, "tau": tau}
    cases = [
        ("sgd", {}, 0.0, iterates[-1]),
        ("msgd", {}, delta, msgd()),
        ("asgd", {}, 0.0, sum(iterates[:-1]) / len(noise)),
        ("mvasgd", {"moving_rate": rate}, 0.0, moving(iterates[:-1])),
        ("easgd", ties | {"form": "async"}, 0.0, elastic(plain)),
        ("easgd", ties | {"form": "jacobi"}, 0.0, elastic(plain)),
        ("easgd", ties | {"form": "async_overlap"}, 0.0, elastic(plain, overlap=True)),
        ("easgd", ties | {"form": "gauss_seidel"}, 0.0, gauss_seidel()),
        ("eamsgd", ties, delta, elastic(nesterov)),
        ("eamsgd", ties | {"momentum_form": "heavy_ball"}, delta, elastic(heavy_ball)),
        ("downpour", {"tau": tau}, 0.0, iterates[-1]),
        ("mdownpour", {}, delta, msgd()),
    ]
    pushes = [iterates[0], *iterates[0:40:tau]]  # c_t before each push: the first at t = 0, the last after the end
    assert len(pushes) == len(centers)
    cases += [
        ("adownpour", {"tau": tau}, 0.0, sum(pushes) / len(pushes)),
        ("mvadownpour", {"tau": tau, "moving_rate": rate}, 0.0, moving(pushes)),
    ]
    for name, hyperparameters, momentum, expected in cases:
        x0 = torch.tensor([start], dtype=torch.float64)
        made, _ = paths.build(name, c, replica=x0, center=x0, rate=eta, momentum=momentum, **hyperparameters)
        for n in noise:
            made.step(paths.batch(torch.tensor([n], dtype=torch.float64)))
        assert float(made.finalize().x.detach()) == pytest.approx(expected, rel=1e-12), (name, hyperparameters)


# Protocols: nobody waits for a rank that is late, and one that is early does not pull the center away from the rest.


@on_layouts(PAIR, TWO_BY_TWO)
def check_nobody_waits_for_a_late_rank(c: Communicator) -> None:
    """One rank starts its steps when all others have done theirs; if anyone waited for it, this would never end."""
    for name, hyperparameters in ASYNCHRONOUS:
        for late in {0, c.size - 1}:
            made, _ = problem.make(
                registry.method(name), c, hyperparameters=hyperparameters, settings={"learning_rate": 1e-3}
            )
            steps = list(problem.batches(c, 10))
            word = torch.zeros(1)
            if c.rank == late:
                for other in range(c.size):
                    if other != late:
                        c.receive(word, other, tag=5)
            problem.train(made, steps)
            if c.rank != late:
                c.send(word, late, tag=5)
            assert torch.isfinite(problem.vector(made.finalize())).all(), name


@on_layouts(PAIR, TWO_BY_TWO)
def check_those_who_left_keep_their_pull_on_the_center(c: Communicator) -> None:
    """At rate 0 an exchange moves x_i and c by opposite amounts, so their sum stays, and all of them end at its mean.

    One rank exchanges when the others have long finished. If those no longer counted, the center would end where it and
    that rank meet.
    """
    for late in {0, c.size - 1}:
        made, model = problem.make(
            Easgd,
            c,
            hyperparameters={"tau": 1},
            settings={"learning_rate": 1e-300, "weight_decay": 0.0},
            steps_per_epoch=150,
        )
        start = problem.vector(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float(c.rank))
        steps = list(problem.batches(c, 150, batch_size=1))
        word = torch.zeros(1)
        early = [rank for rank in range(c.size) if rank != late]
        if c.rank == late:
            for other in early:
                c.receive(word, other, tag=5)
            for batch in steps:
                made.step(batch)
        else:
            made.step(steps[0])  # a single exchange, and it is done
            made._depart()
            c.send(word, late, tag=5)
        center = problem.vector(made.finalize())
        mean = (start + sum(range(c.size))) / (c.size + 1)
        # (1 - 0.9/p)^150 of the distance is left: 4e-17 for four ranks; then 150 roundings.
        assert problem.close(center, mean, 1e-13), late


@on_layouts(PAIR, TWO_BY_TWO)
def check_nobody_has_departed_when_an_epoch_begins(c: Communicator) -> None:
    """Else the first that asks would move the center for all the others, who then exchange themselves as well."""
    made, _ = problem.make(Easgd, c, hyperparameters={"tau": 5}, settings=PLAIN, steps_per_epoch=10)
    problem.train(made, list(problem.batches(c, 10)), meet=c.barrier)
    made.evaluation_model()
    assert made._center.server is None or made._center.server.departed() == []
    problem.train(made, list(problem.batches(c, 10)), meet=c.barrier)
    made.finalize()


@on_layouts(TWO_BY_TWO)
def check_leaves_of_the_tree_agree_at_rate_0(c: Communicator) -> None:
    """With nothing but averaging all nodes come together, and stay within what the leaves were."""
    made, model = problem.make(
        EasgdTree,
        c,
        hyperparameters={"degree": 2, "tau_fast": 1, "tau_slow": 2},
        settings={"learning_rate": 1e-300, "weight_decay": 0.0},
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float(c.rank))
    for batch in problem.batches(c, 400, batch_size=1):
        made.step(batch)
        made._settle()  # messages arrive at the pace at which they are sent
    root = problem.vector(made.finalize())
    mine = problem.vector(model)
    # The slowest mode, between the two halves of the tree, loses a factor of about 5 in 50 steps.
    assert problem.close(mine, root, 3 * 5 ** (-300 / 50))
    assert 0 <= float(root.min()) <= float(root.max()) <= c.size - 1
    assert float(root.max() - root.min()) < float(c.size - 1) / 2


@on_layouts(PAIR, TWO_BY_TWO)
def check_the_tree_takes_the_steps_of_algorithm_6(c: Communicator) -> None:
    """With one rank at work at a time, and all messages received before the next, nothing races."""
    rate, alpha, tau_up, tau_down, num_turns = 0.1, 0.2, 2, 3, 12
    made, model = problem.make(
        EasgdTree,
        c,
        hyperparameters={
            "scheme": "fast_up",
            "degree": 4,
            "tau_fast": tau_up,
            "tau_slow": tau_down,
            "alpha": alpha,
        },
        settings={"learning_rate": rate, "weight_decay": 0.0},
    )
    everyones = [list(problem.batches(_played(c, rank), num_turns)) for rank in range(c.size)]
    leaves = [problem.make_model() for _ in range(c.size)]
    root = problem.vector(leaves[0])

    def load(leaf, vector) -> None:
        torch.nn.utils.vector_to_parameters(vector, leaf.parameters())

    for t in range(num_turns):
        for turn, leaf in enumerate(leaves):
            if c.rank == turn:
                made.step(everyones[turn][t])
            made._settle()
            # algorithm 6, with the root on the first leaf's rank
            if turn == 0:
                if t % tau_up == 0:
                    root = root + alpha * (problem.vector(leaf) - root)
                if t % tau_down == 0:
                    for other in leaves:
                        load(other, problem.vector(other) + alpha * (root - problem.vector(other)))
            sent = problem.vector(leaf)
            batch = everyones[turn][t]
            leaf.zero_grad()
            torch.nn.functional.cross_entropy(leaf(batch.inputs), batch.targets).backward()
            load(leaf, problem.vector(leaf) - rate * torch.cat([p.grad.reshape(-1) for p in leaf.parameters()]))
            if turn > 0 and t % tau_up == 0:
                root = root + alpha * (sent - root)
    assert problem.close(problem.vector(model), problem.vector(leaves[c.rank]), 1e-12)
    assert problem.close(problem.vector(made.finalize()), root, 1e-12)


def _played(c: Communicator, rank: int):
    """What the batches of another rank depend on."""
    return types.SimpleNamespace(rank=rank, size=c.size)


# Traffic.


@on_layouts(SINGLE, PAIR, TWO_BY_TWO)
def check_bytes_are_the_closed_formulas(c: Communicator) -> None:
    p, num_steps, tau = c.size, 20, 3
    n = problem.vector(problem.make_model()).numel()
    exchanges = math.ceil(num_steps / tau)
    all_reduce = p * 2 * (p - 1) / p * 4 * n
    cases = {
        ("easgd", "async"): (p - 1) * 8 * n * exchanges,
        ("easgd", "async_overlap"): (p - 1) * 8 * n * exchanges,
        ("easgd", "jacobi"): all_reduce * exchanges,
        ("easgd", "gauss_seidel"): all_reduce * exchanges,
        ("eamsgd", "async"): (p - 1) * 8 * n * exchanges,
        # and once more at the end, when the last v is pushed
        ("downpour", None): (p - 1) * 8 * n * (exchanges + 1),
        ("adownpour", None): (p - 1) * 8 * n * (exchanges + 1),
        ("mvadownpour", None): (p - 1) * 8 * n * (exchanges + 1),
        ("mdownpour", None): (p - 1) * 8 * n * num_steps,
        ("admm_consensus", "synchronous"): all_reduce * num_steps,
        ("admm_consensus", "round_robin"): p * (p - 1) * 4 * n * num_steps,
    }
    for (name, form), expected in cases.items():
        hyperparameters = {} if name in ("mdownpour", "admm_consensus") else {"tau": tau}
        if form is not None:
            hyperparameters["form"] = form
        before = _everyones_bytes(c)
        made, _ = problem.make(
            registry.method(name),
            c,
            hyperparameters=hyperparameters,
            settings={"learning_rate": 1e-3},
            model=problem.make_model(torch.float32),
        )
        problem.train(made, list(problem.batches(c, num_steps, dtype=torch.float32)), meet=c.barrier)
        made.finalize()
        assert _everyones_bytes(c) - before == pytest.approx(expected, rel=1e-12), (name, form)


@on_layouts(PAIR, TWO_BY_TWO)
def check_bytes_of_the_tree_are_those_of_its_edges(c: Communicator) -> None:
    n, num_steps = problem.vector(problem.make_model()).numel(), 12
    for scheme in ("multi_scale", "fast_up"):
        before = _everyones_bytes(c)
        made, _ = problem.make(
            EasgdTree,
            c,
            hyperparameters={"scheme": scheme, "degree": 2, "tau_fast": 2, "tau_slow": 4},
            settings={"learning_rate": 1e-3},
            model=problem.make_model(torch.float32),
        )
        for batch in problem.batches(c, num_steps, dtype=torch.float32):
            made.step(batch)
            made._settle()  # so that no message is left out because the one before it is still under way
        made.finalize()
        places = plant(c.size, 2, scheme, 2, 4)
        remote = [
            (child, places[child.parent])
            for child in places
            if child.parent is not None and places[child.parent].rank != child.rank
        ]
        expected = sum(4 * n * num_steps * (1 / child.tau_up + 1 / parent.tau_down) for child, parent in remote)
        assert remote
        assert _everyones_bytes(c) - before == pytest.approx(expected, rel=1e-12), scheme


def _everyones_bytes(c: Communicator) -> float:
    untracked = c.split(0, ledger=Ledger())
    total = torch.tensor([c.ledger.wire_bytes()], dtype=torch.float64)
    untracked.sum(total)
    return float(total)


ALL = {name for name in METHODS if registry.method(name).asynchronous and not registry.method(name).layer_parallel}
assert {name for name, _ in ASYNCHRONOUS} == ALL
