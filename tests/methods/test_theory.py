"""The theory of source 003, chapters 3, 5 and 6, against the methods themselves: their own code on virtual ranks."""

import math

import paths
import pytest
import torch

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.parameter_server.downpour_base import push

NUM_PATHS = 20_000
# Five standard errors: one such test in two million fails by chance, and the seed is fixed.
SIGMAS = 5


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
        made, _ = paths.build("easgd", c, replica=start, center=torch.full_like(start, center), tau=1, **arguments)
        for _ in range(num_steps):
            made.step(paths.batch(sigma * torch.randn(NUM_PATHS, generator=generator, dtype=torch.float64)))
        return paths.shown(made)

    return run_virtual_ranks(run, [0] * p)[0]


# Lemma 3.1.1, corollary 3.1.1, the double average.


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


def test_many_workers_divide_the_variance_by_their_number_corollary_3_1_1():
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


# Stability in the round-robin scheme (section 3.3).


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


def admm_round(p, eta, rho):
    """The map (2p+1, 2p+1) of (duals, replicas, center) in one round-robin step of the method: p of the source's."""
    size = 2 * p + 1
    basis = torch.eye(size, dtype=torch.float64)

    def step(c):
        start = basis[p + c.rank]
        made, model = paths.build(
            "admm_consensus", c, replica=start, center=basis[-1], rate=eta, rho=rho, form="round_robin"
        )
        # 3.54 takes the center from all replicas and duals: what the next center is does not depend on the last one.
        state = made.state_dict() | {"dual": basis[c.rank], "center": basis[-1]}
        made.load_state_dict(state)
        made.step(paths.batch(torch.zeros(size, dtype=torch.float64)))
        return made.state_dict()["dual"], model.x.detach().clone(), paths.shown(made)

    ranks = run_virtual_ranks(step, [0] * p)
    return torch.stack([dual for dual, _, _ in ranks] + [x for _, x, _ in ranks] + [ranks[0][2]])


def round_robin_admm(num_steps, eta, rho, p=3, start=1000.0):
    """3.52 to 3.54 as printed, for F(x) = x^2 / 2: the center after each step."""
    duals, x, center, seen = [0.0] * p, [start] * p, start, []
    for t in range(num_steps):
        i = t % p
        duals[i] -= x[i] - center
        x[i] = (x[i] - eta * x[i] + eta * rho * (duals[i] + center)) / (1 + eta * rho)
        center = sum(xi - dual for xi, dual in zip(x, duals, strict=True)) / p
        seen.append(center)
    return seen


