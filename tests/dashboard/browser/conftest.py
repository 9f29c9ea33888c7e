"""A store that the browser's tests share, each with studies of its own."""

import pytest
from served import dashboard

from atoll.storage.store import Store


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder with a store, in which tests put studies of their own, and the address of a dashboard over it."""
    path = tmp_path_factory.mktemp("shared")
    with dashboard(str(Store(f"sqlite:///{path}/atoll.db"))) as url:
        yield path, url
