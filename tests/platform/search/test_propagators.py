"""Every sampler, on a space with all kinds of parameters: inside it, repeatable, resumable, alone and in company."""

import collections
import json
import pickle
import random
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import CmaEsSampler
from optuna.trial import TrialState
from pydantic import TypeAdapter
from with_propulate import NEEDS_PROPULATE, PROPULATE

from atoll.analysis import pareto
from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search import propagators, restore
from atoll.platform.search.island import Island
from atoll.platform.search.population import Individual, Population
from atoll.platform.search.propagators import cmaes, grid
from atoll.platform.search.propagators.attributes import known_attributes
from atoll.platform.search.proposals import Proposer, known_fields
from atoll.platform.study.learning import Learned
from atoll.platform.study.migration import Migration
from atoll.platform.study.samplers import NAMES, SEVERAL_OBJECTIVES, Genetic, Grid, Sampler
from atoll.searchspaces.space import Parameter, SearchSpace

OWN = f"{ROOT}/examples/own_sampler.py:LocalSearch"
PROCESSES = ("optuna-gp", "fidelity-gp")  # each takes as long as all the others together
GP_LONG = pytest.param("optuna-gp", marks=pytest.mark.long)


def marks_of(name):
    return [NEEDS_PROPULATE] if name == "propulate" else [pytest.mark.long] if name in PROCESSES else []


SPACE = SearchSpace(
    (
        Parameter(name="rate", distribution=FloatDistribution(1e-4, 1.0, log=True), default=0.1),
        Parameter(name="width", distribution=IntDistribution(8, 128, log=True), default=32),
        Parameter(name="kind", distribution=CategoricalDistribution(["a", "b", "c"]), default="a"),
        Parameter(name="delta", distribution=FloatDistribution(-1, 1), default=0.0, only_if=("kind", ("b", "c"))),
        Parameter(name="limit", distribution=IntDistribution(0, 64, step=4), default=8, at_most="width"),
    )
)
MEMBERS = [{"name": "optuna-tpe", "startup": 5}, {"name": "evolution"}, {"name": "optuna-cmaes"}]
STARTUP = {"startup": 5}
OPTIONS = {"mixed": {"samplers": MEMBERS}, "grid": {"points": 3}, "optuna-tpe": STARTUP} | dict.fromkeys(
    PROCESSES, STARTUP
)


def settings(name, **options):
    return TypeAdapter(Sampler).validate_python({"name": name} | OPTIONS.get(name, {}) | options)


def loss(v):
    """Smallest, 0, at rate 0.01, width 32, kind c, delta 0.5, limit 32."""
    import math

    kind = {"a": 1.0, "b": 0.5, "c": 0.0}[v["kind"]]
    return (
        abs(math.log10(v["rate"]) + 2) / 2
        + abs(math.log2(v["width"]) - 5) / 4
        + kind
        + abs(v.get("delta", -0.5) - 0.5)
        + abs(v["limit"] - 32) / 32
    )


def waiting(condition):
    while not condition():
        time.sleep(0.0005)


