"""Synthesizers, the small networks of synthetic gradients."""

import pytest
import torch

from atoll.methods.layer_parallel.synthesizers import Synthesizer


@pytest.mark.parametrize(
    ("shape_in", "shape_out", "labels", "num_parameters"),
    [
        ((5,), (5,), None, 5 * 8 + 8 + 8 * 5 + 5),
        ((5,), (5,), (4,), 8 * 8 + 8 + 8 * 5 + 5),
        ((7, 5), (7, 5), (4, 7), 8 * 8 + 8 + 8 * 5 + 5),
        ((7, 5), (7, 5), (4,), 8 * 8 + 8 + 8 * 5 + 5),
        ((2, 6, 6), (2, 6, 6), (4,), 5 * 9 * 8 + 8 + 8 * 9 * 2 + 2),
        ((1, 8, 8), (2, 4, 4), None, 1 * 9 * 8 + 8 + 8 * 9 * 2 + 2),
        ((2, 6, 6), (5,), None, 72 * 8 + 8 + 8 * 5 + 5),
    ],
)
def test_synthesizers_of_vectors_sequences_and_images(shape_in, shape_out, labels, num_parameters):
    for zero in (True, False):
        classes = 0 if labels is None else 3
        synthesizer = Synthesizer(shape_in, shape_out, num_classes=classes, depth=1, width=8, zero=zero, seed=0)
        given = None if labels is None else torch.zeros(labels, dtype=torch.int64)
        predicted = synthesizer(torch.randn(4, *shape_in), given)
        assert predicted.shape == (4, *shape_out)
        assert bool((predicted == 0).all()) == zero
        assert sum(p.numel() for p in synthesizer.parameters()) == num_parameters


def test_labels_matter_to_a_conditioned_synthesizer():
    synthesizer = Synthesizer((5,), (5,), num_classes=3, depth=0, width=1, zero=False, seed=0)
    values = torch.randn(1, 5).expand(2, 5)
    a, b = synthesizer(values, torch.tensor([0, 1]))
    assert not torch.equal(a, b)
