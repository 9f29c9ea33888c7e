"""Checks of a study before anything starts; most are tested with what they check."""

import pytest

from atoll.platform.launch import checks, extras
from atoll.platform.launch.checks import check
from atoll.platform.study.study import Study


def test_propulates_sampler_needs_its_package(monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "propulate")
    content = {"name": "s", "workload": "digits_mlp", "method": "ddp"}
    check(Study(**content))
    samplers = [{"name": "propulate"}, {"name": "random"}]
    with pytest.raises(ValueError, match=r"needs the package propulate .*, which is not installed .*use evolution"):
        check(Study(**content, sampler={"name": "mixed", "samplers": samplers}))


def test_a_gaussian_process_needs_what_is_used_of_optunas(monkeypatch):
    content = {"name": "s", "workload": "digits_mlp", "method": "ddp", "sampler": {"name": "fidelity-gp"}}
    check(Study(**content))
    monkeypatch.delattr("optuna._gp.gp.fit_kernel_params")
    with pytest.raises(ValueError, match=r"sampler fidelity-gp needs .* of Optuna 5.0, .* or use optuna-gp"):
        check(Study(**content))


def test_a_trials_peak_memory_needs_a_process_whose_peak_can_be_reset(monkeypatch):
    study = Study(name="s", workload="digits_mlp", method="ddp", objectives=["accuracy", "peak_memory"])
    assert [one.direction for one in check(study).objectives] == ["maximize", "minimize"]
    with pytest.raises(ValueError, match="peak_memory needs ranks that are processes, and --in-process makes"):
        check(study, in_process=True)
    monkeypatch.setattr(checks, "can_reset_peak_memory", lambda: False)
    with pytest.raises(ValueError, match="peak_memory needs a system that can reset a process's peak, as Linux can"):
        check(study)
