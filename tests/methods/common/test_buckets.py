"""Buckets of gradients."""

import itertools

from atoll.methods.common.buckets import Bucket, make_buckets


def test_buckets_are_filled_from_the_last_parameter_to_the_first():
    ends = [0, 10, 12, 40, 45]
    slices = [slice(a, b) for a, b in itertools.pairwise(ends)]
    assert make_buckets(slices, 8) == [Bucket(2, 3, slice(12, 45)), Bucket(0, 1, slice(0, 12))]
    assert make_buckets(slices, 1) == [Bucket(i, i, slices[i]) for i in (3, 2, 1, 0)]
    assert make_buckets(slices, 1000) == [Bucket(0, 3, slice(0, 45))]
