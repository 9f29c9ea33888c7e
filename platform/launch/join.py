"""A search inside the user's own mpirun or srun: this process is one of its ranks.

The ranks cannot be restarted here. When they stop, or one is killed, the exit code is 75, and --continue goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from atoll.platform import exit_codes, rank_guard
from atoll.platform.launch import dry_run, lifecycle, live, room
from atoll.platform.launch.errors import AlreadyComplete, LaunchError
from atoll.platform.launch.first_trials import FirstTrials
from atoll.platform.launch.job_variables import without_rank_variables
from atoll.platform.launch.lifecycle import Ending, left
from atoll.platform.launch.membership import Membership
from atoll.platform.rank_guard import RANK_VARIABLES, SIZE_VARIABLES
from atoll.platform.ranks.stopping import stop_on_signals
from atoll.platform.study import effects, on_trial
from atoll.platform.study.plan import Plan
from atoll.storage.folder import StudyFolder

FOLLOW_INTERVAL = 0.2


def inside_mpi(num_ranks: int) -> bool:
    """Whether this process is a rank of an MPI job that the user has started.

    A job of one rank, such as an interactive shell under srun, does not count for a search that needs several ranks.
    """
    sizes = [os.environ[name] for name in SIZE_VARIABLES if os.environ.get(name, "").isdigit()]
    if sizes:
        return int(sizes[0]) > 1 or num_ranks == 1
    return "PMIX_RANK" in os.environ


def join(
    plan: Plan,
    url: str,
    *,
    resuming: bool | None,
    accept_changes: bool = False,
    follow: Callable[[StudyFolder], None] = lambda _: None,
    say: Callable[[str], None],
) -> Ending | int:
    """Take part in a search as one rank of the MPI job that this process belongs to.

    Args:
        plan, url: the resolved and checked study, and the store's URL.
        resuming: whether to continue an existing study; None to do so if there is one.
        accept_changes: whether to continue it although its code, data or libraries have changed.
        follow: called at intervals on rank 0 while the search runs.
        say: receives a line of rank 0.

    Returns:
        The search's ending on rank 0; its exit code on the other ranks.
    """
    from atoll.platform.ranks import search

    server = search.start_server(plan.study)  # before MPI
    error = _check_batch(plan, url, resuming, say) if is_first() else None  # forks, so before MPI, too

    import mpi4py

    mpi4py.rc.thread_level = "serialized" if plan.training is not None else "multiple"
    from mpi4py import MPI

    from atoll.communication.mpi_world import MpiWorld
    from atoll.platform.study.topology import check_world_size

    study, world = plan.study, MPI.COMM_WORLD
    check_world_size(study.topology.shape(), world.size)
    folder, member = lifecycle.study_folder(study), None
    if world.rank == 0 and error is None:
        member, error = _enter(plan, url, resuming, accept_changes)
    if member is not None:
        for note in (*plan.notes(), *effects.searched_without_effect(plan, num_nodes=None)):
            print(f"note: {note}", file=sys.stderr, flush=True)
    codes = world.allgather(_code(error, resuming))  # an MPI library may number its ranks as its variables do not
    if any(code is not None for code in codes):
        if error is not None:
            raise error
        return max(int(code) for code in codes if code is not None)
    first_trials = FirstTrials(folder, study) if member is not None else None
    recorder: subprocess.Popen[bytes] | None = None
    followed = 0.0

    def also() -> None:
        nonlocal recorder, followed
        if (now := time.monotonic()) - followed < FOLLOW_INTERVAL:
            return
        followed = now
        if death_notice.exists():
            _leave_after_death(member, recorder, url)
        if member is None or first_trials is None:
            return
        member.look()
        if member.leads and recorder is None:
            recorder = _start_recorder(folder, url, study.on_trial)
        first_trials.look()
        follow(folder)

    try:
        launch = world.bcast(None if member is None else member.launch)
        death_notice = folder.death_notice(launch)
        rank_guard.tell(death_notice, is_first=world.rank == 0)
        stop_on_signals(folder.launcher_stop_request(launch))
        search.run(folder, launch, MpiWorld(world), also, server=server)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        world.Abort(exit_codes.EXIT_STOPPED)
    if member is None or first_trials is None:
        return int(world.bcast(None))
    follow(folder)
    ending = _end(member, recorder, url, first_trials.reason)
    world.bcast(ending.exit_code)
    return ending


def _code(error: Exception | None, resuming: bool | None) -> int | None:
    """The exit code if this rank cannot take part; None if it can."""
    if error is None:
        return None
    is_no_error = isinstance(error, AlreadyComplete) and (resuming is None or error.reason is not None)
    return 0 if is_no_error else exit_codes.FAILURE


def is_first() -> bool:
    """Whether this process is rank 0 by its environment: before MPI starts there is no other way to tell."""
    return next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0") == "0"


def _check_batch(plan: Plan, url: str, resuming: bool | None, say: Callable[[str], None]) -> Exception | None:
    try:
        lifecycle.check_new(plan.study, resuming)
        lifecycle.check_not_complete(plan)
        room.check(plan.study, url, say)
        dry_run.check(plan, say=say)
    except (LaunchError, ValueError) as error:  # such as a Mistake
        return error
    return None


def _enter(
    plan: Plan, url: str, resuming: bool | None, accept_changes: bool
) -> tuple[Membership | None, Exception | None]:
    try:
        lifecycle.check_name_is_free(plan.study, url)
        live.check(plan.study.on_trial)
        return Membership.enter(plan, url, resuming=resuming, accept_changes=accept_changes), None
    except Exception as error:
        return None, error


def _end(member: Membership, recorder: subprocess.Popen[bytes] | None, url: str, gave_up: str | None) -> Ending:
    study, folder, is_asked = member.plan.study, member.folder, member.asks_to_stop()
    try:
        if not member.leave(gave_up or "the search was stopped", suspected=()):
            if recorder is not None:
                recorder.terminate()  # another launcher records
            return left(gave_up, is_asked or member.has_tickets(), len(member.others()))
        state, reason = lifecycle.end(folder, study, None, gave_up)
        recorder = recorder or _start_recorder(folder, url, study.on_trial)
        try:
            recorded = recorder.wait(lifecycle.RECORDING_TIMEOUT + live.TIMEOUT) == 0
        except subprocess.TimeoutExpired:
            recorded = False
            recorder.terminate()
        return Ending(state, reason, recorded)
    finally:
        member.release()


def _leave_after_death(member: Membership | None, recorder: subprocess.Popen[bytes] | None, url: str) -> None:
    """A rank was killed: the others leave, and rank 0, after them, writes what there is; see `rank_guard`."""
    if member is not None:
        ending = _end(member, recorder, url, None)
        print(f"a rank was killed: {ending.reason or ending.state}", file=sys.stderr, flush=True)
    os._exit(exit_codes.EXIT_PEER_KILLED if member is None else exit_codes.EXIT_STOPPED)


def _start_recorder(
    folder: StudyFolder, url: str, targets: Sequence[str | on_trial.Command]
) -> subprocess.Popen[bytes]:
    environment = without_rank_variables()  # a child of a rank must not look like a rank
    # The URL may hold a password, and command lines are visible to all users of the host.
    command = [sys.executable, "-m", "atoll.platform.cli", "record", str(folder.path), "--follow"]
    environment |= {"ATOLL_STORE": url, "ATOLL_ON_TRIAL": json.dumps(on_trial.as_json(targets))}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
