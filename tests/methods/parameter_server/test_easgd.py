"""EASGD: elastic averaging (Zhang 2016): identities, the theory of chapters 3, 5 and 6, its protocol and its traffic.

The theory is tested on the method's own code on virtual ranks: see `paths`.
"""

import math

import paths
import pytest
import replayed
import torch
from center_protocol import all_reduces_cost_a_ring, exchanges_cost_8n, nobody_waits_for_a_late_rank
from on_ranks import on_ranks
from paths import NOISE, RATES, START

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.methods.data_parallel.ddp import Ddp
from atoll.methods.parameter_server.easgd import Easgd
from atoll.methods.parameter_server.elastic_base import FORMS
from atoll.methods.sequential.sgd import Sgd
from atoll.testing import CHECKS, Subject, problem
from atoll.testing.method_contract import FLOAT64
from atoll.testing.ranks import PAIR, QUADRUPLE, SINGLE, TWO_BY_TWO

PLAIN = {"learning_rate": 0.2, "momentum": 0.0, "weight_decay": 1e-3}
# Five standard errors: one such test in two million fails by chance, and the seed is fixed.
SIGMAS = 5
NUM_PATHS = 20_000


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


# The protocol: nobody waits for a late rank, and an early one does not pull the center away from the rest.


@on_ranks(PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("late", [0, -1], ids=["owner", "last"])
@pytest.mark.parametrize("form", ["async", "async_overlap"])
def test_nobody_waits_for_a_late_rank(c: Communicator, form: str, late: int) -> None:
    nobody_waits_for_a_late_rank(c, "easgd", late, form=form, tau=2)


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


@on_ranks(SINGLE, PAIR, TWO_BY_TWO)
@pytest.mark.parametrize("form", ["jacobi", "gauss_seidel"])
def test_bytes_of_synchronous_forms(c: Communicator, form: str) -> None:
    all_reduces_cost_a_ring(c, "easgd", num=7, form=form, tau=3)


# Zhang 2016, lemma 3.1.1, corollary 3.1.1, the double average.


def roots(eta, alpha, p):
    """Gamma and phi of lemma 3.1.1 with h = 1."""
    a, c2 = eta + (p + 1) * alpha, eta * p * alpha
    root = math.sqrt(a**2 - 4 * c2)
    return 1 - (a - root) / 2, 1 - (a + root) / 2


def simulate(p, num_steps, *, replicas, center, sigma, **arguments):
    """The center (paths,) after `num_steps` noisy steps on p virtual ranks."""

    def run(c):
        generator = torch.Generator().manual_seed(1000 + c.rank)
        start = torch.full((NUM_PATHS,), replicas[c.rank], dtype=torch.float64)
        method, _ = paths.build("easgd", c, replica=start, center=torch.full_like(start, center), tau=1, **arguments)
        for _ in range(num_steps):
            method.step(paths.batch(sigma * torch.randn(NUM_PATHS, generator=generator, dtype=torch.float64)))
        return paths.shown(method)

    return run_virtual_ranks(run, [0] * p)[0]


@pytest.mark.parametrize(
    ("eta", "alpha", "p", "t"),
    [(0.1, 0.05, 4, 1), (0.1, 0.05, 4, 20), (0.5, 0.2, 3, 7), (1.0, 0.1, 2, 30), (0.05, 0.45, 2, 12), (1.5, 0.2, 1, 9)],
)
def test_mean_and_variance_of_the_center_are_lemma_3_1_1(eta, alpha, p, t):
    replicas, center, sigma = [1.0 + i for i in range(p)], -2.0, 3.0
    got = simulate(
        p, t, replicas=replicas, center=center, sigma=sigma, form="jacobi", rate=eta, alpha=alpha, beta=p * alpha
    )
    gamma, phi = roots(eta, alpha, p)
    u0 = sum(x - alpha / (1 - p * alpha - phi) * center for x in replicas)
    mean = gamma**t * center + (gamma**t - phi**t) / (gamma - phi) * alpha * u0
    series = (
        (gamma**2 - gamma ** (2 * t)) / (1 - gamma**2)
        + (phi**2 - phi ** (2 * t)) / (1 - phi**2)
        - 2 * (gamma * phi - (gamma * phi) ** t) / (1 - gamma * phi)
    )
    variance = (p * alpha * eta / (gamma - phi)) ** 2 * series * sigma**2 / p
    # After one step the center has not seen any noise: then only rounding is left.
    assert float(got.mean()) == pytest.approx(mean, abs=SIGMAS * math.sqrt(variance / NUM_PATHS) + 1e-13)
    assert float(got.var()) == pytest.approx(variance, rel=SIGMAS * math.sqrt(2 / NUM_PATHS), abs=1e-20)


def test_the_variance_for_infinitely_many_workers_is_corollary_3_1_1():
    # For p -> infinity alpha = beta/p vanishes, and p times the variance is that of a center behind one free replica.
    eta, beta, sigma = 0.4, 0.6, 1.0
    got = simulate(1, 120, replicas=[0.0], center=0.0, sigma=sigma, form="jacobi", rate=eta, alpha=0.0, beta=beta)
    expected = beta * eta / ((2 - beta) * (2 - eta)) * (2 - beta - eta + beta * eta) / (beta + eta - beta * eta)
    assert float(got.var()) == pytest.approx(expected * sigma**2, rel=SIGMAS * math.sqrt(2 / NUM_PATHS))


def test_the_centers_average_has_the_optimal_variance_3_14():
    t, p, sigma = 400, 2, 1.0
    got = simulate(
        p,
        t,
        replicas=[0.0] * p,
        center=0.0,
        sigma=sigma,
        form="jacobi",
        rate=0.5,
        alpha=0.3,
        beta=0.6,
        report="average",
    )
    # The transient takes away about (1/(eta h) + 1/beta) of the t steps: 1 % here.
    assert float(got.var()) * t == pytest.approx(sigma**2 / p, rel=SIGMAS * math.sqrt(2 / NUM_PATHS) + 0.02)


# Stability in the round-robin scheme (Zhang 2016, section 3.3).


@pytest.mark.parametrize("p", [1, 3, 5])
@pytest.mark.parametrize("eta", [0.1, 1.0, 1.9])
def test_round_robin_easgd_is_stable_below_its_edge_only(p, eta):
    edge = (4 - 2 * eta) / (4 - eta)
    for factor, stable in ((0.5, True), (0.99, True), (1.01, False)):
        alpha = factor * edge
        m = paths.linear_map("easgd", p, round_robin=True, form="async", tau=1, rate=eta, alpha=alpha, beta=p * alpha)
        assert (paths.radius(m) < 1) == stable, (alpha, edge)


def test_for_an_even_number_of_workers_the_edge_is_sufficient_only():
    def radius(alpha):
        return paths.radius(
            paths.linear_map("easgd", 2, round_robin=True, form="async", tau=1, rate=1.0, alpha=alpha, beta=2 * alpha)
        )

    edge = (4 - 2) / (4 - 1)
    assert radius(edge) < 1
    assert radius(0.705) < 1
    assert radius(0.711) > 1


def test_easgd_does_not_diverge_where_admm_does():
    alpha = 0.001 * 2.5
    m = paths.linear_map("easgd", 3, round_robin=True, form="async", tau=1, rate=0.001, alpha=alpha, beta=3 * alpha)
    assert paths.radius(m) < 1


# Zhang 2016, chapter 5, additive noise.


@pytest.mark.parametrize(("eta", "alpha", "beta"), [(0.1, 0.225, 0.9), (1.5, -0.1, 0.9), (0.5, 0.7, 0.2)])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_jacobi_has_the_eigenvalues_of_5_19(eta, alpha, beta, p):
    m = paths.linear_map("easgd", p, form="jacobi", tau=1, rate=eta, alpha=alpha, beta=beta)
    b, c = (2 - beta - eta - alpha) / 2, (1 - eta) * (1 - beta) - alpha
    expected = [b + (b * b - c) ** 0.5, b - (b * b - c) ** 0.5] + [1 - alpha - eta] * (p - 1)
    assert_same_spectrum(m, expected)


def assert_same_spectrum(matrix, expected):
    left = [complex(z) for z in torch.linalg.eigvals(matrix)]
    for z in map(complex, expected):
        nearest = min(left, key=lambda other: abs(other - z))
        # A double eigenvalue of a float64 matrix is off by the square root of rounding.
        assert abs(nearest - z) < 1e-7
        left.remove(nearest)
    assert not left


def test_the_best_alpha_where_the_rate_exceeds_beta_is_ours():
    """The source's optimum -(sqrt(beta) - sqrt(eta))^2 leaves .424; .337 is reached near -.163."""

    def radius(alpha):
        return paths.radius(paths.linear_map("easgd", 2, form="jacobi", tau=1, rate=1.5, alpha=alpha, beta=0.9))

    sources = -((math.sqrt(0.9) - math.sqrt(1.5)) ** 2)
    assert radius(sources) == pytest.approx(0.424, abs=5e-4)
    assert radius(-0.163) == pytest.approx(0.337, abs=5e-4)
    assert radius(-0.163) < min(radius(-0.19), radius(-0.14), radius(0.0))


# Zhang 2016, chapter 5, multiplicative noise.


@pytest.mark.parametrize(
    ("shape", "p", "eta", "expected"),
    [(0.5, 6, 0.3814, 0.5742), (1.0, 7, 0.5225, 0.4317), (2.0, 9, 0.6647, 0.2945), (10.0, 29, 0.8929, 0.0868)],
)
def test_convergence_under_multiplicative_noise_is_5_2_3s(shape, p, eta, expected):
    """The second moments' map E[M X M^T], where each rank's curvature is Gamma distributed and M is affine in it."""
    zero, units = torch.zeros(p, dtype=torch.float64), torch.eye(p, dtype=torch.float64)
    still, *moved = paths.noisy_maps(
        "easgd", p, noises=[zero, *units], objective=paths.scaled, form="jacobi", tau=1, rate=eta, beta=0.9
    )
    parts = [m - still for m in moved]
    mean, variance = shape / shape, shape / shape**2  # lambda / omega, lambda / omega^2 with omega = lambda
    m = still + mean * sum(parts)
    moments = torch.ones_like(m)
    for _ in range(300):
        moments = moments / moments.norm()
        moments = m @ moments @ m.T + variance * sum(part @ moments @ part.T for part in parts)
    assert float(moments.norm()) == pytest.approx(expected, abs=5.1e-5)  # four printed digits


# Zhang 2016, section 5.3, the double well.


@pytest.mark.parametrize(("rho", "stable"), [(0.3, True), (0.65, True), (0.68, False), (0.9, False)])
def test_two_workers_stay_apart_in_the_double_well_iff_rho_is_below_two_thirds(rho, stable):
    """The step's Jacobian at x = -y = sqrt(1 - rho), center 0, by central differences along paths."""
    eta, shift = 0.1, 1e-5
    critical = torch.tensor([math.sqrt(1 - rho), -math.sqrt(1 - rho), 0.0], dtype=torch.float64)
    steps = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)], dim=1) * shift
    start = critical[:, None] + steps

    def step(c):
        method, model = paths.build(
            "easgd",
            c,
            replica=start[c.rank],
            center=start[-1],
            objective=paths.double_well,
            form="jacobi",
            tau=1,
            rate=eta,
            alpha=eta * rho,
            beta=2 * eta * rho,
        )
        method.step(paths.batch(torch.zeros(6, dtype=torch.float64)))
        return model.x.detach().clone(), paths.shown(method)

    ranks = run_virtual_ranks(step, [0, 0])
    end = torch.stack([x for x, _ in ranks] + [ranks[0][1]])
    jacobian = (end[:, :3] - end[:, 3:]) / (2 * shift)
    assert (paths.radius(jacobian) < 1) == stable


