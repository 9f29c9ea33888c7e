"""Functions that searches call: what works, and what a user's function may do wrong."""

from __future__ import annotations

import json
import subprocess
import time

import numpy as np

import atoll

SPACE = {"x": atoll.Float(0.0, 1.0)}


def parabola(trial):
    return (trial["x"] - 0.3) ** 2


def curve(trial):
    for step in range(4):
        trial.report(parabola(trial) + 1 / (1 + step), step, metrics={"left": 3 - step})
    return parabola(trial)


def together(trial):
    """Uses every operation that threads have as well as MPI."""
    comm, rank, size = trial.comm, trial.comm.rank, trial.comm.size
    everyone = list(range(size))
    assert (comm.Get_rank(), comm.Get_size()) == (rank, size)
    assert comm.bcast({"of": rank}, root=size - 1) == {"of": size - 1}
    assert comm.gather(rank, root=0) == (everyone if rank == 0 else None)
    assert comm.allgather(rank) == everyone
    assert comm.scatter([10 * other for other in everyone] if rank == 0 else None) == 10 * rank
    assert comm.alltoall([(rank, other) for other in everyone]) == [(other, rank) for other in everyone]
    assert comm.allreduce(rank + 1) == size * (size + 1) // 2
    assert comm.reduce([rank], root=0) == (everyone if rank == 0 else None)
    assert comm.scan(rank) == sum(everyone[: rank + 1])
    assert (comm.exscan(rank) or 0) == sum(everyone[:rank])
    comm.barrier()
    comm.Barrier()
    _arrays(comm, rank, size)
    _messages(comm, rank, size)
    part = comm.Split(rank % 2, -rank)
    assert part.allgather(rank) == sorted((r for r in everyone if r % 2 == rank % 2), reverse=True)
    copy = part.Dup()
    assert copy.allreduce(1) == part.size
    copy.Free()
    return float(comm.bcast(parabola(trial)))


def _arrays(comm, rank, size):
    buffer = np.full(3, float(rank))
    comm.Bcast(buffer, root=1)
    assert (buffer == 1.0).all()
    total, every = np.zeros(3), np.zeros(3 * size)
    comm.Allreduce(np.full(3, 1.0 + rank), total)
    assert (total == size * (size + 1) / 2).all()
    comm.Allgather(np.full(3, float(rank)), every)
    assert (every == np.repeat(np.arange(size), 3)).all()
    comm.Reduce(np.full(3, 2.0), total, root=0)
    assert rank or (total == 2.0 * size).all()
    comm.Gather(np.full(3, float(rank)), every, root=0)
    own = np.zeros(3)
    comm.Scatter(every, own, root=0)
    assert (own == rank).all()
    sent, received = np.arange(float(size)), np.zeros(size)
    comm.Alltoall(sent, received)
    assert (received == rank).all()


def _messages(comm, rank, size):
    right, left = (rank + 1) % size, (rank - 1) % size
    assert comm.sendrecv(rank, dest=right, source=left) == left
    request = comm.isend({"from": rank}, dest=right, tag=3)
    assert comm.recv(source=left, tag=3) == {"from": left}
    request.wait()
    buffer = np.zeros(2)
    expected = comm.Irecv(buffer, source=left, tag=4)
    comm.Send(np.full(2, float(rank)), dest=right, tag=4)
    expected.Wait()
    assert (buffer == left).all()
    expected = comm.irecv(source=left, tag=5)
    comm.send(rank, dest=right, tag=5)
    assert expected.wait() == left
    comm.Isend(np.full(2, float(rank)), dest=right, tag=6).Wait()
    comm.Recv(buffer, source=left, tag=6)
    assert (buffer == left).all()


def _raises(trial):
    if trial.comm.rank == 1:
        raise ValueError("no")
    trial.comm.allreduce(1)


def _raises_among_messages(trial):
    if trial.comm.rank == 1:
        trial.comm.send(1, dest=0, tag=8)
        raise ValueError("no")
    trial.comm.recv(source=1, tag=9)


def _leaves_early(trial):
    if trial.comm.rank == 0:
        trial.comm.bcast(1)


def _waits_for_nobody(trial):
    if trial.comm.rank == 0:
        trial.comm.recv(source=1)


def _calls_others(trial):
    trial.comm.bcast(1) if trial.comm.rank == 0 else trial.comm.gather(1)


def _swallows(trial):
    if trial.comm.rank == 1:
        raise ValueError("no")
    try:
        trial.comm.recv(source=1)
    except Exception:
        return


def _waits_for_a_message(trial):
    if trial.comm.rank == 0:
        trial.comm.irecv(source=1).wait()


def _saves_alone(trial):
    trial.checkpoint({"step": 0})
    if trial.comm.rank == 1:
        trial.checkpoint({"step": 1})


def _leaves_messages(trial):
    if trial.comm.rank == 0:
        trial.comm.isend(3, dest=1)
        trial.comm.Irecv(np.zeros(3), source=1, tag=7)
    elif trial.comm.rank == 1:
        trial.comm.Isend(np.zeros(100_000), dest=0, tag=9)


