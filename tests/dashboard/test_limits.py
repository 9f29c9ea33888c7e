"""No address, filter, text or number makes the dashboard work for long; malformed requests are answered with 400."""

import json
import time

import boards
import pytest

from atoll.analysis import clusters
from atoll.dashboard import components, table
from atoll.dashboard.app import create_app
from atoll.dashboard.pages import projection
from atoll.storage import browse
from atoll.storage.browse import Condition, Selection
from atoll.storage.store import StoreError
from atoll.storage.yamlfile import FileError

HUGE = "9" * 5000
LAPTOP = projection.text_of("laptop")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return boards.study(tmp_path_factory.mktemp("store"), [0.5, 0.6, None, 0.7])


@pytest.fixture(scope="module")
def client(store):
    return create_app(store, only_local=True).server.test_client()


def called(client, output, values):
    """Call a callback as a browser does, with these values by id or by id and property, and null for the others."""
    (known,) = (c for c in client.get("/_dash-dependencies").get_json() if output in c["output"])

    def named(properties):
        return [p | {"value": values.get(f"{p['id']}.{p['property']}", values.get(p["id"]))} for p in properties]

    places = known["output"].strip(".").split("...")
    outputs = [dict(zip(("id", "property"), place.rsplit(".", 1), strict=True)) for place in places]
    body = {
        "output": known["output"],
        "outputs": outputs if known["output"].startswith("..") else outputs[0],
        "inputs": named(known["inputs"]),
        "state": named(known["state"]),
        "changedPropIds": [f"{p['id']}.{p['property']}" for p in known["inputs"]],
    }
    return client.post("/_dash-update-component", json=body)


def test_a_filter_of_many_ranges_is_as_long_as_it_was_written(store):
    ranged = {"type": "inRange", "filter": 0, "filterTo": 1}
    started = time.process_time()
    for operator, count in (("OR", 1), ("AND", 40)):
        chosen = table.selection({"objective": {"operator": operator, "conditions": [ranged] * 40}}, [])
        assert sum(map(len, chosen.conditions)) == 40
        assert len(chosen.conditions) == count
        assert len(browse.matching(store, store.study().id, chosen)) == 3
    assert time.process_time() - started < 2
    with pytest.raises(StoreError, match="at most 100 conditions and sortings; got 101"):
        table.selection({"objective": {"operator": "OR", "conditions": [ranged] * 101}}, [])
    nested = ranged
    for _ in range(200):
        nested = {"operator": "AND", "conditions": [nested]}
    assert table.checked({"objective": nested}, {}) == ({}, {})


@pytest.mark.parametrize(
    "value",
    [2**63, -(2**63) - 1, int(HUGE[:4000]), float("nan"), float("inf"), "x" * 1001, "\0", "\ud800", {}, [1], b""],
    ids=map(str, range(11)),
)
def test_a_condition_has_a_value_that_a_trial_may_have(store, value):
    for operator, given in (("=", value), ("between", [0, value]), ("in", [value]), ("contains", value)):
        with pytest.raises(StoreError, match=r"finite numbers below 2\^63 and texts of up to 1000 char") as told:
            Condition("objective", operator, given)
        assert len(str(told.value)) < 300
    largest = Selection(((Condition("objective", "<", 2**63 - 1),),))
    assert len(browse.matching(store, store.study().id, largest)) == 3


def test_a_range_has_two_ends_and_a_list_is_not_endless():
    with pytest.raises(StoreError, match="'between' must be a list of two ends; got 1"):
        Condition("objective", "between", 1)
    with pytest.raises(StoreError, match="at most 5000 values; got 5001"):
        Condition("objective", "in", [1] * 5001)


