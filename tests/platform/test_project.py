"""What `atoll project` is told: numbers of nodes, and clusters, bundled or in a file."""

import pytest

from atoll.platform import bundled, project
from atoll.platform.yamlfile import FileError


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
    assert project.nodes(text) == found


@pytest.mark.parametrize(
    "text", ["", "0", "2,1", "1,1", "1,...,8", "1,2,...", "1,2,...,...,8", "x", "-1", "1.5", "99999"]
)
def test_what_are_no_numbers_of_nodes(text):
    with pytest.raises(FileError, match=r"--nodes must be numbers from 1 to 65536 that grow.*got"):
        project.nodes(text)


def test_too_many_numbers_of_nodes():
    with pytest.raises(FileError, match="at most 64 numbers"):
        project.nodes("2,3,...,65536")


@pytest.mark.parametrize("name", bundled.names("cluster"))
def test_bundled_clusters(name):
    found = project.cluster(name)
    assert found.name == name
    assert found.description
    assert found.node.bandwidth >= found.network.bandwidth


def test_a_cluster_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    text = (bundled.locate("cluster", "laptop")).read_text()
    file.write_text(text.replace("name: laptop", "name: mine"))
    assert project.cluster(str(file)).name == "mine"
    assert project.cluster(str(file), speed=2.5).speed == 2.5
    file.write_text(text.replace("recursive_halving", "hypercube"))
    with pytest.raises(FileError, match=r"algorithm.*ring.*tree.*recursive_halving.*hierarchical"):
        project.cluster(str(file))
    for speed in (0.0, float("inf")):
        with pytest.raises(FileError, match="speed"):
            project.cluster("laptop", speed=speed)
    file.write_text(text.replace("name: laptop", f"name: {'x' * 101}"))
    with pytest.raises(FileError, match="name"):
        project.cluster(str(file))
    with pytest.raises(FileError, match=r"there is no cluster file horeka.*bundled are a100_hdr200"):
        project.cluster("horeka")
