"""What of a journal's attributes may reach a sampler."""

import json
import pickle

import pytest

from atoll.platform.search.propagators.attributes import PICKLED, known_attributes

STATE = {"generation": 2, "sigma": 0.1, "mean": [0.5, 0.5], "path_sigma": [0.0, 1], "path_c": [0.0, 0.0]}
FULL = STATE | {"covariance": [1.0, 0.0, 1.0]}


class Exploit:
    def __reduce__(self):
        return print, ("run by a pickle",)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"cma:generation": 0, "cma:state": FULL},
        {"sepcma:generation": 3, "sepcma:state": STATE | {"covariance": [1.0, 1.0]}},
        {"cmawm:generation": 3, "x_for_tell": [0.5, 1.5]},
        {"NSGAIISampler:generation": 1, "study:NSGAIISampler:parent:0": [0, 2, 5]},
        {"tpe:relative_params:0": '{"rate": 0.', "tpe:relative_params:1": '5, "kind": 1}'},
    ],
)
def test_what_samplers_write_is_kept(attributes):
    assert known_attributes(json.loads(json.dumps(attributes))) == (attributes, [])


@pytest.mark.parametrize(
    "attributes",
    [
        {"cma:optimizer:0": pickle.dumps(Exploit()).hex()},
        {"a:optimizer:0": pickle.dumps(None).hex(), "cma:optimizer:0": pickle.dumps(Exploit()).hex()},
        {"cma:optimizer": "", "cma:optimizers": ""},
        {"fixed_params": {"rate": 0.1}},
        {"constraints": [0.0]},
        {"study:anything": 1},
        {"study:NSGAIISampler:parent:0": [0, "1"]},
        {"study:NSGAIISampler:parent:-1": [0]},
        {"cma:generation": True},
        {"cma:generation": -1},
        {"cma:generation": 1.5},
        {"cma:generation": "1"},
        {"cma:generation": 10**400},
        {"cma:generation\n": 1},
        {"cmawm:generation": 1},
        {"cmawm:generation": 1, "x_for_tell": [float("inf")]},
        {"x_for_tell": {}},
        {"cma:state": []},
        {"cma:state": STATE},
        {"cma:state": FULL | {"more": 1}},
        {"cma:state": FULL | {"mean": [0.5]}},
        {"cma:state": FULL | {"mean": [0.5, None]}},
        {"cma:state": FULL | {"mean": [], "path_c": [], "path_sigma": [], "covariance": []}},
        {"cma:state": FULL | {"sigma": 0}},
        {"cma:state": FULL | {"sigma": float("nan")}},
        {"cma:state": FULL | {"covariance": [1.0, 0.0, 1.0, 0.0]}},
        {"tpe:relative_params:0": "[" * 100_000},
        {"gp:relative_params:0": '{"rate": "x"}'},
        {"gp:relative_params:1": "1"},
    ],
)
def test_anything_else_is_left_out_and_named(attributes):
    assert known_attributes(attributes) == ({}, list(attributes))


def test_pickles_of_the_first_version_are_recognized():
    assert PICKLED.fullmatch("cma:optimizer:12")
    assert PICKLED.fullmatch("sepcma:optimizer:0")
    assert not PICKLED.fullmatch("a:optimizer:0")
