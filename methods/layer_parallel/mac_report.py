"""What MAC reports after an epoch: how parameters changed, how busy ranks were, predicted and measured speedups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atoll.methods.layer_parallel.mac_state import MacState


def predicted_speedup(num_groups: int, w_iterations: Sequence[float], z_iterations: Sequence[float]) -> float:
    """The speedup over as many epochs of SGD, for groups that take equal time (Martin 2024, eq. 3.25)."""
    return num_groups / (max(w_iterations) + max(z_iterations, default=0))


def predicted_speedup_of_unequal(
    w_seconds: Sequence[float], z_seconds: Sequence[float], passes: Sequence[float]
) -> float:
    """The speedup over as many epochs of SGD, for groups of any duration (Martin 2024, eqs. 3.17 and 3.20).

    Args:
        w_seconds, z_seconds: durations of each group's W-step and Z-step.
        passes: duration of one pass of each group's W-step; their sum is an epoch of SGD.
    """
    return sum(passes) / (max(w_seconds) + max(z_seconds))


def report(state: MacState, before: Mapping[int, Tensor], busy: float, elapsed: float) -> dict[str, float]:
    """The metrics of an epoch, equal on all ranks; collective.

    parameter_change/group_g is the mean absolute change of a group's parameters (Martin 2024, figure 4.2),
    idle_share/rank_r the share of the W- and Z-steps' time in which a rank did not compute, and idle_share their mean.
    The speedups are relative to an epoch of SGD, whose time is that of one pass of all W-steps: by equation 3.25, by
    equation 3.20, and measured. The speedup over a whole training is E_SGD/E_MAC times as much.

    Args:
        state: the method's, after the epoch.
        before: parameters of this rank's groups before the epoch.
        busy: seconds in which this rank computed.
        elapsed: duration of the W- and Z-steps in seconds.
    """
    chain, communicator = state.chain, state.context.communicator
    num = len(chain.groups)
    changes, w, z, passes = (torch.zeros(num, dtype=torch.float64) for _ in range(4))
    shares = torch.zeros(communicator.size, dtype=torch.float64)
    shares[communicator.rank] = busy / elapsed
    for g, part in state.parts.items():
        if chain.ranks_of[g][0] == communicator.rank:
            changes[g] = (chain.flats[g].parameters - before[g]).abs().mean()
            w[g], z[g], passes[g] = part.w_seconds, part.z_seconds, part.w_pass_seconds
    of_all_ranks = torch.cat([changes, w, z, passes, shares])
    state.context.untracked.sum(of_all_ranks)
    changes, w, z, passes, shares = torch.split(of_all_ranks, [num] * 4 + [communicator.size])
    metrics = {f"parameter_change/group_{g}": float(change) for g, change in enumerate(changes)}
    metrics |= {f"idle_share/rank_{rank}": 1 - float(share) for rank, share in enumerate(shares)}
    metrics |= {"idle_share": 1 - float(shares.mean()), "mu_reached": state.mu}
    if bool((passes > 0).all()) and bool((w > 0).all()):
        w_iterations = [group.w_iterations for group in state.settings]
        z_iterations = [group.z_iterations for group in state.settings[1:]]
        metrics |= {
            "predicted_speedup": predicted_speedup(num, w_iterations, z_iterations),
            "predicted_speedup_unequal": predicted_speedup_of_unequal(w.tolist(), z.tolist(), passes.tolist()),
            "measured_speedup": float(passes.sum()) / elapsed,
        }
    return metrics
