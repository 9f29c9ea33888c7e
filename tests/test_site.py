"""The documentation site: it builds strictly and from this machine alone, and its references say what the code says."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import boards
import pytest
import sqlalchemy as sa
import typer.main
import yaml
from commands import called, called_json
from conftest import ROOT
from optuna.distributions import FloatDistribution

import atoll
from atoll import Parameter, PruningRule, SearchSpace, TrialReport
from atoll.communication.threads import single_rank
from atoll.methods.common.optimizers import OPTIMIZERS, SCHEDULES
from atoll.platform import cli
from atoll.platform.benchmark.benchmark_file import Benchmark
from atoll.platform.search.own_code import OwnCode
from atoll.platform.search.propagators import own
from atoll.platform.study.pruning import Pruning
from atoll.platform.study.samplers import OwnSampler
from atoll.platform.study.study import Study
from atoll.storage.models import Base
from atoll.testing import CHECKS, Subject

DOCS = ROOT / "docs"


def commands(group, before=""):
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield from commands(command, f"{before}{name} ") if hasattr(command, "commands") else [before + name]


COMMANDS = sorted(commands(typer.main.get_command(cli.app)))


@pytest.fixture(scope="module")
def hooks():
    """The modules that make the site's pages."""
    sys.path.insert(0, str(DOCS / "hooks"))
    try:
        import outside
        import references

        yield outside, references
    finally:
        sys.path.remove(str(DOCS / "hooks"))


# The site.


