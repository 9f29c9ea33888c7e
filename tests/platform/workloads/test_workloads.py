"""Workloads: shapes, splits, normalisation, missing data; spoken digits on real recordings."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from atoll.platform.study import registry
from atoll.platform.workloads import WORKLOADS, digits
from atoll.platform.workloads.split import stratified_split
from atoll.platform.workloads.spoken_digits import SpokenDigitsMlp, log_mel, mel_filters
from atoll.platform.workloads.workload import DataMissing, standardize


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
def test_digits(name):
    workload = registry.workload(name)
    data = workload.load(None)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1257, 270, 270]
    assert data.train.inputs.mean().abs() < 1e-6
    # every class has its share in every part
    for part in (data.validation, data.test):
        assert torch.bincount(part.targets).min() >= 25
    outputs = workload.model()(data.train.inputs[:5])
    assert outputs.shape == (5, 10)
    assert workload.loss(outputs, data.train.targets[:5]).shape == ()
    assert workload.measure(torch.eye(10), torch.arange(10)) == 1.0


def test_the_embedded_digits_are_those_of_scikit_learn():
    """Images, labels and the three parts, bit by bit, as the workload read them from scikit-learn before."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    from sklearn.model_selection import train_test_split

    images, labels = datasets.load_digits(return_X_y=True)
    with np.load(Path(digits.__file__).with_name("data") / "digits.npz") as archive:
        assert np.array_equal(archive["images"], images)
        assert np.array_equal(archive["labels"], labels)
    train, rest, train_labels, rest_labels = train_test_split(
        images, labels, test_size=0.3, stratify=labels, random_state=0
    )
    validation, test, validation_labels, test_labels = train_test_split(
        rest, rest_labels, test_size=0.5, stratify=rest_labels, random_state=0
    )
    inputs = standardize(*(torch.tensor(part, dtype=torch.float32) for part in (train, validation, test)))
    data = registry.workload("digits_mlp").load(None)
    for part, expected, targets in zip(
        (data.train, data.validation, data.test), inputs, (train_labels, validation_labels, test_labels), strict=True
    ):
        assert torch.equal(part.inputs, expected)
        assert torch.equal(part.targets, torch.tensor(targets, dtype=torch.int64))


@pytest.mark.parametrize("seed", range(20))
def test_stratified_splits_are_those_of_scikit_learn(seed):
    """Ties between remainders are drawn too, so sizes and shares are uneven."""
    selection = pytest.importorskip("sklearn.model_selection", reason="scikit-learn is not installed")
    random = np.random.RandomState(seed)
    labels = np.repeat(np.arange(7), random.randint(10, 13, 7))
    random.shuffle(labels)
    for share in (0.1, 0.3, 0.37, 0.5):
        expected = selection.train_test_split(
            np.arange(len(labels)), test_size=share, stratify=labels, random_state=seed
        )
        for ours, theirs in zip(stratified_split(labels, share, seed), expected, strict=True):
            assert np.array_equal(ours, theirs)


@pytest.mark.process
def test_no_rank_imports_scikit_learn_for_the_digits():
    program = (
        "import sys\nfrom atoll.platform.study import registry\n"
        "registry.workload('digits_mlp').load(None)\nassert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_parts_do_not_overlap():
    data = registry.workload("digits_mlp").load(None)
    rows = [{tuple(row) for row in part.inputs.tolist()} for part in (data.train, data.validation, data.test)]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


def test_constant_features_become_zero():
    (scaled,) = standardize(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert scaled[:, 1].tolist() == [0.0, 0.0]


def test_every_workload_says_what_it_is():
    for name in WORKLOADS:
        workload = registry.workload(name)
        assert workload.summary
        assert workload.direction in ("maximize", "minimize")


def test_missing_data_say_where_and_how(tmp_path, monkeypatch):
    workload = SpokenDigitsMlp()
    with pytest.raises(
        DataMissing, match=r"neither the study's `data` nor ATOLL_DATA is set.*Free Spoken Digit Dataset"
    ):
        workload.check_data(None)
    monkeypatch.setenv("ATOLL_DATA", str(tmp_path))
    with pytest.raises(DataMissing, match=rf"looked in {tmp_path}"):
        workload.check_data(None)
    with pytest.raises(DataMissing, match=r"looked in .*/elsewhere"):
        workload.check_data(tmp_path / "elsewhere")


def test_a_pure_tone_lights_the_mel_filter_of_its_frequency():
    rate, frequency = 8000, 1000.0
    tone = (0.5 * np.sin(2 * np.pi * frequency * np.arange(rate) / rate) * 2**15).astype(np.int16)
    features = log_mel(tone, rate)
    assert features.shape == (1 + (8000 - 200) // 80, 40)  # 25 ms windows every 10 ms
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42) / 2595) - 1)
    brightest = int(features.mean(axis=0).argmax())
    assert edges[brightest] < frequency < edges[brightest + 2]


def test_mel_filters_are_triangles_that_cover_the_band():
    filters = mel_filters(40, 129, 8000)
    assert filters.shape == (40, 129)
    assert filters.min() == 0.0
    assert filters.max() <= 1.0
    assert (filters.sum(axis=1) > 0).all()


def test_spoken_digits_on_real_recordings(shared_data):
    data = SpokenDigitsMlp().load(shared_data)
    assert data.train.inputs.shape[1] == 40
    assert len(data.train) > 3 * len(data.validation)
    assert torch.bincount(data.train.targets).shape == (10,)
    assert torch.isfinite(data.train.inputs).all()


def test_speakers_are_held_out(shared_data):
    with np.load(shared_data / "spoken_digits.npz") as archive:
        speakers = archive["speaker"]
    assert len(np.unique(speakers)) == 6
    recordings = {name: int((speakers == name).sum()) for name in np.unique(speakers)}
    data = SpokenDigitsMlp().load(shared_data)
    assert set(recordings.values()) == {500}
    # four speakers to one and one; frames per recording differ by speaker, by less than two
    assert len(data.train) > len(data.validation) + len(data.test)
