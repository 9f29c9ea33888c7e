"""`atoll train`: reads a configuration, trains it over MPI, and reports whether it reproduces its origin."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from atoll.analysis.formatting import duration, number, size
from atoll.communication import mpi_library
from atoll.platform.launch import errors, mpi_launcher, mpiexec
from atoll.platform.launch.join import inside_mpi
from atoll.platform.study import objectives, provenance, registry
from atoll.platform.study.checkpoint import Checkpointing
from atoll.platform.study.configuration import (
    OWN,
    Configuration,
    ExportedConfiguration,
    check_configuration,
    read_configurations,
)
from atoll.platform.study.interval import Every
from atoll.platform.study.provenance_record import Measured, measured_differences
from atoll.storage import launches, names, yamlfile
from atoll.storage.events import ProgressReported, TrialEnded
from atoll.storage.launches import JournalTail
from atoll.storage.writable import NotWritable, check_writable

MOST_STEPS = 1e12  # more than a training has


def read(file: Path, place: int = 1, ranks: int | None = None, *, inside: bool = False) -> ExportedConfiguration:
    """Read and check the configuration at position `place` of `file`.

    Args:
        file: a file from `atoll export`.
        place: the configuration's position in it.
        ranks: the number of ranks to use in place of the configuration's.
        inside: whether the code that the file names must be in its folder.

    Raises:
        FileError: if the file is not a configuration file.
        ValueError, DataMissing, LibraryMissing: for hyperparameters out of range, missing data or a missing library.
    """
    several = read_configurations(file, inside=inside)
    if place > len(several):
        raise yamlfile.FileError(
            f"{file}: --place must be at most {len(several)}, the number of its configurations; got {place}"
        )
    configuration = several[place - 1]
    if ranks is not None:
        configuration = configuration.model_copy(update={"ranks": ranks})
    if configuration.ranks_per_node and configuration.ranks % configuration.ranks_per_node:
        raise yamlfile.FileError(
            f"ranks ({configuration.ranks}) must be divisible by ranks_per_node; got {configuration.ranks_per_node}"
        )
    if configuration.calls_function:
        registry.function(configuration.workload)
        return configuration
    check_configuration(configuration)
    registry.workload(configuration.workload).check_data(Path(configuration.data) if configuration.data else None)
    return configuration


def differences(exported: ExportedConfiguration) -> list[str]:
    """A phrase for each difference in code, data and versions between an exported trial and a training of it now."""
    data = Path(exported.data) if exported.data else None
    own = [(kind, str(exported.hyperparameters[kind])) for kind in OWN if kind in exported.hyperparameters]
    now = provenance.measured(exported.workload, exported.method, data, own)
    before = Measured(
        code={file.path: file.sha256 for file in exported.code},
        data=exported.data_files,
        libraries=exported.versions,
    )
    libraries = provenance.versions(exported.versions)
    if names.MPI in exported.versions:  # a trial on threads has none
        libraries[names.MPI] = mpi_library.loaded() or mpi_launcher.library().name or "none"
    now = now.model_copy(update={"libraries": libraries})
    if not (exported.code or exported.data_files):  # of a version that did not record them, or written by hand
        now = now.model_copy(update={"code": {}, "data": {}})
    return measured_differences(before, now)


def check_outputs(calls_function: bool, save: Path | None, folder: Path | None) -> None:
    """Raise LaunchError if the files of a training cannot be written; see `train`."""
    if save is not None and calls_function:
        raise errors.LaunchError("--save is for trainings by atoll; a function can write to trial.folder (--folder)")
    if save is not None and not save.absolute().parent.is_dir():
        raise errors.LaunchError(f"--save must be in an existing folder; got {save}")
    try:
        for option, path in (("--save", save), ("--folder", folder)):
            if path is not None:
                check_writable(path, option, "make room or the folder writable, or name another one")
    except NotWritable as error:
        raise errors.LaunchError(str(error)) from None


def train(
    configuration: Configuration,
    *,
    test: bool,
    say: Callable[[str], None],
    save: Path | None = None,
    merged: bool = False,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Train `configuration` over MPI, reporting each epoch; returns the result.

    Args:
        configuration: the configuration to train.
        test: whether to also measure the trained model on the test data.
        say: receives a line per epoch.
        save: a file for the trained model's state dict, in the format of safetensors if that is its suffix.
        merged: whether the state dict has full weights instead of low-rank factors.
        folder: the training's own, for checkpoints and files of the workload's, from which it continues. Default: a
            temporary one, without checkpoints.

    Raises:
        LaunchError: if the MPI job fails, if this process already belongs to one, or if files cannot be written.
    """
    if inside_mpi(configuration.ranks):
        raise errors.LaunchError("`atoll train` starts its own ranks: run it without mpirun or srun")
    check_outputs(configuration.calls_function, save, folder)
    metric = _metric(configuration)
    with tempfile.TemporaryDirectory(prefix="atoll-train-") as name:
        journals = Path(name)
        file, log = journals / "configuration.json", journals / "ranks.log"
        if folder is None and configuration.checkpoint is not None:
            say("checkpoint is ignored without --folder")
            configuration = configuration.model_copy(update={"checkpoint": None})
        if configuration.schedule and (configuration.checkpoint is None or configuration.checkpoint.every is None):
            # Where hyperparameters change, it continues from a checkpoint.
            every = Every(MOST_STEPS, "steps")
            given = configuration.checkpoint
            at_changes = Checkpointing(every=every) if given is None else given.model_copy(update={"every": every})
            configuration = configuration.model_copy(update={"checkpoint": at_changes})
        options = {
            "calls_function": configuration.calls_function,
            "test": test,
            "save": save and str(save.absolute()),
            "merged": merged,
        }
        options |= {"folder": str((folder or journals / "trial").absolute())}
        file.write_text(json.dumps({"configuration": configuration.model_dump()} | options))
        result_file = journals / launches.file_name("root-00000", launch=1)
        job = mpiexec.start_ranks(configuration.ranks, ["train", str(file), str(result_file)], log)
        tail, result = JournalTail(journals), None
        try:
            while result is None:
                ended = job.poll() is not None
                chunks = tail.read()
                tail.advance(chunks)
                for event in (event for chunk in chunks.values() for event in chunk.events):
                    if isinstance(event, ProgressReported):
                        say(_progress_line(event, metric))
                    elif isinstance(event, TrialEnded):
                        result = event
                if ended and result is None:
                    raise errors.LaunchError(
                        f"the ranks ended with exit code {job.returncode}:\n{log.read_text()[-4000:]}"
                    )
                time.sleep(0.05)
            job.wait()
        finally:
            mpiexec.end_job(job)
    # Step traces are large, and only projections of a study use them.
    left_out = ("number", "attempt", "busy_seconds", "schedules")
    return {key: value for key, value in result.to_line().items() if key not in left_out}


