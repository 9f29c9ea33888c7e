"""`atoll.Study`: the caller owns the loop, and the search is the usual one."""

import time

import pytest

import atoll
from atoll.platform.launch import ask_tell
from atoll.storage.yamlfile import FileError

pytestmark = pytest.mark.process  # git is asked for the state of the code
SPACE = {"x": atoll.Float(0.0, 1.0), "n": atoll.Int(1, 8)}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = []

    def study(**settings):
        opened.append(atoll.Study(settings.pop("space", SPACE), name="s", **settings))
        return opened[-1]

    yield study
    for one in opened:
        one.close()


def results():
    return atoll.open("atoll.db").study("s")


def test_what_is_told_is_in_the_store_and_in_the_sampler(study):
    with study(sampler="optuna-tpe") as own:
        for _ in range(25):
            trial = own.ask()
            assert set(trial) == {"x", "n"}
            own.tell(trial, (trial["x"] - 0.3) ** 2)
    found = results()
    trials = found.trials()
    assert (found.state, len(trials)) == ("complete", 25)
    assert trials["objective.value"].tolist() == pytest.approx(((trials["hp.x"] - 0.3) ** 2).tolist())
    late, early = trials["objective.value"][15:].mean(), trials["objective.value"][:10].mean()
    assert late < early  # TPE has learned


def test_several_trials_may_be_under_way_and_no_more(study):
    own = study(workers=3)
    asked = [own.ask() for _ in range(3)]
    assert len({trial.number for trial in asked}) == 3
    with pytest.raises(RuntimeError, match=r"at most 3 trials \(workers\) may be under way; tell one of: "):
        own.ask()
    own.tell(asked[1], 1.0)
    assert own.ask().number not in {trial.number for trial in asked}
    with pytest.raises(RuntimeError, match=f"trial {asked[1].number} was told before"):
        own.tell(asked[1], 1.0)
    with pytest.raises(RuntimeError, match=f"trial {asked[1].number} was told before"):
        asked[1].report(1.0)


def test_reports_prune(study):
    own = study(pruning={"rule": "asha", "grace": 2, "factor": 2})
    for number in range(3):
        trial = own.ask()
        try:
            for step in range(5):
                trial.report(float(number), step)
        except atoll.Pruned:
            own.tell(trial, state="pruned")
        else:
            own.tell(trial, number)
    own.close()
    trials, curves = results().trials(), results().curves()
    assert trials["state"].tolist() == ["complete", "pruned", "pruned"]
    assert curves.groupby("trial")["step"].max().tolist() == [4, 2, 2]


def test_a_failure_has_the_callers_reason(study):
    own = study()
    own.tell(own.ask(), state="failed", reason="the furnace was cold")
    own.tell(own.ask(), {"value": 2.0, "heat": 7})
    own.tell(own.ask(), {"heat": 7})
    own.close()
    trials = results().trials()
    assert trials["state"].tolist() == ["failed", "complete", "failed"]
    assert trials["reason"][0] == "the furnace was cold"
    assert trials["metric.heat"][1] == 7.0
    assert "so value is missing" in trials["reason"][2]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "a complete trial needs a result"),
        ({"result": 1.0, "state": "failed"}, "and others have none"),
        ({"result": "much"}, "what the objective returns must be a number; got 'much'"),
        ({"state": "lost"}, "state must be complete, pruned or failed; got 'lost'"),
    ],
)
def test_what_is_no_result_is_refused_and_the_trial_stays(study, told, message):
    own = study()
    trial = own.ask()
    with pytest.raises((TypeError, ValueError), match=message):
        own.tell(trial, **told)
    own.tell(trial, 1.0)


def test_a_closed_study_continues_with_the_trials_that_were_not_told(study):
    own = study(workers=2)
    first, second = own.ask(), own.ask()
    own.tell(first, 1.0)
    own.close()
    with pytest.raises(RuntimeError, match="is closed"):
        own.ask()
    with pytest.raises(RuntimeError, match="is over"):
        second.report(1.0)
    again = study(workers=2, resume=True)
    repeated = again.ask()
    assert (repeated.number, repeated.attempt, dict(repeated)) == (second.number, 1, dict(second))
    again.tell(repeated, 2.0)
    again.close()
    trials = results().trials()
    assert trials["state"].tolist() == ["complete", "lost", "complete"]


