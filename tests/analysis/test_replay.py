"""Replays against closed formulas."""

import math

import pytest

from atoll.analysis import cluster as costs
from atoll.analysis.cluster import Cluster, Layout, Link
from atoll.analysis.replay import CannotReplay, replay

SLOW = Link(microseconds=100, gigabytes_per_second=1)
FAST = Link(microseconds=10, gigabytes_per_second=10)


def make(**changes):
    fields = {"name": "c", "ranks_per_node": 1, "node": FAST, "network": SLOW, "algorithm": "ring"}
    return Cluster(**fields | changes)


def pattern(events, gaps):
    return {"events": events, "is_last": True, "samples": [gaps], "seconds": sum(gaps), "count": 10}


def schedule(events, gaps, num_steps=10, *, grows=True, service=None):
    return {
        "patterns": [pattern(events, gaps)],
        "segments": [[0, [[0, num_steps]]]],
        "num_steps": num_steps,
        "ranks_per_node": 1,
        "grows": grows,
        "service": service,
    }


def test_costs_are_the_formulas():
    n = 1e6
    assert costs.ring(n, 4, SLOW) == pytest.approx(6 * 1e-4 + 2 * 3 / 4 * n / 1e9)
    assert costs.recursive_halving(n, 4, SLOW) == pytest.approx(4 * 1e-4 + 2 * 3 / 4 * n / 1e9)
    assert costs.recursive_halving(n, 6, SLOW) == pytest.approx(
        costs.recursive_halving(n, 4, SLOW) + 2 * SLOW.seconds(n)
    )
    flat = make(algorithm="tree")
    assert costs.all_reduce(flat, n, Layout(8, 1)) == pytest.approx(2 * 3 * SLOW.seconds(n))
    both = make(algorithm="hierarchical", ranks_per_node=4)
    inside, between = costs.ring(n, 4, FAST), costs.ring(n / 4, 8, both.crossing(4))
    assert costs.all_reduce(both, n, Layout(8, 4)) == pytest.approx(inside + between)
    assert costs.all_reduce(both, n, Layout(1, 1)) == 0
    assert both.crossing(4).bandwidth == SLOW.bandwidth / 4
    assert make(ports=2).crossing(4).bandwidth == SLOW.bandwidth / 2
    assert make(ports=4).crossing(1).bandwidth == SLOW.bandwidth  # a rank uses one port
    assert costs.broadcast(both, 100, Layout(1, 4)) == pytest.approx(2 * FAST.seconds(100))
    assert costs.all_gather(both, n, Layout(1, 4)) == pytest.approx(3 * FAST.seconds(n))
    assert costs.all_gather(both, n, Layout(8, 4)) == pytest.approx(31 * costs.slower(FAST, SLOW).seconds(n))
    assert costs.all_gather(flat, n, Layout(8, 1)) == pytest.approx(7 * SLOW.seconds(n))
    assert costs.all_gather(flat, n, Layout(1, 1)) == 0


def test_what_is_not_overlapped_is_exposed():
    events = [["post", "all_reduce", "all", 2, 1_000_000], ["wait", 1]]
    cost = costs.ring(1e6, 4, SLOW)
    found = replay([schedule(events, [0.010, 0.0, 0.002])], make(), num_nodes=4)
    assert (found.step, found.exposed) == (pytest.approx(0.012 + cost), pytest.approx(cost))
    twice = replay([schedule(events, [0.010, 0.0, 0.002])], make(speed=2.0), num_nodes=4)
    assert twice.step == pytest.approx(0.006 + cost)


def test_what_all_ranks_gather_grows_with_their_number():
    events = [["post", "all_gather", "all", 2, 1_000_000], ["wait", 1]]
    for num_nodes in (2, 8):
        found = replay([schedule(events, [0.010, 0.0, 0.0])], make(), num_nodes)
        assert found.exposed == pytest.approx((num_nodes - 1) * SLOW.seconds(1e6))