def _reports_alone(trial):
    if trial.comm.rank == 1:
        trial.report(1.0)


def _diverges(trial):
    trial.report(float("nan"))


def _goes_back(trial):
    trial.report(1.0, 3)
    trial.report(1.0, 3)


def _exits(trial):
    if trial.comm.rank == 1:
        raise SystemExit(3)
    trial.comm.barrier()


# What a function does, and the end of its trial.
MISTAKES = {
    _raises: "ValueError: no (rank 1",
    _raises_among_messages: "ValueError: no (rank 1",
    _leaves_early: "Unreachable: trial.comm.bcast waits for rank 1, which has returned",
    _waits_for_nobody: "Unreachable: trial.comm.recv waits for ranks that have returned",
    _calls_others: "RuntimeError: the ranks of trial.comm called different collectives",
    _swallows: "ValueError: no (rank 1",
    _waits_for_a_message: "Unreachable: ",
    _saves_alone: "Unreachable: trial.comm.checkpoint waits for rank 0, which has returned",
    _leaves_messages: None,
    _diverges: "Diverged: diverged at step 0: the reported value is nan",
    _goes_back: "ValueError: step must be 0 or more, and increase; got 3 after 3",
    _exits: "SystemExit: 3",
}


def _sends_to_nobody(trial):
    if trial.comm.rank == 0:
        trial.comm.ssend(1, dest=1)


def _starts_alone(trial):
    if trial.comm.rank == 0:
        trial.comm.Ibarrier().Wait()


def _aborts(trial):
    if trial.comm.rank == 1:
        trial.comm.Abort(3)
    trial.comm.barrier()


def _makes_topologies(trial):
    for _ in range(600):
        trial.comm.Create_cart([trial.comm.size])


# Over MPI only.
MISTAKES_OVER_MPI = {
    _sends_to_nobody: "Unreachable: trial.comm.ssend waits for ranks that have returned",
    _starts_alone: "Unreachable: Wait of a request of trial.comm waits for ranks that have returned",
    _aborts: "RuntimeError: trial.comm.Abort(3) was called (rank 1",
    _makes_topologies: None,
}
# Only of ranks that are processes.
HANGS = {
    "sleeps": "TrialTimeout: the trial was stopped after trial_timeout",
    "loops": "TrialTimeout: the trial was stopped after trial_timeout",
    "child": "TrialTimeout: the trial was stopped after trial_timeout",
}


def misbehaves(trial):
    """Every second trial makes one of the mistakes, the others do as they should."""
    if trial.number % 2:
        list(MISTAKES)[trial.number // 2 % len(MISTAKES)](trial)
        return 1.0
    return together(trial)


def misbehaves_over_mpi(trial):
    """The same with mistakes that only MPI's communicator knows."""
    if trial.number % 2:
        list(MISTAKES_OVER_MPI)[trial.number // 2 % len(MISTAKES_OVER_MPI)](trial)
        return 1.0
    return together(trial)


def hangs(trial):
    """Trials that do not come back by themselves, on one rank while the other waits for it."""
    kind = [None, *HANGS][trial.number % 4]
    if trial.comm.rank == 1 and kind == "sleeps":
        time.sleep(1000)
    if trial.comm.rank == 0 and kind == "loops":
        while True:
            pass
    if trial.comm.rank == 1 and kind == "child":
        subprocess.run(["sleep", "1000"], check=False)
    return trial.comm.allreduce(trial["x"])


def pruned(trial):
    """Every rank notes the steps that it has begun."""
    for step in range(10):
        with (trial.folder / f"rank-{trial.comm.rank}").open("a") as file:
            file.write(f"{step} ")
        trial.report(float(trial.number), step)
    return float(trial.number)


def continued(trial):
    """Writes a checkpoint after every step, and stops the search in the midst of trial 1."""
    state = trial.last_checkpoint() or {"step": 0, "sum": np.zeros(2), "seen": []}
    for step in range(state["step"], 6):
        total = trial.comm.allreduce(1)
        state = {"step": step + 1, "sum": state["sum"] + step, "seen": [*state["seen"], trial.attempt]}
        trial.report(float(state["sum"][0]), step)
        if trial.number == 1 and step == 3 and trial.attempt == 0 and trial.comm.rank == 0:
            (trial.folder.parent.parent / "stop").touch()
            time.sleep(0.6)  # until requests are looked for again
        trial.checkpoint(state)
    (trial.folder / f"seen-{trial.comm.rank}").write_text(json.dumps(state["seen"]))
    return {"value": float(state["sum"].sum()), "ranks": float(total)}


def bowl(trial):
    """The lowest at x = 0.3, y = 0.7, n = 5; long enough to be killed in the midst of it."""
    time.sleep(0.1)
    return bowl_of(trial)


def large_bowl(trial):
    """A related problem: on another scale."""
    return 100 * bowl_of(trial)


def bowl_of(values):
    return (values["x"] - 0.3) ** 2 + (values["y"] - 0.7) ** 2 + ((values["n"] - 5) / 10) ** 2
