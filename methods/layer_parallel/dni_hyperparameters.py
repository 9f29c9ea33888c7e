"""The hyperparameters of DNI."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.methods.common.validation import require, require_choice
from atoll.methods.layer_parallel.grouping import parse_grouping

MODES = ("gradient_loss", "update_decoupled", "fully_decoupled")
PLACEMENTS = ("with_groups", "one_rank")
TARGETS = ("true", "bootstrapped")
SOURCES = ("x", "previous")
STARTS = ("zero", "random")


@dataclass(frozen=True, kw_only=True)
class DniHyperparameters:
    """Hyperparameters of DNI.

    Attributes:
        mode: which dependencies between groups are removed.
        grouping: how the network is cut, with an interface between any two groups: first, last, even, balanced, counts
            such as 1,1,5, or at:NAMES.
        num_groups: number of groups for first, last, even and balanced.
        placement: whether synthesizers are placed with their groups or all on one rank.
        targets: which gradient M learns from in the decoupled modes: the loss's, `true`, as in Tong et al. 2016, or one
            that the group above derives from its own synthetic one, `bootstrapped`, as in Jaderberg et al. 2016. With
            two groups they are the same.
        depth, width: hidden layers of a synthesizer, and units or channels of each.
        conditioned: whether M sees the class labels.
        synthesizer_lr: learning rate of all synthesizers.
        start: initialization of M's last layer, zero as in Jaderberg et al. 2016 or random as in Tong et al. 2016,
            section 7.3.
        inputs_from: the values that I predicts from.
        freeze_inputs: whether I keeps its random initialization, a comparator (Tong et al. 2016, section 8.3.2).
        block_first: whether the first group is not trained, another comparator (ibid.).
        max_lead: largest number of batches that a group may be ahead of the gradients from above; 0 for any number.
    """

    mode: str = "update_decoupled"
    grouping: str = "even"
    num_groups: int = 2
    placement: str = "with_groups"
    targets: str = "true"
    depth: int = 1
    width: int = 64
    conditioned: bool = False
    synthesizer_lr: float = 0.001
    start: str = "zero"
    inputs_from: str = "x"
    freeze_inputs: bool = False
    block_first: bool = False
    max_lead: int = 0

    def __post_init__(self) -> None:
        parse_grouping(self.grouping)
        require_choice("mode", self.mode, MODES)
        require_choice("placement", self.placement, PLACEMENTS)
        require_choice("targets", self.targets, TARGETS)
        require_choice("start", self.start, STARTS)
        require_choice("inputs_from", self.inputs_from, SOURCES)
        require(self.num_groups >= 1, f"num_groups must be at least 1; got {self.num_groups}")
        require(0 <= self.depth <= 2, f"depth must be in 0..2; got {self.depth}")
        require(self.width >= 1, f"width must be at least 1; got {self.width}")
        require(self.max_lead >= 0, f"max_lead must be at least 0; got {self.max_lead}")
        require(
            not self.freeze_inputs or self.mode == "fully_decoupled",
            f"freeze_inputs applies to synthetic inputs, so mode must be fully_decoupled; got {self.mode!r}",
        )
        require(self.synthesizer_lr > 0, f"synthesizer_lr must be above 0; got {self.synthesizer_lr}")
