"""What may be searched, one file per method. The registry is literal: name -> module:object."""

SEARCH_SPACES = {
    "ab": "atoll.searchspaces.ab:SPACE",
    "admm_consensus": "atoll.searchspaces.admm_consensus:SPACE",
    "adownpour": "atoll.searchspaces.adownpour:SPACE",
    "asgd": "atoll.searchspaces.asgd:SPACE",
    "daso": "atoll.searchspaces.daso:SPACE",
    "ddp": "atoll.searchspaces.ddp:SPACE",
    "diloco": "atoll.searchspaces.diloco:SPACE",
    "downpour": "atoll.searchspaces.downpour:SPACE",
    "eamsgd": "atoll.searchspaces.eamsgd:SPACE",
    "easgd": "atoll.searchspaces.easgd:SPACE",
    "easgd_tree": "atoll.searchspaces.easgd_tree:SPACE",
    "local_sgd": "atoll.searchspaces.local_sgd:SPACE",
    "mdownpour": "atoll.searchspaces.mdownpour:SPACE",
    "msgd": "atoll.searchspaces.msgd:SPACE",
    "mvadownpour": "atoll.searchspaces.mvadownpour:SPACE",
    "mvasgd": "atoll.searchspaces.mvasgd:SPACE",
    "oialr": "atoll.searchspaces.oialr:SPACE",
    "powersgd": "atoll.searchspaces.powersgd:SPACE",
    "sgd": "atoll.searchspaces.sgd:SPACE",
}
