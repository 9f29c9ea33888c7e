"""Studies that were measured with different code, data or libraries are told."""

from atoll.analysis.provenance_differences import differing, num_measured_with


def record(**measured):
    return {"measured": measured}


def test_what_two_studies_share_and_that_differs_is_told():
    first = record(code={"/a/w.py": "1", "/a/x.py": "1"}, libraries={"torch": "2.12", "numpy": "1"})
    second = record(code={"/a/w.py": "2", "/b/y.py": "1"}, libraries={"torch": "2.13", "numpy": "1", "scipy": "1"})
    assert differing([first, second, first]) == ["w.py", "torch 2.12 and 2.13"]
    assert differing([first, first]) == []
    assert differing([]) == []
    assert differing([record(atoll_source="1"), record(atoll_source="2")]) == ["atoll's own source"]


def test_data_are_compared_by_hash_if_it_is_known():
    def data(sha256, modified):
        return record(data={"x.npz": {"size": 1, "modified": modified, "sha256": sha256}})

    assert differing([data("1", 0.0), data("1", 5.0)]) == []
    assert differing([data("1", 0.0), data("2", 0.0)]) == ["data x.npz"]
    assert differing([data(None, 0.0), data(None, 5.0)]) == ["data x.npz"]


def test_records_of_other_types_do_no_harm():
    assert differing([{}, {"measured": 3}, record(code=[1], data={"x": 3}, libraries=None)]) == []


def test_versions_that_differ_in_the_space_only_measure_the_same():
    first = record(code={"/a/w.py": "1"}) | {"space": {"fixed": {"x": 1}}}
    records = {1: first, 2: first | {"space": {"fixed": {"x": 2}}}, 3: first | record(code={"/a/w.py": "2"})}
    assert num_measured_with([1, 2, 2], records) == 1
    assert num_measured_with([1, 2, 3], records) == 2
    assert num_measured_with([None, 1], records) == 2
    assert num_measured_with([4, 5], records) == 2  # whose records are not there
    assert num_measured_with([], records) == 0
