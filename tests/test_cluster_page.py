"""docs/cluster.md: its files are valid, and its scripts are those that `atoll submit` writes."""

import re
import subprocess

import pytest
import yaml
from commands import called
from conftest import ROOT

from atoll.analysis.batch import Batch

PAGE = (ROOT / "docs/cluster.md").read_text()
(SUBMIT,) = re.findall(r"^ {4}(atoll submit .*--chain.*)$", PAGE, re.MULTILINE)


def block(title):
    return re.search(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize(("title", "changes"), [("Slurm", {}), ("PBS", {"system": "pbs"})])
def test_the_scripts_of_the_page_are_those_that_submit_writes(tmp_path, monkeypatch, title, changes):
    monkeypatch.setenv("HOME", "/home/you")
    (tmp_path / "digits.yaml").write_text(block("digits.yaml"))
    cluster = yaml.safe_load(block("cluster.yaml"))
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster | {"batch": cluster["batch"] | changes}))
    printed = called(*SUBMIT.split()[1:], "--dry-run", cwd=tmp_path).stdout.replace(str(tmp_path), "/home/you/digits")
    assert printed == block(title), f"docs/cluster.md should have:\n{printed}"


@pytest.mark.process
@pytest.mark.parametrize("title", ["Slurm", "PBS"])
def test_bash_reads_the_scripts(title):
    checked = subprocess.run(["bash", "-n"], input=block(title), text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_page_explains_every_key_of_the_section():
    """With its default."""
    rows = dict(re.findall(r"^\| (`.*?) \| (.*) \|$", PAGE, re.MULTILINE))
    explained = {name for keys in rows for name in re.findall(r"`(\w+)`", keys)}
    assert set(Batch.model_fields) <= explained
    assert f"Default: {Batch.model_fields['stop_seconds'].default}" in rows["`stop_seconds`"]
    assert f"Default: `{Batch.model_fields['time'].default}`" in rows["`time`"]
    assert f"Default: `{Batch.model_fields['launcher'].default}`" in rows["`launcher`"]
