"""Batches that torch's DataLoader loads from a data set: order, shares, randomness, workers, streams."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from commands import wait_until
from datasets_of_tests import Counting, Numbers
from torch.utils.data import DataLoader

from atoll.methods.method import NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.loader import Loader
from atoll.platform.trial.batches import EpochBatches
from atoll.platform.trial.isolation import isolated
from atoll.platform.trial.loaders import EvaluationBatches, LoadedBatches, StreamedBatches
from atoll.platform.trial.shares import Share
from atoll.platform.workloads.digits import DigitsMlp
from atoll.platform.workloads.workload import Data, Samples

BESIDE = pytest.mark.parametrize(
    "workers", [0, pytest.param(2, marks=pytest.mark.process)], ids=["no workers", "two workers"]
)


def loaded(dataset, share, seed=3, workers=0, start=None, **options):
    settings = Loader(workers=workers, start=start)
    return LoadedBatches(dataset, share, seed, DigitsMlp(), settings, lambda inputs, _: inputs, **options)


def streamed(dataset, share, workers=0, num_batches=5):
    settings = Loader(workers=workers)
    return StreamedBatches(dataset, share, 3, DigitsMlp(), settings, lambda i, _: i, num_batches=num_batches)


@BESIDE
@pytest.mark.parametrize("whole", [False, True])
def test_the_order_is_that_of_tensors_in_memory(workers, whole):
    samples = Samples(torch.arange(40.0), torch.arange(40))
    for rank in range(3):
        share = Share(4, rank, 3, whole=whole)
        in_memory = EpochBatches(samples, share, seed=3)
        batches = loaded(Numbers(), share, workers=workers)
        assert batches.num_batches == in_memory.num_batches
        for epoch in (0, 1) if rank == 0 else (0,):
            for expected, batch in zip(in_memory.epoch(epoch), batches.epoch(epoch), strict=True):
                assert torch.equal(batch.indices, expected.indices)
                assert torch.equal(batch.inputs["x"], expected.inputs)
                assert torch.equal(batch.targets, expected.targets)
        batches.close()


def drawn(batches, epoch=0):
    with_items = [batch.inputs["drawn"] for batch in batches.epoch(epoch)]
    batches.close()
    return torch.cat(with_items)


@pytest.mark.process
def test_what_is_random_is_seeded_by_batch_and_leaves_the_training_alone():
    share = Share(5, 1, 2)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    alone = drawn(loaded(Numbers(), share))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(alone, drawn(loaded(Numbers(), share, workers=2)))
    assert len(alone.unique()) == alone.numel()
    for other in (loaded(Numbers(), Share(5, 0, 2)), loaded(Numbers(), share, seed=4)):
        assert not torch.equal(alone, drawn(other))
    assert not torch.equal(alone, drawn(loaded(Numbers(), share), epoch=1))


@pytest.mark.process
def test_spawned_workers_import_a_users_file_and_its_neighbors(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "numbers_of_mine.py").write_text("import datasets_of_tests\nNumbers = datasets_of_tests.Numbers\n")
    (tmp_path / "spawned.py").write_text(
        "import numbers_of_mine\nfrom atoll import Data\nfrom atoll.platform.workloads.digits import DigitsMlp\n"
        "class Mine(numbers_of_mine.Numbers):\n    pass\n"
        "class W(DigitsMlp):\n    def load(self, folder):\n        return Data(Mine(8), Mine(8), Mine(8))\n"
        "    def collate(self, items):\n        return super().collate(items)\n"
    )
    workload = registry.workload(f"{tmp_path / 'spawned.py'}:W")
    settings = Loader(workers=1, start="spawn")
    batches = LoadedBatches(workload.load(None).train, Share(4, 0, 1), 3, workload, settings, lambda i, _: i)
    assert sorted(torch.cat([b.targets for b in batches.epoch(0)]).tolist()) == list(range(8))
    batches.close()


@pytest.mark.process
def test_workers_end_with_the_batches():
    before = set(multiprocessing.active_children())  # of other tests in this process
    batches = loaded(Numbers(), Share(4, 0, 1), workers=2)
    next(batches.epoch(0))
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    batches.close()
    for process in workers:
        process.join(10)
    assert not workers & set(multiprocessing.active_children())


class Dies(Numbers):
    """Its third item ends the process that loads it."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def __getitem__(self, index):
        if index == 2:
            self.how()
        return super().__getitem__(index)


