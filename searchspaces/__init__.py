"""What may be searched, one file per method. The registry is literal: name -> module:object."""

SEARCH_SPACES = {
    "daso": "atoll.searchspaces.daso:SPACE",
    "ddp": "atoll.searchspaces.ddp:SPACE",
    "local_sgd": "atoll.searchspaces.local_sgd:SPACE",
}
