"""The documents are true: their commands exist with these options, their links and figures are there."""

import re
import shlex

import pytest
import typer.main
from conftest import ROOT

from atoll.methods import METHODS
from atoll.platform import cli
from atoll.platform.study.plan import search_space
from atoll.platform.study.study import Study
from atoll.platform.workloads import WORKLOADS

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text()
COMMANDS = typer.main.get_command(cli.app).commands


def commands(text):
    for line in text.splitlines():
        found = re.match(r"^ {4}(?:.*&& )?(atoll [a-z].*)$", line)
        if found and "..." not in line:
            yield found.group(1)


@pytest.mark.parametrize("command", sorted({c for path in DOCUMENTS for c in commands(path.read_text())}))
def test_commands_parse(command):
    words = shlex.split(command)
    parsed = COMMANDS[words[1]]
    context = parsed.make_context(words[1], words[2:], resilient_parsing=False)
    assert context.params is not None


def test_every_command_is_in_the_readme():
    assert {shlex.split(c)[1] for c in commands(README)} | {"delete", "record", "study-schema"} >= set(COMMANDS)


def test_readme_has_the_two_commands():
    assert '    python -m pip install -c constraints.txt -e ".[search]" && atoll quickstart' in README
    assert '    python -m pip install -c constraints.txt -e ".[search,test]" && python -m pytest' in README


def test_the_study_file_in_the_readme_is_valid(tmp_path):
    from atoll.storage import yamlfile

    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "study.yaml").write_text(block)
    study = yamlfile.load(tmp_path / "study.yaml", Study)
    assert search_space(study).names()[0] == "B"


def test_every_method_and_workload_is_in_the_readme():
    for name in (*METHODS, *WORKLOADS):
        assert f"`{name}`" in README, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_ci_calls_the_readmes_test_command():
    script = (ROOT / ".ci/run").read_text()
    assert 'pip install -q -c constraints.txt -e ".[search,test]"' in script
    assert "\npython -m pytest\n" in script


def test_no_paths_of_a_machine():
    for path in (*DOCUMENTS, *(ROOT / "examples").iterdir(), ROOT / ".ci/run"):
        if path.is_file():
            assert f"{ROOT.parent}/" not in path.read_text(), path