def test_a_trial_whose_time_is_over_fails(study):
    own = study(trial_timeout=0.2)
    trial = own.ask()
    time.sleep(0.5)
    with pytest.raises(RuntimeError, match="trial 0 is over: the trial was stopped after trial_timeout"):
        trial.report(1.0)
    assert own.ask().number == 1


def test_a_trial_of_another_study_is_refused(study, tmp_path):
    own = study()
    mine = own.ask()
    other = atoll.Study(SPACE, name="other", store=tmp_path / "other.db")
    with pytest.raises(ValueError, match="trial 0 was not asked for from this study, s"):
        own.tell(other.ask(), 1.0)
    other.close()
    own.tell(mine, 1.0)


def test_a_search_that_has_failed_is_told(study, monkeypatch):
    own = study()
    trial = own.ask()

    def fails(*_):
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(ask_tell.Handed, "take_in", fails)
    time.sleep(1.0)
    with pytest.raises(RuntimeError, match="of s has ended: failed, a rank failed: ZeroDivisionError: broken"):
        own.tell(trial, 1.0)
    with pytest.raises(atoll.SearchFailed, match="a rank failed: ZeroDivisionError: broken"):
        own.close()


def test_mistakes_are_told_at_once(study):
    with pytest.raises(FileError, match=r"space\.x"):
        study(space={"x": atoll.Float(1.0, 0.0)})
    study().close()
    with pytest.raises(Exception, match="already holds a study"):
        study()


def test_a_change_takes_effect_when_the_study_is_opened_again(study):
    with study(sampler="random", workers=2) as own:
        held, first = own.ask(), own.ask()
        asked = atoll.change("s", space={"x.high": 0.1})
        assert asked["takes_effect"] == "takes effect when the study is opened again (atoll.Study(..., resume=True))"
        own.tell(first, 1.0)
        own.tell(own.ask(), 1.0)  # although a trial is held back
        own.tell(held, 1.0)
    with study(sampler="random", workers=2, resume=True) as own:
        for _ in range(4):
            trial = own.ask()
            own.tell(trial, trial["x"])
    assert (results().trials()["hp.x"] <= 0.1).sum() >= 4  # of seven


def table(tmp_path, loss):
    lines = [f"{x / 20},{1 + x % 8},{loss(x / 20)}" for x in range(20)]
    (tmp_path / "r.csv").write_text("\n".join(["x,n,value", *lines]) + "\n")
    return str(tmp_path / "r.csv")


def test_results_from_elsewhere_are_told(study, tmp_path):
    own = study(sampler={"name": "evolution"}, learn_from=table(tmp_path, lambda x: (x - 0.3) ** 2))
    for _ in range(4):
        own.tell(trial := own.ask(), (trial["x"] - 0.3) ** 2)
    own.close()
    parents = " ".join(results().trials()["parents"].dropna().astype(str))
    assert "-" in parents  # learned results have negative numbers


def test_a_related_source_suggests_the_same_after_a_search_was_interrupted(study, tmp_path, monkeypatch):
    """Suggestions depend on what is known and on the trial's number; a source's trials are none of the study."""
    source = {"file": table(tmp_path, lambda x: 7 * abs(x - 0.5)), "related": True}
    settings = {"trials": 14, "sampler": {"name": "random"}, "learn_from": source}
    found = []
    for stops in ((), (5, 9)):
        (folder := tmp_path / f"stopped{len(stops)}").mkdir()
        monkeypatch.chdir(folder)
        own, values = study(**settings), {}
        while len(values) < 14:
            trial = own.ask()
            if trial.number in stops and trial.attempt == 0:
                own.close()
                (tmp_path / "r.csv").unlink(missing_ok=True)  # a resume does not need it
                own = study(resume=True, **settings)
                continue
            values[trial.number] = dict(trial)
            own.tell(trial, (trial["x"] - 0.52) ** 2 + 1000)
        own.close()
        trials = results().trials()
        assert sorted(trials["trial"].unique()) == list(range(14))
        found.append((values, dict(zip(trials["trial"], trials["operator"], strict=True))))
    assert found[0] == found[1]
    assert list(found[0][1].values()).count("related") >= 4