class Search:
    """Workers of one island inside one process; with several, a trial ends after the others' next began."""

    def __init__(self, name, *, seed=3, size=8, num_workers=1, objectives=lambda v: (loss(v),), space=SPACE, **options):
        self.space, self.objectives = space, objectives
        self.history = []
        self.workers = []
        for island, root in zip(LocalMailbox.connected(num_workers), LocalMailbox.connected(num_workers), strict=True):
            population = Population(size)
            propagator = propagators.make(
                settings(name, **options),
                space,
                population,
                seed=seed,
                num_objectives=len(objectives(space.default())),
            )
            proposer = Proposer(propagator, space, space.violated, seed)
            self.workers.append(
                (
                    proposer,
                    Island(
                        population=population,
                        proposer=proposer,
                        migration=Migration(),
                        island_sizes=[num_workers],
                        index=0,
                        workers=island,
                        roots=root,
                        seed=0,
                    ),
                )
            )
        self.under_way = collections.deque()

    def evaluate(self, count):
        for _ in range(count):
            number = len(self.history) + len(self.under_way)
            proposer, island = self.workers[number % len(self.workers)]
            island.receive()
            candidate = proposer.take(number, waiting)
            island.start(number, candidate.proposal.genes, candidate.proposal.attributes)
            self.under_way.append((number, candidate, island))
            if len(self.under_way) == len(self.workers):
                self._end(*self.under_way.popleft())
        return self

    def _end(self, number, candidate, island):
        found = Individual(
            number=number,
            genes=tuple(candidate.proposal.genes[name] for name in self.space.limits()),
            losses=self.objectives(candidate.hyperparameters),
            island=0,
            home=island.rank,
            attributes=candidate.proposal.attributes,
        )
        island.add(found)
        self.history.append((candidate, found))

    def configurations(self):
        return [candidate.hyperparameters for candidate, _ in self.history]

    def best(self):
        return min(individual.losses[0] for _, individual in self.history)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[NEEDS_PROPULATE] if name == "propulate" else []) for name in NAMES if name != "pbt"],
)
def test_a_study_of_one_trial_may_search_nothing(name):
    """The first trial has the default configuration; its sampler is made all the same."""
    propagators.make(settings(name), SearchSpace((), fixed=(("rate", 0.1),)), Population(8), seed=3, num_objectives=1)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(pytest.param(name, 30, id=name, marks=marks_of(name)) for name in (*NAMES, OWN) if name not in PROCESSES),
        *(pytest.param(name, 12, id=name) for name in PROCESSES),
        *(pytest.param(name, 30, id=f"{name}-long", marks=pytest.mark.long) for name in PROCESSES),
    ],
)
def test_proposals_stay_in_the_space_and_repeat(name, count):
    first = Search(name).evaluate(count)
    assert Search(name).evaluate(count).configurations() == first.configurations()
    if name != "grid":  # 3 x 3 x (1 + 2 x 3) x 3 points, shuffled by the seed
        assert Search(name, seed=4).evaluate(count).configurations() != first.configurations()
    for values in first.configurations():
        SPACE.encode(values)  # raises outside
        assert values["limit"] <= values["width"]
        assert ("delta" in values) == (values["kind"] != "a")
    assert len({json.dumps(values, sort_keys=True) for values in first.configurations()}) > count - 5


@pytest.mark.parametrize("name", ["optuna-tpe", GP_LONG, "optuna-cmaes", "evolution", PROPULATE, OWN])
def test_a_sampler_learns_to_keep_away_from_what_is_refused(name):
    """Where a third of the space is feasible, ten proposals nearly always have one that is."""
    space = SPACE.constrained(["rate <= 0.002"])
    search = Search(name, space=space).evaluate(40)
    operators = [candidate.proposal.operator for candidate, _ in search.history]
    assert all(values["rate"] <= 0.002 for values in search.configurations())
    if name not in ("evolution", "propulate", OWN):  # which learn nothing of refusals
        assert operators.count("random") <= 4
        late = [len(candidate.infeasible) for candidate, _ in search.history[20:]]
        assert sum(late) / len(late) < 3


def test_a_resumed_search_with_refusals_proposes_the_same():
    """NSGA-II keeps a generation's parents with the proposal that asked for them first, even if that is refused."""
    space = SPACE.constrained(["rate <= 0.3"])
    for name in ("optuna-nsga2", "optuna-cmaes", "mixed"):
        uninterrupted = Search(name, space=space).evaluate(40)
        resumed = Search(name, space=space)
        proposer, island = resumed.workers[0]
        for candidate, individual in uninterrupted.history[:23]:
            attributes = json.loads(json.dumps(individual.attributes))
            for refused in candidate.infeasible:
                proposer.infeasible(individual.number, refused.genes, json.loads(json.dumps(refused.attributes)))
            proposer.started(individual.number, candidate.proposal.genes, attributes)
            known = Individual(individual.number, individual.genes, individual.losses, 0, 0, attributes=attributes)
            assert island.population.admit(known)
            proposer.arrived(known)
            resumed.history.append((candidate, known))
        assert resumed.evaluate(17).configurations() == uninterrupted.configurations()
        assert any(candidate.infeasible for candidate, _ in uninterrupted.history)


