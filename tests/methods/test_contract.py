"""The contract of `atoll.testing` for all of the registry: a test for each check, method and layout."""

import gc
import weakref

import pytest
from exercised import ASYNCHRONOUS, FORMS, subject
from on_ranks import Place, on_ranks, processes, run, threads

from atoll.communication.communicator import Communicator
from atoll.communication.threads import run_virtual_ranks
from atoll.methods import METHODS
from atoll.methods.method import Method, NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.configuration import split_hyperparameters
from atoll.testing import CHECKS, problem
from atoll.testing.method_contract import applies
from atoll.testing.ranks import PAIR, SINGLE, TWO_BY_TWO, TWO_NODES

CHANGES = ("mutable_hyperparameters_act_from_the_step_of_their_change",)


def cases():
    for check in CHECKS:
        for name in (*METHODS, *FORMS, *ASYNCHRONOUS):
            # Only DASO asks on which nodes the ranks are.
            nodes = [TWO_NODES] if name == "daso" else []
            for place in (*map(threads, (SINGLE, PAIR, *nodes, TWO_BY_TWO)), processes(PAIR)):
                (where,) = place.values
                if applies(check, subject(name), len(where.layout)):
                    # Four ranks show of a form what they show of its method, and two what a change does on any number.
                    is_known = name not in METHODS and len(where.layout) > 2
                    is_known |= check in CHANGES and len(where.layout) != 2 and applies(check, subject(name), 2)
                    again = [pytest.mark.long] if is_known else []
                    case = f"{check}-{name}-{place.id}"
                    yield pytest.param(check, name, where, id=case, marks=[*place.marks, *again])


@pytest.mark.parametrize(("check", "name", "place"), cases())
def test_every_method(check: str, name: str, place: Place, request) -> None:
    run(lambda c: CHECKS[check](c, subject(name)), place, request)


# Reported by some trials only.
CONDITIONAL = {"dni": {"input_loss"}}


@on_ranks(PAIR, over=[])
@pytest.mark.parametrize("name", METHODS)
def test_all_metrics_are_declared(c: Communicator, name: str) -> None:
    """A study can have as an objective only what the class declares."""
    checked = subject(name)
    if not checked.accepts(c.size):
        c = c.split(c.rank)
    method, _ = checked.make(c, num_epochs=2)
    problem.train(method, list(problem.batches(c, 20, method=method)), meet=c.barrier)
    reported = {metric for metric in method.metrics() if "/" not in metric}
    method.finalize()
    assert reported - CONDITIONAL.get(name, set()) == set(checked.method.metric_directions)


@on_ranks(SINGLE, PAIR, over=[])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_clipped(c: Communicator, name: str) -> None:
    """Plain SGD with the smallest of gradients hardly moves, and does move."""
    checked = subject(name)
    if not checked.accepts(c.size):
        return
    momentum = 0.5 if name in ("msgd", "eamsgd", "mdownpour") else 0.0
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": momentum, "weight_decay": 0.0}
    changes = {}
    for clipping in (0.0, 1e-6):
        method, model = checked.make(c, settings=settings | {"gradient_clipping": clipping}, seed=1)
        start = problem.vector(model)
        problem.train(method, list(problem.batches(c, 5, method=method)), meet=c.barrier)
        changes[clipping] = float((problem.vector(method.finalize()) - start).abs().max())
    # Five steps, three passes in each, the sum of two ranks' gradients, and momentum are less than a hundredfold.
    assert 0 < changes[1e-6] < 100 * 0.1 * 1e-6 < 0.1 * changes[0.0]


@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [("ddp", {}), ("easgd", {}), ("downpour", {}), ("mdownpour", {}), ("oialr", {"full_rank_warmup": False})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_trial_that_is_over_leaves_nothing_behind(name, hyperparameters):
    """Autograd's hooks are invisible to the garbage collector: one that holds its method keeps the model for ever."""

    def work(c):
        settings = {"learning_rate": 1e-3}
        method, model = problem.make(registry.method(name), c, hyperparameters=hyperparameters, settings=settings)
        problem.train(method, list(problem.batches(c, 2)))
        method.finalize()
        return weakref.ref(method), weakref.ref(model)

    ((method, model),) = run_virtual_ranks(work, SINGLE)
    gc.collect()
    assert method() is None
    assert model() is None


@pytest.mark.parametrize(
    ("method", "settings", "num_ranks", "message"),
    [
        ("sgd", {"momentum": 0.0}, 2, "sgd is sequential: it trains on 1 rank per worker; got 2"),
        ("asgd", {"momentum": 0.0}, 4, "asgd is sequential"),
        ("easgd_tree", {"momentum": 0.0}, 1, "easgd_tree needs at least 2 ranks per worker; got 1"),
        (
            "easgd",
            {"server": "dedicated"},
            1,
            "dedicated needs at least 2 ranks per worker, .*; got 1: .* shared",
        ),
        ("eamsgd", {"optimizer": "adamw"}, 2, "SGD's own update and momentum .* which adamw does not have"),
        ("mdownpour", {"optimizer": "adamw"}, 2, "which adamw does not have; optimizer must be sgd"),
        ("easgd", {"momentum": 0.5}, 2, "easgd has no momentum, its form with momentum is eamsgd; .* got 0.5"),
        ("downpour", {"momentum": 0.5}, 2, "its form with momentum is mdownpour"),
        ("msgd", {"momentum": 0.5, "nesterov": True}, 1, "nesterov must be false; got true"),
    ],
)
def test_what_a_method_cannot_do_is_refused_with_a_reason(method, settings, num_ranks, message):
    with pytest.raises(NotApplicable, match=message):
        split_hyperparameters(method, "digits_mlp", settings, num_ranks)


def test_every_method_of_the_registry_is_a_method():
    assert all(issubclass(registry.method(name), Method) for name in METHODS)