def test_what_is_overlapped_costs_only_the_rest_unless_nothing_moves_meanwhile():
    events = [["post", "all_reduce", "all", 2, 1_000_000], ["wait", 1]]
    cost = costs.ring(1e6, 4, SLOW)
    for hidden in (0.5 * cost, 2 * cost):
        found = replay([schedule(events, [0.010, hidden, 0.0])], make(), num_nodes=4)
        assert found.exposed == pytest.approx(max(0.0, cost - hidden))
        still = replay([schedule(events, [0.010, hidden, 0.0])], make(overlaps=False), num_nodes=4)
        assert still.exposed == pytest.approx(cost)


def test_what_is_under_way_at_once_takes_turns():
    post = ["post", "all_reduce", "all", 2, 1_000_000]
    found = replay([schedule([post, post, ["wait", 2], ["wait", 1]], [0.01, 0, 0, 0, 0])], make(), num_nodes=2)
    assert found.exposed == pytest.approx(2 * costs.ring(1e6, 2, SLOW))


def test_the_slowest_rank_decides():
    events = [["post", "all_reduce", "all", 2, 0], ["wait", 1]]
    roles = [schedule(events, [0.010, 0.0, 0.0]), schedule(events, [0.030, 0.0, 0.0])]
    found = replay(roles, make(node=FAST, network=Link(microseconds=0, gigabytes_per_second=1)), num_nodes=2)
    assert (found.step, found.compute, found.exposed) == tuple(map(pytest.approx, (0.030, 0.020, 0.010)))


def test_one_rank_of_a_node_at_a_time_sums_with_its_peers_and_the_node_waits_for_it():
    """DASO, blocking, at every step: a sum among 8 nodes, then a broadcast in the node of 4."""
    events = [
        ["post", "all_reduce", "peers", 2, 1_000_000],
        ["wait", 1],
        ["post", "broadcast", "node", 1, 4_000_000],
        ["wait", 1],
    ]
    where = make(ranks_per_node=4)
    found = replay([schedule(events, [0.01, 0, 0, 0, 0])], where, num_nodes=8)
    cost = costs.all_reduce(where, 1e6, Layout(8, 1)) + costs.broadcast(where, 4e6, Layout(1, 4))
    assert found.step == pytest.approx(0.01 + cost)


def test_parts_do_not_grow():
    events = [["post", "all_reduce", "part", 2, 1_000_000], ["wait", 1]]
    for num_nodes in (1, 4, 256):
        found = replay([schedule(events, [0.01, 0, 0])], make(ranks_per_node=4), num_nodes)
        assert found.exposed == pytest.approx(costs.ring(1e6, 2, FAST))


def test_a_step_that_waits_for_what_an_earlier_one_posted():
    """DASO with S = 1: posted in one pattern, waited for in the next."""
    patterns = [
        pattern([["post", "all_reduce", "all", 2, 1_000_000]], [0.01, 0.0]),
        pattern([["wait", 1]], [0.01, 0.0]),
    ]
    order = [[place, 1] for _ in range(20) for place in (0, 1)]
    cost = costs.ring(1e6, 2, SLOW)
    found = replay(
        [schedule([], []) | {"patterns": patterns, "segments": [[0, order]], "num_steps": 40}], make(), num_nodes=2
    )
    assert found.step == pytest.approx((0.01 + max(0.01, cost)) / 2)
    assert math.isclose(found.compute, 0.01)


def test_two_ranks_that_answer_each_other():
    """One part of a network sends 1 MB up and waits for 1 MB down."""
    up, down = ["post", "send", "all", 2, 1_000_000, 1, 7], ["post", "receive", "all", 2, 1_000_000, 1, 8]
    below = schedule([up, down, ["wait", 1]], [0.010, 0, 0, 0], grows=False)
    receive, answer = ["post", "receive", "all", 2, 1_000_000, 0, 7], ["post", "send", "all", 2, 1_000_000, 0, 8]
    above = schedule([receive, ["wait", 1], answer], [0, 0, 0.020, 0], grows=False)
    for cluster, link in ((make(), SLOW), (make(ranks_per_node=2), FAST)):
        found = replay([below, above], cluster, num_nodes=1)
        assert found.step == pytest.approx(0.030 + 2 * link.seconds(1e6))


