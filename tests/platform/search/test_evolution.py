"""The evolutionary sampler: its formulas, its adaptation, and that it evaluates no configuration twice."""

import collections
import itertools
import math
import random
import statistics

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter
from with_propulate import PROPULATE

import atoll
from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search import propagators
from atoll.platform.search.island import Island
from atoll.platform.search.population import Individual, Population
from atoll.platform.search.proposals import Proposer
from atoll.platform.study.migration import Migration
from atoll.platform.study.samplers import Evolution, Sampler
from atoll.searchspaces.encoding import identity
from atoll.searchspaces.space import Parameter, SearchSpace

PLANE = SearchSpace(
    tuple(Parameter(name=name, distribution=FloatDistribution(0, 1), default=0.5) for name in ("x", "y", "z"))
)
# 3 x (2 + 1 x 2) configurations, as `depth` has an effect with deep networks only
SMALL = SearchSpace(
    (
        Parameter(name="width", distribution=IntDistribution(8, 32, log=True), default=8),
        Parameter(name="kind", distribution=CategoricalDistribution(["flat", "deep"]), default="flat"),
        Parameter(name="depth", distribution=IntDistribution(2, 6, step=2), default=2, only_if=("kind", ("deep",))),
    )
)


def individual(number, genes, loss, **strengths):
    attributes = {f"evolution:{name}": value for name, value in strengths.items()}
    return Individual(number, tuple(genes), (loss,), 0, 0, attributes=attributes)


def sampler(individuals, *, space=PLANE, size=None, seed=1, **options):
    """A sampler that knows these individuals."""
    population = Population(size or len(individuals))
    made = propagators.make(Evolution(**options), space, population, seed=seed)
    for one in individuals:
        population.admit(one)
        made.arrived(one)
    return made


def proposals(made, count=400):
    return [made.propose(number) for number in range(1000, 1000 + count)]


def drawn(count=16, **strengths):
    rng = random.Random(5)
    return [individual(n, (rng.random(), rng.random(), rng.random()), n / count, **strengths) for n in range(count)]


@pytest.mark.parametrize("scale", [0.2, 0.8])
@pytest.mark.parametrize("rate", [0.2, 0.8])
def test_strengths_follow_those_of_the_survivors(scale, rate):
    """The mean rate is the survivors', with the initial one as 8 more; the median scale their Lehmer mean."""
    found = proposals(sampler(drawn(32, scale=scale, rate=rate)))
    rates = [p.attributes["evolution:rate"] for p in found if "evolution:rate" in p.attributes]
    scales = [p.attributes["evolution:scale"] for p in found]
    lehmer = (32 * scale**2 + 8 * 0.5**2) / (32 * scale + 8 * 0.5)
    # A spread of 0.25, less what is cut at 0 and 1, over 300 draws; a Cauchy variable of width 0.1, over 400.
    assert statistics.mean(rates) == pytest.approx((32 * rate + 8 * 0.6) / 40, abs=4 * 0.25 / math.sqrt(300))
    assert statistics.median(scales) == pytest.approx(lehmer, abs=4 * 0.1 * math.pi / 2 / math.sqrt(400) + 0.01)


@pytest.mark.parametrize(("num_differential", "expected"), [(0, 0.2), (16, (8 * 0.7 + 16) / 40), (32, 37.6 / 40)])
def test_operators_are_used_as_often_as_their_offspring_survive(num_differential, expected):
    bred = drawn(num_differential, scale=0.5, rate=0.5) + [
        individual(100 + n, (0.1, n / 32, 0.3), 1 + n, scale=0.5) for n in range(32 - num_differential)
    ]
    share = statistics.mean(p.operator == "differential" for p in proposals(sampler(bred), 1000))
    assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 1000))


def test_differential_variation_follows_the_shape_of_the_population():
    """Individuals on a line breed others near that line: off it by the jitter of a tenth of the step only."""
    line = [individual(n, (n / 40 + 0.1, n / 40 + 0.1, 0.9 - n / 40), n) for n in range(32)]
    made = sampler(line, differential=1, rate=1, memory=1e9)
    whole = [p for p in proposals(made, 800) if p.attributes.get("evolution:rate", 0) > 0.999]  # all genes are changed
    assert len(whole) > 200
    inside = [p.genes for p in whole if all(0.02 < gene < 0.98 for gene in p.genes.values())]
    off = [max(abs(g["x"] - g["y"]), abs(g["x"] + g["z"] - 1)) for g in inside]
    spread = statistics.stdev(n / 40 for n in range(32))
    # A gene that would leave its range is put halfway to the bound, which leaves the line; few do.
    assert statistics.quantiles(off, n=20)[16] < 3 * 0.1 * spread * math.sqrt(2)
    assert statistics.stdev(g["x"] for g in inside) > 0.5 * spread


