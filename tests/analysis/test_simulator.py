"""The simulator's parts against closed formulas: clock, shared links, collectives, center, ranks."""

import pytest

from atoll.analysis import cluster as costs
from atoll.analysis.cluster import Cluster, Layout, Link
from atoll.analysis.simulator import CenterServer, Engine, Links, Piece, Request, SharedLink, Simulator

SLOW = Link(microseconds=100, gigabytes_per_second=1)
FAST = Link(microseconds=10, gigabytes_per_second=10)
MB = 1_000_000


def make(**changes):
    fields = {"name": "c", "ranks_per_node": 1, "node": FAST, "network": SLOW, "algorithm": "ring"}
    return Cluster(**fields | changes)


def drain(engine):
    while engine.advance():
        pass


def simulate(steps, cluster, num_nodes=1, **changes):
    """Ranks that each follow a list of (events, gaps)."""
    pieces = [iter([Piece(events, gaps, True) for events, gaps in own]) for own in steps]
    return Simulator(cluster, num_nodes, pieces, **{"grows": True, "measured_per_node": 1} | changes).run()


def test_events_happen_by_time_and_then_in_the_order_of_scheduling():
    engine, seen = Engine(), []
    for time, name in ((2.0, "late"), (1.0, "first"), (1.0, "second")):
        engine.at(time, lambda name=name: seen.append((engine.now, name)))
    drain(engine)
    assert seen == [(1.0, "first"), (1.0, "second"), (2.0, "late")]
    assert not engine.advance()


def test_messages_share_a_link_while_they_overlap():
    """100 B/s: the first message has the link alone for 1 s, then both have half of it."""
    engine, ends = Engine(), {}
    link = SharedLink(engine, bandwidth=100.0, num_links=1)
    engine.at(0.0, lambda: link.add(200.0, lambda: ends.update(first=engine.now)))
    engine.at(1.0, lambda: link.add(300.0, lambda: ends.update(second=engine.now)))
    drain(engine)
    assert ends == {"first": pytest.approx(3.0), "second": pytest.approx(5.0)}


def test_one_message_uses_one_of_several_links():
    engine, ends = Engine(), []
    link = SharedLink(engine, bandwidth=100.0, num_links=2)
    for _ in range(3):
        link.add(100.0, lambda: ends.append(engine.now))
    drain(engine)
    assert ends == [pytest.approx(1.5)] * 3


def test_collectives_that_share_a_rank_take_turns():
    links = Links(Engine(), make(), has_center=False)
    assert links.reserve([0, 1], Layout(2, 1), 1.0) == 1.0
    assert links.reserve([1, 2], Layout(2, 1), 1.0) == 2.0
    assert links.reserve([3, 4], Layout(2, 1), 1.0) == 1.0  # of other ranks
    assert links.reserve([0, 1], Layout(1, 2), 1.0) == 1.0  # on the links inside a node
    assert links.reserve([1], Layout(1, 1), 0.0) == 0.0  # one rank alone uses no link


@pytest.mark.parametrize(("target", "link"), [(1, FAST), (2, SLOW)])
def test_a_message_takes_latency_and_size_over_bandwidth(target, link):
    engine, arrivals = Engine(), []
    Links(engine, make(ranks_per_node=2), has_center=False).send(0, target, MB, lambda: arrivals.append(engine.now))
    drain(engine)
    assert arrivals == [pytest.approx(link.seconds(MB))]


@pytest.mark.parametrize(("has_center", "last"), [(False, SLOW.seconds(MB)), (True, SLOW.seconds(2 * MB))])
def test_only_a_center_limits_the_messages_that_arrive_at_rank_0(has_center, last):
    engine, arrivals = Engine(), []
    links = Links(engine, make(), has_center=has_center)
    for source in (1, 2):
        links.send(source, 0, MB, lambda: arrivals.append(engine.now))
    drain(engine)
    assert arrivals[-1] == pytest.approx(last)


def test_a_center_serves_requests_one_by_one_and_takes_its_owners_time():
    engine, taken, finished = Engine(), [], []
    where = make(network=Link(microseconds=0, gigabytes_per_second=1e6))
    server = CenterServer(engine, Links(engine, where, has_center=True), 0.5, 0.1, taken.append)

    class Answered:
        size = 0.0

        def complete(self, finish):
            finished.append(finish)

    for rank in (1, 2):
        server.serve(Request(0.0, server.serve), Answered(), rank)
    drain(engine)
    assert finished == [pytest.approx(0.6), pytest.approx(1.1)]
    assert taken == [0.5, 0.5]


def test_a_collective_begins_with_its_last_rank():
    events = [["post", "all_reduce", "all", 2, MB], ["wait", 1]]
    steps = [[(events, [compute, 0.0, 0.0])] for compute in (0.010, 0.030)]
    totals = simulate(steps, make(), num_nodes=2)
    cost = costs.ring(MB, 2, SLOW)
    assert totals.seconds == pytest.approx(0.030 + cost)
    assert totals.compute == pytest.approx(0.040)
    assert totals.exposed == pytest.approx(0.020 + 2 * cost)
    assert (totals.num_steps, totals.most_steps, totals.num_waits, totals.num_assumed) == (2, 1, 2, 0)


def test_work_and_the_clusters_speed_scale_computing():
    totals = simulate([[([], [0.010])]], make(speed=4.0), work=2.0)
    assert totals.compute == pytest.approx(0.005)


def test_a_wait_for_what_nobody_else_posts_is_assumed_to_be_over():
    lonely = [["post", "receive", "all", 2, MB, 1, 0], ["wait", 1]]
    totals = simulate([[(lonely, [0.010, 0, 0.010])], [([], [0.5])]], make(), num_nodes=2, grows=False)
    assert (totals.num_waits, totals.num_assumed) == (1, 1)
    assert totals.compute == pytest.approx(0.520)
    assert totals.exposed == 0.0


def test_a_wait_for_what_was_posted_before_the_window_is_no_wait():
    totals = simulate([[([["wait", 1]], [0.010, 0.0])]], make())
    assert (totals.num_waits, totals.seconds) == (0, pytest.approx(0.010))


def test_a_small_message_leaves_its_sender_at_once():
    for size, exposed in ((8, 0.0), (MB, SLOW.seconds(MB))):
        send = [["post", "send", "all", 2, size, 1, 0], ["wait", 1]]
        receive = [["post", "receive", "all", 2, size, 0, 0]]
        totals = simulate([[(send, [0, 0, 0])], [(receive, [0, 0])]], make(), num_nodes=2, grows=False)
        assert totals.exposed == pytest.approx(exposed)
