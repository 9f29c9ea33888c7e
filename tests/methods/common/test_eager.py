"""The optimizers without torch's compiler: the same steps, bit for bit."""

import subprocess
import sys

import pytest
import torch
from with_propulate import NEEDS_PROPULATE

from atoll.methods.common.eager import eager

KINDS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "fused": True}),
    "adam": (torch.optim.Adam, {"lr": 0.1, "amsgrad": True, "fused": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.1, "fused": True}),
    "adamax": (torch.optim.Adamax, {"lr": 0.1}),
    "nadam": (torch.optim.NAdam, {"lr": 0.1}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1}),
    "adadelta": (torch.optim.Adadelta, {"lr": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.1, "momentum": 0.5}),
}


def trajectory(kind, options):
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(50, generator=generator))
    optimizer = kind([parameter], **options)
    hooked = []
    optimizer.register_step_pre_hook(lambda *_: hooked.append(None))
    for step in range(5):
        optimizer.zero_grad()
        (parameter**2 * torch.randn(50, generator=generator)).sum().backward()
        optimizer.step()
        if step == 2:  # saved and restored in the middle
            optimizer.load_state_dict(optimizer.state_dict())
    assert len(hooked) == 5
    assert not any(value.requires_grad for value in optimizer.state[parameter].values() if torch.is_tensor(value))
    return parameter.detach()


@pytest.mark.parametrize("name", KINDS)
def test_steps_are_those_of_torch_bit_for_bit(name):
    kind, options = KINDS[name]
    assert torch.equal(trajectory(eager(kind), options), trajectory(kind, options))
    assert eager(kind) is eager(kind)
    assert issubclass(eager(kind), kind)


@pytest.mark.process
@NEEDS_PROPULATE
def test_neither_torchs_compiler_nor_propulates_surrogates_are_imported():
    """Together they take longer than torch."""
    program = (
        "import sys, torch\n"
        "from atoll.methods.common.optimizers import OptimizerFactory, OptimizerSettings\n"
        "from atoll.platform.search.propagators import genetic\n"
        "parameter = torch.nn.Parameter(torch.ones(3))\n"
        "optimizer = OptimizerFactory(OptimizerSettings(), 10)([parameter])\n"
        "parameter.grad = torch.ones(3)\n"
        "optimizer.step(), optimizer.zero_grad(), optimizer.state_dict()\n"
        "slow = {'torch._dynamo', 'GPy', 'matplotlib', 'sklearn', 'pandas'} & sys.modules.keys()\n"
        "assert not slow, slow\n"
        "import propulate\n"
        "import propulate.population\n"
        "assert propulate.Propulator and propulate.population.Individual\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
