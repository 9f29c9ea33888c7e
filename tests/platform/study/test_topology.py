"""World -> islands -> workers -> ranks -> devices."""

import pytest
from hosts import arrange
from hypothesis import given
from hypothesis import strategies as st

from atoll.communication.thread_world import run_in_threads
from atoll.platform.study import topology
from atoll.platform.study.topology import (
    HostFacts,
    Shape,
    TopologyError,
    by_host,
    check_world_size,
    share_cores,
    share_out,
)


def places(shape, **options):
    return arrange(shape, ["a"] * shape.world_size, cores=[{0, 1}] * shape.world_size, **options)


def test_ranks_of_a_worker_are_neighbours_and_islands_hold_whole_workers():
    found = places(Shape((2, 1), 2))
    assert [(p.island, p.worker, p.rank) for p in found] == [
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 2, 0), (1, 2, 1),
    ]  # fmt: skip


def test_shares_by_propulates_rule():
    assert share_out(8, 3, 1).island_sizes == (3, 3, 2)
    assert share_out(8, 2, 2).island_sizes == (2, 2)


def test_impossible_shares_say_the_rule():
    with pytest.raises(TopologyError, match=r"must be divisible by 3 ranks per worker; got 8"):
        share_out(8, 1, 3)
    with pytest.raises(TopologyError, match=r"5 islands need at least 5 workers; the world has 4 of 2 ranks"):
        share_out(8, 5, 2)


def test_mixed_mpi_installations_are_named():
    check_world_size(Shape((1,), 4), 4)
    with pytest.raises(TopologyError, match=r"MPI made worlds of 1"):
        check_world_size(Shape((1,), 4), 1)
    with pytest.raises(TopologyError, match=r"needs 4 ranks .* but MPI started 6"):
        check_world_size(Shape((1,), 4), 6)


def test_nodes_are_hosts_unless_declared():
    shape = Shape((1,), 4)
    by_host = arrange(shape, ["a", "a", "b", "b"], cores=[{0, 1}] * 4)
    assert [p.node for p in by_host] == [0, 0, 1, 1]
    assert [p.node for p in places(shape, ranks_per_node=1)] == [0, 1, 2, 3]
    assert [p.node for p in places(shape, ranks_per_node=2)] == [0, 0, 1, 1]
    # Declared nodes are counted in each worker.
    assert [p.node for p in places(Shape((2,), 2), ranks_per_node=1)] == [0, 1, 0, 1]


def test_threads_never_oversubscribe_a_host():
    shape = Shape((4,), 1)
    assert [p.threads for p in arrange(shape, ["a", "a", "a", "b"], cores=[range(8)] * 4)] == [2, 2, 2, 8]
    assert [p.threads for p in places(Shape((4,), 2))] == [1] * 8
    assert {p.threads for p in places(shape, threads=3)} == {3}


def test_ranks_that_are_bound_to_cores_of_their_own_use_them():
    bound = arrange(Shape((2,), 1), ["a", "a"], cores=[{0, 1, 2, 3}, {4, 5, 6, 7}])
    assert [(p.threads, p.may_spin) for p in bound] == [(4, True), (4, True)]
    shared = arrange(Shape((3,), 1), ["a"] * 3, cores=[{0, 1}] * 3)
    assert [(p.threads, p.may_spin) for p in shared] == [(1, False)] * 3


def test_devices_go_round_the_hosts_gpus():
    found = arrange(Shape((4,), 1), ["a", "a", "a", "b"], cores=[range(8)] * 4, num_gpus=[2, 2, 2, 1])
    assert [p.device for p in found] == ["cuda:0", "cuda:1", "cuda:0", "cuda:0"]
    assert {p.device for p in arrange(Shape((2,), 1), ["a", "a"], cores=[{0}, {0}], num_gpus=[2, 2], device="cpu")} == {
        "cpu"
    }
    with pytest.raises(TopologyError, match=r"device cuda needs a GPU on every host; there is none on b"):
        arrange(Shape((2,), 1), ["a", "b"], cores=[{0}, {0}], num_gpus=[1, 0], device="cuda")


@pytest.mark.parametrize(
    ("options", "crowded"),
    [
        ({"cores": [{0, 1}, {0, 1}]}, [False, False]),
        ({"cores": [{0}, {0}]}, [True, True]),
        ({"cores": [{0, 1}, {0, 1}], "threads": 8}, [True, True]),
        ({"cores": [{0, 1, 2, 3}, {0}]}, [True, True]),  # 4 threads and 1 on 4 cores
        ({"cores": [{0}, {1}]}, [False, False]),
        ({"cores": [range(8)] * 2, "num_gpus": [2, 2]}, [False, False]),
        ({"cores": [range(8)] * 2, "num_gpus": [1, 1]}, [True, True]),
        ({"cores": [range(8)] * 2, "num_gpus": [1, 1], "device": "cpu"}, [False, False]),
    ],
)
def test_who_shares_a_gpu_or_cores_with_too_many_threads_is_crowded(options, crowded):
    """Two workers: it does not matter whose the other rank is."""
    assert [place.oversubscribed for place in arrange(Shape((2,), 1), ["a", "a"], **options)] == crowded


