"""The examples of docs/workloads.md: each workload has a dry run and is trained, and mapped data stay out of memory."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from atoll.communication.threads import single_rank
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.loader import Loader
from atoll.platform.trial.dry_run import DryRun
from atoll.platform.trial.trial import Trial

PAGE = (ROOT / "docs/workloads.md").read_text()
NAMES = ["Sine", "FromFiles", "Texts", "FromStream", "F1", "Mapped", "Searched"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page's examples as a user's file."""
    path = tmp_path_factory.mktemp("page") / "from_the_page.py"
    path.write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))
    return path


def mapped(folder, num_samples, num_features):
    """A file of zeros, which takes no room on the disk."""
    with (folder / "inputs.bin").open("wb") as file:
        file.truncate(4 * num_samples * num_features)


def configuration(file, name, folder, **changes):
    settings = {"method": "ddp", "data": str(folder), "hyperparameters": {"batch_size": 16}, "steps": 4}
    return Configuration(workload=f"{file}:{name}", **settings | changes)


@pytest.mark.parametrize("name", NAMES)
def test_each_workload_trains(file, name, tmp_path):
    mapped(tmp_path, 2048, 64)
    chosen = configuration(file, name, tmp_path)
    assert DryRun("cpu", test=True)(chosen)["loss"] >= 0
    *_, last = Trial(chosen, single_rank(), "cpu", test=True).train()
    assert last.metric is not None
    assert last.validation_loss > 0


def test_no_workload_of_the_page_is_left_out(file):
    classes = re.findall(r"^class (\w+)\((?:Workload|Classification|Sine|FromFiles)\)", file.read_text(), re.MULTILINE)
    assert classes == NAMES


def test_f1_is_that_of_all_data(file, tmp_path):
    chosen = configuration(file, "F1", tmp_path)
    trial = Trial(chosen, single_rank(), "cpu")
    *_, last = trial.train()
    validation = registry.workload(chosen.workload).load(None).validation
    found, true = trial.model(validation.inputs) > 0, validation.targets > 0
    assert last.metric == pytest.approx(2 * float((found & true).sum()) / float(found.sum() + true.sum()), abs=1e-12)


def test_the_loaders_settings_are_those_of_a_study():
    (line,) = re.findall(r"^loader: \{(.*)\}$", PAGE, re.MULTILINE)
    assert {entry.split(":")[0] for entry in line.split(", ")} == set(Loader.model_fields)


def resident():
    """The resident memory of this process, in bytes, with mapped pages."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_data_larger_than_memory_stay_in_their_file(file, tmp_path, monkeypatch):
    num_samples, num_features = 1 << 18, 1 << 12  # 4 GiB
    mapped(tmp_path, num_samples, num_features)
    workload = type(registry.workload(f"{file}:Mapped"))
    monkeypatch.setattr(workload, "num_samples", num_samples)
    monkeypatch.setattr(workload, "num_features", num_features)
    before = resident()
    trial = Trial(configuration(file, "Mapped", tmp_path, steps=8), single_rank(), "cpu")
    assert len(list(trial.train())) == 1
    # 8 batches of 16 samples and 64 of validation, 16 KiB each, with what the system reads ahead.
    assert resident() - before < (4 << 30) / 16
    assert np.prod(trial.model.weight.shape) == 2 * num_features
