"""The ETT workloads: the official split, windows without a look at the future, and Autoformer, on small tables."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch

from atoll.platform.study import registry
from atoll.platform.workloads import ett
from atoll.platform.workloads.workload import DataMissing, LibraryMissing

ROWS = {24: 20 * 30 * 24 + 7, 96: 20 * 30 * 96}


def write(folder, file):
    """A table whose every value says its row and its column."""
    per_day = ett.PERIODS[file]
    dates = pd.date_range("2016-07-01", periods=ROWS[per_day], freq="h" if per_day == 24 else "15min")
    values = {name: np.arange(len(dates)) + 1e6 * i for i, name in enumerate(ett.SERIES)}
    pd.DataFrame({"date": dates.strftime("%Y-%m-%d %H:%M:%S")} | values).to_csv(folder / f"{file}.csv", index=False)


@pytest.fixture(autouse=True)
def _no_memory():
    yield
    ett.load.cache_clear()


@pytest.mark.parametrize(("name", "file"), [("ett_autoformer", "ETTh1"), ("ettm2_autoformer_720", "ETTm2")])
def test_the_split_is_in_months_and_windows_look_back_only(tmp_path, name, file):
    write(tmp_path, file)
    workload = registry.workload(name)
    data = workload.load(tmp_path)
    month, length = 30 * ett.PERIODS[file], workload.length
    train = np.arange(12 * month)
    mean, deviation = train.mean(), train.std()

    def rows(scaled):
        """Which row each value of the first series was."""
        return (scaled[..., 0].double() * deviation + mean).round().long()

    parts = (data.train, data.validation, data.test)
    borders = ((ett.CONTEXT, 12), (12 * month, 16), (16 * month, 20))
    for part, (first, last_month) in zip(parts, borders, strict=True):
        assert rows(part.targets[0]).tolist() == list(range(first, first + length))
        assert int(rows(part.targets[-1])[-1]) == last_month * month - 1
        assert len(part) == last_month * month - first - length + 1
        windows = workload.transform(part.inputs[[0, -1]], None)
        assert windows.shape == (2, ett.CONTEXT + length, 7 + (4 if file == "ETTh1" else 5))
        for window, target in zip(windows, part.targets[[0, -1]], strict=True):
            assert rows(window[: ett.CONTEXT])[-1] == rows(target)[0] - 1
            assert window[ett.CONTEXT :, :7].abs().max() == 0
            assert window[:, 7:].abs().max() <= 0.5
    # scaled by the training part
    values = workload._table[: 12 * month, :7].double()
    assert values.mean(dim=0).abs().max() < 1e-5
    assert (values.std(dim=0, correction=0) - 1).abs().max() < 1e-5


def test_targets_are_views_of_one_table(tmp_path):
    write(tmp_path, "ETTm1")
    data = registry.workload("ettm1_autoformer_720").load(tmp_path)
    assert data.train.targets.untyped_storage().nbytes() < 60_000 * 12 * 4


def test_a_table_that_is_short_or_lacks_a_series_is_refused(tmp_path):
    write(tmp_path, "ETTh2")
    table = pd.read_csv(tmp_path / "ETTh2.csv")
    table[:-8].to_csv(tmp_path / "ETTh2.csv", index=False)
    with pytest.raises(ValueError, match="at least 14400 rows, 20 months of 30 days; it has 14399"):
        registry.workload("etth2_autoformer_96").load(tmp_path)
    table.drop(columns=["OT"]).to_csv(tmp_path / "ETTh2.csv", index=False)
    with pytest.raises(ValueError, match="it lacks OT"):
        registry.workload("etth2_autoformer_96").load(tmp_path)
    with pytest.raises(DataMissing, match=r"ETTh1\.csv was not found.*ETT data set"):
        registry.workload("ett_autoformer").check_data(tmp_path)


def test_a_missing_library_is_told_before_anything_starts(tmp_path, monkeypatch):
    write(tmp_path, "ETTh1")
    monkeypatch.setattr("atoll.platform.workloads.workload.find_spec", lambda name: None)
    assert importlib.util.find_spec("transformers") is not None
    with pytest.raises(LibraryMissing, match=r'transformers, which is not installed; `pip install "atoll\[models\]"`'):
        registry.workload("ett_autoformer").check_data(tmp_path)


@pytest.mark.parametrize("length", [96, 192])
def test_a_narrow_network_forecasts_and_learns(tmp_path, length):
    write(tmp_path, "ETTh1")
    workload = registry.workload("ett_autoformer" if length == 96 else f"etth1_autoformer_{length}")
    data = workload.load(tmp_path)
    torch.manual_seed(0)
    model = ett.autoformer(length, 24, width=16, heads=2, hidden=32)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-2)
    inputs, targets = workload.transform(data.train.inputs[::2000], None), data.train.targets[::2000]
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = workload.loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert model(inputs).shape == targets.shape
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None for p in trained)
    assert {"mae"} == set(workload.further_metrics)


def test_the_sources_network_and_the_real_table(shared_data):
    workload = registry.workload("ett_autoformer")
    data = workload.load(shared_data)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [8449, 2785, 2785]
    assert sum(p.numel() for p in workload.model().parameters()) == 10_784_281