class Loaded(HTMLParser):
    """What a page loads, and the places that it has."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.places = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.places.add(attributes.get("id"))
        address = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
        if address:
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: 5 CPU seconds, as it has all pages, and griffe reads all sources."""
    pytest.importorskip("mkdocs", reason="install the extra docs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)
    finally:
        config.plugins.on_shutdown()
    return folder


def test_the_source_of_a_generated_page_tells_its_readers_where_to_look(hooks):
    _, references = hooks
    for page in references.GENERATED:
        text = (DOCS / page).read_text()
        hint = text[text.index(references.BEGIN) : text.index(references.END)]
        assert "The source of this page has no" in hint
        assert "`scripts/docs --serve`" in hint
        assert hint not in references.filled(page, text)
    with pytest.raises(ValueError, match="must have one line"):
        references.filled("store.md", "no mark")


@pytest.mark.process
def test_a_generated_part_is_printed_for_those_without_the_site(hooks):
    _, references = hooks
    command = [sys.executable, "docs/hooks/references.py", "store.md"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == references.store() + "\n"


@pytest.mark.slow
def test_it_builds_strictly_and_no_page_loads_anything_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        assert "generated -->" not in text
        assert "The source of this page has no" not in text
        if page.name == "404.html":
            continue
        for address in Loaded(text).addresses:
            assert not re.match(r"\w+:|//", address), f"{page}: {address}"
            assert (page.parent / address.partition("?")[0].partition("#")[0]).exists(), f"{page}: {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", style.read_text()), style


@pytest.mark.slow
def test_every_public_name_has_its_entry(site):
    places = Loaded((site / "api.html").read_text()).places
    assert {f"atoll.{name}" for name in atoll.__all__ if name != "__version__"} <= places
    assert "atoll.Workload.parameter_groups" in places


@pytest.mark.slow
def test_files_outside_docs_are_pages_too(site):
    template = (site / "repository/examples/templates/workload.py.html").read_text()
    assert "class MyWorkload" in re.sub("<[^>]*>", "", template)
    architecture = (site / "repository/ARCHITECTURE.html").read_text()
    assert "Where to add" in architecture
    assert 'href="../reliability.html' in (site / "repository/index.html").read_text()


def test_every_page_is_in_the_nav_or_left_out_on_purpose(hooks):
    # mkdocs warns of it, too, where it is installed
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in nav, page.name


def test_links_out_of_docs_lead_to_pages_of_the_site(hooks):
    pages = hooks[0].Outside(ROOT, DOCS)
    text = pages.with_links(
        "[a](../README.md#search), [b](search.md), ![c](screenshots/x.png) [d](https://e.f/../g)\n\n"
        "```yaml\n[e](../LICENSE)\n```\n[f](../examples/own_workload.py)\n[g](../examples/templates) [h](../none)",
        DOCS,
        "page.md",
    )
    assert text == (
        "[a](repository/README.md#search), [b](search.md), ![c](screenshots/x.png) [d](https://e.f/../g)\n\n"
        "```yaml\n[e](../LICENSE)\n```\n[f](repository/examples/own_workload.py.md)\n"
        "[g](repository/examples/templates/index.md) [h](../none)"
    )
    assert "class Sine" in pages.pages["repository/examples/own_workload.py.md"]
    assert "- [method.py](method.py.md)" in pages.pages["repository/examples/templates/index.md"]
    assert "](../search.md" in pages.pages["repository/README.md"]


# References.


def parts(text):
    """A generated page's parts: heading -> its table's rows by their first cell, without backticks."""
    found = {}
    for part in re.split(r"^##+ ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in body.splitlines()
            if line.startswith("| `")
        ]
        found[heading.strip("`")] = {row[0].strip("`"): row[1:] for row in rows}
    return found


def squeezed(text):
    """A text without white space, escapes and backticks."""
    return re.sub(r"[\s\\`]", "", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_of_commands_says_what_help_says(hooks, command, tmp_path):
    page = parts(hooks[1].command_line())
    assert sorted(page) == [f"atoll {name}" for name in COMMANDS]
    printed = called(*command.split(), "--help", cwd=tmp_path).stdout
    rows = page[f"atoll {command}"]
    for name, (meaning,) in rows.items():
        assert squeezed(name + meaning) in squeezed(printed), name
    options = re.findall(r"^  (-[\w-]+)", printed.partition("Options:")[2].partition("Example:")[0], re.MULTILINE)
    assert [name.split()[0] for name in rows if name.startswith("-")] == [o for o in options if o != "--help"]
    description = re.search(r"\n\n(.*?)\n\n", printed, re.DOTALL)[1]
    section = hooks[1].command_line().split(f"## atoll {command}\n")[1].partition("\n## ")[0]
    assert squeezed(description) in squeezed(section)


@pytest.mark.parametrize(("file", "function"), [(Study, "study_file"), (Benchmark, "benchmark_file")])
def test_the_reference_of_a_file_has_every_key_default_and_choice(hooks, file, function):
    schema, page = file.model_json_schema(), parts(getattr(hooks[1], function)())
    shared = set() if file is Study else set(Study.model_json_schema()["$defs"])
    definitions = {file.__name__: schema} | {
        name: part for name, part in schema["$defs"].items() if "properties" in part and name not in shared
    }
    assert len(page) == len(definitions)
    for name, definition in definitions.items():
        keys = {key: value for key, value in definition["properties"].items() if "const" not in value}
        constant = definition["properties"].get("name", {}).get("const")
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()
        rows = page[constant or words]
        assert rows.keys() == keys.keys()
        for key, value in keys.items():
            kind, default, meaning = rows[key]
            assert value.get("description"), f"{name}.{key} has no description"
            assert value["description"] in meaning.replace("\\|", "|")
            for choice in re.findall(r"'enum': \[(.*?)\]", str(value)):
                assert all(f"`{word}`" in kind for word in re.findall(r"'(\w+)'", choice))
            if key in definition.get("required", ()):
                assert default == "required"
            elif default:
                assert json.loads(default.strip("`")) == value["default"]


def test_every_column_of_the_store_is_described(hooks):
    page = parts(hooks[1].store())
    assert page.keys() == Base.metadata.tables.keys()
    for name, table in Base.metadata.tables.items():
        assert list(page[name]) == [column.name for column in table.columns]
        assert not [column.name for column in table.columns if not column.doc]
        for column in table.columns:
            if "second" in column.name or column.name in ("started", "finished", "time"):
                assert "second" in column.doc, f"{name}.{column.name} has no unit"
            if "bytes" in column.name or column.name == "peak_memory":
                assert "bytes" in column.doc, f"{name}.{column.name} has no unit"


# What pages say.


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_the_example_queries_run(backend, tmp_path, request):
    url = f"sqlite:///{tmp_path}/atoll.db" if backend == "sqlite" else request.getfixturevalue("postgresql_url")
    _, lines, recorder = boards.record(tmp_path, "quickstart", url)
    for number, objective in enumerate([0.5, 0.75, 0.625, None]):
        boards.journals.start_trial(lines, number)
        for epoch in (1, 2):
            boards.journals.report(lines, number, epoch)
        boards.journals.end_trial(lines, number, objective, reason=None if objective else "Diverged")
    recorder.catch_up()
    queries = re.findall(r"```sql\n(.*?)```", (DOCS / "store.md").read_text(), re.DOTALL)
    assert len(queries) == 5
    with sa.create_engine(url).connect() as connection:
        best, states, curve, traffic, failures = (connection.execute(sa.text(query)).all() for query in queries)
    assert [row.objective for row in best] == [0.75, 0.625, 0.5]
    assert float(best[0].learning_rate) == pytest.approx(0.1 / 2, abs=1e-15)
    assert float(best[0].b) == 2
    assert {row.state: row.trials for row in states} == {"complete": 3, "failed": 1}
    assert [row.epoch for row in curve] == [1, 2]
    assert [(row.operation, row.calls, row.largest) for row in traffic] == [("all_reduce", 9, 40)]
    assert traffic[0].gigabytes == pytest.approx(3 * 120 / 1e9, rel=1e-12)
    assert [(row.number, row.reason) for row in failures] == [(3, "Diverged")]


def test_the_lists_of_the_faq_are_those_of_the_code():
    page = (DOCS / "faq.md").read_text()
    for word, known in (("Optimizers", OPTIMIZERS), ("Schedules", SCHEDULES)):
        (listed,) = re.findall(rf"^{word}: (.*?)\.$", page, re.MULTILINE | re.DOTALL)
        assert re.findall(r"`(\w+)`", listed) == list(known)


def inline_settings():
    """The study settings that pages have in a line, such as `topology: {workers: 1}`."""
    keys = "topology|pruning|migration|checkpoint|sampler|loader"
    for path in sorted(DOCS.glob("*.md")):
        for text in re.findall(rf"`((?:{keys}): \{{[^`]*\}})`", path.read_text()):
            if "..." not in text:
                yield pytest.param(text, id=f"{path.stem} {text}")


@pytest.mark.parametrize("text", list(inline_settings()))
def test_settings_in_a_line_are_valid(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file.py").touch()  # a code file of the reader's
    base = {"name": "s", "workload": "digits_mlp", "method": "ddp"}
    settings = yaml.safe_load(text)
    if "topology" in settings:
        base |= {"migration": {"probability": 0.0}}
    if "pruning" in settings:
        base |= {"checkpoint": {"every": "1 epochs"}}
    Study.model_validate(base | settings)


def test_the_own_sampler_and_rule_of_the_page_run(tmp_path):
    page = (DOCS / "extending.md").read_text()
    sampler, rule = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    settings = yaml.safe_load(re.findall(r"```yaml\n(sampler.*?)```", page, re.DOTALL)[0])["sampler"]
    (tmp_path / "own_sampler.py").write_text(sampler)
    (tmp_path / "own_pruning.py").write_text(rule)
    distribution = FloatDistribution(0.001, 0.3, log=True)
    space = SearchSpace((Parameter(name="learning_rate", distribution=distribution, default=0.1),))
    made = OwnSampler.model_validate(settings, context={"folder": str(tmp_path)})
    own.check(made, space, 1, seed=0)
    pruning = yaml.safe_load(re.findall(r"```yaml\n(pruning.*?)```", page, re.DOTALL)[0])["pruning"]
    pruning = Pruning.model_validate(pruning, context={"folder": str(tmp_path)})
    own_rule = OwnCode("pruning_rule", pruning.rule).make(PruningRule, pruning.options)
    own_rule.told(TrialReport(0, 0.1, 2.0, 2, 20, 1.0, 0.1))
    assert [own_rule.prunes(TrialReport(1, value, 2.0, 2, 20, 1.0, 0.1)) for value in (0.4, 0.6)] == [False, True]


@pytest.mark.slow
def test_the_study_of_the_optuna_user_is_valid(tmp_path):
    from atoll.platform.study.plan import search_space
    from atoll.storage import yamlfile

    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "coming_from.md").read_text(), re.DOTALL)
    page = (DOCS / "workloads.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    (tmp_path / "work.py").write_text(code + "\n\nclass Mine(Searched):\n    pass\n")
    (tmp_path / "study.yaml").write_text(block + "  dropout: 0.0\n  wire: float32\n")
    study = yamlfile.load(tmp_path / "study.yaml", Study)
    assert sorted(parameter.name for parameter in search_space(study).parameters) == ["learning_rate", "width"]


@pytest.mark.slow
def test_the_method_of_the_page_keeps_the_contract_and_is_searched(tmp_path):
    page = (DOCS / "own_method.md").read_text()
    code, metrics, check = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    study, benchmark = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_method.py").write_text(code)
    names = {"__name__": "my_method"}
    exec(compile(code, "my_method.py", "exec"), names)
    exec(check, names)
    exec(compile(metrics, "my_method.py", "exec"), names)
    CHECKS["reports_the_metrics_that_it_declares"](single_rank(), Subject(method=names["Measured"]))
    broken = code.replace("self.context.communicator.mean(self.flat.state)", "")
    exec(compile(broken, "my_method.py", "exec"), names)
    with pytest.raises(AssertionError, match="final networks differ"):
        exec(check, names)
    (tmp_path / "averaging.yaml").write_text(study)
    called("search", "averaging.yaml", "--in-process", "--trials", "2", "--epochs", "1", cwd=tmp_path)
    assert called_json("studies", cwd=tmp_path)[0]["counts"] == {"complete": 2}
    content = yaml.safe_load(benchmark)
    content["methods"][2]["method"] = f"{tmp_path / 'my_method.py'}:Averaging"
    assert [entry.name for entry in Benchmark.model_validate(content).methods][2] == "averaging"


def test_the_plugins_entry_points_are_those_of_the_page():
    (block,) = re.findall(r"```toml\n(.*?)```", (DOCS / "extending.md").read_text(), re.DOTALL)
    for group in block.strip().split("\n\n"):
        assert group in (ROOT / "examples/plugin/pyproject.toml").read_text()
