"""The pruning settings of a study file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator

from atoll.platform.study import registry
from atoll.platform.study.samplers import own_name, own_options

RULES = ("asha", "median")
_OF_RULES = {"factor": "asha", "rungs": "asha and median", "startup": "median"}  # settings that own rules do not have


class Pruning(BaseModel):
    """Stopping trials early."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str | None = Field(
        default=None,
        description="which trials continue: the best 1/factor at each rung (asha), those no worse than the rung's "
        "median (median), or those that your own rule decides on (file.py:Class, or an entry point of the group "
        "atoll.pruning_rules). Default: the method's, or asha",
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="your own rule's options, which may as well stand next to `rule`"
    )
    fidelity: Literal["epochs", "steps", "seconds"] = Field(
        default="epochs", description="unit of rungs and grace; seconds of training time"
    )
    grace: float = Field(default=1, gt=0, description="fidelity that every trial reaches; the first rung")
    factor: int = Field(
        default=3, ge=2, description="asha: ratio of successive rungs, and of compared to continued trials"
    )
    rungs: list[float] | None = Field(
        default=None,
        min_length=1,
        description="fidelities at which trials are compared. Default: grace x factor^k for asha, every report after "
        "grace for median",
    )
    startup: int = Field(default=5, ge=1, description="median: values needed at a rung before trials are stopped there")
    while_falling: bool | None = Field(
        default=None,
        description="allow stopping a trial while its training loss still decreases. Default: the method's, or true",
    )
    promotion: bool = Field(
        default=False,
        description="asha: a trial pauses at each rung, and the best 1/factor of a rung continue later from their "
        "checkpoints; needs `checkpoint`. Default: a trial that is behind at a rung stops for good",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, content: object) -> object:
        if isinstance(content, str):
            is_one = content in RULES or registry.is_own_class("pruning_rule", content)
            rules, example = ", ".join(RULES), content if is_one else RULES[0]
            raise ValueError(
                f"must be a mapping such as {{rule: {example}}}; the rules are {rules}, and file.py:Class for one of "
                f"your own; got {content[:100]!r}"
            )
        rule = content.get("rule") if isinstance(content, dict) else None
        if isinstance(rule, str) and registry.is_own_class("pruning_rule", rule):
            return own_options(content, *cls.model_fields)
        return content

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str | None, info: ValidationInfo) -> str | None:
        return rule if rule is None or rule in RULES else own_name("pruning_rule", rule, RULES, info.context)

    @model_validator(mode="after")
    def _has_the_rules_settings(self) -> Pruning:
        if not self.is_own:
            if self.options:
                raise ValueError(f"options are of a rule of your own, rule: file.py:Class; got {self.rule}")
            return self
        if useless := [name for name in _OF_RULES if getattr(self, name) != type(self).model_fields[name].default]:
            rules = f"{useless[0]} is a setting of {_OF_RULES[useless[0]]}"
            raise ValueError(f"{rules}: omit it, or give it another name as an option of {self.rule}")
        return self

    @property
    def is_own(self) -> bool:
        """Whether the rule is the user's."""
        return self.rule is not None and self.rule not in RULES

    @model_validator(mode="after")
    def _promotes_by_asha(self) -> Pruning:
        if self.promotion and self.rule not in (None, "asha"):
            raise ValueError(f"promotion needs the rule asha; got {self.rule}")
        if self.promotion and self.while_falling is not None:
            raise ValueError(
                "with promotion trials pause instead of stopping, so while_falling has no effect: omit one of them"
            )
        return self

    def passed(self, before: float, now: float) -> Iterator[float]:
        """The rungs of asha, or the given ones, above fidelity `before` and up to `now`, in order."""
        if self.rungs is not None:
            yield from (rung for rung in self.rungs if before < rung <= now)
            return
        rung = self.grace
        while rung <= now:
            if rung > before:
                yield rung
            rung *= self.factor

    @field_validator("rungs")
    @classmethod
    def _rising(cls, rungs: list[float] | None) -> list[float] | None:
        if rungs is not None and (rungs[0] <= 0 or any(a >= b for a, b in itertools.pairwise(rungs))):
            raise ValueError(f"rungs must be positive and increasing; got {rungs}")
        return rungs