@pytest.mark.parametrize(
    ("options", "takes_turns"),
    [
        ({"cores": [{0}, {0}]}, True),
        ({"cores": [{0}, {1}]}, False),
        ({"cores": [{0, 1}, {0, 1}], "threads": 8}, False),  # what its other threads compute is not the rank's own time
        ({"cores": [{0}, {0}], "num_gpus": [1, 1]}, False),
    ],
)
def test_a_rank_that_takes_turns_on_its_core_has_a_time_of_its_own(options, takes_turns):
    assert [place.takes_turns for place in arrange(Shape((2,), 1), ["a", "a"], **options)] == [takes_turns] * 2


def test_ranks_of_other_hosts_crowd_nobody():
    assert not any(place.oversubscribed for place in arrange(Shape((2,), 1), ["a", "b"], cores=[{0}, {0}]))


def test_places_name_what_they_compute_on():
    names = [["EPYC", "H200", "A100"]] * 2
    found = arrange(Shape((2,), 1), ["a", "a"], cores=[{0, 1}] * 2, num_gpus=[2, 2], processors=names)
    assert [(place.processor, place.cores) for place in found] == [("H200", 2), ("A100", 2)]
    on_cpu = arrange(Shape((1,), 1), ["a"], cores=[{0, 1}], device="cpu", processors=names)
    assert on_cpu[0].processor == "EPYC"


def workers(hostnames, ranks):
    """The hosts of each worker's ranks."""
    order = by_host(hostnames, ranks)
    return ["".join(hostnames[rank] for rank in order[start : start + ranks]) for start in range(0, len(order), ranks)]


@pytest.mark.parametrize(
    ("hostnames", "ranks", "found"),
    [
        ("aabb", 2, ["aa", "bb"]),
        ("abab", 2, ["aa", "bb"]),  # round robin
        ("abcabcabcabc", 4, ["aaaa", "bbbb", "cccc"]),
        ("ababab", 2, ["aa", "bb", "ab"]),
        ("abababab", 8, ["aaaabbbb"]),
        ("aaabbbcc", 4, ["aaac", "bbbc"]),
        ("aaaabc", 3, ["aaa", "abc"]),
        ("aaabbbbbcccc", 4, ["aaab", "bbbb", "cccc"]),
    ],
)
def test_a_workers_ranks_are_on_few_hosts_however_mpi_numbers_them(hostnames, ranks, found):
    assert workers(hostnames, ranks) == found


def worlds(ranks):
    """The number of a worker's ranks, and the host of each rank of some workers."""
    sizes = st.integers(1, 6).map(lambda workers: workers * ranks)
    names = sizes.flatmap(lambda size: st.lists(st.sampled_from("abcd"), min_size=size, max_size=size))
    return st.tuples(st.just(ranks), names)


@given(st.integers(1, 5).flatmap(worlds))
def test_as_many_workers_as_possible_are_on_one_host(world):
    ranks, hostnames = world
    order = by_host(hostnames, ranks)
    assert sorted(order) == list(range(len(hostnames)))
    assert order[0] == 0
    on_one = sum(len(set(worker)) == 1 for worker in workers(hostnames, ranks))
    assert on_one == sum(hostnames.count(host) // ranks for host in set(hostnames))
    # Roots are numbered as the workers are.
    roots = [min(order[start : start + ranks]) for start in range(0, len(order), ranks)]
    assert roots == sorted(roots)


def test_ranks_of_a_host_in_place_keep_their_numbers():
    assert by_host(["a", "a", "b", "b"], 2) == [0, 1, 2, 3]
    assert by_host(["a"] * 6, 3) == list(range(6))


def test_a_reordered_world_numbers_its_ranks_so():
    def check(world):
        other = world.reordered([0, 2, 1])
        assert (other.rank, other.size) == ([0, 2, 1][world.rank], 3)
        assert other.allgather(world.rank) == [0, 2, 1]

    run_in_threads(3, check)


def test_ranks_that_may_use_the_same_cores_get_shares_of_their_own():
    order = [0, 4, 1, 5, 2, 6, 3]  # threads of a core are neighbors
    facts = [HostFacts("a", order), HostFacts("a", order), HostFacts("b", order), HostFacts("a", [8, 9])]
    assert [list(fact.cores) for fact in share_cores(facts)] == [[0, 4, 1], [5, 2, 6, 3], order, [8, 9]]
    few = [HostFacts("a", [0, 1])] * 3
    assert share_cores(few) == few


def test_ranks_that_see_one_gpu_each_share_none():
    """As srun --gpus-per-task=1 shows them: all are cuda:0."""
    own = [HostFacts("a", range(8), 1, gpus=[uuid]) for uuid in ("GPU-1", "GPU-2")]
    found = topology.arrange(Shape((2,), 1), own)
    assert [(p.device, p.gpu) for p in found] == [("cuda:0", "GPU-1"), ("cuda:0", "GPU-2")]
    assert not any(p.oversubscribed for p in found)
    same = [HostFacts("a", range(8), 1, gpus=["GPU-1"])] * 2
    assert [p.oversubscribed for p in topology.arrange(Shape((2,), 1), same)] == [True, True]
