"""Texts that every database can hold."""

import json

import pytest

from atoll.storage.text import may_be_unstorable, shortened, storable


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("caf\udce9.png", "caf\ufffd.png"),
        ("a\0b", "ab"),
        ("\ud83d alone, and \U0001f600 whole", "\ufffd alone, and \U0001f600 whole"),
        ("plain é", "plain é"),
    ],
)
def test_what_utf_8_or_postgresql_lacks_is_replaced_in_every_text(text, stored):
    assert storable({text: [text, {"deep": text}, 1, None]}) == {stored: [stored, {"deep": stored}, 1, None]}
    stored.encode()


def test_it_is_found_in_lines_of_json_however_it_is_written():
    for text in ("a\0", "\udce9", "\ud83d"):
        assert may_be_unstorable(json.dumps(text).encode())
        assert may_be_unstorable(json.dumps(text).upper().replace("\\U", "\\u").encode())
    assert may_be_unstorable(json.dumps("\udce9", ensure_ascii=False).encode(errors="surrogatepass"))
    assert not may_be_unstorable('{"a": "plain é, 中文, \\u00e9"}'.encode())


def test_a_long_text_keeps_head_and_tail_and_tells_how_much_is_between():
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 500 + "b" * 2000 + "c" * 500, 1000) == (
        "a" * 500 + "\n[... 2,000 characters cut ...]\n" + "c" * 500
    )
