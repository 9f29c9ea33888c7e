"""Compiled passes: the same training but for the last digits, and refused where they cannot work."""

import shutil

import pytest
import torch
from torch import nn

from atoll.communication.threads import run_virtual_ranks
from atoll.methods import METHODS
from atoll.methods.common import compiled
from atoll.methods.common.optimizers import OptimizerSettings
from atoll.methods.method import NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.dry_run import DryRun, Undecided
from atoll.platform.trial.trial import Trial
from atoll.testing import problem

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")


@pytest.mark.parametrize("name", METHODS)
def test_what_cannot_be_compiled_is_refused(name):
    method = registry.method(name)
    settings = OptimizerSettings(**{"momentum": 0.0} | dict(method.optimizer_defaults) | {"compile": True})
    ranks = 1 if method.max_ranks == 1 else 2
    if method.layer_parallel or method.asynchronous or name in ("ab", "oialr"):
        with pytest.raises(NotApplicable, match=rf"{name} .*; compile must be False; got True"):
            method.check(method.Hyperparameters(), settings, ranks)
    else:
        method.check(method.Hyperparameters(), settings, ranks)


def test_synchronized_statistics_are_not_compiled():
    with pytest.raises(ValueError, match="compile must be false with sync_batch_norm, whose ranks communicate"):
        OptimizerSettings(compile=True, sync_batch_norm=True)


@pytest.mark.process
def test_a_host_without_a_compiler_refuses():
    """torch looks for the compiler at the first compiled step, inside of the training."""

    def rank(communicator):
        import torch._inductor.config as config

        with config.patch({"cpp.cxx": (None, "no-such-compiler")}):  # of this thread only
            reason = (
                r"torch.compile needs a C\+\+ compiler, such as g\+\+, or one that the variable CXX names: No working "
            )
            configuration = Configuration(
                workload="digits_mlp", method="ddp", hyperparameters={"compile": True}, epochs=1
            )
            with pytest.raises(NotApplicable, match=f"compile must be false on this host: {reason}"):
                Trial(configuration, communicator, "cpu")
            with pytest.raises(Undecided, match=f"compile: {reason}"):
                DryRun("cpu")(configuration.model_copy(update={"ranks": 1}))

    run_virtual_ranks(rank, [0])


@pytest.fixture
def counters():
    """What the compiler counts; imported here, as that takes two seconds of whoever collects the tests."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()  # else what another test has compiled is used again
    counters.clear()
    return counters


@needs_compiler
@pytest.mark.long  # compiles for half a minute
@pytest.mark.parametrize("nodes", [[0], [0, 0]], ids=["one rank", "two ranks"])
def test_a_compiled_training_is_the_same_but_for_the_last_digits(nodes, counters):
    ends, graphs = [], []
    for compile in (False, True):
        counters.clear()
        hyperparameters = {"compile": compile, "batch_size": 32, "ema": 0.9}
        configuration = Configuration(
            workload="digits_mlp", method="ddp", hyperparameters=hyperparameters, epochs=1, steps=None
        )

        def rank(communicator, configuration=configuration):
            trial = Trial(configuration, communicator, "cpu")
            (report,) = trial.train()
            return report.train_loss, problem.vector(trial.model)

        ends.append(run_virtual_ranks(rank, nodes, timeout=600))  # a busy machine compiles for more than a minute
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == 0 < graphs[1]
    for (loss, weights), (compiled_loss, compiled_weights) in zip(*ends, strict=True):
        # float32 sums in another order, amplified by some forty steps
        assert compiled_loss == pytest.approx(loss, rel=1e-4)
        assert problem.close(compiled_weights, weights, 1e-3)


@needs_compiler
@pytest.mark.long  # compiles for half a minute
def test_a_compiled_network_shares_its_parameters(counters):
    network = nn.Linear(3, 2)
    made = compiled.compiled(network)
    with torch.no_grad():
        network.weight.fill_(1.0)
        network.bias.zero_()
    assert made(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]
    assert counters["stats"]["unique_graphs"] == 1
    assert next(made.parameters()) is network.weight
