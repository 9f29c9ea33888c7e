"""What every page is given: links, the store's option, and work in the background."""

import boards
import pytest

from atoll.dashboard.context import Background, Context
from atoll.storage.store import Store, StoreError


def test_commands_name_a_store_that_is_not_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    boards.study(tmp_path, [0.5])
    assert Context(Store()).store_option == ""
    assert Context(Store("sqlite:///./a b.db")).store_option == " --store 'sqlite:///./a b.db'"


def test_work_in_the_background_is_done_once():
    background, calls = Background(), []

    def work():
        calls.append(1)
        return "found"

    assert background.get("key", work, patience=10) == "found"
    assert background.get("key", work) == "found"
    assert len(calls) == 1


def test_work_that_failed_is_tried_again():
    background, calls = Background(), []

    def fail_once():
        calls.append(1)
        if len(calls) == 1:
            raise StoreError("no")
        return "found"

    with pytest.raises(StoreError, match="no"):
        background.get("key", fail_once, patience=10)
    assert background.get("key", fail_once, patience=10) == "found"


def test_links_lie_under_the_prefix_and_quote_names(tmp_path):
    context = Context(Store(f"sqlite:///{tmp_path}/atoll.db"), base_path="/p/")
    assert context.link("study", name="a b&c=d/é") == "/p/study?name=a+b%26c%3Dd%2F%C3%A9"
    assert context.link("trial", study="s", attempt=None) == "/p/trial?study=s"
    assert context.link() == "/p/"
