"""The end of the job, and that trials stop before it."""

import time

import pytest

from atoll.platform.launch import time_limit
from atoll.platform.launch.time_limit import end_of_job
from atoll.platform.study.study import Study
from atoll.platform.study.walltime import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(90, 90.0), (0.5, 0.5), ("90", 90.0), ("90m", 5400.0), ("4:00:00", 14400.0), ("1-02:00:30", 93630.0)],
)
def test_limits_are_read_as_batch_systems_write_them(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "4:00", "tomorrow", 0, -5, "0:00:00", True, "inf", "nan"])
def test_others_are_refused(text):
    with pytest.raises(ValueError, match="a time limit must be "):
        seconds_of(text)


def test_the_earliest_known_end_counts(monkeypatch):
    monkeypatch.setattr(time_limit, "_started", 1000.0)
    assert end_of_job(None, {}) is None
    assert end_of_job(60.0, {}) == 1060.0
    assert end_of_job(60.0, {"SLURM_JOB_END_TIME": "1030"}) == 1030.0
    assert end_of_job(None, {"PBS_WALLTIME": "7200", "SLURM_JOB_END_TIME": ""}) == 8200.0
    assert end_of_job(None, {"ATOLL_WALLTIME": "0:01:40", "SLURM_JOB_END_TIME": "99999"}) == 1100.0
    with pytest.raises(ValueError, match="ATOLL_WALLTIME: a time limit must be"):
        end_of_job(None, {"ATOLL_WALLTIME": "4:00"})


def test_a_study_has_one():
    study = {"name": "s", "workload": "digits_mlp", "method": "ddp"}
    assert Study(**study, walltime="1:00:00").walltime == 3600.0
    assert Study(**study).walltime is None
    assert time_limit.end_of_job(5.0, {}) <= time.time() + 5.0