def _interrupted():
    raise KeyboardInterrupt


@pytest.mark.process
@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda: os._exit(3), "a DataLoader worker ended with exit code 3"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "a DataLoader worker ended with signal 9"),
        # It takes as long as the first: torch looks every five seconds.
        pytest.param(_interrupted, "a DataLoader worker ended with exit code 0", marks=pytest.mark.long),
    ],
    ids=["exit", "killed", "interrupted"],
)
def test_the_end_of_a_process_that_loads_is_told(how, words):
    """Not that a connection was reset or a file was not found, which depends on the moment."""
    before = signal.getsignal(signal.SIGCHLD)
    batches = loaded(Dies(how), Share(4, 0, 1), workers=1)
    with pytest.raises(RuntimeError, match=words):
        list(batches.epoch(0))
    batches.close()
    assert signal.getsignal(signal.SIGCHLD) is before  # torch's handler would raise anywhere


@pytest.mark.process
def test_workers_leave_no_change_of_the_process_to_be_told():
    notes = []
    with isolated(notes):
        batches = loaded(Numbers(), Share(4, 0, 1), workers=1)
        next(batches.epoch(0))
        batches.close()
    assert notes == []


@BESIDE
def test_a_stream_is_cut_into_the_same_global_batches(workers):
    seen = {}
    for rank in range(2):
        batches = streamed(Counting(40), Share(4, rank, 2), workers)
        # 40 items are 5 global batches of 8; then the stream begins again.
        seen[rank] = [b.targets.tolist() for epoch in range(2) for b in batches.epoch(epoch)]
        batches.close()
    together = [a + b for a, b in zip(seen[0], seen[1], strict=True)]
    assert together == [list(range(8 * k, 8 * k + 8)) for k in range(5)] * 2


def test_a_stream_may_return_shards():
    class Sharded(Counting):
        def shard(self, number, count):
            return itertools.islice(iter(self), number, None, count)

    batches = streamed(Sharded(40), Share(4, 1, 2), num_batches=3)
    assert [b.targets.tolist() for b in batches.epoch(0)] == [[1, 3, 5, 7], [9, 11, 13, 15], [17, 19, 21, 23]]


def test_a_stream_learns_its_epoch():
    class Shuffled(Counting):
        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter((torch.ones(1), 100 * self.epoch + i) for i in range(self.count))

    batches = streamed(Shuffled(8), Share(4, 0, 1), num_batches=4)
    assert [b.targets.tolist()[0] for b in batches.epoch(0)] == [0, 4, 100, 104]


def test_a_stream_that_is_too_short_is_refused():
    with pytest.raises(NotApplicable, match="must give each reader at least 80 items; got fewer"):
        next(streamed(Counting(40), Share(40, 0, 2)).epoch(0))


def test_randomness_of_a_stream_is_its_own():
    class Noisy(Counting):
        def __iter__(self):
            return iter((torch.rand(1), i) for i in range(self.count))

    def first(rank):
        return next(streamed(Noisy(), Share(4, rank, 2)).epoch(0)).inputs

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    a = first(0)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a, first(0))
    assert not torch.equal(a, first(1))


@BESIDE
@pytest.mark.parametrize("kind", [Numbers, Counting])
def test_every_sample_is_evaluated_once(workers, kind):
    class Small(DigitsMlp):
        evaluation_batch_size = 4

    seen = []
    for rank in range(3):
        batches = EvaluationBatches(kind(41), rank, 3, Small(), Loader(workers=workers))
        seen += [i for batch in batches for i in batch.targets.tolist()]
        batches.close()
    assert sorted(seen) == list(range(41))


def test_parts_of_other_kinds_are_refused():
    part = Numbers()
    with pytest.raises(TypeError, match=r"train must be Samples.*got DataLoader: return its dataset, and define `coll"):
        Data(DataLoader(part), part, part)
    with pytest.raises(TypeError, match=r"test must be Samples.*got list: see Data"):
        Data(part, part, [1, 2])