# Zhang 2016, theorem 6.2.1, the unified form.


def c2(eta, beta):
    return (4 - 2 * beta - 2 * eta + beta * eta) / (2 - 2 * beta - 2 * eta + 2 * beta * eta)


def c3(eta, beta):
    return (-beta - eta + beta * eta) / (1 - beta - eta + beta * eta)


# One (eta, beta) in each set of conditions, and the interval of alpha for which it is stable; None is no limit.
REGIONS = [
    (0.5, 0.5, 0.0, c2),
    (0.5, 1.0, 0.0, None),
    (0.5, 1.5, 0.0, c3),
    (0.5, 3.0, c2, c3),
    (1.0, 1.2, 0.0, None),
    (1.5, 0.5, 0.0, c3),
    (1.5, 1.0, 0.0, None),
    (1.5, 1.5, 0.0, c2),
    (3.0, 0.5, c2, c3),
    (5.0, 0.5, c2, c3),
]


@pytest.mark.parametrize(("eta", "beta", "low", "high"), REGIONS)
def test_gauss_seidel_is_stable_where_theorem_6_2_1_says(eta, beta, low, high):
    low, high = (limit(eta, beta) if callable(limit) else limit for limit in (low, high))
    width = (high if high is not None else low + 4) - low

    def is_stable(alpha):
        m = paths.linear_map("easgd", 1, form="gauss_seidel", tau=1, rate=eta, alpha=alpha, beta=beta)
        return paths.radius(m) < 1

    assert is_stable(low + 0.02 * width)
    assert is_stable(low + 0.5 * width)
    assert is_stable(low + 0.98 * width)
    assert high is None or not is_stable(high + 0.02 * width)
    assert low == 0 or not is_stable(low - 0.02 * width)


