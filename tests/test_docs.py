"""The documents are true: commands exist with their options, links and figures lead somewhere, citations are listed."""

import re
import shlex
import subprocess

import pytest
import typer.main
import yaml
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
    parsed, rest = COMMANDS[words[1]], words[2:]
    while hasattr(parsed, "commands"):  # a group, such as `import`
        parsed, rest = parsed.commands[rest[0]], rest[1:]
    context = parsed.make_context(words[1], rest, resilient_parsing=False)
    assert context.params is not None


def test_every_command_is_in_the_readme():
    assert {shlex.split(c)[1] for c in commands(README)} | {"delete", "record", "study-schema"} >= {
        name for name, command in COMMANDS.items() if not command.hidden
    }


def test_readme_has_the_two_commands():
    assert '    python -m pip install -c constraints.txt -e ".[search]" && atoll quickstart' in README
    assert (
        '    python -m pip install -c constraints.txt -e ".[search,test]" && python -m pytest -n 3 --dist worksteal'
        in README
    )


def test_the_study_file_in_the_readme_is_valid(tmp_path):
    from atoll.storage import yamlfile

    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "study.yaml").write_text(block)
    study = yamlfile.load(tmp_path / "study.yaml", Study)
    assert search_space(study).names()[0] == "B"


def test_the_readmes_tables_name_methods_and_workloads_that_are_there():
    cells = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    assert named <= {*METHODS, *WORKLOADS}
    assert len(named) > 50


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_ci_calls_the_readmes_test_command():
    script = (ROOT / ".ci/run").read_text()
    assert 'pip install -q -c constraints.txt -e ".[search,test]"' in script
    assert "\npython -m pytest -n 3 --dist worksteal ||" in script


def test_no_paths_of_a_machine():
    for path in (*DOCUMENTS, *(ROOT / "examples").iterdir(), ROOT / ".ci/run"):
        if path.is_file():
            assert f"{ROOT.parent}/" not in path.read_text(), path


def test_links_to_sections_lead_to_headings():
    for path in DOCUMENTS:
        for target, section in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", path.read_text()):
            headings = re.findall(r"^#+ (.*)$", (path.parent / target if target else path).read_text(), re.MULTILINE)
            assert section in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, section


REFERENCES = (ROOT / "docs/references.md").read_text()
TRACKED = subprocess.run(
    ["git", "ls-files", "*.py", "*.md", "*.yaml"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split()
# The five sources' numbers, as they were once cited: after "source", before a place in the text, or in parentheses.
NUMBERS = "00[0-4]"
PLACES = "table|section|chapter|equation|eq|figure|algorithm|corollary|lemma|theorem"
BY_NUMBER = re.compile(rf"[Ss]ource {NUMBERS}\b|\b{NUMBERS}(?:'s)?,? (?:{PLACES})|\({NUMBERS}\b|\b{NUMBERS}'s\b")


def test_sources_are_cited_by_author():
    by_number = {}
    for name in TRACKED:
        if name != "CHANGELOG.md" and (path := ROOT / name).is_file():
            lines = [line for line in path.read_text().splitlines() if BY_NUMBER.search(line)]
            by_number |= {name: lines} if lines else {}
    assert not by_number


def test_cited_works_are_in_the_references():
    listed = {
        (surname, year)
        for authors, year in re.findall(r"^- (.*?) \((\d{4})\)\.", REFERENCES, re.MULTILINE)
        for surname in re.findall(r"[\w-]+", authors.split(",")[0].split(" and ")[0].removesuffix(" et al."))[-1:]
    }
    # such as "Li et al., 2020", "Li et al. (2020)" and "Zhang 2016, eq. 2.3"
    works = re.compile(
        rf"\b([A-Z][\w-]+)(?:\s+and\s+[A-Z][\w-]+)?(?: et al\.,? \(?((?:19|20)\d\d)| ((?:19|20)\d\d), (?:{PLACES}))"
    )
    for name in TRACKED:
        if name.startswith("tests/") or not (path := ROOT / name).is_file():
            continue
        for surname, year, other_year in works.findall(path.read_text()):
            assert (surname, year or other_year) in listed, f"{name}: {surname} {year or other_year}"


def test_the_bibliography_lists_the_same_works():
    bibliography = (ROOT / "docs/references.bib").read_text()
    titles = re.findall(r"^  title = \{\{(.*)\}\},$", bibliography, re.MULTILINE)
    assert sorted(titles) == sorted(re.findall(r"\*(.+?)\.\*", REFERENCES))
    keys = re.findall(r"^@\w+\{(\w+),$", bibliography, re.MULTILINE)
    assert len(set(keys)) == len(titles)


def test_glossary_has_one_line_for_each_term():
    lines = [line for line in (ROOT / "docs/glossary.md").read_text().splitlines() if line.startswith("- ")]
    terms = [re.fullmatch(r"- \*\*(.+?)\*\*: .+\.", line)[1] for line in lines]
    assert len(terms) == len(set(terms)) >= 60
    assert "docs/glossary.md" in README


def test_scripts_run_the_commands_of_contributing():
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for script in (ROOT / "scripts").iterdir():
        assert script.stat().st_mode & 0o111, f"{script} is not executable"
        assert f"scripts/{script.name}" in contributing


def test_citation_file_has_the_version():
    import atoll

    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == atoll.__version__


@pytest.mark.parametrize("name", ["reliability.md", "dashboard.md", "shared_machines.md"])
def test_the_tests_that_promises_name_are_there(name):
    text = (ROOT / "docs" / name).read_text()
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) >= 8
    assert {test for test in named if f"def {test}(" not in sources} == set()
    assert {file for file in re.findall(r"`(tests/[\w/]+\.py)`", text) if not (ROOT / file).exists()} == set()
