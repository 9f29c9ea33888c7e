"""ImageNet's reader, crops and networks, on a small folder in its layout."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from commands import called
from PIL import Image
from torch import nn

from atoll.communication.threads import single_rank
from atoll.platform.study import registry
from atoll.platform.trial import batches
from atoll.platform.trial.batches import EpochBatches
from atoll.platform.trial.evaluator import Evaluator
from atoll.platform.trial.shares import Share
from atoll.platform.workloads import imagenet, packing
from atoll.platform.workloads.digits import DigitsMlp
from atoll.platform.workloads.workload import DataMissing, Samples


@pytest.fixture
def dataset(tmp_path):
    """Three classes of six photographs and two to test; class and number are in their colour, sizes differ."""
    for part, count in (("train", 6), ("val", 2)):
        for c in range(3):
            folder = tmp_path / "imagenet" / part / f"n0{c}"
            folder.mkdir(parents=True)
            for number in range(count):
                size = ((300, 400), (400, 300), (128, 256))[number % 3]
                image = np.full((*size, 3), (80 * c, 40 * number, 7), dtype=np.uint8)
                Image.fromarray(image).save(folder / f"{number}.JPEG", quality=95)
    (tmp_path / "imagenet" / "train" / "n00" / "notes.txt").write_text("no photograph")
    imagenet.load.cache_clear()
    return tmp_path


def test_the_parts_and_who_is_held_out(dataset):
    data = registry.workload("imagenet_resnet50").load(dataset)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [15, 3, 6]
    assert data.train.inputs.shape[1:] == (3, 256, 256)
    assert data.train.targets.tolist() == [c for c in range(3) for _ in range(5)]
    assert data.validation.targets.tolist() == [0, 1, 2]
    colours = data.validation.inputs.float().mean(dim=(2, 3))
    expected = torch.tensor([[80.0 * c, 200, 7] for c in range(3)])
    torch.testing.assert_close(colours, expected, atol=3.0, rtol=0)  # JPEG's loss


@pytest.mark.process
def test_packing_changes_nothing(dataset):
    root = dataset / "imagenet"
    read, num_held_out = imagenet.read_part(root, "train")
    imagenet.pack(root)
    packed, also_held_out = imagenet.read_part(root, "train")
    assert (num_held_out, also_held_out) == (3, 3)
    assert torch.equal(packed.inputs, read.inputs)
    assert torch.equal(packed.targets, read.targets)
    assert not list(root.glob("*.partial"))
    for part in ("train", "val"):  # the photographs are needed no more
        (root / part).rename(root / f"moved-{part}")
    registry.workload("imagenet_resnet50").check_data(dataset)


def test_the_shorter_side_is_brought_to_256_and_the_centre_kept(tmp_path):
    pixels = np.zeros((512, 1024, 3), dtype=np.uint8)
    pixels[:, 256:768] = 200  # the central square
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = imagenet.read_image(tmp_path / "x.png")
    assert found.shape == (3, 256, 256)
    assert (found[:, :, 1:-1] == 200).all()


def test_what_is_missing_is_named(dataset, monkeypatch):
    workload = registry.workload("imagenet_vit_b16")
    workload.check_data(dataset)
    monkeypatch.setattr(packing, "MAX_UNPACKED", 3)
    with pytest.raises(DataMissing, match=r"has 18 images for train: pack them once, `python -m atoll\.platform"):
        imagenet.read_part(dataset / "imagenet", "train")
    (dataset / "imagenet" / "val" / "n00").rename(dataset / "imagenet" / "val" / "n09")
    with pytest.raises(DataMissing, match="classes that train does not have: n09"):
        workload.check_data(dataset)
    (dataset / "imagenet" / "val").rename(dataset / "imagenet" / "validation")
    with pytest.raises(DataMissing, match=r"val contains no folders of classes.*image-net\.org"):
        workload.check_data(dataset)
    with pytest.raises(DataMissing, match="imagenet or ILSVRC2012 or imagenet-2012 was not found"):
        workload.check_data(dataset / "elsewhere")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_crop_of_the_whole_image_is_the_image_or_its_mirror(monkeypatch):
    monkeypatch.setattr(imagenet, "AREA", (1.0, 1.0))
    monkeypatch.setattr(imagenet, "RATIO", (1.0, 1.0))
    images = torch.rand(64, 3, 16, 16, generator=generator())
    crops = imagenet.resized_crops(images, 16, generator(1))
    tolerance = {"atol": 1e-5, "rtol": 0}  # of positions in single precision
    same = torch.tensor([torch.allclose(a, b, **tolerance) for a, b in zip(crops, images, strict=True)])
    mirrored = torch.tensor([torch.allclose(a, b.flip(2), **tolerance) for a, b in zip(crops, images, strict=True)])
    assert (same ^ mirrored).all()
    assert 16 < same.sum() < 48  # of 64 fair coins: four standard deviations


def test_crops_lie_inside_and_have_the_areas_and_ratios_that_were_asked_for():
    side, num = 64, 4000
    rows = torch.linspace(-1, 1, side).view(1, 1, side, 1).expand(num, 1, side, side)
    columns = torch.linspace(-1, 1, side).view(1, 1, 1, side).expand(num, 1, side, side)
    crops = imagenet.resized_crops(torch.cat([rows, columns], dim=1), side, generator())
    height = crops[:, 0, -1, 0] - crops[:, 0, 0, 0]
    width = (crops[:, 1, 0, -1] - crops[:, 1, 0, 0]).abs()
    assert crops.abs().max() <= 1
    areas = height * width / 4
    assert 0.06 < areas.min() < 0.12
    assert areas.mean() == pytest.approx(0.5, abs=0.03)  # 0.54 but for what is cut at the border
    ratios = (width / height).log()
    assert ratios.abs().max() <= math.log(4 / 3) + 0.15  # where a side is cut the other one remains
    assert ratios.mean().abs() < 0.02


def test_the_same_seed_cuts_the_same_and_evaluation_takes_the_centre(dataset):
    workload = registry.workload("imagenet_resnet50")
    images = workload.load(dataset).train.inputs[:4]
    assert torch.equal(workload.transform(images, generator(3)), workload.transform(images, generator(3)))
    centre = workload.transform(images, None)
    assert centre.shape == (4, 3, 224, 224)
    expected = (images[0, 1, 16, 16] / 255 - 0.456) / 0.224
    torch.testing.assert_close(centre[0, 1, 0, 0], expected, atol=1e-6, rtol=1e-6)


def test_the_networks_have_the_published_sizes():
    for name, size in (("imagenet_resnet50", 25_557_032), ("imagenet_vit_b16", 86_567_656)):
        with torch.device("meta"):
            assert sum(p.numel() for p in registry.workload(name).model().parameters()) == size


def test_smoothed_labels():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    logs = torch.log_softmax(logits, dim=1)[0]
    found = registry.workload("imagenet_vit_b16").training_loss(logits, torch.tensor([0]))
    assert float(found) == pytest.approx(float(-0.9 * logs[0] - 0.1 * logs.mean()))


@pytest.mark.slow
@pytest.mark.usefixtures("trains_on_threads")
def test_it_trains(dataset, tmp_path):
    for part, others in itertools.product(("train", "val"), ("n01", "n02")):
        shutil.rmtree(dataset / "imagenet" / part / others)  # a step on a photograph takes a quarter of a second
    content = {"workload": "imagenet_resnet50", "method": "ddp", "epochs": 1, "threads": 1, "data": str(dataset)}
    (tmp_path / "c.json").write_text(json.dumps(content | {"hyperparameters": {"batch_size": 4}}))
    result = json.loads(called("train", "c.json", "--test", "--json", cwd=tmp_path).stdout)
    assert result["state"] == "complete"
    assert 0 <= result["metrics"]["test_accuracy"] <= 1


def test_data_that_would_fill_a_gpu_stay_where_they_are(monkeypatch):
    samples = Samples(torch.zeros(100, 10), torch.arange(100))

    class Properties:
        total_memory = 4 * 4000 - 1  # a byte less than four times the inputs

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    assert batches.on_device("cuda:0", samples) is samples
    assert batches.on_device("cpu", samples) is samples


def test_batches_go_to_the_ranks_device():
    """On the device without memory, as there is no GPU: everything that leaves the samples is there."""
    devices = []

    class Watching(DigitsMlp):
        def totals(self, outputs, targets):
            devices.extend([outputs.device.type, targets.device.type])
            return torch.zeros(3)

    samples = Samples(torch.zeros(8, 64), torch.zeros(8, dtype=torch.int64))

    def transform(inputs, _):
        assert inputs.device.type == "meta"
        return inputs

    assert EpochBatches(samples, Share(4, 0, 1), 0, transform, device="meta").example().device.type == "meta"
    Evaluator(Watching(), samples, single_rank(), "meta")(nn.Identity())
    assert devices == ["meta", "meta"]
    assert samples.inputs.device.type == "cpu"


@pytest.mark.parametrize("name", ["imagenet_resnet50", "imagenet_vit_b16"])
def test_images_of_another_size(name, dataset):
    """Coquelin 2024, table A.1, trains at 160 x 160."""
    default, small = (
        registry.workload(name, made) for made in (None, registry.workload_class(name).Hyperparameters(image_size=160))
    )
    images = default.load(dataset).train.inputs[:2]
    for sampler in (None, torch.Generator().manual_seed(0)):
        assert default.transform(images, sampler).shape == (2, 3, 224, 224)
        assert small.transform(images, sampler).shape == (2, 3, 160, 160)
    # Both see the same center: a gradient from edge to edge has the same ends, up to the width of a pixel.
    ramp = torch.arange(256, dtype=torch.float32).expand(1, 3, 256, 256)
    ends = [made.transform(ramp, None)[0, 0, 80, [0, -1]] * imagenet.DEVIATION[0] * 255 for made in (default, small)]
    torch.testing.assert_close(ends[0], ends[1], atol=1.0, rtol=0)


def test_a_vision_transformer_of_another_size_has_fewer_positions():
    made = registry.workload("imagenet_vit_b16", imagenet.ImageNetVitHyperparameters(image_size=160))
    with torch.device("meta"):
        positions = dict(made.model().named_parameters())["network.vit.embeddings.position_embeddings"]
    assert positions.shape == (1, 1 + 10 * 10, 768)


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        (imagenet.ImageNetResNetHyperparameters, 300, "image_size must be in 32..256; got 300"),
        (imagenet.ImageNetVitHyperparameters, 150, "image_size must be divisible by 16; got 150"),
    ],
)
def test_sizes_that_cannot_be(kind, size, message):
    with pytest.raises(ValueError, match=message):
        kind(image_size=size)


def test_dropout_comes_before_the_linear_layer_of_a_residual_network():
    made = registry.workload("imagenet_resnet50", imagenet.ImageNetResNetHyperparameters(dropout=0.1))
    with torch.device("meta"):
        classifier = made.model().network.classifier
        without = registry.workload("imagenet_resnet50").model().network.classifier
    assert [type(layer).__name__ for layer in classifier] == ["Flatten", "Dropout", "Linear"]
    assert classifier[1].p == 0.1
    assert [type(layer).__name__ for layer in without] == ["Flatten", "Linear"]
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\); got 1"):
        imagenet.ImageNetResNetHyperparameters(dropout=1.0)
