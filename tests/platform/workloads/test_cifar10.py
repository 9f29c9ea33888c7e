"""CIFAR-10: its archive formats, written small by the tests, the real subset, crops and mirror images."""

import io
import tarfile

import numpy as np
import pytest
import torch

from atoll.platform.study import registry
from atoll.platform.workloads import cifar10
from atoll.platform.workloads.workload import DataMissing

PER_BATCH = 40


@pytest.fixture(scope="module")
def images():
    """Batch name -> images (n, 3, 32, 32) and labels, every class in each."""
    generator = np.random.default_rng(0)
    names = [*cifar10.TRAIN_BATCHES, cifar10.TEST_BATCH]
    labels = np.arange(PER_BATCH) % 10
    return {name: (generator.integers(0, 256, (PER_BATCH, 3, 32, 32), dtype=np.uint8), labels) for name in names}


def as_binary(x, y):
    return np.concatenate([y.astype(np.uint8)[:, None], x.reshape(len(x), -1)], axis=1).tobytes()


def write(folder, images, packed):
    inner = "cifar-10-batches-bin"
    files = {f"{name}.bin": as_binary(*part) for name, part in images.items()}
    files |= {"batches.meta.txt": b"names", "readme.html": b"<html>"}
    if not packed:
        (folder / inner).mkdir(parents=True)
        for name, content in files.items():
            (folder / inner / name).write_bytes(content)
        return
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{inner}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("packed", [True, False])
def test_official_archives(tmp_path, images, packed):
    write(tmp_path, images, packed)
    workload = registry.workload("cifar10_cnn7")
    workload.check_data(tmp_path)
    data = workload.load(tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [180, 20, 40]
    assert torch.bincount(data.validation.targets).tolist() == [2] * 10
    expected, labels = images[cifar10.TEST_BATCH]
    assert torch.equal(data.test.inputs, torch.from_numpy(expected))
    assert data.test.targets.tolist() == labels.tolist()
    # every training image is in one of the two parts, with its label
    seen = {
        (x.numpy().tobytes(), int(y))
        for part in (data.train, data.validation)
        for x, y in zip(part.inputs, part.targets, strict=True)
    }
    assert seen == {(x.tobytes(), int(y)) for name in cifar10.TRAIN_BATCHES for x, y in zip(*images[name], strict=True)}


def test_an_archive_that_lacks_a_batch_is_refused(tmp_path, images):
    write(tmp_path, {name: part for name, part in images.items() if name != "data_batch_4"}, packed=True)
    with pytest.raises(ValueError, match="it lacks data_batch_4"):
        registry.workload("cifar10_cnn7").load(tmp_path)


def test_the_python_version_is_not_read_as_it_holds_pickles(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py/data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataMissing, match="The Python version is not read, as it consists of pickles"):
        registry.workload("cifar10_cnn7").check_data(tmp_path)


def test_missing_data_say_which_files_and_how_to_get_them(tmp_path):
    with pytest.raises(DataMissing, match=r"cifar-10-binary.tar.gz or .* was not found.*official archive of CIFAR-10"):
        registry.workload("cifar10_lowrank").check_data(tmp_path)


def test_crops_are_windows_of_the_image_and_half_are_mirrored():
    images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).repeat(300, 1, 1, 1)
    cut = cifar10.random_crops(images, 28, torch.Generator().manual_seed(0))
    assert cut.shape == (600, 3, 28, 28)
    seen, mirrored = set(), 0
    for image, crop in zip(images, cut, strict=True):
        is_mirrored = bool(crop[0, 0, 0] > crop[0, 0, -1])
        whole = crop.flip(2) if is_mirrored else crop
        offset = int(whole[0, 0, 0] - image[0, 0, 0])
        top, left = divmod(offset, 32)
        assert torch.equal(whole, image[:, top : top + 28, left : left + 28])
        seen.add((top, left))
        mirrored += is_mirrored
    assert seen == {(top, left) for top in range(5) for left in range(5)}
    # binomial, 600 draws: five standard deviations are 61
    assert abs(mirrored - 300) < 61
    again = cifar10.random_crops(images, 28, torch.Generator().manual_seed(0))
    assert torch.equal(cut, again)


def test_the_real_subset(shared_data):
    for name, shape, num_parameters in (
        ("cifar10_cnn7", (3, 28, 28), 351_946),
        ("cifar10_lowrank", (3, 32, 32), 442_000),
    ):
        workload = registry.workload(name)
        data = workload.load(shared_data)
        assert [len(part) for part in (data.train, data.validation, data.test)] == [5400, 600, 1500]
        assert torch.bincount(data.validation.targets).tolist() == [60] * 10
        inputs = workload.transform(data.train.inputs[:50], torch.Generator().manual_seed(0))
        assert inputs.shape == (50, *shape)
        model = workload.model()
        assert sum(p.numel() for p in model.parameters()) == num_parameters
        assert model(inputs).shape == (50, 10)
        still = workload.transform(data.train.inputs[:50], None)
        assert torch.equal(still, workload.transform(data.train.inputs[:50], None))
        if name == "cifar10_cnn7":
            assert torch.equal(still, data.train.inputs[:50, :, 2:30, 2:30].float() / 255)
            assert all(float(p.abs().max()) == 0 for n, p in model.named_parameters() if n.endswith("bias"))
        else:
            whole = workload.transform(data.train.inputs, None)
            # each channel has mean 0 and deviation 1 over all training pixels, in float32
            assert whole.mean(dim=(0, 2, 3)).abs().max() < 1e-4
            assert (whole.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [("cifar10_vgg16", 14_724_042), ("cifar10_mini_vit", 42_684_682), ("cifar10_mini_vit_small", 690_730)],
)
def test_the_networks_of_the_low_rank_methods(name, num_parameters):
    workload = registry.workload(name)
    model = workload.model()
    assert sum(p.numel() for p in model.parameters()) == num_parameters
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert f"{num_parameters:,}" in type(workload).model.__doc__


def test_whole_images_are_moved_and_mirrored_in_training_only(tmp_path, images):
    write(tmp_path, images, packed=False)
    workload = registry.workload("cifar10_vgg16")
    data = workload.load(tmp_path)
    pixels = data.train.inputs[:64]
    still = workload.transform(pixels, None)
    moved = workload.transform(pixels, torch.Generator().manual_seed(0))
    assert still.shape == moved.shape == (64, 3, 32, 32)
    whole = workload.transform(data.train.inputs, None)
    assert whole.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    black = (0 - workload._images.mean) / workload._images.deviation
    # moved by up to 4 pixels: of 64 draws with 9 places some are at an edge, where there is black
    assert torch.isclose(moved[:, :, 0].transpose(1, 2), black).all(dim=-1).all(dim=-1).any()
    assert not any(torch.equal(a, b) for a, b in zip(still[:8], moved[:8], strict=True))
