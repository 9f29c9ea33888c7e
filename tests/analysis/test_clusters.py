"""What a projection is told: numbers of nodes, and clusters, bundled or in a file."""

import pytest

from atoll.analysis import clusters
from atoll.storage import yamlfile
from atoll.storage.yamlfile import FileError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1", [1]),
        ("1,2,8", [1, 2, 8]),
        ("1, 2, 4, ..., 256", [1, 2, 4, 8, 16, 32, 64, 128, 256]),
        ("1,2,...,5", [1, 2, 4, 5]),
        ("2,4,6", [2, 4, 6]),
        ("4,6,...,12", [4, 6, 8, 10, 12]),
        ("1,3,...,100,200", [1, 3, 9, 27, 81, 100, 200]),
    ],
)
def test_numbers_of_nodes(text, found):
    assert clusters.nodes(text) == found


@pytest.mark.parametrize(
    "text", ["", "0", "2,1", "1,1", "1,...,8", "1,2,...", "1,2,...,...,8", "x", "-1", "1.5", "99999"]
)
def test_what_are_no_numbers_of_nodes(text):
    with pytest.raises(FileError, match=r"--nodes must be increasing numbers from 1 to 65536.*got"):
        clusters.nodes(text)


def test_too_many_numbers_of_nodes():
    with pytest.raises(FileError, match="at most 64 numbers"):
        clusters.nodes("2,3,...,65536")


@pytest.mark.parametrize("name", yamlfile.names(clusters.FOLDER))
def test_bundled_clusters(name):
    found = clusters.cluster(name)
    assert found.name == name
    assert found.description
    assert found.node.bandwidth >= found.network.bandwidth


def test_a_cluster_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    text = (clusters.FOLDER / "laptop.yaml").read_text()
    file.write_text(text.replace("name: laptop", "name: mine"))
    assert clusters.cluster(str(file)).name == "mine"
    assert clusters.cluster(str(file), speed=2.5).speed == 2.5
    file.write_text(text.replace("recursive_halving", "hypercube"))
    with pytest.raises(FileError, match=r"algorithm.*ring.*tree.*recursive_halving.*hierarchical"):
        clusters.cluster(str(file))
    for speed in (0.0, float("inf")):
        with pytest.raises(FileError, match="speed"):
            clusters.cluster("laptop", speed=speed)
    file.write_text(text.replace("name: laptop", f"name: {'x' * 101}"))
    with pytest.raises(FileError, match="name"):
        clusters.cluster(str(file))
    with pytest.raises(FileError, match=r"a cluster must be a file, or one of the bundled a100_hdr200.*; got horeka"):
        clusters.cluster("horeka")