def test_messages_on_one_link_share_it():
    """Ranks 0 and 1 of a node send to 2 and 3 of another at once: each has half of the link."""
    size = 1_000_000

    def sender(peer):
        return schedule([["post", "send", "all", 4, size, peer, 0]], [0, 0], 1, grows=False)

    def receiver(peer):
        return schedule([["post", "receive", "all", 4, size, peer, 0], ["wait", 1]], [0, 0, 0], 1, grows=False)

    ranks = [sender(2), sender(3), receiver(0), receiver(1)]
    assert replay(ranks, make(ranks_per_node=2), num_nodes=2).step == pytest.approx(SLOW.seconds(2 * size))
    assert replay(ranks, make(ranks_per_node=2, ports=2), num_nodes=2).step == pytest.approx(SLOW.seconds(size))


def exchange(size, compute):
    """What a rank with a center does at each step."""
    ask, hear = ["post", "send", "center", 2, size, 0, 1], ["post", "receive", "center", 2, size, 0, 2]
    return schedule([ask, hear, ["wait", 2], ["wait", 1]], [compute, 0, 0, 0, 0])


def center(service=0.0, delay=0.0, compute=0.0):
    """What the rank that owns it does."""
    return schedule([], [compute], service={"seconds": service, "delay": delay})


def test_an_exchange_with_a_center_takes_two_messages_the_owners_look_and_its_work():
    found = replay([center(0.003, 0.002), exchange(1_000_000, 0.010)], make(), num_nodes=2)
    assert found.step == pytest.approx(0.010 + 2 * SLOW.seconds(1e6) + 0.002 + 0.003)


def test_a_center_serves_one_after_the_other():
    """Work of 50 ms for each of 9 others takes 450 ms a round, whatever the links do."""
    found = replay([center(0.050), exchange(8, 0.001)], make(), num_nodes=10)
    assert found.step == pytest.approx(0.450, rel=0.05)  # the first round begins empty


def test_a_centers_link_is_shared_by_all():
    found = replay([center(), exchange(1_000_000, 0.001)], make(), num_nodes=5)
    # All ask at once, and all questions have arrived when the last one has: so do the answers.
    assert found.step == pytest.approx(0.001 + 2 * (4 * 1e6 / 1e9 + SLOW.latency))


def test_serving_takes_the_owners_time():
    owner = center(0.001, compute=0.010)
    found = replay([owner, exchange(0, 0.010)], make(network=Link(microseconds=0, gigabytes_per_second=1)), num_nodes=6)
    assert found.step == pytest.approx(0.015, rel=0.1)  # five requests a step


def test_ranks_take_turns_with_their_peers_as_they_did():
    """Measured with 2 ranks per node, every second turn is a rank's own; on nodes of 4, every fourth is."""
    peers, inside = ["post", "all_reduce", "peers", 2, 1_000_000], ["post", "broadcast", "node", 2, 0]
    patterns = [
        pattern([peers, ["wait", 1], inside, ["wait", 1]], [0.01, 0, 0, 0, 0]),
        pattern([inside, ["wait", 1]], [0.01, 0, 0]),
    ]
    shared = schedule([], []) | {"patterns": patterns, "ranks_per_node": 2, "num_steps": 40}
    roles = [
        shared | {"segments": [[0, [[place, 1] for _ in range(20) for place in order]]]} for order in ((0, 1), (1, 0))
    ]
    for per_node in (2, 4):
        where = make(ranks_per_node=per_node, node=Link(microseconds=0, gigabytes_per_second=1e6))
        cost = costs.all_reduce(where, 1e6, Layout(8, 1))
        assert replay(roles, where, num_nodes=8).step == pytest.approx(0.01 + cost)
    with pytest.raises(CannotReplay, match=r"2 ranks per node.*c has 3"):
        replay(roles, make(ranks_per_node=3), num_nodes=8)


