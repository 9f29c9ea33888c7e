"""Searches whose trials pause and continue: what their stores and journals say."""

from collections import Counter

from commands import called, journal_lines

from atoll.storage.store import Store

STATES = ("complete", "pruned", "failed")


def search(folder, name, *arguments, code=0):
    return called("search", f"{name}.yaml", "--outside", "--in-process", *arguments, cwd=folder, code=code)


def trials_of(folder, name):
    store = Store(f"sqlite:///{folder}/atoll.db")
    return store.trials(store.study(name))


def curves(folder, name, states=STATES):
    """Of each trial: its state, and the metrics of its curve by epoch; times and attempts may differ."""
    store = Store(f"sqlite:///{folder}/atoll.db")
    results = [trial for trial in store.trials(store.study(name)) if trial.state in states]
    assert max(Counter(trial.number for trial in results).values()) == 1
    return {t.number: (t.state, [(r.epoch, r.metric, r.train_loss) for r in store.progress([t.id])]) for t in results}


def jobs(folder):
    """The numbers of the trials that were started or continued, in order; a lost attempt's next one is the same job."""
    lost = {(line["number"], line["attempt"]) for line in journal_lines(folder, "trial_lost")}
    lost |= {(t["number"], t["attempt"]) for t in journal_lines(folder, "trial_ended") if t["state"] == "lost"}
    started = sorted(journal_lines(folder, "trial_started"), key=lambda line: line["time"])
    return [line["number"] for line in started if (line["number"], line["attempt"] - 1) not in lost]
