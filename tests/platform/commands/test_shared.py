"""What commands print."""

import json

import pytest

from atoll.platform.commands.shared import LONG_LIST, print_json


@pytest.mark.parametrize("length", [0, 3, LONG_LIST + 1])
def test_a_list_is_json_however_long(capsys, length):
    content = [{"number": number, "note": 'a "quoted"\nline', "none": None} for number in range(length)]
    print_json(content)
    assert json.loads(capsys.readouterr().out) == content
