"""A sampler of the user's own: what it is told, and what is said of what it does wrong."""

import json
import textwrap

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atoll.platform.search import propagators
from atoll.platform.search.own_code import OwnCodeError
from atoll.platform.search.population import Individual, Population
from atoll.platform.search.propagators import own
from atoll.platform.search.proposals import Proposer
from atoll.platform.study.own_sampler import Sampler
from atoll.platform.study.registry import UnknownName
from atoll.platform.study.samplers import Mixed, OwnSampler
from atoll.searchspaces.space import Parameter, SearchSpace

SPACE = SearchSpace(
    (
        Parameter(name="rate", distribution=FloatDistribution(0.001, 1.0, log=True), default=0.1),
        Parameter(name="width", distribution=IntDistribution(8, 64), default=32),
        Parameter(name="kind", distribution=CategoricalDistribution(["a", "b"]), default="a"),
        Parameter(name="delta", distribution=FloatDistribution(-1, 1), default=0.0, only_if=("kind", ("b",))),
        Parameter(name="limit", distribution=IntDistribution(0, 64), default=8, at_most="width"),
    ),
    fixed=(("wire", "float16"),),
)
WHOLE = {"rate": 0.01, "width": 16, "kind": "a", "limit": 4}
LOGGING = """
    class Mine(Sampler):
        def __init__(self, space, *, first: dict = None, **others):
            super().__init__(space, **others)
            self.first, self.events = first, []
        def propose(self, number):
            self.events.append(("propose", number))
            return self.first or self.draw()
        def told(self, result):
            self.events.append((result.state, result.number, result.hyperparameters, result.losses, dict(result.curve)))
        def started(self, number, hyperparameters):
            self.events.append(("started", number, hyperparameters))
        def left(self, number):
            self.events.append(("left", number))
"""


@pytest.fixture
def written(tmp_path):
    def write(text, name="mine.py"):
        (tmp_path / name).write_text("import random\nfrom atoll import Sampler\n" + textwrap.dedent(text))
        return f"{tmp_path / name}:Mine"

    return write


def made(name, space=SPACE, **options):
    return own.OwnPropagator(OwnSampler(name=name, options=options), space, 1, seed=3)


def mine(proposal):
    return f"class Mine(Sampler):\n    def propose(self, number):\n        return {proposal}\n"


def test_a_proposal_becomes_genes_and_numbers_of_numpy_are_numbers(written):
    name = written("import numpy as np\n" + mine("{'rate': np.float32(0.5), 'width': np.int64(16), 'kind': 'b', "
                   "'delta': 0.5, 'limit': 16}"))  # fmt: skip
    proposal = made(name).propose(0)
    values = SPACE.decode(json.loads(json.dumps(proposal.genes)))
    assert values == {"rate": 0.5, "width": 16, "kind": "b", "delta": 0.5, "limit": 16, "wire": "float16"}
    assert proposal.operator == "Mine"


def test_an_inactive_hyperparameter_is_ignored(written):
    name = written(mine({**WHOLE, "delta": 100.0}))
    assert SPACE.decode(made(name).propose(0).genes) == {**WHOLE, "wire": "float16"}


@pytest.mark.parametrize(
    ("proposal", "rule"),
    [
        ([1], "propose(7) must return a dict of hyperparameters; got [1]"),
        (WHOLE | {"speed": 1}, "searched hyperparameters only, rate, width, kind, delta, limit; got 'speed'"),
        (WHOLE | {"wire": "float16"}, "searched hyperparameters only, rate, width, kind, delta, limit; got 'wire'"),
        (WHOLE | {"rate": 3.0}, "propose(7) must return a rate in its range, 0.001 to 1, log; got 3.0"),
        (WHOLE | {"rate": float("nan")}, "a rate in its range"),
        (WHOLE | {"width": 16.5}, "a width in its range, integer 8 to 64; got 16.5"),
        (WHOLE | {"width": True}, "a width in its range, integer 8 to 64; got True"),
        (WHOLE | {"kind": "c"}, "a kind in its range, {a, b}; got 'c'"),
        (WHOLE | {"kind": "b"}, "must return delta, which is active; got rate, width, kind, limit"),
        (WHOLE | {"limit": 17}, "must return a limit of at most width, 16; got 17"),
    ],
)
def test_what_a_proposal_must_not_be(written, proposal, rule):
    text = mine(proposal).replace("nan", "float('nan')")
    with pytest.raises(OwnCodeError) as raised:
        made(written(text)).propose(7)
    assert str(raised.value).startswith("sampler mine.py:Mine propose(7)")
    assert rule in str(raised.value)


def test_an_error_is_a_line_with_its_place(written):
    with pytest.raises(
        OwnCodeError, match=r"^sampler mine.py:Mine: propose raised ZeroDivisionError: .*mine.py, line 5"
    ):
        made(written(mine("1 / 0"))).propose(0)