@pytest.mark.parametrize("differential", [0, 1])
def test_a_gene_that_would_leave_its_range_is_put_between_parent_and_bound_or_reflected(differential):
    """Cut to the bound, a tenth of the population would soon lie on it."""
    rng = random.Random(3)
    known = [individual(n, [rng.choice((0.001, 0.01, 0.99, 0.999)) for _ in "xyz"], n) for n in range(16)]
    found = [gene for p in proposals(sampler(known, differential=differential)) for gene in p.genes.values()]
    assert all(0 < gene < 1 for gene in found)


def test_differential_variation_moves_towards_the_best():
    """In the mean by the scale's share of the way from the parents' mean to that of the two best."""
    places = [0.4 + n / 160 for n in range(32)]
    known = [individual(n, (x, x, x), n) for n, x in enumerate(places)]
    made = sampler(known, differential=1, rate=1, elite=0.05, memory=1e9)
    whole = [p for p in proposals(made, 2000) if p.attributes.get("evolution:rate", 0) > 0.999]
    weights = [math.log(32.5) - math.log(place) for place in range(1, 33)]
    parents = sum(w * x for w, x in zip(weights, places, strict=True)) / sum(weights)
    scale = statistics.mean(p.attributes["evolution:scale"] for p in whole)
    expected = parents + scale * ((places[0] + places[1]) / 2 - parents)
    found = [p.genes["x"] for p in whole]
    assert statistics.mean(found) == pytest.approx(expected, abs=4 * statistics.stdev(found) / math.sqrt(len(found)))
    assert abs(expected - parents) > 6 * statistics.stdev(found) / math.sqrt(len(found))


@pytest.mark.parametrize(("temperature", "share"), [(10, 0.525), (1, 0.731), (0.01, 1.0)])
@pytest.mark.parametrize("name", ["evolution", PROPULATE])
def test_sigmoid_crossover_prefers_the_better_parents_genes(name, temperature, share):
    """1 / (1 + exp(-1 / T)) for losses that differ by 1; Propulate's own prefers the worse one's by as much."""
    space = SearchSpace(
        tuple(Parameter(name=f"x{n}", distribution=FloatDistribution(0, 1), default=0.5) for n in range(30))
    )
    options = {"mutation": 0, "interval": 0, "random": 0} if name == "propulate" else {"differential": 0}
    settings = {"name": name, "mating": "sigmoid", "temperature": temperature} | options
    population = Population(2)
    made = propagators.make(TypeAdapter(Sampler).validate_python(settings), space, population, seed=1)
    for number in (0, 1):
        population.admit(individual(number, [0.25 + 0.5 * number] * 30, float(number)))
    crossed = [p for p in proposals(made, 1000) if p.operator.startswith("crossover")]
    origins = [collections.Counter(s for s in p.sources.values() if isinstance(s, int)) for p in crossed]
    if share == 1:
        # `evolution` may draw the same parent twice: the worse one, with its weight of 0.196, in 4 % of the children.
        assert all(len(one) == 1 for one in origins)
        assert statistics.mean(1 in one for one in origins) < 0.06
        return
    mixed = sum((one for one in origins if len(one) == 2), collections.Counter())
    assert mixed[0] / mixed.total() == pytest.approx(share, abs=4 * math.sqrt(0.25 / mixed.total()))


@pytest.mark.parametrize("mating", ["uniform", "multiple", "sigmoid"])
def test_offspring_say_whose_genes_they_have(mating):
    space = SearchSpace((*PLANE.parameters, *SMALL.parameters))
    rng = random.Random(2)
    known = []
    for number in range(16):
        values = {name: rng.random() for name in "xyz"} | {
            "width": 8 * 2 ** rng.randrange(3),
            "kind": "deep",
            "depth": 4,
        }
        known.append(individual(number, space.encode(values).values(), rng.random()))
    operators = collections.Counter()
    for proposal in proposals(sampler(known, space=space, mating=mating)):
        operators.update(proposal.operator.split("+"))
        assert set(proposal.sources) == set(space.limits())
        inherited = {source for source in proposal.sources.values() if isinstance(source, int)}
        if proposal.operator == "differential":  # whose changed genes are of up to four parents
            assert inherited <= set(proposal.parents)
            assert 3 <= len(proposal.parents) <= 4 or len(set(proposal.parents)) == 2
        else:
            assert inherited == set(proposal.parents)
        for place, (name, gene) in enumerate(proposal.genes.items()):
            source = proposal.sources[name]
            if isinstance(source, int):
                assert gene == known[source].genes[place]
            else:
                assert source in (*proposal.operator.split("+"), "point_mutation")
    assert set(operators) == {"differential", "crossover", "point_mutation", "interval_mutation"}


