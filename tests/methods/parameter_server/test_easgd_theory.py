"""EASGD's theory (Zhang 2016, chapters 3, 5, 6) on the method's own code on virtual ranks: see `paths`, `moments`."""

import math

import moments
import paths
import pytest
import torch

from atoll.communication.threads import run_virtual_ranks

# Five standard errors: one such test in two million fails by chance, and the seed is fixed.
SIGMAS = 5
NUM_PATHS = 20_000


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


@pytest.mark.parametrize(("eta", "beta", "p"), [(0.3, 0.5, 4), (1.2, 1.1, 3), (1.9, 0.15, 2), (0.2, 1.8, 1)])
def test_the_center_is_stable_where_3_4_says(eta, beta, p):
    """In beta: the edges of (2 - eta) (2 - beta) > 2 beta / p and of 4 - eta - beta > beta / p."""

    def is_stable(beta):
        return paths.radius(paths.linear_map("easgd", p, form="jacobi", tau=1, rate=eta, beta=beta)) < 1

    edge = min(2 * (2 - eta) / (2 - eta + 2 / p), (4 - eta) / (1 + 1 / p))
    assert is_stable(0.01 * edge)
    assert is_stable(0.99 * edge)
    assert not is_stable(1.01 * edge)
    assert not is_stable(-0.01)
    assert is_stable(beta) == (beta < edge)


@pytest.mark.parametrize("eta", [0.1, 0.5, 1.5])
@pytest.mark.parametrize("beta", [0.1, 0.5, 1.2])
def test_the_error_falls_with_the_number_of_workers(eta, beta):
    """Figure 3.1's setting after 100 steps: x_0 = 1, sigma = 10. From 8 to 32 workers at least by 3.5, whatever eta
    and beta; two of them are unstable at eta = 1.5, beta = 1.2."""
    errors = []
    for p in (2, 8, 32):
        m, noise = moments.affine("easgd", p, form="jacobi", tau=1, rate=eta, beta=beta)
        mean, covariance = torch.ones(p + 1, dtype=torch.float64), torch.zeros(p + 1, p + 1, dtype=torch.float64)
        for _ in range(100):
            mean, covariance = m @ mean, m @ covariance @ m.T + 100 * noise @ noise.T
        errors.append(float(mean[-1] ** 2 + covariance[-1, -1]))
    assert errors[0] > 2 * errors[1]
    assert errors[1] > 3.5 * errors[2]


# Zhang 2016, lemmas 3.1.3 and 3.1.4: several dimensions.

CURVATURE = torch.tensor([[1.4, 0.6], [0.6, 0.6]], dtype=torch.float64)  # its eigenvalues: 0.279 and 1.721


def step_in_two_dimensions(p, **arguments):
    """The map and the noise's effect on (x_1, ..., x_p, center), first coordinates first; a path has two."""
    size = 2 * (p + 1)

    def objective(x, noise):
        x, noise = x.view(2, -1), noise.view(2, -1)
        return (x * (CURVATURE @ x / 2 - noise)).sum(0)

    def rows(matrix):  # (2 n, paths) -> (n, 2 paths)
        return matrix.view(2, -1, matrix.shape[1]).transpose(0, 1).flatten(1)

    start = torch.cat([torch.eye(size), torch.zeros(size, 2 * p)], dim=1).double()
    noise = torch.cat([torch.zeros(2 * p, size), torch.eye(2 * p)], dim=1).double()
    end = paths.moved("easgd", rows(start), rows(noise), objective=objective, form="jacobi", tau=1, **arguments)
    whole = end.view(p + 1, 2, -1).transpose(0, 1).reshape(size, -1)
    return whole[:, :size], whole[:, size:]


