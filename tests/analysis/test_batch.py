"""The section of a cluster file about its batch system."""

import pytest
import yaml
from batch_files import CLUSTER

from atoll.analysis import clusters
from atoll.analysis.batch import seconds
from atoll.storage import yamlfile


def read(tmp_path, ranks_per_node=2, **batch):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CLUSTER | {"ranks_per_node": ranks_per_node, "batch": batch}))
    return clusters.cluster(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4:00:00", 14400),
        ("0:00:45", 45),
        ("1-02:00:00", 93600),
        ("100:00:00", 360000),
        ("45s", 45),
        ("90 m", 5400),
        ("2d", 172800),
    ],
)
def test_time_limits(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["4:00", "240", "", "4h30m", "-1:00:00", "0:00:00", "1:2:3", "four hours"])
def test_a_time_limit_that_batch_systems_read_in_different_ways_is_refused(text):
    with pytest.raises(ValueError, match=r"must be \[days-\]hours:minutes:seconds"):
        seconds(text)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"system": "sge"}, "'slurm', 'pbs', 'torque' or 'lsf'"),
        ({"system": "slurm", "partition": "a; rm -rf /"}, "letters, digits and _.:@+,/- only"),
        ({"system": "slurm", "queue": "-x"}, "not start with a dash"),
        ({"system": "slurm", "account": "a\nb"}, "letters, digits"),
        ({"system": "slurm", "modules": ["gcc", "$(x)"]}, "batch.modules.1"),
        ({"system": "slurm", "environment": {"A B": "1"}}, "letters, digits and underscores; got 'A B'"),
        ({"system": "slurm", "environment": {"A": "1\n2"}}, "one line of printable characters"),
        ({"system": "slurm", "options": ["constraint=a100"]}, "an option must start with a dash"),
        ({"system": "slurm", "setup": ["a\nb"]}, "one line of printable characters"),
        ({"system": "slurm", "time": "4:00"}, "a time limit must be"),
        ({"system": "pbs", "launcher": "srun"}, "launcher srun needs system slurm; with pbs, use atoll or mpiexec"),
        ({"system": "slurm", "partitions": "a"}, "did you mean partition?"),
        ({}, "batch.system: required, but missing"),
    ],
)
def test_a_mistake_in_the_section_is_told_with_rule_and_value(tmp_path, batch, said):
    with pytest.raises(yamlfile.FileError) as error:
        read(tmp_path, **batch)
    assert said in str(error.value)
    assert "c.yaml" in str(error.value)


def test_queue_and_partition_are_one_key(tmp_path):
    assert read(tmp_path, system="pbs", queue="gpu").batch.partition == "gpu"
    assert read(tmp_path, system="pbs", partition="gpu").batch.partition == "gpu"


def test_the_bundled_clusters_have_a_batch_system():
    systems = {name: clusters.cluster(name).batch for name in yamlfile.names(clusters.FOLDER)}
    assert [name for name, batch in systems.items() if batch is None] == ["laptop"]


def test_a_projection_may_put_more_ranks_on_a_node_than_a_job_can(tmp_path):
    assert read(tmp_path, system="slurm", gpus_per_node=1, cores_per_node=1).ranks_per_node == 2


def test_the_store_keeps_no_accounts(tmp_path):
    """Predictions are stored with their cluster."""
    assert "batch" not in read(tmp_path, system="slurm", account="secret").model_dump()