def _metric(configuration: Configuration) -> str:
    """The name of the value that every report has."""
    if configuration.calls_function:
        return str(configuration.origin.get("metric", objectives.VALUE))
    return registry.workload(configuration.workload).metric


def _progress_line(event: ProgressReported, metric: str) -> str:
    if event.wire_bytes is None:  # a function's report
        return f"step {event.step:>6}  {metric} {number(event.metric)}  {duration(event.seconds)}"
    return (
        f"epoch {event.epoch:>3}  step {event.step:>6}  training loss {number(event.train_loss)}  "
        f"validation loss {number(event.validation_loss)}  {metric} {number(event.metric)}  "
        f"{duration(event.seconds)}  sent {size(event.wire_bytes)}"
    )


def explain(configuration: Configuration, result: dict[str, Any], changes: Sequence[str] = ()) -> list[str]:
    """The lines that describe a result: the objective, and how it compares with the exported one.

    Args:
        configuration: the configuration.
        result: the training's result.
        changes: the `differences` to the exported trial.
    """
    if result["state"] != "complete":
        return [f"{result['state']}: {result['reason']}", *filter(None, [result.get("traceback")])]
    if configuration.calls_function:
        return _explain_call(configuration, result, changes)
    workload = registry.workload(configuration.workload)
    metric = workload.metric
    lines = [
        f"{metric} {number(result['objective'])} in {duration(result['seconds'])}, sent {size(result['wire_bytes'])}"
    ]
    metrics = result["metrics"]
    lines += [f"{name} {number(value)}" for name, value in metrics.items() if not name.startswith("seconds_")]
    lines += [f"note: {note}" for note in result.get("notes", ())]
    lines += _time_lines(metrics) + _traffic_lines(result["ledger"])
    name = configuration.origin.get("metric", metric)
    totals = (result[total] for total in ("seconds", "wire_bytes", "peak_memory"))
    measured = objectives.measured(workload, result["objective"], metrics, *totals)
    return lines + _compared(configuration, name, measured.get(name), changes)


def _explain_call(configuration: Configuration, result: dict[str, Any], changes: Sequence[str]) -> list[str]:
    name = _metric(configuration)
    returned = dict(result["metrics"])
    if result["objective"] is not None:
        returned = {name: result["objective"]} | returned
    lines = [
        f"{', '.join(f'{key} {number(value)}' for key, value in returned.items())} in {duration(result['seconds'])}"
    ]
    lines += [f"note: {note}" for note in result.get("notes", ())]
    measured = returned | {"seconds": result["seconds"]}
    return lines + _compared(configuration, name, measured.get(name), changes)


def _compared(configuration: Configuration, name: str, now: float | None, changes: Sequence[str]) -> list[str]:
    """How the objective compares with the exported one."""
    expected = configuration.origin.get("objective")
    if expected is None:
        return []
    if expected == now:
        return [f"this reproduces the exported objective {number(expected)} exactly"]
    return [f"the exported objective, {name}, was {expected!r}, and is {now!r} now{_unlike(changes)}"]


def _time_lines(metrics: dict[str, float]) -> list[str]:
    spent = {name.removeprefix("seconds_"): s for name, s in metrics.items() if name.startswith("seconds_")}
    total = sum(spent.values()) or 1.0
    parts = (f"{name} {duration(seconds)} ({seconds / total:.0%})" for name, seconds in spent.items())
    return [f"time, mean over ranks: {', '.join(parts)}"]


def _traffic_lines(ledger: list[dict[str, Any]]) -> list[str]:
    """One line per kind of communication; a message's bytes are counted at its sender."""
    return [
        f"sent: {row['operation']}{' (overlapped)' if row['overlapped'] else ''}, {row['scope']}, "
        f"{row['count']} x {size(row['payload_bytes'])}, {size(row['wire_bytes'])} in total, "
        f"waited {duration(row['seconds_waited'])}"
        for row in ledger
        if row["wire_bytes"] or row["seconds_waited"] > 0.1
    ] or ["sent: nothing"]


def _unlike(changes: Sequence[str]) -> str:
    return f"; since then {'; '.join(changes)}" if changes else ""
