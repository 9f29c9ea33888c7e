"""What trials of every method record of their steps can be replayed."""

import json

import pytest

from atoll.analysis import clusters
from atoll.analysis.replay import CannotReplay, replay
from atoll.communication.threads import run_virtual_ranks
from atoll.communication.trace import Trace
from atoll.methods import METHODS
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.trial.training import recorded_trace
from atoll.platform.trial.trial import Trial

EPOCHS = 2
CHANGED = {
    "ab": {"group_size": 2, "group_steps": 0.2},
    "daso": {"B": 3, "S": 2, "warmup_epochs": 0, "cooldown_epochs": 1},
    "easgd_tree": {"degree": 2},
    "mac": {"batch_size": 64},  # each of its steps has many of its own
}


def record(name, nodes, **further):
    """The schedules that a worker would keep, and the seconds that its slowest rank trained."""
    hyperparameters = {"batch_size": 16, "learning_rate": 1e-4} | CHANGED.get(name, {}) | further
    configuration = Configuration(
        workload="digits_mlp", method=name, hyperparameters=hyperparameters, epochs=EPOCHS, ranks=len(nodes)
    )

    def rank(communicator):
        communicator.ledger.trace = trace = Trace()
        trial = Trial(configuration, communicator, "cpu")
        last = list(trial.train())[-1]
        return recorded_trace(trace, trial.method, communicator, trial.num_servers), last

    found = run_virtual_ranks(rank, nodes, timeout=120.0)
    return [trace for trace, _ in found if trace is not None], found[0][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_what_is_recorded_of_every_method_is_small_and_can_be_replayed(name):
    nodes = (0, 0, 1, 1) if registry.method(name).max_ranks is None else (0,)
    schedules, last = record(name, nodes)
    grows = registry.method(name).max_ranks is None and not registry.method(name).layer_parallel
    assert [trace["rank"] for trace in schedules] == ([0, 1, 3] if grows else list(range(len(nodes))))
    assert {trace["num_steps"] for trace in schedules} == {last.step}
    line = json.dumps(schedules)
    assert len(line) < 300_000  # a trial's line in the journal, whatever it does
    schedules = json.loads(line)  # as the store has them
    if registry.method(name).point_to_point:
        with pytest.raises(CannotReplay, match="its ranks wait for messages from one another"):
            replay(schedules, clusters.cluster("laptop"), 16)
        return
    for cluster in ("a100_hdr200", "laptop"):
        where = clusters.cluster(cluster)
        for num_nodes in (1, 16):
            found = replay(schedules, where, num_nodes)
            assert found.num_steps > 0
            assert found.exposed >= 0
            assert found.compute > 0
            # The slowest rank's step holds the mean of what all compute and wait, and what they do for others.
            assert found.step * 1.0001 >= found.compute + found.exposed
            # Nothing is computed that was not measured; ranks may have waited, and steps are drawn.
            assert found.compute <= 1.5 * last.seconds / last.step
    if grows and not registry.method(name).asynchronous:
        where = clusters.cluster("cloud_25gbe")
        slow = where.network.model_copy(update={"gigabytes_per_second": 0.001})
        slower = where.model_copy(update={"network": slow})
        # What ranks wait for crosses the network, by sums of kilobytes: at 1 MB/s for milliseconds.
        assert replay(schedules, slower, 16).exposed > 1e-4 + replay(schedules, where, 16).exposed


def test_what_is_recorded_of_a_dedicated_server_can_be_replayed():
    """Rank 0 computes nothing there: what the ranks compute is that of the others, and grows the load on the center."""
    schedules, last = record("easgd", (0, 0, 1, 1), server="dedicated", tau=1)
    assert [trace["num_servers"] for trace in schedules] == [1, 1, 1]
    schedules = json.loads(json.dumps(schedules))
    where = clusters.cluster("laptop")
    few, many = (replay(schedules, where, num_nodes) for num_nodes in (1, 64))
    assert few.num_steps > 0
    assert 0 < few.compute <= 1.5 * last.seconds / last.step
    assert many.exposed > few.exposed
