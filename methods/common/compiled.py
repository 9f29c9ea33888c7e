"""Compiled forward and backward passes, by torch.compile; torch's compiler is imported when it is first used."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

MAX_NETWORKS = 10_000  # shapes of networks that one process compiles


def compiled(model: nn.Module) -> nn.Module:
    """The network with compiled passes, which has the same parameters; it compiles when it is first called.

    In this process: torch's pool of compiling processes has up to 32 on each rank, and outlives trials.
    """
    import torch._dynamo
    import torch._inductor.config as config

    config.compile_threads = 1
    # By default a process compiles a class's forward pass for at most eight shapes, and runs further ones eagerly.
    for limit in ("recompile_limit", "accumulated_recompile_limit", "cache_size_limit", "accumulated_cache_size_limit"):
        if hasattr(torch._dynamo.config, limit):  # their names differ between versions
            setattr(torch._dynamo.config, limit, MAX_NETWORKS)
    return cast("nn.Module", torch.compile(model))


def why_not_compiled(device: str) -> str | None:
    """Why this host cannot compile for a device; None if it can, as far as torch can tell without trying.

    On CPUs torch needs a C++ compiler, on GPUs Triton.
    """
    if torch.device(device).type != "cpu":
        from torch.utils._triton import has_triton

        return None if has_triton() else f"torch.compile needs Triton for {device}, which is missing or too old"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    find: Any = get_cpp_compiler
    try:
        find()
    except InvalidCxxCompiler as error:
        reason = str(error).rstrip(".")
        return f"torch.compile needs a C++ compiler, such as g++, or one that the variable CXX names: {reason}"
    return None
