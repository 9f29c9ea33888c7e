"""The root's choice of what to evaluate, without ranks."""

import json

from atoll.platform.root import Root
from atoll.platform.tickets import Ticket


class Island:
    """Breeds the same individual again and again, and draws another."""

    def __init__(self):
        self.num_bred = 0

    def breed(self):
        self.num_bred += 1
        return {"x": 1}

    def draw(self):
        return {"x": 2}

    def settle(self, genes):
        return {"settled": genes}


class Space:
    def limits(self):
        return {"x": (0, 9)}

    def decode(self, genes):
        return dict(genes)

    def encode(self, hyperparameters):
        return hyperparameters


def root(failures):
    made = object.__new__(Root)
    made._island, made._space = Island(), Space()
    made._failures = {json.dumps(failure) for failure in failures}
    return made


def test_a_failed_configuration_is_not_bred_again():
    assert root([])._breed(Ticket(3)) == ({"x": 1}, {"x": 1})
    disappointed = root([{"x": 1}])
    assert disappointed._breed(Ticket(3)) == ({"x": 2}, {"x": 2})
    assert disappointed._island.num_bred == Root.NUM_BREEDINGS


def test_a_retry_is_what_was_lost_to_the_bit():
    retried = {"x": 0.1}
    assert root([])._breed(Ticket(3, 1, retried)) == ({"settled": retried}, retried)