def test_a_sampler_that_repeats_itself_is_asked_twice_only():
    space = SPACE.constrained(["width <= 32"])
    search = Search("optuna-qmc", space=space).evaluate(40)
    assert max(len(candidate.infeasible) for candidate, _ in search.history) == 2


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in (*NAMES, OWN)])
def test_a_resumed_search_proposes_what_the_interrupted_one_would_have(name):
    uninterrupted = Search(name).evaluate(40)
    resumed = Search(name)
    proposer, island = resumed.workers[0]
    for candidate, individual in uninterrupted.history[:23]:
        # as the journal gives them back
        attributes, ignored = known_attributes(json.loads(json.dumps(individual.attributes)))
        assert ignored == []
        genes = json.loads(json.dumps(candidate.proposal.genes))
        proposer.started(individual.number, genes, attributes)
        known = Individual(individual.number, tuple(genes.values()), individual.losses, 0, 0, attributes=attributes)
        assert island.population.admit(known)
        proposer.arrived(known)
        resumed.history.append((candidate, known))
    assert resumed.evaluate(17).configurations() == uninterrupted.configurations()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "evolution",
        PROPULATE,
        OWN,
        *(pytest.param(name, marks=pytest.mark.long) for name in ("optuna-cmaes", "optuna-tpe", "optuna-nsga2")),
        # As long as all others; only its selection is not that of nsga2.
        pytest.param("optuna-nsga3", marks=pytest.mark.soak),
    ],
)
def test_four_workers_are_as_good_as_one_at_equal_evaluations(name):
    """Without the samplers' attributes, four studies of CMA-ES were a thousand times worse than one.

    Distances to the optimum of a sphere, means of 10 seeds; samplers that learn come four times nearer than chance.
    Of CMA-ES's generations of 7, up to 3 individuals come too late when four workers evaluate: 200 evaluations are
    then worth 140. The means of 10 such distances differ by up to a half where nothing but the seeds does.
    """
    space = SearchSpace(
        tuple(Parameter(name=f"x{i}", distribution=FloatDistribution(-5, 5), default=0) for i in range(3))
    )

    def distance(name, num_workers, count):
        def squared(v):
            return (sum((x - 1.3) ** 2 for x in v.values()),)

        searches = [Search(name, seed=s, num_workers=num_workers, objectives=squared, space=space) for s in range(10)]
        return sum(search.evaluate(count).best() ** 0.5 for search in searches) / 10

    alone = distance(name, 1, 140 if name == "optuna-cmaes" else 200)
    together = distance(name, 4, 200)
    assert together < 1.5 * alone
    assert together < distance("random", 1, 200) / (2 if "nsga" in name else 4)  # generations of 8 are few


@pytest.mark.parametrize("name", ["optuna-qmc", "grid"])
def test_workers_that_go_by_the_trials_number_repeat_nothing(name):
    space = SearchSpace(SPACE.parameters[:1] + SPACE.parameters[2:3])
    search = Search(
        name, num_workers=4, objectives=lambda v: (0.0,), space=space, **{"points": 30} if name == "grid" else {}
    )
    found = search.evaluate(80).configurations()
    assert len({json.dumps(values) for values in found}) == len(found) == 77  # three are under way


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks_of(name)) for name in SEVERAL_OBJECTIVES if name != "random"]
)
def test_several_objectives(name):
    members = {"samplers": [{"name": "optuna-tpe"}, {"name": "evolution"}]} if name == "mixed" else {}
    space = SearchSpace(
        tuple(Parameter(name=f"x{i}", distribution=FloatDistribution(0, 1), default=0.5) for i in range(5))
    )

    def objectives(v):
        """ZDT1 (Zitzler et al. 2000): on its front all but the first are 0."""
        g = 1 + 9 * (v["x1"] + v["x2"] + v["x3"] + v["x4"]) / 4
        return v["x0"], g * (1 - (v["x0"] / g) ** 0.5)

    def missing(name, **options):
        """What the hypervolume lacks of that of the whole front, 1.1 x 6 - 1/3 up to (1.1, 6)."""
        found = Search(name, **options, size=10, objectives=objectives, space=space).evaluate(150).history
        return 1.1 * 6 - 1 / 3 - pareto.hypervolume([individual.losses for _, individual in found], (1.1, 6.0))

    if name in ("optuna-qmc", "grid"):  # which learn nothing
        assert missing(name, **members) < 1.5 * missing("random")
    else:
        assert missing(name, **members) < 0.75 * missing("random")


