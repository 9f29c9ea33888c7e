"""The training methods, one a file. The registry is literal: name -> module:class, imported when asked for."""

METHODS = {
    "daso": "atoll.methods.daso:Daso",
    "ddp": "atoll.methods.ddp:Ddp",
    "local_sgd": "atoll.methods.local_sgd:LocalSgd",
}
