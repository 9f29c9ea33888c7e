"""The EASGD tree (Zhang 2016, section 6.1, algorithm 6)."""

import time
import types

import pytest
import replayed
import torch
from center_protocol import nobody_waits_for_a_late_rank
from on_ranks import on_ranks

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.methods.parameter_server.easgd_tree import SCHEMES, EasgdTree, Place, plant
from atoll.testing import problem
from atoll.testing.ranks import PAIR, QUADRUPLE, TWO_BY_TWO


def test_every_node_is_on_the_rank_of_its_first_leaf():
    places = plant(5, 2, "multi_scale", 1, 10)
    assert [p.rank for p in places] == [0, 1, 2, 3, 4, 0, 2, 4, 0, 4, 0]
    assert [p.parent for p in places] == [5, 5, 6, 6, 7, 8, 8, 9, 10, 10, None]
    assert places[8].children == (5, 6)
    leaf, parent, inner, root = places[0], places[5], places[8], places[10]
    assert (leaf.tau_up, parent.tau_up, parent.tau_down) == (1, 10, 1)
    assert (inner.tau_up, inner.tau_down, root.tau_down) == (10, 10, 10)
    assert {(p.tau_up, p.tau_down) for p in plant(5, 2, "fast_up", 8, 80)} == {(8, 80)}
    # 16 parents of 16 leaves each on 256 ranks, as in the source
    assert [len(plant(256, 16, "fast_up", 1, 10)), len(plant(16, 16, "fast_up", 1, 10))] == [273, 17]


def test_a_missing_level_is_noted():
    notes = run_virtual_ranks(
        lambda c: [problem.make(EasgdTree, c, hyperparameters={"degree": d})[0].notes for d in (2, 4)], (0, 0, 0)
    )
    assert notes[0][0] == ()
    assert "the leaves' parent is the root, one level less than the source's tree" in notes[0][1][0]


@on_ranks(TWO_BY_TWO)
def test_leaves_agree_at_rate_0(c: Communicator) -> None:
    """With nothing but averaging all nodes come together, and stay within the leaves' first values."""
    method, model = problem.make(
        EasgdTree,
        c,
        hyperparameters={"degree": 2, "tau_fast": 1, "tau_slow": 2},
        settings={"learning_rate": problem.STILL, "weight_decay": 0.0},
        model=torch.nn.Linear(64, 10).double(),
    )
    problem.fill(model, float(c.rank))
    for batch in problem.batches(c, 200, batch_size=1):
        method.step(batch)
        c.barrier()
        for _ in range(3):  # messages arrive at the pace at which they are sent
            c.progress()
        c.barrier()
    root = problem.vector(method.finalize())
    mine = problem.vector(model)
    # The slowest mode, between the two halves of the tree, loses a factor of about 5 in 50 steps.
    assert problem.close(mine, root, 3 * 5 ** (-150 / 50))
    assert 0 <= float(root.min()) <= float(root.max()) <= c.size - 1
    assert float(root.max() - root.min()) < float(c.size - 1) / 2


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("alpha", [0.2, None], ids=["alpha_0.2", "default_alpha"])
@pytest.mark.parametrize("delta", [0.0, 0.6], ids=["plain", "momentum"])
def test_it_takes_the_steps_of_algorithm_6(c: Communicator, delta: float, alpha: float | None) -> None:
    """With one rank at work at a time, and all messages received before the next, nothing races."""
    rate, tau_up, tau_down, num_turns = 0.05, 2, 3, 8
    given = {"scheme": "fast_up", "degree": 4, "tau_fast": tau_up, "tau_slow": tau_down}
    settings = {"learning_rate": rate, "momentum": delta, "weight_decay": 0.0}
    method, model = problem.make(EasgdTree, c, hyperparameters=given | {"alpha": alpha}, settings=settings)
    if alpha is None:
        alpha = 0.9 / (c.size + 1)  # a root of p children: 0.9 / (d + 1)
    everyones = [list(problem.batches(_played(c, rank), num_turns)) for rank in range(c.size)]
    leaves = [problem.make_model() for _ in range(c.size)]
    root = problem.vector(leaves[0])
    velocities = [torch.zeros_like(root) for _ in leaves]

    def load(leaf, vector) -> None:
        torch.nn.utils.vector_to_parameters(vector, leaf.parameters())

    for t in range(num_turns):
        for turn, leaf in enumerate(leaves):
            batch = everyones[turn][t]
            if c.rank == turn:
                method.step(batch)
            method.evaluation_model()  # receives all that was sent
            # algorithm 6, with the root on the first leaf's rank
            if turn == 0:
                if t % tau_up == 0:
                    root = root + alpha * (problem.vector(leaf) - root)
                if t % tau_down == 0:
                    for other in leaves:
                        load(other, problem.vector(other) + alpha * (root - problem.vector(other)))
            sent = problem.vector(leaf)
            # v <- delta v - lr g(x + delta v), x <- x + v
            load(leaf, sent + delta * velocities[turn])
            leaf.zero_grad()
            torch.nn.functional.cross_entropy(leaf(batch.inputs), batch.targets).backward()
            gradient = torch.cat([p.grad.reshape(-1) for p in leaf.parameters()])
            velocities[turn] = delta * velocities[turn] - rate * gradient
            load(leaf, sent + velocities[turn])
            if turn > 0 and t % tau_up == 0:
                root = root + alpha * (sent - root)
    assert problem.close(problem.vector(model), problem.vector(leaves[c.rank]), 1e-12)
    assert problem.close(problem.vector(method.finalize()), root, 1e-12)