@NEEDS_PROPULATE
def test_genetic_selection_of_several_objectives_is_by_front():
    """Minimise x and 1 - x over y: the front is y = 0, whatever x is."""
    space = SearchSpace(tuple(Parameter(name=n, distribution=FloatDistribution(0, 1), default=0.5) for n in ("x", "y")))
    objectives = lambda v: (v["x"] + v["y"], 1 - v["x"] + v["y"])  # noqa: E731
    search = Search("propulate", size=20, objectives=objectives, space=space).evaluate(400)
    last = search.configurations()[-100:]
    assert sum(v["y"] < 0.1 for v in last) > 50
    assert {round(4 * v["x"]) for v in last} == {0, 1, 2, 3, 4}  # spread along the front


@NEEDS_PROPULATE
def test_offspring_say_whose_genes_they_have():
    search = Search("propulate", size=6, random=0.2).evaluate(200)
    individuals = {individual.number: individual for _, individual in search.history}
    names = list(SPACE.limits())
    operators = collections.Counter()
    for candidate, individual in search.history:
        proposal = candidate.proposal
        operators.update(proposal.operator.split("+"))
        if proposal.operator == "random":
            assert (proposal.parents, proposal.sources) == ((), {})
            continue
        assert set(proposal.sources) == set(names)
        assert all(parent < individual.number for parent in proposal.parents)
        assert set(proposal.parents) == {s for s in proposal.sources.values() if isinstance(s, int)}
        for gene, value in zip(names, individual.genes, strict=True):
            source = proposal.sources[gene]
            if isinstance(source, int):
                assert value == individuals[source].genes[names.index(gene)]
            else:
                assert source in proposal.operator.split("+")
    assert set(operators) == {"random", "crossover", "point_mutation", "interval_mutation"}
    # the interval mutation always moves one number, points are mutated in 40 % of the offspring
    bred = operators["crossover"]
    assert operators["interval_mutation"] > 0.95 * bred
    assert 0.25 < operators["point_mutation"] / bred < 0.5


@NEEDS_PROPULATE
@pytest.mark.parametrize("mating", ["uniform", "multiple", "sigmoid"])
def test_every_mating_breeds(mating):
    search = Search("propulate", size=6, mating=mating, **{"parents": 4} if mating == "multiple" else {})
    assert any(len(candidate.proposal.parents) > 1 for candidate, _ in search.evaluate(40).history)


@NEEDS_PROPULATE
def test_the_genetic_operators_find_the_optimum_of_categories():
    """Propulate's own strings keep old bits: 29 of 30 runs missed it."""
    choices = CategoricalDistribution(list("abcdefgh"))
    space = SearchSpace(tuple(Parameter(name=n, distribution=choices, default="a") for n in "wxyz"))
    misses = lambda v: (float(sum(v[n] != "d" for n in "wxyz")),)  # noqa: E731
    found = sum(
        Search("propulate", seed=s, objectives=misses, space=space).evaluate(600).best() == 0 for s in range(10)
    )
    assert found >= 9, found


@NEEDS_PROPULATE
def test_what_an_offspring_inherits_is_its_genes_only():
    from atoll.platform.search.propagators.genetic import GeneticPropagator

    population = Population(2)
    propagator = GeneticPropagator(Genetic(random=0, mutation=0, interval=0), SPACE.limits(), population, seed=1)
    genes = tuple(SPACE.encode(SPACE.default()).values())
    for number in (0, 1):
        population.admit(Individual(number, genes, (0.1,), 0, 0))
    proposal = propagator.propose(2)
    assert (tuple(proposal.genes.values()), proposal.operator) == (genes, "crossover")
    assert [i.losses for i in population] == [(0.1,), (0.1,)]


def test_tpe_sees_what_is_pruned_and_not_what_has_left():
    propagator = propagators.make(settings("optuna-tpe"), SPACE, Population(8), seed=1)
    genes = SPACE.encode(SPACE.default())
    for number in range(3):
        propagator.started(number, genes, {})
    individual = Individual(0, tuple(genes.values()), (2.0,), 0, 0, is_complete=False, curve={1: 3.0, 2: 2.0})
    propagator.arrived(individual)
    propagator.arrived(Individual(1, tuple(genes.values()), (1.0,), 0, 0))
    propagator.dropped(2)
    trials = propagator._study.get_trials(deepcopy=False)
    assert [t.state for t in trials] == [TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL]
    assert trials[0].intermediate_values == {1: 3.0, 2: 2.0}
    propagator.left(1)
    assert [t.state for t in propagator._study.get_trials(deepcopy=False)] == [TrialState.PRUNED, TrialState.FAIL]


