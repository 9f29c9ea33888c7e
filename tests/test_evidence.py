"""The page of evidence: rows are whole, what they refer to exists, and the counts are those of the rows."""

import ast
import re
from collections import Counter

from conftest import ROOT

from atoll.platform.benchmark.bundled import BENCHMARKS

DOCS = ROOT / "docs"
CLAIMS, GAPS = (DOCS / "evidence.md").read_text().split("\n## What the sources contain and atoll does not\n")
VERDICTS = ("hit", "partly", "miss", "not measured")
CAUSES = {"implementation", "scale", "tuning", "method", "hardware"}
# What the rows' names begin with, by source.
SOURCES = {
    "Martin 2024": "M",
    "Coquelin 2024": "DOAP",
    "Dziwulski 2017": "W",
    "Zhang 2016": "TZ",
    "Tong et al. 2016": "N",
}


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


ROWS = {row[0]: row for row in (cells(line) for line in CLAIMS.splitlines() if re.match(r"\| [A-Z]\d+ \|", line))}
REPEATED = Counter(re.findall(r"^\| ([A-Z]\d+) \|", CLAIMS, re.MULTILINE)).most_common(1)
TESTS = {}  # functions by the name of their file
for path in (ROOT / "tests").rglob("test_*.py"):
    TESTS.setdefault(path.name, []).append(set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)))


def functions_of(result):
    return [name.split("::") for name in re.findall(r"`(test_\w+\.py::\w+)`", result)]


def test_every_row_has_a_name_of_its_own_and_numbers_run_on():
    assert REPEATED[0][1] == 1
    for letter in "MDOAPWTZN":
        numbers = [int(name[1:]) for name in ROWS if name[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1))


def test_rows_are_whole():
    for name, (_, place, claim, measured, verdict, cause, command, result) in ROWS.items():
        assert re.match(r"(section|chapter|eq|fig|table|lemma|theorem|corollary|abstract)", place), name
        assert claim, name
        assert verdict in VERDICTS, name
        assert (cause == "") if verdict == "hit" else (cause in CAUSES), name
        if verdict != "not measured":
            assert measured, name
            assert command, name
            assert result != "none", name
        if "results/" in result and "published" not in result:
            assert re.search(r"\d (seed|run|search|measurement)", measured), name


def test_what_rows_refer_to_exists():
    for name, row in ROWS.items():
        command, result = row[6:8]
        links, functions = re.findall(r"\]\(([^)]+)\)", result), functions_of(result)
        assert bool(links) + bool(functions) == (result != "none"), name
        assert (command == "pytest") == bool(functions), name
        assert all((DOCS / link).exists() for link in links), name
        for file, function in functions:
            (of_file,) = TESTS[file]
            assert function in of_file, name
        assert all((ROOT / script).exists() for script in re.findall(r"benchmarks/\w+\.py", command)), name
        bundled = re.findall(r"atoll benchmark (\w+)", command)
        assert all((BENCHMARKS / f"{benchmark}.yaml").exists() for benchmark in bundled), name


def test_the_counts_are_those_of_the_rows():
    counts = {row[0]: row[1:] for row in map(cells, CLAIMS.splitlines()) if row[0] in {*SOURCES, "all"}}
    assert list(counts) == [*SOURCES, "all"]
    for source, letters in {**SOURCES, "all": "".join(SOURCES.values())}.items():
        found = Counter(row[4] for name, row in ROWS.items() if name[0] in letters)
        assert counts[source] == [str(found[verdict]) for verdict in VERDICTS], source


def test_notes_are_on_rows_that_exist():
    notes = re.findall(r"[A-Z]\d+", " ".join(re.findall(r"^- \*\*(.+?)\.\*\*", CLAIMS, re.MULTILINE)))
    referred = re.findall(r"\(note ([A-Z]\d+)\)", CLAIMS)
    assert set(notes) <= set(ROWS)
    assert set(referred) <= set(notes)


def test_every_result_about_a_source_is_referred_to():
    about = {
        path.stem
        for path in (DOCS / "results").glob("*.md")
        if (script := ROOT / f"benchmarks/{path.stem}.py").exists()
        and any(source in ast.get_docstring(ast.parse(script.read_text())) for source in SOURCES)
    }
    assert len(about) > 4
    assert about <= {stem for row in ROWS.values() for stem in re.findall(r"results/(\w+)\.", row[7])}


def test_what_is_missing_has_its_source_place_and_state():
    rows = [cells(line) for line in GAPS.splitlines() if line.startswith(tuple(f"| {source} |" for source in SOURCES))]
    assert {row[0] for row in rows} == set(SOURCES)
    for source, section, what, state in rows:
        assert section, source
        assert what, source
        assert re.match(r"(absent|simplified|elsewhere)\b", state), state