def test_the_steps_up_to_the_target_count():
    """The second half takes three times as long."""
    patterns = [pattern([], [seconds]) for seconds in (0.01, 0.03)]
    runs = [[0, [[0, 500]]], [500, [[1, 500]]]]
    whole = schedule([], []) | {"patterns": patterns, "segments": runs, "num_steps": 1000}
    assert replay([whole], make(), 1).step == pytest.approx(0.02)
    assert replay([whole], make(), 1, until=400).step == pytest.approx(0.01)
    # Of most steps the order is not kept: windows lie in the segments nearest before.
    sparse = whole | {"segments": [[0, [[0, 100]]], [8000, [[1, 100]]]], "num_steps": 16_000}
    assert replay([sparse], make(), 1).step == pytest.approx(0.02)


def test_what_cannot_be_followed_is_refused():
    with pytest.raises(CannotReplay, match="no steps"):
        replay([schedule([], [], 0)], make(), 2)
    lonely = [["post", "receive", "all", 2, 8, 1, 0], ["wait", 1]]
    silent = schedule([], [0.01], grows=False)
    with pytest.raises(CannotReplay, match="waits are for operations that no recorded rank has posted"):
        replay([schedule(lonely, [0, 0, 0], grows=False), silent], make(), 1)


def test_a_message_that_was_sent_before_the_window_has_arrived():
    events = [["post", "all_reduce", "all", 2, 8], ["wait", 2]]  # for that of the step before
    found = replay([schedule(events, [0.01, 0, 0], 1000)], make(), num_nodes=2)
    assert found.step == pytest.approx(0.01, rel=0.01)


def test_samples_are_drawn_and_their_mean_is_that_of_all_steps():
    drawn = schedule([], []) | {"patterns": [pattern([], [0.01]) | {"samples": [[0.01], [0.03]], "seconds": 0.05}]}
    found = replay([drawn | {"segments": [[0, [[0, 256]]]], "num_steps": 256}], make(), 1)
    assert found.compute == pytest.approx(0.05, rel=0.15)  # 256 draws of 0.025 or 0.075: a standard error of 3 %
    assert found.compute != 0.05


def test_a_step_may_be_of_many_pieces():
    """Three pieces of a loop, and an end: a step of 35 ms, whose sums wait for those of the piece before."""
    loop = pattern([["post", "all_reduce", "all", 2, 0], ["wait", 1]], [0.010, 0, 0]) | {"is_last": False}
    whole = schedule([], []) | {"patterns": [loop, pattern([], [0.005])], "num_steps": 4}
    whole["segments"] = [[0, [run for _ in range(4) for run in ([0, 3], [1, 1])]]]
    where = make(network=Link(microseconds=0, gigabytes_per_second=1))
    found = replay([whole], where, num_nodes=2)
    assert (found.step, found.compute, found.num_steps) == (pytest.approx(0.035), pytest.approx(0.035), 4)
    assert replay([whole], where, num_nodes=2, until=2).num_steps == 2
    with pytest.raises(CannotReplay, match="more events than"):
        replay([whole | {"segments": [[0, [[0, 3], [-2, 0]]]]}], where, num_nodes=2)


def test_sums_inside_nodes_do_not_wait_for_those_between():
    """DASO with S = 4: the network's sum of 3 steps is hidden, although nodes sum gradients at every step."""
    peers, inside = ["post", "all_reduce", "peers", 1, 1_000_000], ["post", "all_reduce", "node", 1, 1_000_000]
    patterns = [
        pattern([inside, ["wait", 1], peers], [0.001, 0, 0, 0]),
        pattern([inside, ["wait", 1]], [0.001, 0, 0]),
        pattern([inside, ["wait", 1], ["wait", 5]], [0.001, 0, 0, 0]),  # for what was posted four steps before
    ]
    runs = [run for _ in range(10) for run in ([0, 1], [1, 3], [2, 1])]
    whole = schedule([], []) | {"patterns": patterns, "segments": [[0, runs]], "num_steps": 50}
    for per_node in (1, 2):
        slow = Link(microseconds=0, gigabytes_per_second=1e6 / 0.003 / 1e9)  # 3 ms between two nodes
        where = make(ranks_per_node=per_node, network=slow, node=Link(microseconds=0, gigabytes_per_second=1e6))
        found = replay([whole], where, num_nodes=2)
        assert found.step == pytest.approx(0.001, rel=0.01)
        still = replay([whole], where.model_copy(update={"overlaps": False}), num_nodes=2)
        if per_node == 1:  # else only each second exchange is a rank's own
            assert still.exposed == pytest.approx(0.003 / 5, rel=0.01)