@pytest.mark.parametrize(
    ("text", "options", "rule"),
    [
        ("    step = 1", {}, "must define propose"),
        ("    def __init__(self, space, *, step: int = 1, **others): pass", {"stop": 1}, "no option stop; valid are"),
        ("    def __init__(self, space, *, step: int, **others): pass", {}, "needs the option step; valid are step"),
        ("    def __init__(self, space, *, step: int = 1, **others): pass", {"step": "x"},
         "does not take this step: input should be a valid integer, unable to parse string as an integer; got 'x'"),
        ("    def __init__(self, space, *, step: int = 1, **others): pass", {}, "must call super().__init__"),
        ("    def __init__(self, space, **others): raise ValueError('no')", {}, "__init__ raised ValueError: no, at "),
        ("    pass", {"seed": 3}, "has no option seed; valid are none"),
    ],
)  # fmt: skip
def test_options_are_checked(written, text, options, rule):
    body = "" if rule.startswith("must define") else "    def propose(self, number): return {}\n"
    with pytest.raises((OwnCodeError, UnknownName)) as raised:
        made(written(f"class Mine(Sampler):\n{text}\n{body}"), **options)
    assert rule in str(raised.value)
    assert "mine.py:Mine" in str(raised.value)


def test_another_class_is_refused(written):
    with pytest.raises(UnknownName, match=r"must be a subclass of atoll\.platform\.study\.own_sampler\.Sampler"):
        made(written("class Mine: pass"))


@pytest.mark.parametrize(
    "proposal", ["{'rate': random.random()}", "{'rate': self.random.random() * 0.1 + self.count()}"]
)
def test_proposals_that_do_not_repeat_are_refused_before_the_search(written, proposal):
    space = SearchSpace(SPACE.parameters[:1])
    count = "    n = 0.0\n    def count(self):\n        self.n += 0.1\n        return self.n\n"
    name = written(mine(proposal) + count)
    with pytest.raises(OwnCodeError, match=r"must propose the same for the same trial.*draw from self.random only"):
        own.check(OwnSampler(name=name), space, 1, seed=0)


def test_draws_of_the_given_stream_repeat(written):
    own.check(OwnSampler(name=written(mine("self.draw()"))), SPACE, 1, seed=0)


def test_it_is_told_in_hyperparameters(written):
    sampler = made(written(LOGGING))
    log = sampler._sampler.events
    genes = SPACE.encode({**WHOLE, "wire": "float16"})
    individual = Individual(4, tuple(genes.values()), (0.5,), 0, 0)
    sampler.started(4, genes, {})
    sampler.arrived(individual)
    pruned = Individual(5, tuple(genes.values()), (0.7,), 1, 0, is_complete=False, curve={1: 0.9, 2: 0.7})
    sampler.arrived(pruned)  # from another island
    sampler.started(6, genes, {})
    sampler.dropped(6)
    sampler.dropped(7)  # a proposal that nobody evaluates
    sampler.infeasible(8, genes, {})
    sampler.left(4)
    assert log == [
        ("started", 4, WHOLE),
        ("complete", 4, WHOLE, (0.5,), {}),
        ("pruned", 5, WHOLE, (0.7,), {1: 0.9, 2: 0.7}),
        ("started", 6, WHOLE),
        ("failed", 6, WHOLE, None, {}),
        ("infeasible", 8, WHOLE, None, {}),
        ("left", 4),
    ]


def test_one_of_several_that_take_turns(written):
    settings = Mixed(samplers=[{"name": written(LOGGING), "first": WHOLE}, {"name": "random"}])
    assert settings.samplers[0].options == {"first": WHOLE}
    mixed = propagators.make(settings, SPACE, Population(4), seed=1)
    assert [mixed.propose(number).operator for number in range(4)] == ["Mine", "random", "Mine", "random"]


def test_an_error_reaches_the_search_from_wherever_it_comes(written):
    text = mine("1 / 0") + "    def told(self, result):\n        raise KeyError(result.number)\n"
    for is_slow in ("True", "False"):
        name = written(text + f"    is_slow = {is_slow}\n", f"mine_{is_slow}.py")
        failures = []
        proposer = Proposer(made(name), SPACE, SPACE.violated, 0, failures.append)
        with pytest.raises(OwnCodeError):
            proposer.take(0, lambda condition: [None for _ in iter(condition, True)])
        genes = SPACE.encode({**WHOLE, "wire": "float16"})
        proposer.arrived(Individual(4, tuple(genes.values()), (0.5,), 0, 0))
        assert ["ZeroDivisionError" in str(failures[0]), "told raised KeyError: 4" in str(failures[1])] == [True, True]


def test_the_random_stream_is_that_of_the_trial_and_the_attempt(written):
    sampler = made(written(mine("self.draw()")))
    some = [sampler.propose(number, attempt).genes for number, attempt in ((3, 0), (3, 1), (4, 0), (3, 0))]
    assert some[0] == some[3]
    assert some[0] != some[1]
    assert some[0] != some[2]
    assert isinstance(sampler._sampler, Sampler)
