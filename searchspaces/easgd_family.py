"""Parameters that the search spaces of the EASGD family share (Zhang 2016, tables 4.1 to 4.3).

Their learning rates replace the shared optimizer space's; their schedules are a constant rate and
lr/(1 + gamma t)^0.5.
"""

from __future__ import annotations

from atoll.searchspaces.parameter import Parameter, choice, integer, real

SCHEDULE = (
    choice("schedule", ["constant", "inverse_sqrt"], "constant", source="Zhang 2016, sections 4.1 and 4.3.3"),
    real("lr_decay", 1e-5, 1e-2, 1e-4, log=True, symbol="γ", source="Zhang 2016, figure 4.13"),
)
# The source's choices; its chapter 6 adds 0.9.
MOMENTUM = choice("momentum", [0.0, 0.9, 0.99], 0.99, symbol="δ", source="Zhang 2016, sections 4.2 and 6.1.2")
TAU = integer(
    "tau", 1, 64, 10, log=True, symbol="τ", unit="steps", source="Zhang 2016, section 4.2 (1, 4, 16, 64; 10 typical)"
)
PUSH_TAU = integer("tau", 1, 64, 1, log=True, symbol="τ", unit="steps", source="Zhang 2016, section 4.2 (1, 4, 16, 64)")
BETA = real(
    "beta",
    0.1,
    1.0,
    0.9,
    symbol="β",
    source="Zhang 2016, section 4.2 (0.9), 5.1.3 (below 1 the center varies less than the replicas' mean)",
)
MOVING_RATE = real("moving_rate", 1e-4, 1e-1, 0.001, log=True, source="Zhang 2016, section 4.2 (0.001), widened")


def learning_rate(low: float, high: float, default: float) -> Parameter:
    """The learning rates of a method's rows in tables 4.1 to 4.3."""
    return real("learning_rate", low, high, default, log=True, symbol="η", source="Zhang 2016, tables 4.1 to 4.3")
