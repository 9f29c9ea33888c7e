"""The contract of methods as users run it: `atoll.testing.check_method`."""

import doctest

import pytest

import atoll.testing
from atoll.communication.threads import run_virtual_ranks
from atoll.methods.sequential.sgd import Sgd
from atoll.platform.study import registry
from atoll.testing import CHECKS, Subject, check_method, layout_name, layouts, method_contract


@pytest.mark.parametrize("module", [atoll.testing, method_contract], ids=["testing", "method_contract"])
def test_its_examples_run(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ((0,), "1node_x_1rank"),
        ((0, 0), "1node_x_2ranks"),
        ((0, 1), "2nodes_x_1rank"),
        ((0, 0, 1, 1), "2nodes_x_2ranks"),
        ((0, 0, 1), "2+1ranks"),
    ],
)
def test_layouts_have_names(layout, name):
    assert layout_name(layout) == name


def test_even_numbers_of_ranks_are_put_on_two_nodes_too():
    assert layouts([1, 2, 3]) == [(0,), (0, 0), (0, 1), (0, 0, 0)]


def test_a_method_of_ones_own_keeps_the_contract(request):
    method = registry.method(f"{request.config.rootpath}/examples/own_method.py:SignSgd")
    # The sign of NaN is 0, so that the majority overrules it; a trial sees it in the loss.
    check_method(method, settings={"learning_rate": 0.01}, ranks=(1, 2), skip=("a_nan_reaches_every_rank",))


@pytest.mark.parametrize("method", ["templates/method.py:MyMethod", "plugin/two_moons.py:HalfDdp"])
def test_the_methods_to_copy_can_be_interrupted(method, request):
    subject = Subject(method=registry.method(f"{request.config.rootpath}/examples/{method}"))
    for layout in ((0,), (0, 0)):
        run_virtual_ranks(lambda c: CHECKS["continues_from_a_checkpoint_at_any_step"](c, subject), layout)


class Broken(Sgd):
    """SGD that lets every rank train on its own."""

    max_ranks = None

    def evaluation_model(self):
        return self.model

    def __init__(self, hyperparameters, context):
        super().__init__(hyperparameters, context)
        self.model = context.model

    def finalize(self):
        return self.model


def test_what_breaks_the_contract_is_named():
    with pytest.raises(AssertionError) as raised:
        check_method(Broken, settings={"learning_rate": 0.3, "momentum": 0.0}, ranks=(2,))
    message = str(raised.value)
    assert message.startswith("Broken breaks the contract of methods:\n")
    for line in (
        "- lowers_the_loss_and_all_ranks_end_alike on 1node_x_2ranks: the ranks' final networks differ",
        "- a_nan_reaches_every_rank on 2nodes_x_1rank: a rank's NaN is not in all final networks",
        "- finalize_averages_running_statistics on 1node_x_2ranks: the final running statistics are not the mean",
    ):
        assert line in message
    assert "the_same_seed" not in message


class Forgetful(Sgd):
    """SGD whose state lacks the parameters."""

    def load_state_dict(self, state):
        parameters = self._flat.state.clone()
        super().load_state_dict(state)
        self._flat.state.copy_(parameters)


class Disturbed(Sgd):
    """SGD that the saving of its state disturbs, in what acts later."""

    saved = 0

    def state_dict(self):
        self.saved += 1
        return super().state_dict()

    def step(self, batch):
        if self.saved:
            self._flat.parameters.mul_(1.01)
        return super().step(batch)


class Sharing(Sgd):
    """SGD whose state is the network's memory."""

    def state_dict(self):
        state = super().state_dict()
        state["descent"]["model"]["state"] = self._flat.state
        return state


class Unreadable(Sgd):
    """SGD whose state is a set."""

    def state_dict(self):
        return super().state_dict() | {"seen": {1}}


class Moving(Sgd):
    """SGD that takes its state for the end."""

    def state_dict(self):
        self._flat.parameters.zero_()
        return super().state_dict()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Forgetful, "a training that continues from its saved state after steps .* has another loss in step"),
        (Disturbed, "a training whose state is saved after steps .* has another loss in step"),
        (Sharing, r"state_dict must return copies; they differ in \['descent'\]\['model'\]\['state'\]"),
        (Unreadable, r"state\['seen'\] is of type builtins.set"),
        (Moving, "a training whose state is saved|state_dict has changed the network"),
    ],
)
def test_a_state_that_does_not_continue_the_training_is_named(method, message):
    subject = Subject(method=method, settings={"learning_rate": 0.3, "momentum": 0.0})
    with pytest.raises((AssertionError, TypeError), match=message):
        run_virtual_ranks(lambda c: CHECKS["continues_from_a_checkpoint_at_any_step"](c, subject), (0,))


def test_checks_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match=r"Sgd can use none of the numbers of ranks \[2, 4\]"):
        check_method(Sgd, ranks=(2, 4))
    with pytest.raises(ValueError, match=r"skip must name checks, which are lowers_the_loss.*; got speed"):
        check_method(Sgd, ranks=(1,), skip=("speed",))


def test_a_check_that_is_skipped_is_not_made():
    failing = ["lowers_the_loss_and_all_ranks_end_alike", "a_nan_reaches_every_rank"]
    failing += ["finalize_averages_running_statistics", "evaluation_is_no_traffic_and_disturbs_nothing"]
    failing += ["continues_from_a_checkpoint_at_any_step"]
    check_method(Broken, settings={"learning_rate": 0.3, "momentum": 0.0}, ranks=(2,), skip=failing)