def test_a_proposal_does_not_depend_on_the_order_in_which_results_arrived():
    known = drawn(16, scale=0.4, rate=0.3)
    shuffled = random.Random(1).sample(known, len(known))
    ours, theirs = (proposals(sampler(order), 20) for order in (known, shuffled))
    assert [p.genes for p in ours] == [p.genes for p in theirs]


def test_a_population_of_equals_still_breeds_others():
    made = sampler([individual(n, (0.5, 0.5, 0.5), 1.0) for n in range(8)])
    assert all(list(p.genes.values()) != [0.5, 0.5, 0.5] for p in proposals(made))


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("num_workers", [1, 4])
def test_every_configuration_of_a_small_space_is_evaluated_as_often_as_asked(repeats, num_workers):
    """Other workers say what they evaluate, and those of other islands too."""
    every = [identity(values) for values in SMALL.every()]
    assert len(every) == 25 + 25 * 3  # widths 8 to 32, flat or deep with three depths
    workers = [sampler([], space=SMALL, size=8, repeats=repeats) for _ in range(num_workers)]
    found = collections.Counter()
    for number in range(len(every) * repeats):
        worker = workers[number % num_workers]
        genes = worker.propose(number).genes
        found[identity(SMALL.decode(genes))] += 1
        for other in workers:
            (other.started(number, genes, {}) if other is worker else other.taken(number, genes))
    assert set(found) == set(every)
    assert set(found.values()) == {repeats}


@pytest.mark.process
@pytest.mark.parametrize("islands", [1, 2])
def test_a_search_ends_when_its_space_is_exhausted(tmp_path, monkeypatch, capsys, islands):
    monkeypatch.chdir(tmp_path)
    calls = collections.Counter()

    def objective(trial):
        calls[trial["n"], trial["kind"]] += 1
        if trial["kind"] == "b" and trial["n"] == 2:
            raise ValueError("fails")
        return trial["n"]

    study = atoll.search(
        objective,
        space={"n": atoll.Int(1, 4), "kind": atoll.Categorical(["a", "b"])},
        trials=50,
        islands=islands,
        workers=2,
        in_process=True,
        sampler="evolution",
        name="small",
    )
    assert study.state == "complete"
    assert len(study.trials()) == 8
    assert "8 trials instead of 50" in " ".join("".join(capsys.readouterr()).split())
    # Workers that propose at the same moment may choose the same one.
    assert len(calls) >= 8 - 2 * islands
    assert sum(calls.values()) == 8


def test_constraints_and_conditions_count_in_the_size_of_a_space():
    assert SMALL.size_bound() == 25 * 2 * 3
    assert PLANE.size_bound() is None
    values = [tuple(v.values()) for v in SearchSpace(SMALL.parameters[1:]).every()]
    assert values == [("flat",), ("deep", 2), ("deep", 4), ("deep", 6)]
    stepped = Parameter(name="s", distribution=FloatDistribution(0.0, 0.3, step=0.1), default=0.0)
    assert [v["s"] for v in SearchSpace((stepped,)).every()] == [0.0, 0.1, 0.2, 0.3]


def test_gene_wise_variation_changes_one_or_two_genes():
    known = [individual(n, (0.5, 0.5, 0.5), 1.0, scale=0.5) for n in range(32)]
    counts = collections.Counter(
        sum(gene != 0.5 for gene in p.genes.values())
        for p in proposals(sampler(known, differential=0), 600)
        if p.operator.startswith("crossover")
    )
    assert set(counts) == {1, 2}
    assert counts[2] / counts.total() == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / counts.total()))


def test_a_mutation_of_a_choice_is_another_choice_and_each_as_often():
    kinds = SearchSpace(
        (Parameter(name="kind", distribution=CategoricalDistribution("abc"), default="a"), *PLANE.parameters[:1])
    )
    known = [individual(n, (1, n / 32), n) for n in range(32)]
    counts = collections.Counter(
        p.genes["kind"] for p in proposals(sampler(known, space=kinds), 1000) if p.sources["kind"] == "point_mutation"
    )
    assert set(counts) == {0, 2}
    assert counts[0] / counts.total() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / counts.total()))