def test_batches_without_targets_are_refused():
    class Bare(DigitsMlp):
        pass

    with pytest.raises(ValueError, match=r"must be a pair of inputs and targets, or a dict with `labels`.*keys x, y"):
        Bare().inputs_and_targets({"x": 1, "y": 2})
    assert Bare().inputs_and_targets({"ids": 1, "labels": 2}) == ({"ids": 1}, 2)


class Shuffling(Counting):
    """Its order comes from the global random state, as in many a user's stream."""

    def __iter__(self):
        return iter((torch.rand(1), int(i)) for i in torch.randperm(self.count))


@BESIDE
def test_all_readers_of_a_stream_read_it_in_the_same_order(workers):
    seen = []
    for rank in range(2):
        batches = streamed(Shuffling(16), Share(2, rank, 2), workers, num_batches=4)
        seen += [i for batch in batches.epoch(0) for i in batch.targets.tolist()]
        batches.close()
    assert sorted(seen) == list(range(16))
    alone = streamed(Shuffling(16), Share(4, 0, 1), workers, num_batches=4)
    assert sorted(i for batch in alone.epoch(0) for i in batch.targets.tolist()) == list(range(16))
    alone.close()


@BESIDE
def test_evaluating_a_stream_repeats_and_leaves_the_training_alone(workers):
    batches = EvaluationBatches(Shuffling(16), 0, 1, DigitsMlp(), Loader(workers=workers))
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second = ([batch.targets.tolist() for batch in batches] for _ in range(2))
    assert first == second
    assert torch.equal(torch.rand(1), expected)
    batches.close()


def test_items_and_transforms_draw_different_numbers():
    class Drawing(Numbers):
        def __getitem__(self, index):
            return torch.rand(1), index

    def transform(inputs, generator):
        return torch.cat([inputs, torch.rand(inputs.shape, generator=generator)], dim=1)

    batches = LoadedBatches(Drawing(), Share(4, 0, 1), 3, DigitsMlp(), Loader(), transform)
    inputs = torch.cat([batch.inputs for batch in batches.epoch(0)])
    assert not (inputs[:, 0] == inputs[:, 1]).any()


def test_a_stream_continues_where_it_was():
    whole = [batch.targets.tolist() for batch in streamed(Shuffling(64), Share(4, 0, 1), num_batches=8).epoch(0)]
    batches, polls = streamed(Shuffling(64), Share(4, 0, 1), num_batches=8), []
    batches.pass_over(3, lambda: polls.append(1))
    assert [batch.targets.tolist() for batch in batches.epoch(0, 3)] == whole[3:]
    assert len(polls) == 3


class Slow(Numbers):
    """Its item 15 is never loaded."""

    def __getitem__(self, index):
        if index == 15:
            time.sleep(600)
        return super().__getitem__(index)


@pytest.mark.process
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_request_to_stop_does_not_end_processes_that_load(start):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    batches = loaded(Numbers(), Share(4, 0, 1), workers=2, start=start)
    epoch = batches.epoch(0)
    seen = [next(epoch).targets.tolist()]
    started = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    started = [child for child in started if "resource_tracker" not in " ".join(child.cmdline())]
    assert len(started) == 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        for child in started:
            child.send_signal(number)
    seen += [batch.targets.tolist() for batch in epoch]
    seen += [batch.targets.tolist() for batch in batches.epoch(1)]
    assert sorted(i for targets in seen for i in targets) == sorted(list(range(40)) * 2)
    batches.close()


@pytest.mark.process
def test_a_process_that_is_stuck_ends_with_its_trial():
    before = {child.pid for child in psutil.Process().children()}
    batches = loaded(Slow(), Share(4, 0, 1), workers=1)
    epoch = batches.epoch(0)
    next(epoch)
    (worker,) = [child for child in psutil.Process().children() if child.pid not in before]
    del epoch
    batches.close()
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
def test_a_process_that_loads_ends_with_its_rank():
    code = "import os, sys, time; from test_loaders import Slow, loaded, Share, psutil\n"
    code += "epoch = loaded(Slow(), Share(4, 0, 1), workers=1).epoch(0); next(epoch)\n"
    code += "print(psutil.Process().children()[0].pid, flush=True); time.sleep(600)"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    rank = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    worker = psutil.Process(int(rank.stdout.readline()))
    rank.kill()
    rank.wait()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 2)