@pytest.mark.parametrize("name", ["optuna-tpe", "optuna-gp", "optuna-cmaes", "optuna-nsga2"])
def test_samplers_see_who_returns_once(name):
    propagator = propagators.make(settings(name), SPACE, Population(8), seed=1)
    genes = tuple(SPACE.encode(SPACE.default()).values())
    for number in range(3):
        propagator.arrived(Individual(number, genes, (float(number),), 0, 0))
    for steps in (2, 4):
        propagator.left(1)
        propagator.arrived(Individual(1, genes, (1.0,), 0, 0, steps=steps))
    assert [t.value for t in propagator._study.get_trials(deepcopy=False)] == [0.0, 1.0, 2.0]
    propagator.left(1)
    propagator.arrived(Individual(1, genes, (0.5,), 0, 0, steps=6, attempt=1))  # continued meanwhile
    assert sorted(t.value for t in propagator._study.get_trials(deepcopy=False)) == [0.0, 0.5, 2.0]


@pytest.mark.parametrize("name", ["optuna-gp", "optuna-cmaes", "optuna-nsga2"])
def test_samplers_that_know_no_pruning_take_the_last_value(name):
    propagator = propagators.make(settings(name), SPACE, Population(8), seed=1)
    genes = tuple(SPACE.encode(SPACE.default()).values())
    propagator.arrived(Individual(0, genes, (2.0,), 0, 0, is_complete=False, curve={1: 3.0, 2: 2.0}))
    (trial,) = propagator._study.get_trials(deepcopy=False)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 2.0)


def test_the_gaussian_process_sees_the_best_and_the_newest():
    propagator = propagators.make(settings("optuna-gp", memory=10), SPACE, Population(8), seed=1)
    genes = SPACE.encode(SPACE.default())
    for number in range(40):
        propagator.arrived(Individual(number, tuple(genes.values()), (float(number),), 0, 0))
    seen = [t.value for t in propagator._study.get_trials(deepcopy=False)]
    assert seen == [0, 1, 2, 3, 4, 35, 36, 37, 38, 39]


def test_samplers_that_take_turns_learn_from_one_another():
    search = Search("mixed", size=6).evaluate(60)
    operators = [candidate.proposal.operator.split("+")[0] for candidate, _ in search.history]
    assert set(operators[0::3]) == {"optuna-tpe"}
    assert set(operators[2::3]) == {"optuna-cmaes"}
    assert {"crossover"} <= set(operators[1::3]) <= {"crossover", "differential", "random"}
    parents = {parent for candidate, _ in search.history for parent in candidate.proposal.parents}
    assert {number % 3 for number in parents} == {0, 1, 2}
    (study, *_) = (m._study for m in search.workers[0][0]._propagator._members if hasattr(m, "_study"))
    assert len(study.get_trials(deepcopy=False)) == 60


@pytest.mark.parametrize("name", ["optuna-gp", "fidelity-gp", "optuna-tpe"])
def test_thinking_leaves_the_threads_of_training_alone(name, monkeypatch):
    changed = []
    monkeypatch.setattr(torch, "set_num_threads", changed.append)
    search = Search(name, startup=5).evaluate(12)
    assert search.history[-1][0].proposal.operator == name
    assert changed == []


CMAES = [{}, {"separable": True}, {"margin": True}, {"population": 5}]