def test_genes_without_effect_are_not_moved():
    known = [individual(n, tuple(SMALL.encode({"width": 8 + n, "kind": "flat"}).values()), n) for n in range(16)]
    bred = [p for p in proposals(sampler(known, space=SMALL)) if p.operator.startswith("crossover")]
    assert len(bred) > 50
    assert all(isinstance(p.sources["depth"], int) for p in bred)


@pytest.mark.parametrize(("known", "is_random"), [(7, True), (8, False)])
def test_half_of_the_breeding_population_is_drawn_at_random(known, is_random):
    made = sampler(drawn(known, scale=0.5), size=16)
    assert {p.operator == "random" for p in proposals(made, 20)} == {is_random}


def test_a_choice_is_that_of_the_parent_the_elite_or_a_donor_and_is_rarely_mutated():
    """A third each, less the mutations: a tenth of the scale."""
    kinds = SearchSpace(
        (Parameter(name="kind", distribution=CategoricalDistribution("abc"), default="a"), *PLANE.parameters)
    )
    known = [individual(n, (n % 3, n / 32, n / 40, n / 50), n) for n in range(32)]
    every = proposals(sampler(known, space=kinds, differential=1, rate=1, memory=1e9), 3000)
    found = [p for p in every if p.attributes.get("evolution:rate", 0) > 0.999 and len(p.parents) == 4]
    origins = collections.Counter(
        "mutation" if p.sources["kind"] == "point_mutation" else p.parents.index(p.sources["kind"]) for p in found
    )
    total = origins.total()
    mutated = 0.1 * statistics.mean(p.attributes["evolution:scale"] for p in found)
    assert origins["mutation"] / total == pytest.approx(mutated, abs=4 * math.sqrt(mutated / total))
    for place in range(3):
        assert origins[place] / total == pytest.approx((1 - mutated) / 3, abs=4 * math.sqrt(0.25 / total))
    assert set(origins) == {"mutation", 0, 1, 2}


def test_islands_tell_each_other_what_they_evaluate():
    islands, samplers = [], []
    for index, roots in enumerate(LocalMailbox.connected(2)):
        population = Population(8)
        samplers.append(propagators.make(Evolution(), SMALL, population, seed=1))
        proposer = Proposer(samplers[-1], SMALL, SMALL.violated, 1)
        (alone,) = LocalMailbox.connected(1)
        islands.append(
            Island(population=population, proposer=proposer, migration=Migration(), island_sizes=[1, 1], index=index,
                   workers=alone, roots=roots, seed=0)
        )  # fmt: skip
    found = set()
    for number in range(100):
        here = number % 2
        islands[here].receive()
        genes = samplers[here].propose(number).genes
        found.add(identity(SMALL.decode(genes)))
        islands[here].start(number, genes, {})
    assert len(found) == 100


def test_what_immigrants_have_is_not_evaluated_again():
    """Individuals arrive that this island's workers have never started."""
    rng = random.Random(4)
    every = [tuple(SMALL.encode(values).values()) for values in SMALL.every()]
    known = [individual(n, genes, rng.random()) for n, genes in enumerate(rng.sample(every, 40))]
    made = sampler(known, space=SMALL)
    held = {identity(SMALL.decode(dict(zip(SMALL.limits(), one.genes, strict=True)))) for one in known}
    for number in range(100, 160):
        genes = made.propose(number).genes
        assert identity(SMALL.decode(genes)) not in held
        made.started(number, genes, {})


def test_parents_are_drawn_by_place():
    """The logarithmic weights of the places, ln(n + 1/2) - ln(place)."""
    known = [individual(n, (n / 16, n / 16, n / 16), float(n), scale=0.5) for n in range(16)]
    first = collections.Counter(
        p.sources[name]
        for p in proposals(sampler(known, differential=0, crossover=0.999), 2000)
        if p.operator.startswith("crossover")
        for name in itertools.islice((n for n in p.sources if isinstance(p.sources[n], int)), 1)
    )
    weights = [math.log(16.5) - math.log(place) for place in range(1, 17)]
    total = first.total()
    for place, weight in enumerate(weights):
        expected = weight / sum(weights)
        assert first[place] / total == pytest.approx(expected, abs=4 * math.sqrt(expected / total) + 0.002)
