"""CUDA tensors: staged in host memory where ranks share a GPU, NCCL where each has its own."""

import pytest
import ranks
import torch

pytestmark = [pytest.mark.mpi, pytest.mark.may_skip]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_staged():
    errors = ranks.run_on_mpi("gpu_contract", 2)
    assert errors
    assert not any(errors.values()), errors


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_nccl():
    errors = ranks.run_on_mpi("gpu_contract", 2, env={"ATOLL_TEST_GROUP": "nccl"})
    assert errors
    assert not any(errors.values()), errors
