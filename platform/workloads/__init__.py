"""The workloads, one a file. The registry is literal: name -> module:class, imported when asked for."""

WORKLOADS = {
    "cifar10_cnn7": "atoll.platform.workloads.cifar10:Cifar10Cnn7",
    "cifar10_lowrank": "atoll.platform.workloads.cifar10:Cifar10LowRank",
    "digits_cnn": "atoll.platform.workloads.digits:DigitsCnn",
    "digits_mlp": "atoll.platform.workloads.digits:DigitsMlp",
    "spoken_digits_mlp": "atoll.platform.workloads.spoken_digits:SpokenDigitsMlp",
}
