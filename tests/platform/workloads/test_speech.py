"""The speech workloads of MAC's experiments: spoken digits, and TIMIT's tree as a test writes it."""

import math

import numpy as np
import pytest
import torch

from atoll.methods.layer_parallel.grouping import split_layers
from atoll.platform.study import registry
from atoll.platform.workloads.speech import (
    NO_FRAME,
    SEGMENT,
    FrameClassification,
    SpeechTransformer,
    make_mlp,
    make_transformer,
    segments,
)
from atoll.platform.workloads.spoken_digits import Recording
from atoll.platform.workloads.timit import NO_PHONE, NUM_LABELS, PHONES, read_labels
from atoll.platform.workloads.workload import DataMissing

RATE = 16_000


def test_the_networks_are_those_of_tables_4_1_and_4_2():
    mlp, transformer = make_mlp(NUM_LABELS), make_transformer(NUM_LABELS)
    sizes = [sum(p.numel() for m in layer.modules for p in m.parameters()) for layer in split_layers(mlp)]
    assert sizes == [10_496, 65_792, 65_792, 65_792, 65_792, 15_934]
    layers = split_layers(transformer)
    assert len(layers) == 6
    counts = [sum(p.numel() for m in layer.modules for p in m.parameters()) for layer in layers]
    assert counts[0] == 10_496
    assert counts[5] == 15_934
    assert all(1.3e6 < count < 1.35e6 for count in counts[1:5])
    assert [layer.modules[0].self_attn.num_heads for layer in layers[1:5]] == [8] * 4
    assert transformer(torch.zeros(2, 7, 40)).shape == (2, 7, 62)


def test_segments_are_filled_up_at_their_end():
    generator = np.random.default_rng(0)
    part = [
        Recording(generator.normal(size=(n, 40)).astype(np.float32), np.full(n, n % 10, np.int64)) for n in (5, 70, 64)
    ]
    data = segments((part, part[:1], part[1:]))
    assert data.train.inputs.shape == (4, SEGMENT, 40)
    assert (data.train.targets != NO_FRAME).sum(dim=1).tolist() == [5, 64, 6, 64]
    assert data.train.targets[2, :6].tolist() == [0] * 6
    assert not data.train.inputs[0, 5:].any()
    assert torch.equal(data.validation.inputs[0], data.train.inputs[0])


def test_padding_does_not_dilute_the_loss():
    """The loss of a network that knows nothing is that of ten equal classes, however short the segments are."""
    targets = torch.full((3, SEGMENT), NO_FRAME)
    targets[0, :2], targets[1, :40], targets[2] = 4, 7, 1
    loss = SpeechTransformer().loss(torch.zeros(3, SEGMENT, 10), targets)
    assert float(loss) == pytest.approx(math.log(10))


def test_a_segments_part_in_the_loss_does_not_depend_on_the_others():
    workload = registry.workload("speech_transformer")
    assert isinstance(workload, FrameClassification)
    outputs = torch.randn(2, SEGMENT, 10)
    targets = torch.full((2, SEGMENT), NO_FRAME)
    targets[0, :3], targets[1, :60] = 1, 2
    whole = workload.loss(outputs, targets)
    alone = [workload.loss(outputs[k : k + 1], targets[k : k + 1]) for k in range(2)]
    assert float(whole) == pytest.approx(float(sum(alone)) / 2, rel=1e-6)
    outputs[0, 3:] += 100  # where nothing is spoken
    assert torch.equal(workload.loss(outputs, targets), whole)
    correct = torch.nn.functional.one_hot(targets.clamp_min(0), 10)
    correct[1, :30] = 0
    assert float(workload.measure(correct, targets)) == pytest.approx((1 + 0.5) / 2)


@pytest.mark.parametrize("name", ["speech_mlp", "speech_transformer"])
def test_spoken_digits(name, shared_data):
    workload = registry.workload(name)
    data = workload.load(shared_data)
    assert data.train.inputs.shape[1:] == ((40,) if name == "speech_mlp" else (SEGMENT, 40))
    outputs = workload.model()(data.train.inputs[:3])
    assert outputs.shape == (*data.train.targets[:3].shape, 10)
    assert float(workload.loss(outputs, data.train.targets[:3])) < 3
    assert set(data.test.targets.flatten().tolist()) - {NO_FRAME} == set(range(10))


