"""Studies that learn from elsewhere, and what they learn from."""

import json

import boards
import journals
import pandas as pd

from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study

SPACE = {
    "learning_rate": {"low": 0.001, "high": 1.0, "log": True},
    "momentum": {"low": 0.0, "high": 0.9},
    "batch_size": {"low": 8, "high": 64},
    "schedule": {"choices": ["constant", "cosine"]},
    "optimizer": "sgd",
    "weight_decay": 0.0,
    "wire": "float32",
}
ROW = {"learning_rate": 0.1, "momentum": 0.5, "batch_size": 32, "schedule": "cosine"}


def plan(source, **content):
    study = {"name": "s", "workload": "digits_mlp", "method": "ddp", "space": SPACE, "learn_from": source}
    return Plan.of(Study.model_validate(study | content))


def write(path, rows):
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        frame.to_parquet(path)
    return str(path)


def stored(tmp_path, hyperparameters, **changes):
    """A store with a study t, of one complete and one failed trial for each of these hyperparameters."""
    store, lines, recorder = boards.record(tmp_path, "t", **changes)
    for place, values in enumerate(hyperparameters):
        for number, objective in ((2 * place, 0.5), (2 * place + 1, None)):
            journals.start_trial(lines, number, hyperparameters=values, configuration=configuration(values))
            journals.end_trial(lines, number, objective)
    recorder.catch_up()
    return store


def configuration(values, **others):
    whole = {"optimizer": "sgd", "weight_decay": 0.0, "wire": "float32"} | values
    return {"workload": "digits_mlp", "method": "ddp", "hyperparameters": whole, "epochs": 20} | others


DDP = {"workload": "digits_mlp", "method": "ddp", "metric": "accuracy", "direction": "maximize"}
