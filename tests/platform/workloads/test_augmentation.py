"""RandAugment's operations against PIL's, and random erasing."""

import pytest
import torch

from atoll.platform.workloads import augmentation
from atoll.platform.workloads.augmentation import rand_augment, random_erasing


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(num=6, height=13, width=17, seed=0):
    """Smooth color gradients with some noise, uint8."""
    noise = torch.rand(num, 3, height, width, generator=generator(seed))
    ramp = torch.linspace(0.1, 0.7, width).view(1, 1, 1, width) * torch.linspace(0.6, 1.0, height).view(1, 1, height, 1)
    return ((ramp + 0.25 * noise).clamp(0, 1) * 255).to(torch.uint8)


def pil_versions():
    """Each operation with PIL's, given an image and a factor."""
    enhance, ops = pytest.importorskip("PIL.ImageEnhance"), pytest.importorskip("PIL.ImageOps")
    return {
        "autocontrast": (1.0, lambda image, _: ops.autocontrast(image)),
        "equalize": (1.0, lambda image, _: ops.equalize(image)),
        "posterize": (0.5, lambda image, _: ops.posterize(image, 6)),
        "solarize": (0.5, lambda image, _: ops.solarize(image, 128)),
        "brightness": (0.5, lambda image, s: enhance.Brightness(image).enhance(1 + 0.9 * s)),
        "contrast": (-0.5, lambda image, s: enhance.Contrast(image).enhance(1 + 0.9 * s)),
        "color": (0.5, lambda image, s: enhance.Color(image).enhance(1 + 0.9 * s)),
        "sharpness": (-0.5, lambda image, s: enhance.Sharpness(image).enhance(1 + 0.9 * s)),
    }


@pytest.mark.parametrize(
    "name", ["autocontrast", "equalize", "posterize", "solarize", "brightness", "contrast", "color", "sharpness"]
)
def test_operations_are_pils(name):
    image_of = pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    strength, pils = pil_versions()[name]
    for image in images():
        expected = pils(image_of.fromarray(image.permute(1, 2, 0).numpy()), strength)
        found = getattr(augmentation, name)(image[None].float(), torch.full((1, 1, 1, 1), strength))[0]
        difference = found - torch.from_numpy(numpy.array(expected)).permute(2, 0, 1).float()
        # PIL rounds the luminance, its mean, and the smoothed image to whole levels
        assert float(difference.abs().max()) <= 2.0


def test_geometry():
    """A translation by 0.45 of the side moves what was inside; rotations by 30 degrees there and back return it."""
    x = torch.full((1, 3, 20, 20), 200.0)
    moved = augmentation.translate_x(x, torch.ones(1, 1, 1, 1))
    assert (moved[..., :11] == 200.0).all()
    assert (moved[..., 11:] == 128.0).all()
    assert torch.equal(augmentation.translate_y(x.transpose(2, 3), torch.ones(1, 1, 1, 1)), moved.transpose(2, 3))
    ramp = torch.linspace(50, 200, 41).view(1, 1, 1, 41).expand(1, 3, 41, 41).contiguous()
    back = augmentation.rotate(augmentation.rotate(ramp, torch.ones(1, 1, 1, 1)), -torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(back[..., 15:26, 15:26], ramp[..., 15:26, 15:26], rtol=0, atol=0.1)
    sheared = augmentation.shear_x(ramp, torch.ones(1, 1, 1, 1))
    # the middle row stays, the last one moves by 0.3 of half the height, less half a pixel
    torch.testing.assert_close(sheared[0, 0, 20], ramp[0, 0, 20], rtol=0, atol=1e-3)
    assert float(sheared[0, 0, 40, 20] - ramp[0, 0, 40, 20]) == pytest.approx(0.3 * 20 * 150 / 40, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_rand_augment_keeps_type_and_range_and_follows_its_generator(dtype):
    batch = images(64) if dtype is torch.uint8 else images(64).float() / 255
    before = batch.clone()
    found = rand_augment(batch, 9.0, generator(1))
    assert (found.dtype, found.shape) == (dtype, batch.shape)
    assert torch.equal(batch, before)
    assert 0 <= found.min() <= found.max() <= (255 if dtype is torch.uint8 else 1)
    assert torch.equal(found, rand_augment(batch, 9.0, generator(1)))
    assert not torch.equal(found, rand_augment(batch, 9.0, generator(2)))
    changed = (found != batch).flatten(1).any(1).float().mean()
    # two identities of 14 operations each leave an image: one of 196
    assert changed > 0.9


def test_magnitude_0_leaves_all_but_what_has_no_magnitude():
    """Autocontrast and equalization have none: images stay that get neither, (12/14)^2 of them."""
    batch = images(400, 16, 20)
    same = (rand_augment(batch, 0.0, generator()) == batch).flatten(1).all(1).float().mean()
    assert float(same) == pytest.approx((12 / 14) ** 2, abs=0.09)  # 4 standard errors


def test_random_erasing():
    batch = torch.full((2000, 3, 16, 20), 9.0)
    assert torch.equal(random_erasing(batch, 0.0, generator()), batch)
    found = random_erasing(batch, 0.25, generator())
    erased = (found != 9.0).all(1)
    hit = erased.flatten(1).any(1)
    assert float(hit.float().mean()) == pytest.approx(0.25, abs=0.04)  # 4 standard errors
    shares = erased[hit].float().mean((1, 2))
    # areas are uniform from 0.02 to 1/3, less what is clipped and rounded
    assert float(shares.mean()) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)
    for mask in erased[hit][:50]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None])  # one rectangle
    noise = found[found != 9.0]
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(found, random_erasing(batch, 0.25, generator()))