def _aliases(depth):
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for place in range(1, depth):
        before, name = chr(96 + place), chr(97 + place)
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]")
    return "\n".join([*lines, f"name: *{chr(96 + depth)}"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (_aliases(8), "more than 500000 values"),
        ("a: &a [*a]", "an alias must not stand for what contains it"),
        ("a: &a {b: {c: *a}}", "an alias must not stand for what contains it"),
        ("[" * 3000, "nested more than 50 levels deep"),
        ("- " * 3000, "nested more than 50 levels deep"),
        ("".join(f"k{i}: &k{i} [*k{i - 1}]\n" if i else "k0: &k0 [x]\n" for i in range(60)), "more than 50 levels"),
        ("x" * 20_001, "at most 20000 characters; got 20001"),
        ("".join(f"k{i}: {i}\n" for i in range(1500)), "and 1484 more mistakes"),
        ("name: 2020-13-45", "the cluster: node: required, but missing"),
        (f"ranks_per_node: {HUGE}", "not valid: Exceeds the limit"),
        ("? [a, b]\n: 1", "not valid YAML"),
        (LAPTOP.replace("ranks_per_node: ", "ranks_per_node: 1000000"), "less than or equal to 4096"),
    ],
    ids=["aliases", "cycle", "deep cycle", "flow", "blocks", "chain", "long", "keys", "date", "digits", "key", "ranks"],
)
def test_a_clusters_text_is_refused_at_once(text, problem):
    started = time.process_time()
    with pytest.raises(FileError, match=problem) as told:
        projection.read(text)
    assert time.process_time() - started < 2
    assert len(str(told.value)) < 8000


def test_a_page_projects_to_some_thousand_ranks(store):
    with pytest.raises(FileError, match="at most 16384 ranks, ranks_per_node times nodes; got"):
        projection.predict(None, None, LAPTOP, "65536", "weak")
    for nodes in (HUGE, f"1,{HUGE}", "1,2,3,...,65536", "1," * 30_000):
        with pytest.raises(FileError) as told:
            clusters.nodes(nodes)
        assert len(str(told.value)) < 300


@pytest.mark.parametrize("text", [HUGE, "-1", "1.5", "", "x", None, -1, 2**31, 1.0, True, [1], "٣" * 11])
def test_whole_numbers_have_a_size_that_trials_have(text):
    assert components.whole(text) is None
    assert (components.whole("12"), components.whole(0)) == (12, 0)


@pytest.mark.parametrize(
    "address",
    [
        f"/trial?study=s&number={HUGE}",
        f"/trial?study=s&number=1&attempt={HUGE}",
        f"/islands?name=s&trial={HUGE}",
        f"/export?name=s&best={HUGE}&trials=[{HUGE}]",
        f"/export?name=s&trials={'[' * 5000}",
        f"/study?name=s&filter={'[' * 5000}&brush={HUGE}",
        f"/projection?name=s&nodes={HUGE}&text={'%5B' * 3000}",
    ],
)
def test_an_address_with_nonsense_shows_a_page(client, address):
    path, query = address.split("?")
    given = {"_pages_location.pathname": path, "_pages_location.search": f"?{query}"}
    assert called(client, "_pages_content.children", given).status_code == 200


def test_malformed_requests_are_answered_with_400_and_a_line(client, caplog):
    request = {"startRow": "a", "endRow": None}
    answers = [
        called(client, "study-grid.getRowsResponse", {"study-name": "s", "study-grid": request}),
        called(client, "projection-figure-drawn", {"projection-text": [1]}),
        called(client, "export-yaml", {"export-name": "s", "export-best": 1, "export-trials": [{}]}),
        client.post("/_dash-update-component", json=[]),
        client.post("/_dash-update-component", json={"output": "no.such"}),
        client.post("/_dash-update-component", data="[" * 100_000, content_type="application/json"),
    ]
    assert [answer.status_code for answer in answers] == [400] * len(answers)
    for answer in answers[:3]:
        text = answer.get_data(as_text=True)
        assert text.startswith("this request cannot be answered: ")
        assert text.count("\n") == 1
    assert "Traceback" not in caplog.text
    large = client.post("/_dash-update-component", data=b"x" * (16 * 2**20 + 1), content_type="application/json")
    assert large.status_code == 413


def test_no_figure_can_be_uploaded():
    from importlib import resources

    from atoll.dashboard import report_parts
    from atoll.dashboard.figures import style

    assert '"showSendToCloud": false' in report_parts.embedded(style.message("x"))
    assert "cloud.plotly.com" not in report_parts.embedded(style.message("x"))
    program = resources.files("atoll.dashboard").joinpath("assets/atoll.js").read_text()
    assert "showSendToCloud: false" in program
    assert json.dumps("") in program