@pytest.mark.parametrize(("eta", "alpha", "beta"), [(0.5, 0.3, 0.8), (0.56, 3.35, 0.78), (1.4, 0.2, 1.2)])
def test_several_workers_add_an_eigenvalue_to_theorem_6_2_1(eta, alpha, beta):
    alone, together = (
        paths.linear_map("easgd", p, form="gauss_seidel", tau=1, rate=eta, alpha=alpha, beta=beta) for p in (1, 3)
    )
    extra = (1 - eta) * (1 - alpha)
    assert_same_spectrum(together, [*torch.linalg.eigvals(alone), extra, extra])


def test_a_point_inside_the_theorem_is_unstable_for_several_workers():
    alone, together = (
        paths.linear_map("easgd", p, form="gauss_seidel", tau=1, rate=0.56, alpha=3.35, beta=0.78) for p in (1, 3)
    )
    assert paths.radius(alone) < 1 < paths.radius(together)


# A replay with everything at once: several ranks, a falling rate, decay, clipping, alpha and beta apart.


@on_ranks(PAIR, QUADRUPLE)
@pytest.mark.parametrize("report", ["center", "average"])
@pytest.mark.parametrize("form", FORMS)
def test_it_equals_its_replay(c: Communicator, form: str, report: str) -> None:
    replayed.elastic(c, "easgd", form=form, report=report)
