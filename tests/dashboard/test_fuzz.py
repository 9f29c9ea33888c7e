"""Two thousand malformed requests: each is answered at once, and none with 500."""

import copy
import json
import logging
import random
import time
from urllib.parse import quote

import boards
import pytest

from atoll.dashboard.app import create_app

pytestmark = pytest.mark.long

NUM_CALLBACKS, NUM_PAGES, NUM_BODIES = 1300, 400, 200
DEEP = json.loads("[" * 200 + "]" * 200)
ROWS = {"startRow": 0, "endRow": 100, "sortModel": [], "filterModel": {}}
RANGE = {"filterType": "number", "type": "inRange", "filter": 0, "filterTo": "x"}
# What pages send, so that requests get as far as the code that reads the other values.
PLAUSIBLE = [
    "s", "best", "importance", "fanova", "pedanova", "contour", "slices", "parallel", "timeline", "objective", "trials",
    "learning_rate", "dark", "laptop", "weak", "1,2,4", 0, 1, 3, [1], ["s"], True, ROWS, {}, [],
    {"study": "s", "number": 0, "attempt": 0}, {"objective": RANGE}, [{"colId": "objective", "sort": "asc"}],
    [{"dimensions[0].constraintrange": [[0, 1]]}, [0]], {"points": [{"customdata": [1], "x": 1, "y": 0.5}]},
]  # fmt: skip
HOSTILE = [
    None, False, -1, 2**31, 2**63, 10**400, -1.5, 1e308, float("nan"), float("inf"), "", "x" * 5000, "9" * 5000, "\0",
    "\ud800", "٣", "'; DROP TABLE trial; --", "<script>", "[" * 3000, "a: &a [*a]", "- " * 2000, "\N{FIRE}", "1," * 999,
    DEEP, [None], [{}], [[[]]], {"": None}, {"points": [{}]}, {"points": None}, {"filterModel": DEEP}, {"sort": 1},
    ROWS | {"startRow": "a"}, ROWS | {"endRow": 10**9}, ROWS | {"filterModel": {"hp.x": {"type": "inRange"}}},
    ROWS | {"sortModel": [{"colId": 1}]}, {"study": "s"}, {"study": [], "number": {}, "attempt": "x"},
    [{"dimensions[9].constraintrange": "x"}], list(range(2000)),
]  # fmt: skip
PATHS = ("/", "/study", "/islands", "/trial", "/compare", "/projection", "/export", "/none", "/study/s", "//", "/%00")
KEYS = (
    "name", "study", "number", "attempt", "trial", "trials", "filter", "brush", "sort", "tab", "best", "nodes", "text",
    "cluster", "scaling", "studies", "benchmark", "search", "archived", "context", "self", "x", "y", "",
)  # fmt: skip


class Fuzz:
    """Malformed requests to an app with these callbacks, by a seed."""

    def __init__(self, client, seed):
        self.client = client
        self.random = random.Random(seed)
        known = client.get("/_dash-dependencies").get_json()
        self.callbacks = [callback for callback in known if callback["clientside_function"] is None]

    def value(self):
        return copy.deepcopy(self.random.choice(PLAUSIBLE if self.random.random() < 0.6 else HOSTILE))

    def body(self):
        known = self.random.choice(self.callbacks)
        places = known["output"].strip(".").split("...")
        outputs = [dict(zip(("id", "property"), place.rsplit(".", 1), strict=True)) for place in places]
        inputs = [p | {"value": self.value()} for p in known["inputs"]]
        return {
            "output": known["output"],
            "outputs": outputs if known["output"].startswith("..") else outputs[0],
            "inputs": inputs,
            "state": [p | {"value": self.value()} for p in known["state"]],
            "changedPropIds": [f"{p['id']}.{p['property']}" for p in self.random.sample(inputs, k=min(1, len(inputs)))],
        }

    def broken(self):
        """A body in which something is missing, or of another type."""
        body = self.body()
        place = body
        for _ in range(self.random.randrange(3)):
            inner = [
                v for v in (place.values() if isinstance(place, dict) else place) if isinstance(v, dict | list) and v
            ]
            place = self.random.choice(inner) if inner else place
        key = self.random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if self.random.random() < 0.4:
            del place[key]
        else:
            place[key] = self.value()
        return body

    def address(self):
        some = self.random.sample(KEYS, k=self.random.randint(1, 5))
        values = [self.value() for _ in some]
        texts = [v if isinstance(v, str) else json.dumps(v) for v in values]
        query = "&".join(f"{key}={quote(text, errors='replace')}" for key, text in zip(some, texts, strict=True))
        return self.random.choice(PATHS), f"?{query}"

    def page(self):
        """The callback by which a browser asks for the page of an address."""
        path, search = self.address()
        (known,) = (c for c in self.callbacks if "_pages_content.children" in c["output"])
        values = {"pathname": path, "search": search}
        named = [p | {"value": values.get(p["property"])} for p in known["inputs"]]
        outputs = [
            dict(zip(("id", "property"), place.rsplit(".", 1), strict=True))
            for place in known["output"].strip(".").split("...")
        ]
        return {
            "output": known["output"],
            "outputs": outputs,
            "inputs": named,
            "state": [p | {"value": None} for p in known["state"]],
            "changedPropIds": ["_pages_location.search"],
        }


@pytest.fixture(scope="module", params=[False, True], ids=["reading", "editing"])
def client(request, tmp_path_factory):
    store = boards.study(tmp_path_factory.mktemp("store"), [0.5, 0.6, None, 0.7, 0.8])
    return create_app(store, allow_edit=request.param).server.test_client()


def check(send, what):
    started = time.process_time()
    answer = send()
    spent = time.process_time() - started
    assert answer.status_code < 500, f"{what}: {answer.get_data(as_text=True)[:500]}"
    assert spent < 5, f"{what} took {spent:.1f} CPU seconds"
    if answer.status_code == 400 and answer.mimetype == "text/plain":
        assert answer.get_data(as_text=True).count("\n") == 1
    return answer.status_code


def test_no_malformed_request_is_answered_with_500(client, caplog):
    caplog.set_level(logging.WARNING)
    fuzz = Fuzz(client, seed=19)
    seen = []
    for make, count in (
        (fuzz.body, NUM_CALLBACKS // 2),
        (fuzz.page, NUM_PAGES // 2),
        (fuzz.broken, NUM_BODIES // 2),
    ):
        for number in range(count):
            body = make()
            text = json.dumps(body)
            post = lambda text=text: client.post(  # noqa: E731
                "/_dash-update-component", data=text, content_type="application/json"
            )
            seen.append(check(post, f"{make.__name__} {number}: {text[:1500]}"))
    for number in range(50):
        address = "".join(fuzz.address())
        seen.append(check(lambda address=address: client.get(address), f"address {number}: {address[:1500]}"))
    assert len(seen) == 1000  # of each app
    assert 200 in seen
    assert 400 in seen
    assert "Traceback" not in caplog.text
