"""The training methods, one a file. The registry is literal: name -> module:class, imported when asked for."""

METHODS = {
    "ab": "atoll.methods.ab:Ab",
    "admm_consensus": "atoll.methods.admm_consensus:AdmmConsensus",
    "adownpour": "atoll.methods.adownpour:Adownpour",
    "asgd": "atoll.methods.asgd:Asgd",
    "daso": "atoll.methods.daso:Daso",
    "ddp": "atoll.methods.ddp:Ddp",
    "diloco": "atoll.methods.diloco:Diloco",
    "downpour": "atoll.methods.downpour:Downpour",
    "eamsgd": "atoll.methods.eamsgd:Eamsgd",
    "easgd": "atoll.methods.easgd:Easgd",
    "easgd_tree": "atoll.methods.easgd_tree:EasgdTree",
    "local_sgd": "atoll.methods.local_sgd:LocalSgd",
    "mdownpour": "atoll.methods.mdownpour:Mdownpour",
    "msgd": "atoll.methods.msgd:Msgd",
    "mvadownpour": "atoll.methods.mvadownpour:Mvadownpour",
    "mvasgd": "atoll.methods.mvasgd:Mvasgd",
    "oialr": "atoll.methods.oialr:Oialr",
    "powersgd": "atoll.methods.powersgd:Powersgd",
    "sgd": "atoll.methods.sgd:Sgd",
}