def _played(c: Communicator, rank: int):
    """All that the batches of another rank depend on."""
    return types.SimpleNamespace(rank=rank, size=c.size)


@on_ranks(PAIR)
def test_a_leaf_averages_between_two_gradients_only(c: Communicator) -> None:
    """The root's message arrives while the leaf computes its gradient: it waits for the next step (section 6.1.1)."""
    rate, word = 0.1, torch.zeros(1)

    def loss(outputs, targets):
        if waits_in_gradient:
            c.send(word, 0, tag=6)
            c.receive(word, 0, tag=5)  # while it waits, it receives the root
        return torch.nn.functional.cross_entropy(outputs, targets)

    waits_in_gradient = c.rank == 1
    method, model = problem.make(
        EasgdTree,
        c,
        hyperparameters={"degree": 2, "scheme": "fast_up", "tau_fast": 100, "tau_slow": 1, "alpha": 0.5},
        settings={"learning_rate": rate, "momentum": 0.0, "weight_decay": 0.0},
        loss=loss,
    )
    problem.fill(model, float(c.rank))
    (first,) = problem.batches(c, 1)
    reference = problem.make_model()
    problem.fill(reference, 1.0)
    torch.nn.functional.cross_entropy(reference(first.inputs), first.targets).backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in reference.parameters()])
    if c.rank == 0:
        c.receive(word, 1, tag=6)
        method.step(first)  # sends the root to its children, at t = 0
        c.send(word, 1, tag=5)
        method.state_dict()
    else:
        method.step(first)
        expected = 1.0 - rate * gradient
        assert problem.close(problem.vector(model), expected, 1e-14)
        assert len(method.state_dict()["waiting"]) == 1
        assert problem.close(problem.vector(model), expected, 1e-14)
    waits_in_gradient = False
    method.evaluation_model()
    if c.rank == 1:
        assert not problem.close(problem.vector(model), expected, 1e-3)


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("late", [0, -1], ids=["root", "last"])
def test_nobody_waits_for_a_late_rank(c: Communicator, late: int) -> None:
    nobody_waits_for_a_late_rank(c, "easgd_tree", late, degree=2, tau_slow=2)