@pytest.mark.parametrize(("p", "eta", "beta"), [(1, 0.4, 0.6), (2, 0.9, 0.3), (3, 0.1, 1.2)])
def test_the_averages_covariance_in_several_dimensions_is_lemma_3_1_3(p, eta, beta):
    """t p times it tends to inv(A) Sigma inv(A)^T, whatever eta and beta: the average of s <- M s + N xi has
    inv(I - M) N Sigma N^T inv(I - M)^T / t."""
    m, noise = step_in_two_dimensions(p, rate=eta, beta=beta)
    of_one = torch.tensor([[2.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    gain = torch.linalg.solve(torch.eye(len(m)).double() - m, noise)
    covariance = gain @ torch.kron(of_one, torch.eye(p).double()) @ gain.T
    center = [p, 2 * p + 1]
    inverse = CURVATURE.inverse()
    torch.testing.assert_close(covariance[center][:, center] * p, inverse @ of_one @ inverse.T, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("p", "eta"), [(1, 0.4), (2, 0.9), (3, 1.1)])
def test_several_dimensions_are_stable_if_lemma_3_1_4s_conditions_hold_for_the_largest_curvature(p, eta):
    largest = float(torch.linalg.eigvalsh(CURVATURE)[-1])
    edge = 2 * (2 - eta * largest) / (2 - eta * largest + 2 / p)  # beta; the lemma's other condition is weaker here
    assert edge < (4 - eta * largest) / (1 + 1 / p)
    for factor, stable in ((0.99, True), (1.01, False)):
        m, _ = step_in_two_dimensions(p, rate=eta, beta=factor * edge)
        assert (paths.radius(m) < 1) == stable


# Zhang 2016, theorem 3.2.1: the strongly convex case.


def test_a_step_on_a_strongly_convex_function_keeps_the_bounds_of_theorem_3_2_1():
    """F = x^2 - cos x, with mu = 1 and L = 3, from 2,000 random states; noise adds its own terms exactly."""
    p, eta, alpha, beta, mu, largest = 3, 0.3, 0.2, 0.7, 1.0, 3.0
    assert 0 <= eta <= 2 / (mu + largest) * (1 - alpha)
    start = 3 * torch.randn(p + 1, 2000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    given = {"form": "jacobi", "tau": 1, "rate": eta, "alpha": alpha, "beta": beta}
    still = torch.zeros(p, start.shape[1], dtype=torch.float64)
    end = paths.moved("easgd", start, still, objective=lambda x, noise: x.square() - x.cos() - noise * x, **given)

    def moments_of(state):
        replicas, center = state[:-1], state[-1]
        return torch.stack([replicas.mean(0).square(), replicas.square().mean(0), center.square()])

    def bounds(mu):
        gamma1 = 2 * eta * mu * largest / (mu + largest)
        gamma2 = 2 * eta * largest * (1 - 2 * math.sqrt(mu * largest) / (mu + largest))
        bound = [[1 - gamma1 - gamma2 - alpha, gamma2, alpha], [0, 1 - gamma1 - alpha, alpha], [beta, 0, 1 - beta]]
        return torch.tensor(bound, dtype=torch.float64) @ moments_of(start)

    assert (moments_of(end) <= bounds(mu) + 1e-12).all()
    # A larger mu than the function's would promise too much.
    violated = (moments_of(end) > bounds(2.5) + 1e-12).any(1)
    assert violated[:2].all()


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


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize(("eta", "alpha", "beta"), [(0.3, 0.2, 0.6), (0.3, 0.2, 1.4), (0.8, 0.1, 0.9)])
def test_asymptotic_variances_are_5_13_and_5_14(eta, alpha, beta, p):
    step = moments.affine("easgd", p, form="jacobi", tau=1, rate=eta, alpha=alpha, beta=beta)
    covariance = moments.stationary(step)
    of_mean, of_center = float(covariance[:p, :p].mean()), float(covariance[-1, -1])
    shared = eta**2 / p / (eta * ((2 - beta) * (2 - eta) - 2 * alpha) * (alpha + beta + eta * (1 - beta)))
    assert of_mean == pytest.approx(shared * ((2 - beta) * (1 - beta) * eta + beta * (2 - alpha - beta)), rel=1e-10)
    assert of_center == pytest.approx(shared * (-beta * (1 - beta) * eta + beta * (2 - alpha - beta)), rel=1e-10)
    assert (of_center < of_mean) == (beta < 1)


def test_the_reduced_systems_best_alpha_is_negative_and_diverges_for_several_workers():
    """One worker is the reduced system (eq. 5.10); figure 5.3 has eta = 0.1, beta = 0.9 and four workers."""
    eta, beta = 0.1, 0.9

    def radius(alpha, p):
        return paths.radius(paths.linear_map("easgd", p, form="jacobi", tau=1, rate=eta, alpha=alpha, beta=beta))

    best = -((math.sqrt(beta) - math.sqrt(eta)) ** 2)
    # A double eigenvalue of a float64 matrix is off by the square root of rounding.
    assert radius(best, 1) == pytest.approx(1 - math.sqrt(beta * eta), abs=1e-7)
    assert radius(best, 1) < min(radius(best - 0.02, 1), radius(best + 0.02, 1))
    assert radius(best, 4) == pytest.approx(1 - best - eta, rel=1e-12)  # 1.3: unstable


@pytest.mark.parametrize(
    ("eta", "beta", "best"), [(0.1, 0.9, 0.0), (0.5, 0.7, 0.0), (0.1, 1.5, 0.0), (0.9, 1.2, -0.02)]
)
def test_the_best_alpha_is_0_where_beta_exceeds_the_rate_but_not_2_minus_the_rate(eta, beta, best):
    """Section 5.1.3 overlooks that at alpha = 0 the eigenvalue 1 - beta may be larger than 1 - eta, by its size."""

    def radius(alpha):
        return paths.radius(paths.linear_map("easgd", 2, form="jacobi", tau=1, rate=eta, alpha=alpha, beta=beta))

    others = [best + sign * step for step in (0.01, 0.05, 0.2, 0.5) for sign in (-1, 1)]
    assert all(radius(best) < radius(alpha) for alpha in others)


# Zhang 2016, chapter 5, multiplicative noise.


@pytest.mark.parametrize(
    ("shape", "p", "eta", "expected"),
    [(0.5, 6, 0.3814, 0.5742), (1.0, 7, 0.5225, 0.4317), (2.0, 9, 0.6647, 0.2945), (10.0, 29, 0.8929, 0.0868)],
)
def test_convergence_under_multiplicative_noise_is_5_2_3s(shape, p, eta, expected):
    """The factor of the second moments, where each rank's curvature is Gamma distributed with omega = lambda."""
    step = moments.Multiplied("easgd", p, form="jacobi", tau=1, rate=eta, beta=0.9)
    assert step.radius(1.0, 1 / shape) == pytest.approx(expected, abs=5.1e-5)  # four printed digits


@pytest.mark.parametrize(("shape", "p", "eta"), [(0.5, 6, 0.3814), (1.0, 7, 0.5225), (2.0, 9, 0.6647)])
def test_its_best_rate_is_faster_than_momentums_and_slower_than_a_mini_batchs(shape, p, eta):
    """Section 5.2.3 has MSGD at eta = lambda/(omega + 1) without momentum: 0.6667, 0.5, 0.3333."""
    easgd = moments.Multiplied("easgd", p, form="jacobi", tau=1, rate=eta, beta=0.9).radius(1.0, 1 / shape)
    msgd = moments.Multiplied("sgd", 1, rate=shape / (shape + 1)).radius(1.0, 1 / shape)
    assert msgd == pytest.approx(1 / (shape + 1), rel=1e-12)
    mini_batch = 1 / (p * shape + 1)  # the best rate of eq. 5.26, which test_ddp.py has
    assert mini_batch < easgd < msgd


@pytest.mark.parametrize(
    ("alpha", "edge"), [(None, 2 / 3), (1 - math.sqrt(0.5), math.sqrt(0.5))], ids=["beta_over_p", "case_2"]
)
def test_stable_rates_for_many_workers_under_multiplicative_noise(alpha, edge):
    """lambda = omega = 0.5, 100 workers. For p to infinity, alpha = beta/p leaves SGD's 2 omega/(lambda + 1), and
    alpha = 1 - sqrt(lambda) widens it to omega/sqrt(lambda)."""

    def is_stable(rate):
        step = moments.Multiplied("easgd", 100, form="jacobi", tau=1, rate=rate, beta=0.9, alpha=alpha)
        return step.radius(1.0, 2.0) < 1

    assert is_stable(0.98 * edge)
    assert not is_stable(1.02 * edge)


def test_the_smallest_radius_with_100_workers_is_figure_5_19s():
    def radius(rate, alpha):
        return moments.Multiplied("easgd", 100, form="jacobi", tau=1, rate=rate, beta=0.9, alpha=alpha).radius(1.0, 2.0)

    best = radius(0.4343, 0.2525)
    assert best == pytest.approx(0.5024, abs=1e-4)
    assert all(best < radius(0.4343 + x, 0.2525 + y) for x, y in ((0.03, 0), (-0.03, 0), (0, 0.03), (0, -0.03)))


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


def test_for_beta_16_only_downpours_alpha_is_stable():
    """Section 6.2's example, which reads the theorem's condition on the replicas' mean as that of one worker."""

    def radius(eta, alpha):
        m = paths.linear_map("easgd", 1, form="gauss_seidel", tau=1, rate=eta, alpha=alpha, beta=16.0)
        return paths.radius(m)

    assert all(radius(eta, 1.0) < 1 for eta in (0.001, 0.06, 0.124))
    assert radius(0.126, 1.0) > 1
    assert all(radius(eta, 0.9) > 1 for eta in (1e-4, 1e-3, 0.01, 0.03, 0.06, 0.1, 0.125, 0.2, 0.5, 1.0, 2.0, 4.0))