@pytest.mark.process
def test_only_cmaes_imports_scipy():
    """It takes a third as long as torch, in every rank that proposes."""
    program = (
        "import sys; from atoll.platform.search.propagators import optuna_sampler; assert 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("options", CMAES)
def test_cmaes_in_numbers_proposes_what_optuna_does_with_its_pickles(options, monkeypatch):
    space = SearchSpace(tuple(p for p in SPACE.parameters if p.only_if is None))
    found = Search("optuna-cmaes", space=space, objectives=rough, **options).evaluate(40)
    attributes = [json.loads(json.dumps(individual.attributes)) for _, individual in found.history]
    assert any("state" in name for names in attributes for name in names)
    assert not any("optimizer" in name for names in attributes for name in names)
    monkeypatch.setattr(cmaes, "NumericCmaEsSampler", CmaEsSampler)
    theirs = Search("optuna-cmaes", space=space, objectives=rough, **options).evaluate(40)
    assert found.configurations() == theirs.configurations()


@pytest.mark.parametrize("options", CMAES)
def test_cmaes_is_rebuilt_from_the_trials_of_a_journal_with_pickles(options, monkeypatch):
    space = SearchSpace(tuple(p for p in SPACE.parameters if p.only_if is None))
    with monkeypatch.context() as patched:
        patched.setattr(cmaes, "NumericCmaEsSampler", CmaEsSampler)  # as version 0.1.0 had it
        uninterrupted = Search("optuna-cmaes", space=space, objectives=rough, **options).evaluate(40)
    monkeypatch.setattr(pickle, "loads", None)
    resumed = Search("optuna-cmaes", space=space, objectives=rough, **options)
    proposer, island = resumed.workers[0]
    num_ignored = 0
    for candidate, individual in uninterrupted.history[:23]:
        attributes, ignored = known_attributes(json.loads(json.dumps(individual.attributes)))
        num_ignored += len(ignored)
        proposer.started(individual.number, candidate.proposal.genes, attributes)
        known = Individual(individual.number, individual.genes, individual.losses, 0, 0, attributes=attributes)
        assert island.population.admit(known)
        proposer.arrived(known)
        resumed.history.append((candidate, known))
    assert num_ignored > 0
    assert resumed.evaluate(17).configurations() == uninterrupted.configurations()


def rough(v):
    return (abs(v["rate"] - 0.01) + abs(v["width"] - 32) / 8,)


def test_cmaes_with_margin_goes_on_when_a_parameter_is_inactive():
    """The first trials may have more active parameters than all have in common."""
    search = Search("optuna-cmaes", margin=True).evaluate(30)
    assert {candidate.proposal.operator for candidate, _ in search.history} == {"optuna-cmaes"}


def test_a_grid_has_every_point_once_and_says_what_it_cannot():
    points = grid.points(Grid(name="grid", points={"rate": 2, "width": 3, "limit": 1}), SPACE)
    assert len(points) == 2 * 3 * (1 + 2 * 5)  # delta, which is not named, has 5 points, for two kinds
    with pytest.raises(ValueError, match=r"parameters of the space, delta, kind, limit, rate, width; got colour"):
        grid.points(Grid(name="grid", points={"colour": 2}), SPACE)
    with pytest.raises(ValueError, match="a grid must have at most 100000 points; got "):
        grid.points(Grid(name="grid", points=100), SPACE)
    halved = grid.points(Grid(name="grid", points=4), SPACE, SPACE.constrained(["kind == 'a'"]).violated)
    assert {SPACE.decode(genes)["kind"] for genes in halved.values()} == {"a"}


def test_a_grid_goes_around_with_the_points_that_are_evaluated_first():
    settings = Grid(name="grid", points={"rate": 2, "width": 3, "limit": 1})
    on_the_grid = [SPACE.decode(genes) for genes in grid.points(settings, SPACE).values()]
    elsewhere = on_the_grid[0] | {"rate": 0.0123}
    digits = on_the_grid[7] | {"rate": on_the_grid[7]["rate"] * (1 + 1e-15)}
    first = [elsewhere, on_the_grid[4], digits]
    propagator = grid.GridPropagator(settings, SPACE, seed=3, given=first)
    size = len(on_the_grid)
    proposed = [grid.identity(SPACE.decode(propagator.propose(number).genes)) for number in range(3, 3 + size + 4)]
    assert sorted(proposed[:size]) == sorted(map(grid.identity, on_the_grid))
    assert set(proposed[size - 2 : size]) == {grid.identity(on_the_grid[4]), grid.identity(on_the_grid[7])}
    assert proposed[size:] == proposed[:4]


QUADRATIC = SearchSpace(
    tuple(Parameter(name=f"x{i}", distribution=FloatDistribution(-5, 5), default=0) for i in range(3))
)


def squared(v):
    return (sum((x - 3.0) ** 2 for x in v.values()),)


def learning_search(name, num_learned, **options):
    """A search whose sampler was told random points of the quadratic first."""
    search = Search(name, objectives=squared, space=QUADRATIC, **options)
    draws, found = random.Random(7), []
    for _ in range(num_learned):
        values = {p.name: draws.uniform(-5, 5) for p in QUADRATIC.parameters}
        found.append(Learned(values, squared(values)))
    for proposer, island in search.workers:
        restore.learn(found, SimpleNamespace(space=QUADRATIC), island.population, proposer, num_islands=1)
    return search


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("evolution", {}),
        pytest.param("propulate", {}, marks=NEEDS_PROPULATE),
        ("optuna-tpe", {}),
        ("optuna-cmaes", {}),
        ("optuna-cmaes", {"margin": True}),
        ("optuna-nsga2", {}),
        ("optuna-nsga3", {}),
        pytest.param("optuna-gp", {}, marks=pytest.mark.long),
        pytest.param("fidelity-gp", {}, marks=pytest.mark.long),
        ("mixed", {}),
        (OWN, {}),
    ],
)
def test_a_sampler_that_has_learned_proposes_better_from_the_start(name, options):
    """A sampler begins at random, or in the middle, 5.2 away; the best of 60 random points is nearer than 2."""
    num_trials = 12

    def distances(num_learned):
        searches = [learning_search(name, num_learned, seed=seed, **options) for seed in range(3)]
        return [squared(v)[0] ** 0.5 for search in searches for v in search.evaluate(num_trials).configurations()]

    learned, ignorant = distances(60), distances(0)
    assert learned != ignorant
    assert statistics.mean(learned) < 0.75 * statistics.mean(ignorant)


