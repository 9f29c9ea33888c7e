"""For each method hyperparameters and settings that put its parts to work within 50 steps of a small problem."""

from __future__ import annotations

from atoll.platform.study import registry
from atoll.testing import Subject, problem

# Hyperparameters, and settings of the optimizer.
EXERCISED: dict[str, tuple[dict, dict]] = {
    "ab": ({"warmup": 0.1, "group_steps": 0.08, "group_size": 1, "cutoff": 0.3}, {"learning_rate": 0.02}),
    "adownpour": ({"tau": 2}, {"learning_rate": 0.2}),
    "admm_consensus": ({"rho": 0.5}, {"learning_rate": 0.3}),
    "admm_dual": ({"net1_lr": 0.005}, {"optimizer": "adamw", "learning_rate": 0.06}),
    "asgd": ({}, {"learning_rate": 0.3}),
    "daso": ({"B": 3, "S": 2, "warmup_epochs": 1, "cooldown_epochs": 1, "wire": "float32"}, {}),
    "ddp": ({"bucket_mib": 2**-11}, {}),
    "diloco": ({"H": 3, "outer_momentum": 0.5}, {"learning_rate": 0.01}),
    "dni": ({"synthesizer_lr": 0.01, "conditioned": True}, {"learning_rate": 0.01}),
    "downpour": ({"tau": 2}, {"learning_rate": 0.2}),
    "eamsgd": ({"tau": 3}, {"learning_rate": 0.05, "momentum": 0.9}),
    "easgd": ({"tau": 3}, {"learning_rate": 0.3}),
    "easgd_tree": ({"degree": 2, "tau_slow": 3}, {"learning_rate": 0.05, "momentum": 0.9}),
    "ef_signsgd": ({}, {}),
    "local_sgd": ({"H": 3}, {}),
    "mac": (
        {"w_iterations": 3, "w_iterations_last": 3, "w_lr": 2e-2, "z_lr": 0.1, "z_iterations": 3},
        {"learning_rate": 1e-2},
    ),
    "mdownpour": ({}, {"learning_rate": 0.02, "momentum": 0.9}),
    "msgd": ({}, {"learning_rate": 0.05, "momentum": 0.9}),
    "mvadownpour": ({"tau": 2, "moving_rate": 0.1}, {"learning_rate": 0.2}),
    "mvasgd": ({"moving_rate": 0.1}, {"learning_rate": 0.3}),
    "oialr": ({"delay": 0.1, "update_period": 0.05, "beta": 0.3, "alpha": 0.5}, {"learning_rate": 0.05}),
    "powersgd": ({"rank": 2, "warmup": 0.04}, {}),
    "sgd": ({}, {"learning_rate": 0.3}),
    "sgp": ({"staleness": 1}, {}),
    "slowmo": ({"H": 3, "slow_momentum": 0.4, "buffers": "reset"}, {}),
}
# They leave a network's first and last weights in full rank.
LOW_RANK = ("ab", "oialr")
WITHOUT_EXCHANGE = {
    "daso": {"B": 100, "S": 0, "warmup_epochs": 0, "cooldown_epochs": 0, "adaptive": False},
    "local_sgd": {"H": 100},
    "diloco": {"H": 100},
    "slowmo": {"H": 100},
}
# Forms of the asynchronous methods in which ranks do wait for one another, and other forms worth the contract.
FORMS = {
    "easgd_jacobi": ("easgd", {"form": "jacobi"}),
    "eamsgd_gauss_seidel": ("eamsgd", {"form": "gauss_seidel"}),
    "admm_consensus_round_robin": ("admm_consensus", {"form": "round_robin"}),
    "dni_gradient_loss": ("dni", {"mode": "gradient_loss"}),
    "admm_dual_duals": ("admm_dual", {"duals": True, "rho": 0.1, "rho_factor": 2.0}),
    "mac_one_term": ("mac", {"variant": "one_term"}),
}
# Those in which they do not: with a rank that only serves, and the asynchronous form of a method that has others.
ASYNCHRONOUS = {
    "admm_consensus_async": ("admm_consensus", {"form": "async"}),
    "admm_consensus_dedicated": ("admm_consensus", {"form": "async", "server": "dedicated"}),
    "easgd_dedicated": ("easgd", {"server": "dedicated"}),
    "eamsgd_dedicated_overlap": ("eamsgd", {"server": "dedicated", "form": "async_overlap", "stale_replicas": False}),
    "downpour_dedicated": ("downpour", {"server": "dedicated"}),
    "adownpour_dedicated": ("adownpour", {"server": "dedicated"}),
    "mdownpour_dedicated": ("mdownpour", {"server": "dedicated"}),
}
# Hyperparameters of other forms.
IDLE = {"admm_dual": ("rho",), "dni_gradient_loss": ("synthesizer_lr",), "mac_one_term": ("mu",)}


def subject(name: str) -> Subject:
    """A method of the registry, or one of FORMS or ASYNCHRONOUS."""
    method_name, form = (FORMS | ASYNCHRONOUS).get(name, (name, {}))
    hyperparameters, settings = EXERCISED.get(method_name, ({}, {}))  # a new method starts with its defaults
    return Subject(
        method=registry.method(method_name),
        hyperparameters=hyperparameters | form,
        settings=settings,
        model=lambda seed: (problem.make_deep_model if method_name in LOW_RANK else problem.make_model)(seed=seed),
        # The dual nets spend half of their step on agreeing.
        falls_to={"admm_dual": 0.7, "admm_dual_duals": 0.8}.get(name, 0.6),
        passes=3 if method_name == "mac" else 1,
        waits=True if name in FORMS else False if name in ASYNCHRONOUS else None,
        without_exchange=WITHOUT_EXCHANGE.get(method_name, {}),
        idle=IDLE.get(name, ()),
    )
