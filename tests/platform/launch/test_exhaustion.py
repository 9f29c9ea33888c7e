"""A small space ends a search whose samplers evaluate no configuration twice."""

import pytest

from atoll.platform.launch.exhaustion import limited, note
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study

# 3 x 2 configurations, of which the constraint leaves 4.
SPACE = {
    "batch_size": {"choices": [8, 16, 32]},
    "schedule": {"choices": ["constant", "cosine"]},
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0,
}
EVOLUTION = {"name": "evolution"}


def plan(**content):
    study = {"name": "s", "workload": "digits_mlp", "method": "ddp", "trials": 50, "space": SPACE | {"wire": "float32"}}
    return Plan.of(Study(**study | {"sampler": EVOLUTION} | content))


@pytest.mark.parametrize(
    ("content", "trials"),
    [
        ({}, 6),
        ({"trials": 5}, 5),
        ({"trials": None, "seconds": 60.0}, 6),
        ({"sampler": EVOLUTION | {"repeats": 3}}, 18),
        ({"constraints": ["batch_size >= 16"]}, 4),
        ({"sampler": {"name": "random"}}, 50),
        ({"sampler": {"name": "mixed"}}, 50),  # the Gaussian process may propose a configuration again
        ({"topology": {"islands": 2}, "sampler": [EVOLUTION, {"name": "random"}]}, 50),
        ({"topology": {"islands": 2}, "sampler": [EVOLUTION, EVOLUTION | {"repeats": 2}]}, 12),
        ({"space": SPACE | {"wire": "float32", "learning_rate": {"low": 0.1, "high": 1.0}}}, 50),
    ],
)
def test_the_trials_are_at_most_the_configurations(content, trials):
    assert limited(plan(**content)).study.trials == trials


def test_users_are_told():
    assert note(50, limited(plan())) == (
        "the search ends after 6 trials instead of 50: the space has no more configurations, and the sampler evaluates "
        "none again (sampler.repeats)"
    )
    assert note(None, limited(plan(trials=None, seconds=60.0))).startswith("the search ends after 6 trials: ")
    assert note(5, limited(plan(trials=5))) is None
