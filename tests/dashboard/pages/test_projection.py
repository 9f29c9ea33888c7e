"""The page of predictions."""

import time

import boards
import pytest

from atoll.dashboard.context import Context
from atoll.dashboard.pages import projection
from atoll.storage.store import StoreError
from atoll.storage.yamlfile import FileError


def test_a_cluster_that_somebody_edited_is_checked(tmp_path):
    assert projection.read(projection.text_of("laptop")).name == "laptop"
    for text, words in (
        ("- 1", "must hold keys"),
        (":\n -", "not valid YAML"),
        ("name: x", "required"),
        ("", "must hold"),
    ):
        with pytest.raises(FileError, match=words):
            projection.read(text)
    context = Context(boards.study(tmp_path, [0.5]))
    with pytest.raises(StoreError, match="holds nothing to project"):
        predicted(context)


def predicted(context):
    while (found := projection.predict(context, "s", projection.text_of("laptop"), "1,2", "weak")) is None:
        time.sleep(0.01)
    return found