def test_round_robin_admm_diverges_where_the_source_says():
    p = 3
    m = admm_round(p, eta=0.001, rho=2.5)
    state = torch.full((2 * p + 1,), 1000.0, dtype=torch.float64)
    state[:p] = 0
    expected = round_robin_admm(30_000, eta=0.001, rho=2.5)

    def center(num_source_steps):
        return float((torch.linalg.matrix_power(m, num_source_steps // p) @ state)[-1])

    for num_steps in (3, 300, 9_999, 30_000):
        # 30,000 roundings of values that swing up to 1000, the largest eigenvalue 1.001: 1e-9 is far above both.
        assert center(num_steps) == pytest.approx(expected[num_steps - 1], abs=1e-9 * 1000)
    # It falls from 1000 to 35 after 10,000 steps, then grows without end.
    assert abs(center(9_999)) < 40 < 300 < abs(center(30_000))
    assert abs(center(99_999)) > 1e12
    assert paths.radius(m) > 1


def test_easgd_does_not_diverge_where_admm_does():
    alpha = 0.001 * 2.5
    m = paths.linear_map("easgd", 3, round_robin=True, form="async", tau=1, rate=0.001, alpha=alpha, beta=3 * alpha)
    assert paths.radius(m) < 1


# Chapter 5, additive noise.


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


def msgd_map(eta, delta):
    """The map (2, 2) of (v, x) in one step of msgd."""

    def step(c):
        start = torch.tensor([0.0, 1.0], dtype=torch.float64)
        made, model = paths.build("msgd", c, replica=start, center=start, rate=eta, momentum=delta)
        state = made.state_dict()
        state["descent"]["velocity"] = torch.tensor([1.0, 0.0], dtype=torch.float64)
        made.load_state_dict(state)
        made.step(paths.batch(torch.zeros(2, dtype=torch.float64)))
        return torch.stack([made.state_dict()["descent"]["velocity"], model.x.detach()])

    return run_virtual_ranks(step, [0])[0]


# Above eta = 1 the best momentum is negative, which no optimizer takes.
@pytest.mark.parametrize("eta", [0.05, 0.3, 0.8])
def test_the_best_momentum_is_5_1_2s(eta):
    best = (math.sqrt(eta) - 1) ** 2 / (1 - eta)  # delta (1 - eta) = (sqrt(eta) - 1)^2
    # The second moments decay with the square of the first moments' radius: (sqrt(eta) - 1)^2.
    assert paths.radius(msgd_map(eta, best)) ** 2 == pytest.approx((math.sqrt(eta) - 1) ** 2, rel=1e-6)
    for other in (best - 0.02, best + 0.02):
        assert paths.radius(msgd_map(eta, other)) > paths.radius(msgd_map(eta, best))


@pytest.mark.parametrize("p", [1, 3])
def test_eamsgd_has_the_eigenvalues_of_5_21(p):
    eta, alpha, beta, delta = 0.2, 0.15, 0.7, 0.6
    size = 2 * p + 1
    basis = torch.eye(size, dtype=torch.float64)

    def step(c):
        made, model = paths.build(
            "eamsgd",
            c,
            replica=basis[p + c.rank],
            center=basis[-1],
            form="jacobi",
            tau=1,
            rate=eta,
            momentum=delta,
            alpha=alpha,
            beta=beta,
        )
        state = made.state_dict()
        state["descent"]["velocity"] = basis[c.rank]
        made.load_state_dict(state)
        made.step(paths.batch(torch.zeros(size, dtype=torch.float64)))
        return made.state_dict()["descent"]["velocity"], model.x.detach().clone(), paths.shown(made)

    ranks = run_virtual_ranks(step, [0] * p)
    m = torch.stack([v for v, _, _ in ranks] + [x for _, x, _ in ranks] + [ranks[0][2]])
    d = delta * (1 - eta)
    for z in torch.linalg.eigvals(m):
        # 5.21 with delta_h = delta (1 - eta h) where the text prints delta: v is multiplied by it.
        u = z * z - (1 - eta - alpha + d) * z + d * (1 - alpha)
        v = (d - z) * (1 - eta - alpha - z) * (1 - beta - z) + eta * d * (1 - beta - z) - alpha * beta * (d - z)
        assert min(abs(complex(u)), abs(complex(v))) < 1e-9


# Chapter 5, multiplicative noise.


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


# Chapter 5.3, the double well.


@pytest.mark.parametrize(("rho", "stable"), [(0.3, True), (0.65, True), (0.68, False), (0.9, False)])
def test_two_workers_stay_apart_in_the_double_well_iff_rho_is_below_two_thirds(rho, stable):
    """The step's Jacobian at x = -y = sqrt(1 - rho), center 0, by central differences along paths."""
    eta, shift = 0.1, 1e-5
    critical = torch.tensor([math.sqrt(1 - rho), -math.sqrt(1 - rho), 0.0], dtype=torch.float64)
    steps = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)], dim=1) * shift
    start = critical[:, None] + steps

    def step(c):
        made, model = paths.build(
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
        made.step(paths.batch(torch.zeros(6, dtype=torch.float64)))
        return model.x.detach().clone(), paths.shown(made)

    ranks = run_virtual_ranks(step, [0, 0])
    end = torch.stack([x for x, _ in ranks] + [ranks[0][1]])
    jacobian = (end[:, :3] - end[:, 3:]) / (2 * shift)
    assert (paths.radius(jacobian) < 1) == stable


# Theorem 6.2.1, the unified form.


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


def test_synchronous_downpour_is_the_unified_form_with_alpha_1_and_beta_p():
    """6.1 with our push: every rank steps from the same center, then all pushes are added."""
    p, eta = 4, 0.3
    m = paths.linear_map("easgd", p, form="gauss_seidel", tau=1, rate=eta, alpha=1.0, beta=float(p))
    center = torch.tensor(1.0, dtype=torch.float64)
    fetched = center.clone()
    for _ in range(p):
        push(center, -eta * fetched)
    assert float(m[-1, -1]) == pytest.approx(float(center), rel=1e-14)
    assert m[-1, :-1].abs().max() < 1e-15  # what the replicas were is forgotten


def test_consensus_admm_synchronous_is_3_52_to_3_54():
    p, eta, rho = 3, 0.2, 0.7
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def run(c):
        made, _ = paths.build(
            "admm_consensus", c, replica=start[c.rank : c.rank + 1], center=start[:1], rate=eta, rho=rho
        )
        seen = []
        for _ in range(10):
            made.step(paths.batch(torch.zeros(1, dtype=torch.float64)))
            seen.append(float(paths.shown(made)[0]))
        return seen

    got = run_virtual_ranks(run, [0] * p)[0]
    x, duals, center, expected = start.tolist(), [0.0] * p, float(start[0]), []
    for _ in range(10):
        duals = [d - (xi - center) for d, xi in zip(duals, x, strict=True)]
        x = [(xi - eta * xi + eta * rho * (d + center)) / (1 + eta * rho) for d, xi in zip(duals, x, strict=True)]
        center = sum(xi - d for d, xi in zip(duals, x, strict=True)) / p
        expected.append(center)
    assert got == pytest.approx(expected, rel=1e-13)
