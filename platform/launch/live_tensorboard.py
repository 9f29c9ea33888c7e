"""Trials in TensorBoard: one run a trial, scalars by step, and the hparams plugin's start and end.

The files are written with the record format and protocol buffers of the `tensorboard` package, and without its own
writer: that starts a thread a file, and imports TensorFlow if it is installed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.platform.launch.errors import LaunchError
from atoll.platform.launch.live_values import final_values, report_values
from atoll.storage.events import ProgressReported, TrialEnded, TrialLost

if TYPE_CHECKING:
    from atoll.platform.launch.live import Trial


class TensorBoardTarget:
    """Writes event files: `DIR/STUDY/trial-000012`, in which each attempt has a file, which takes the place of those
    before.

    A trial's file and its size are in its `saved`, so that what was written after the last position is cut off: files
    hold every line once. Times are those of the journals.

    Args:
        path: the folder that `tensorboard --logdir` shows.
        row: the study's row.
    """

    settles_each = False

    def __init__(self, path: str, row: Mapping[str, Any]) -> None:
        self.name = f"tensorboard:{path}"
        self.num_refused = 0
        self._path = Path(path)
        self._row = row

    def check(self) -> None:
        """Raise LaunchError if files cannot be written there."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._path):
                pass
        except OSError as error:
            raise LaunchError(
                f"on_trial: tensorboard:DIR must be a folder that can be written; got {self._path} ({error.strerror}); "
                "name another one"
            ) from None

    def open(self) -> None:
        """Nothing: files are open only while they are written."""

    def start(self, trial: Trial) -> None:
        """Begin a file, in place of one that a killed process may have begun with the same line."""
        started = trial.started
        folder = self._path / self._row["name"] / f"trial-{started.number:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a run's files in the order of their names.
        trial.saved["file"] = str(folder / f"events.out.tfevents.{int(started.time):010d}.atoll.{started.attempt:05d}")
        Path(trial.saved["file"]).write_bytes(b"")
        trial.saved["size"] = 0
        self._append(trial, _opening(trial, self._group(trial)))

    def report(self, trial: Trial, reports: Sequence[ProgressReported]) -> None:
        """Write each report's scalars."""
        metric = str(self._row.get("curve_metric") or "metric")
        self._append(trial, (_scalars(one.time, one.step, report_values(one, metric)) for one in reports))

    def end(self, trial: Trial, end: TrialEnded | TrialLost) -> None:
        """Write the final metrics, and the end for the hparams plugin."""
        self._append(trial, _ending(trial, end, final_values(end, self._row)))

    def settle(self) -> None:
        """Nothing: `_append` has written all."""

    def give_up(self) -> None:
        """Nothing: no call waits."""

    def close(self, *, failed: bool) -> None:
        """Nothing: no file is open."""

    def _group(self, trial: Trial) -> str:
        return f"{self._row['name']}/{trial.started.number}"

    def _append(self, trial: Trial, events: Iterable[Any]) -> None:
        """Write at the end of what the position knows of the trial's file."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        path, size = Path(trial.saved["file"]), int(trial.saved["size"])
        path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        with path.open("ab") as file:
            if file.tell() < size:  # removed, or cut by a crash of the host: after a torn record nothing is read
                os.ftruncate(file.fileno(), 0)
                for event in _opening(trial, self._group(trial)):
                    RecordWriter(file).write(event.SerializeToString(deterministic=True))
            elif file.tell() > size:
                os.ftruncate(file.fileno(), size)
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString(deterministic=True))
            file.flush()
            trial.saved["size"] = os.fstat(file.fileno()).st_size


def _version(trial: Trial) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event

    return Event(wall_time=trial.started.time, file_version="brain.Event:2")


def _opening(trial: Trial, group: str) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    started = trial.started
    yield _version(trial)
    if started.attempt:  # repeats the reports of the one before, which TensorBoard then forgets
        yield Event(wall_time=started.time, step=0, session_log=SessionLog(status=SessionLog.START))
    info = SessionStartInfo(group_name=group, start_time_secs=started.time)
    for name, value in started.hyperparameters.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            info.hparams[name].number_value = value
        else:
            info.hparams[name].string_value = value if isinstance(value, str) else json.dumps(value)
    yield _plugin(started.time, metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def _ending(trial: Trial, end: TrialEnded | TrialLost, values: Mapping[str, float]) -> Iterator[Any]:
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    if values:
        yield _scalars(end.time, trial.step, values)
    if isinstance(end, TrialLost) or end.state == "lost":
        return  # it is trained again, and TensorBoard keeps the first end of a run
    status = "STATUS_FAILURE" if end.state == "failed" else "STATUS_SUCCESS"
    info = SessionEndInfo(status=Status.Value(status), end_time_secs=end.time)
    yield _plugin(end.time, metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def _plugin(time: float, tag: str, content: Any) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    about = metadata.create_summary_metadata(content)
    return Event(
        wall_time=time, summary=Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])
    )


def _scalars(time: float, step: int, values: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return Event(wall_time=time, step=step, summary=Summary(value=scalars))
