"""Figures of the islands: populations, migrations, diversity, and family trees."""

import pandas as pd
import pytest
from frames import trials, words

from atoll.dashboard.figures import islands
from atoll.dashboard.figures.islands import Relative


def test_nothing_complete_is_said():
    assert "complete" in words(islands.populations(trials([None]), "a", "maximize", 0.0))


def test_populations_and_migrations():
    frame = trials([0.5, 0.9, 0.7, 0.6]).assign(island=[0, 1, 0, 1])
    figure = islands.populations(frame, "accuracy", "maximize", 100.0)
    assert [t.name for t in figure.data if t.showlegend] == ["island 0", "island 1"]
    flows = islands.migrations({(0, 1): 3, (1, 0): 2}, [0, 1])
    assert list(flows.data[0].link.value) == [3, 2]
    assert list(flows.data[0].link.target) == [3, 2]
    assert "nothing migrates" in words(islands.migrations({}, [0]))


def test_distance_is_gowers():
    frame = pd.DataFrame({"x": [0.0, 1.0], "lr": [1e-4, 1e-2], "wire": ["a", "b"], "same": [1, 1]})
    whole = {"x": (0.0, 2.0, False), "lr": (-4.0, 0.0, True), "same": (1.0, 1.0, False)}
    assert islands.mean_distance(frame, whole) == pytest.approx((0.5 + 0.5 + 1.0 + 0.0) / 4)
    assert islands.mean_distance(frame.iloc[[0, 0]], whole) == 0.0
    assert islands.extents(frame)["lr"] == (-4.0, -2.0, True)


def test_a_family_tree_leads_back_to_the_founders():
    family = {
        5: Relative(5, 0, "crossover", (3, 1), 0.9),
        3: Relative(3, 1, "crossover", (1,), None),
        1: Relative(1, 0, "random", (), 0.5),
    }
    figure = islands.family_tree(family, 5, "accuracy")
    dots = figure.data[1]
    assert dict(zip((row[0] for row in dots.customdata), dots.y, strict=True)) == {5: 0, 3: 1, 1: 2}
    assert "none (a founder)" in [row[3] for row in dots.customdata]
    assert "no trial 7" in words(islands.family_tree(family, 7, "accuracy"))
    assert islands.gene_sources({"a": 3, "b": 3, "c": "mutation"}) == {"trial 3": 2, "mutation": 1}


def test_a_generation_stands_in_a_centered_row_below_its_parents():
    family = {n: Relative(n, 0, "crossover", parents, None) for n, parents in {4: (3, 2), 3: (1,), 2: (1, 0)}.items()}
    family |= {n: Relative(n, 0, "random", (), None) for n in (1, 0, 9)}
    tree = islands.layout_tree(family, 4)
    assert tree.depth == {4: 0, 3: 1, 2: 1, 1: 2, 0: 2}  # 9 is no ancestor
    assert tree.x == {4: 1.0, 2: 0.5, 3: 1.5, 0: 0.5, 1: 1.5}
    assert sorted(tree.edges) == [(0, 2), (1, 2), (1, 3), (2, 4), (3, 4)]
    assert (tree.width, tree.num_generations) == (2, 3)
