"""What commands print."""

import json

import pytest

from atoll.platform.commands.shared import LONG_LIST, print_json, store_flag


@pytest.mark.parametrize("length", [0, 3, LONG_LIST + 1])
def test_a_list_is_json_however_long(capsys, length):
    content = [{"number": number, "note": 'a "quoted"\nline', "none": None} for number in range(length)]
    print_json(content)
    assert json.loads(capsys.readouterr().out) == content


def test_printed_commands_name_a_store_that_they_would_not_find(monkeypatch):
    monkeypatch.delenv("ATOLL_STORE", raising=False)
    assert store_flag(None) == store_flag("sqlite:///atoll.db") == store_flag("atoll.db") == ""
    assert store_flag("other one.db") == " --store 'sqlite:///other one.db'"
    assert "secret" not in store_flag("postgresql://me:secret@host/db")
    monkeypatch.setenv("ATOLL_STORE", "sqlite:///other one.db")
    assert store_flag("other one.db") == store_flag(None) == ""
    assert store_flag("atoll.db") == " --store sqlite:///atoll.db"