@pytest.mark.parametrize(
    ("num_steps", "period"),
    [
        (2000, 100),
        (2000, 500),
        (4000, 500),
        (100_000, 500),
        pytest.param(4000, 100, marks=pytest.mark.long),
        pytest.param(100_000, 100, marks=pytest.mark.long),
    ],
)
def test_what_is_done_every_so_many_steps_is_met_as_often_as_it_was(num_steps, period):
    together = pattern([["post", "all_reduce", "all", 2, 1_000_000], ["wait", 1]], [0.001, 0, 0])
    together["count"], alone = num_steps // period, pattern([], [0.001])
    alone["count"] = num_steps - together["count"]
    kept = range(0, num_steps, max(2000, num_steps // 8))
    runs = [[first, [run for _ in range(2000 // period) for run in ([1, period - 1], [0, 1])]] for first in kept]
    whole = schedule([], []) | {"patterns": [together, alone], "segments": runs, "num_steps": num_steps}
    found = replay([whole], make(), num_nodes=64)
    cost = costs.ring(1e6, 64, SLOW)
    assert found.exposed == pytest.approx(cost / period, rel=0.25)  # windows cut a period at their ends
    assert found.num_steps >= 1000


def test_a_large_message_that_is_waited_for_from_both_ends_is_sent_once():
    size = 1_000_000
    first = schedule([["post", "send", "all", 2, size, 1, 0], ["wait", 1]], [0.02, 0, 0], 3, grows=False)
    second = schedule([["post", "receive", "all", 2, size, 0, 0], ["wait", 1]], [0, 0, 0], 3, grows=False)
    found = replay([first, second], make(overlaps=False), num_nodes=2)
    assert (found.step, found.num_steps) == (pytest.approx(0.02 + SLOW.seconds(size)), 3)


def test_ranks_that_stopped_keeping_at_different_steps_are_followed_where_all_have():
    whole = schedule([], [0.01], 100)
    short = whole | {"segments": [[0, [[0, 40], [-2, 0]]], [50, [[0, 20], [-2, 0]]], [80, [[-2, 0]]]]}
    assert replay([whole, short], make(), 2).num_steps == 60
    with pytest.raises(CannotReplay, match="more events than"):
        replay([whole, short | {"segments": [[0, [[-2, 0]]]]}], make(), 2)


def test_steps_of_unknown_kinds_are_no_steps_that_take_no_time():
    with pytest.raises(CannotReplay, match="90 of 100 steps were not recorded"):
        replay([schedule([], [0.01], 100) | {"segments": [[0, [[0, 10], [-1, 90]]]]}], make(), 1)


def test_a_centers_ranks_are_followed_up_to_a_number():
    with pytest.raises(CannotReplay, match="at most 1024; 2000 nodes have 2000"):
        replay([center(), exchange(8, 0.001)], make(), num_nodes=2000)


def test_parts_of_a_network_are_followed_by_whole_epochs():
    """All is done in the first of three steps of an epoch; of four recorded ones the last is another epoch's."""
    patterns = [pattern([], [0.3]), pattern([], [0.0])]
    whole = schedule([], [], grows=False) | {
        "patterns": patterns,
        "segments": [[0, [[0, 1], [1, 2], [0, 1]]]],
        "num_steps": 4,
    }
    assert replay([whole], make(), 1, per_epoch=3).step == pytest.approx(0.1)