@pytest.fixture
def timit(tmp_path):
    """Three training speakers and a test speaker, two sentences each and one that everybody reads."""
    soundfile = pytest.importorskip(
        "soundfile", reason="TIMIT's reader is the extra speech, which the tests' extra installs"
    )
    generator = np.random.default_rng(0)
    for speaker in ("TRAIN/DR1/FCJF0", "TRAIN/DR1/MDAC0", "TRAIN/DR2/FAEM0", "TEST/DR1/FAKS0"):
        folder = tmp_path / "TIMIT" / speaker
        folder.mkdir(parents=True)
        for sentence, kind in (("SA1", "NIST"), ("SI1027", "NIST"), ("SX37", "WAV")):
            signal = (generator.normal(size=RATE) * 1000).astype(np.int16)
            soundfile.write(folder / f"{sentence}.WAV", signal, RATE, format=kind, subtype="PCM_16")
            lines = ["0 2000 h#", "2000 8000 sh", "8000 12000 iy"]  # and nothing up to the end
            (folder / f"{sentence}.PHN").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("name", ["timit_mlp", "timit_transformer"])
def test_timit(name, timit):
    workload = registry.workload(name)
    for folder in (timit, timit / "TIMIT"):
        workload.check_data(folder)
        assert workload.data_files(folder) == [timit / "TIMIT"]
    data = workload.load(timit)
    per_sentence = 1 + (RATE - 400) // 160
    labelled = [int((part.targets != NO_FRAME).sum()) for part in (data.train, data.validation, data.test)]
    # two speakers train, one validates, one tests; SA1 is left out
    assert labelled == [4 * per_sentence, 2 * per_sentence, 2 * per_sentence]
    labels = data.test.targets.flatten()
    expected = {PHONES.index("h#"), PHONES.index("sh"), PHONES.index("iy"), NO_PHONE}
    assert set(labels[labels != NO_FRAME].tolist()) == expected
    outputs = workload.model()(data.train.inputs[:2])
    assert outputs.shape[-1] == 62
    assert torch.isfinite(workload.loss(outputs, data.train.targets[:2]))


def test_a_frame_has_the_phone_of_its_middle(tmp_path):
    file = tmp_path / "a.phn"
    file.write_text("0 360 h#\n360 520 ae\n")
    # middles at 200, 360, 520, 680 samples
    assert read_labels(file, 4, RATE).tolist() == [PHONES.index("h#"), PHONES.index("ae"), NO_PHONE, NO_PHONE]
    file.write_text("0 360 h#\n360 520 xx\n")
    with pytest.raises(ValueError, match=r"a.phn, line 2: must be first sample, end and one of the phones aa, ae"):
        read_labels(file, 4, RATE)


def test_timit_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(DataMissing, match=r"TRAIN.* was not found; .*LDC93S1"):
        registry.workload("timit_mlp").check_data(tmp_path)
    (tmp_path / "TRAIN").mkdir()
    with pytest.raises(ValueError, match="must have the folders TRAIN and TEST; it lacks TEST"):
        registry.workload("timit_mlp").load(tmp_path)


def test_a_recording_without_phones_is_named(timit):
    (timit / "TIMIT/TRAIN/DR1/FCJF0/SX37.PHN").unlink()
    with pytest.raises(ValueError, match=r"needs a file of phones next to it; .*SX37.WAV has no SX37.PHN"):
        registry.workload("timit_mlp").load(timit)


def test_timit_without_its_reader(tmp_path, monkeypatch):
    (tmp_path / "TRAIN").mkdir()
    monkeypatch.setattr("atoll.platform.workloads.workload.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r'soundfile, which is not installed; `pip install "atoll\[speech\]"`'):
        registry.workload("timit_mlp").check_data(tmp_path)
