"""Stability regions of EASGD and ADMM in the round-robin scheme, as in Zhang 2016, figure 3.2, drawn with plotly.

python benchmarks/stability.py [OUTPUT.html]

The workers take turns stepping on x^2 / 2 (Zhang 2016, eqs. 3.52 to 3.56). A round is a linear map, obtained by
applying the methods' own update functions to the basis states; it is stable if its spectral radius is at most 1.
ADMM is unstable at small rates; EASGD has a single condition, alpha = eta rho <= (4 - 2 eta) / (4 - eta).
"""

import sys

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from atoll.methods.parameter_server.admm_consensus import descend, dual_ascent
from atoll.methods.parameter_server.elastic_base import follow, pull

NUM_POINTS = 60


def admm_radius(eta: float, rho: float, p: int) -> float:
    """Spectral radius of the map of (duals, replicas, center): the columns of the identity are moved together."""
    states = torch.eye(2 * p + 1, dtype=torch.float64)
    duals, replicas, center = states[:p], states[p : 2 * p], states[-1]
    for dual, x in zip(duals, replicas, strict=True):
        gradient = x.clone()
        dual_ascent(dual, x, center)
        descend(x, gradient, dual, center, eta, rho)
        center.copy_((replicas - duals).mean(dim=0))
    return float(torch.linalg.eigvals(states).abs().max())


def easgd_radius(eta: float, alpha: float, p: int) -> float:
    """Spectral radius of the map of (replicas, center)."""
    states = torch.eye(p + 1, dtype=torch.float64)
    center = states[-1]
    for x in states[:-1]:
        seen, before = x.clone(), center.clone()
        x.sub_(x.clone(), alpha=eta)
        follow(center, seen, alpha)
        pull(x, seen, before, alpha)
    return float(torch.linalg.eigvals(states).abs().max())


def scan(radius, etas: torch.Tensor, others: torch.Tensor, p: int) -> list[list[float]]:
    return [[radius(float(eta), float(other), p) for eta in etas] for other in others]


def main(file: str) -> None:
    etas, rhos = torch.linspace(1e-4, 1e-2, NUM_POINTS), torch.linspace(0.1, 10, NUM_POINTS)
    wide, alphas = torch.linspace(0.02, 2.2, NUM_POINTS), torch.linspace(0.01, 1.2, NUM_POINTS)
    panels = {
        "ADMM, p = 3": (scan(admm_radius, etas, rhos, 3), etas, rhos, "rho"),
        "ADMM, p = 8": (scan(admm_radius, etas, rhos, 8), etas, rhos, "rho"),
        "EASGD, p = 3": (scan(easgd_radius, wide, alphas, 3), wide, alphas, "alpha"),
    }
    figure = make_subplots(rows=1, cols=3, subplot_titles=list(panels), horizontal_spacing=0.08)
    for column, (values, x, y, name) in enumerate(panels.values(), 1):
        stable = [[0.0 if value <= 1 + 1e-9 else 1.0 for value in row] for row in values]
        figure.add_trace(
            go.Heatmap(
                z=stable,
                x=x.tolist(),
                y=y.tolist(),
                customdata=values,
                colorscale=[[0, "#cfe2f3"], [1, "#b22222"]],
                showscale=False,
                hovertemplate="eta %{x:.4g}, "
                + name
                + " %{y:.3g}<br>largest |eigenvalue| %{customdata:.6f}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(title="eta", row=1, col=column)
        figure.update_yaxes(title=name, row=1, col=column)
    edge = [(4 - 2 * float(eta)) / (4 - float(eta)) for eta in wide]
    line = {"color": "black", "dash": "dash"}
    figure.add_trace(go.Scatter(x=wide.tolist(), y=edge, line=line, name="(4 - 2 eta)/(4 - eta)"), row=1, col=3)
    figure.update_yaxes(range=[0, 1.2], row=1, col=3)
    title = "Unstable (red) and stable (blue) rates in the round-robin scheme"
    figure.update_layout(title=title, template="plotly_white", width=1200, height=450, showlegend=False)
    figure.write_html(file, include_plotlyjs=True)
    print(f"wrote {file}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "stability.html")