@pytest.mark.parametrize(
    ("name", "options"),
    [("evolution", {}), ("optuna-tpe", {}), ("optuna-cmaes", {}), ("optuna-nsga2", {}), ("mixed", {})],
)
def test_a_sampler_learns_from_trials_that_another_one_has_bred(name, options):
    """As after a change of the study: they have numbers of their own, and no attributes of this sampler."""

    def mean(num_before):
        distances = []
        for seed in range(3):
            search, draws = Search(name, seed=seed, objectives=squared, space=QUADRATIC, **options), random.Random(7)
            ((proposer, island),) = search.workers
            for number in range(1000, 1000 + num_before):
                values = {p.name: draws.uniform(-5, 5) for p in QUADRATIC.parameters}
                genes = tuple(QUADRATIC.encode(values).values())
                earlier = Individual(number, genes, squared(values), 0, 0, is_learned=True)
                assert island.population.admit(earlier)
                proposer.arrived(earlier)
            distances += [squared(values)[0] ** 0.5 for values in search.evaluate(12).configurations()]
        return statistics.mean(distances)

    assert mean(60) < 0.75 * mean(0)


@pytest.mark.parametrize("name", ["random", "optuna-qmc"])
def test_what_goes_by_the_number_learns_nothing(name):
    learned, ignorant = (learning_search(name, num_learned).evaluate(5) for num_learned in (20, 0))
    assert learned.configurations() == ignorant.configurations()


@pytest.mark.parametrize("name", ["evolution", PROPULATE, "optuna-tpe", "optuna-cmaes", "optuna-nsga2", "mixed", OWN])
def test_a_resumed_search_that_has_learned_proposes_the_same(name):
    uninterrupted = learning_search(name, 40).evaluate(24)
    resumed = learning_search(name, 40)
    proposer, island = resumed.workers[0]
    for candidate, individual in uninterrupted.history[:13]:
        attributes, ignored = known_attributes(json.loads(json.dumps(individual.attributes)))
        known, unknown = known_fields(json.loads(json.dumps(candidate.as_dict())))
        assert (ignored, unknown) == ([], [])
        proposer.started(individual.number, known["genes"], attributes)
        again = Individual(individual.number, individual.genes, individual.losses, 0, 0, attributes=attributes)
        assert island.population.admit(again)
        proposer.arrived(again)
        resumed.history.append((candidate, again))
    assert resumed.evaluate(11).configurations() == uninterrupted.configurations()


@NEEDS_PROPULATE
def test_offspring_have_parents_that_were_learned():
    search = learning_search("propulate", 40).evaluate(4)
    parents = {parent for candidate, _ in search.history for parent in candidate.proposal.parents}
    assert parents
    assert parents <= {*range(-40, 0), *range(4)}
    assert min(parents) < 0