@on_ranks(PAIR, QUADRUPLE)
@pytest.mark.parametrize("late", [0, -1], ids=["root", "last"])
def test_a_late_leaf_reaches_the_root_and_early_ones_keep_their_pull(c: Communicator, late: int) -> None:
    """At rate 0 all nodes are at 1, and the early leaves move to 0 when their steps are over.

    If nodes stopped with their leaf, nobody would hear of that, and the last of four would not reach the root.
    """
    late %= c.size
    model = torch.nn.Linear(64, 10).double()
    problem.fill(model, 1.0)
    method, model = problem.make(
        EasgdTree,
        c,
        hyperparameters={"degree": 2, "scheme": "fast_up", "tau_fast": 1, "tau_slow": 1},
        settings={"learning_rate": problem.STILL, "weight_decay": 0.0},
        model=model,
        steps_per_epoch=10**9 if c.rank == late else 5,
    )
    batches, word = list(problem.batches(c, 5, batch_size=1)), torch.zeros(1)
    if c.rank == late:
        for other in range(c.size):
            if other != late:
                c.receive(word, other, tag=5)
        started, num_steps = time.monotonic(), 0
        while (num_steps < 60 or problem.vector(model).max() > 0.9) and time.monotonic() < started + 20:
            method.step(batches[0])
            num_steps, slept = num_steps + 1, time.monotonic()
            c.wait_until(lambda since=slept: time.monotonic() > since + 0.005)
        assert problem.vector(model).max() <= 0.9
    else:
        problem.train(method, batches)
        problem.fill(model, 0.0)
        c.send(word, late, tag=5)
    root = problem.vector(method.finalize())
    assert 1e-3 < float(root.min()) <= float(root.max()) < 1 - 1e-3


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("scheme", ["multi_scale", "fast_up"])
def test_bytes_are_those_of_its_edges(c: Communicator, scheme: str) -> None:
    num_parameters, num_steps = problem.vector(problem.make_model()).numel(), 12
    method, _ = problem.make(
        EasgdTree,
        c,
        hyperparameters={"scheme": scheme, "degree": 2, "tau_fast": 2, "tau_slow": 4},
        settings={"learning_rate": 1e-3},
        model=problem.make_model(torch.float32),
    )
    for batch in problem.batches(c, num_steps, dtype=torch.float32):
        method.step(batch)
        method.evaluation_model()  # so that no message is left out because the one before it is still under way
    method.finalize()
    places = plant(c.size, 2, scheme, 2, 4)
    remote = [
        (child, places[child.parent])
        for child in places
        if child.parent is not None and places[child.parent].rank != child.rank
    ]
    periods = sum(1 / child.tau_up + 1 / parent.tau_down for child, parent in remote)
    assert remote
    assert problem.worker_bytes(c) == pytest.approx(4 * num_parameters * num_steps * periods, rel=1e-12)


@on_ranks(PAIR, QUADRUPLE)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_equals_its_replay(c: Communicator, scheme: str) -> None:
    """Algorithm 6 on a tree with a level between leaves and root, where there are four ranks; the default alpha."""
    delta, degree, fast, slow = 0.6, 2, 2, 3
    alpha = 0.9 / (degree + 1)
    places = plant(c.size, degree, scheme, fast, slow)
    inner = {place.number: replayed.start(-1) for place in places[c.size :]}
    waiting: dict[int, list] = {number: [] for number in range(c.size)}

    def send(ranks: list[replayed.Rank], place: Place, receiver: int) -> None:
        value = inner[place.number] if place.number in inner else ranks[place.number].x
        if receiver in inner:
            inner[receiver] = inner[receiver] + alpha * (value - inner[receiver])
        else:
            waiting[receiver].append(value)

    def step(ranks: list[replayed.Rank], rank: replayed.Rank) -> None:
        for place in (place for place in places if place.rank == rank.number):
            if place.parent is not None and rank.step % place.tau_up == 0:
                send(ranks, place, place.parent)
            if place.children and rank.step % place.tau_down == 0:
                for child in place.children:
                    send(ranks, place, child)
        for value in waiting[rank.number]:
            rank.x = rank.x + alpha * (value - rank.x)
        waiting[rank.number].clear()
        rank.descend(delta)

    ranks = replayed.in_turns(c.size, step)
    given = {"scheme": scheme, "degree": degree, "tau_fast": fast, "tau_slow": slow}
    trained = replayed.train(c, "easgd_tree", momentum=delta, **given)
    assert replayed.close(trained.x, ranks[c.rank].x)
    assert replayed.close(trained.shown, inner[places[-1].number])
    for number, value in trained.state["inner_nodes"].items():
        assert replayed.close(value, inner[number])
