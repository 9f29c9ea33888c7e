"""YAML and JSON files: the numbers of YAML 1.2, and mistakes with file and line."""

import math

import pytest
from pydantic import BaseModel

from atoll.storage import yamlfile
from atoll.storage.yamlfile import FileError


class Anything(BaseModel):
    a: object = None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-007", -7),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", 1000),
        ("1e3", 1000.0),
        ("1e-4", 0.0001),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("1:30", "1:30"),
        ("2020-13-45", "2020-13-45"),
        ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"),
        ("true", True),
        ("null", None),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text, value):
    found = yamlfile.read(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("name", ["f.yaml", "f.json"])
def test_keys_given_twice_are_told_with_both_lines(tmp_path, name):
    text = {
        "f.yaml": "a:\n  - {x: 1}\n  - x: 1\n    y: &it {z: 1}\n    x: 2\nb: *it\na: 3\n",
        "f.json": '{"a": [{"x": 1}, {\n\n"x": 1, "y": 2,\n\n"x": 2}],\n\n"a": 3}',
    }[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(FileError) as error:
        yamlfile.load(tmp_path / name, Anything)
    inner, outer = ("line 5: a.1.x: given twice (line 3)", "line 7: a: given twice (line 1)")
    assert set(str(error.value).splitlines()) == {f"{tmp_path / name}, {words}" for words in (inner, outer)}


def test_keys_of_different_types_are_different():
    assert yamlfile.read('1: a\n"1": b') == {1: "a", "1": "b"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\nb: caf\xe9\n", ", line 2: must be UTF-8; byte 11 is 0xe9"),
        (b"a: [" + b"[" * 3000, ": not valid"),
        (b"a: " + b"9" * 5000, ": not valid: Exceeds the limit"),
        (b"a: {", ": not valid YAML"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_file(tmp_path, content, words):
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    with pytest.raises(FileError) as error:
        yamlfile.load(file, Anything)
    assert str(error.value).startswith(f"{file}{words}")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert yamlfile.load(tmp_path / "f.yaml", Anything).a == 1
