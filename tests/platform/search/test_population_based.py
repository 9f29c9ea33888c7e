"""How a member's hyperparameters change when it takes another one's state; `launch/` has whole searches."""

import json
import random
from collections import Counter
from pathlib import Path

from atoll.platform.search.population_based import EvenRungs, Explorer, Members
from atoll.platform.search.promotion import Ended
from atoll.platform.search.tickets import Ticket
from atoll.platform.study.interval import Every
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage.folder import StudyFolder

STUDY = {
    "name": "p",
    "workload": "digits_mlp",
    "method": "daso",
    "epochs": 4,
    "topology": {"ranks": 2, "ranks_per_node": 1},
    "checkpoint": {"every": "1 epochs"},
    "sampler": {"name": "pbt", "every": "1 epochs", "resample": 0.0, "factor": 1.2},
}
NUM_DRAWS = 400


def changed(space, values, **sampler):
    """The values of each of many changes after step 18, and the tickets."""
    settings = STUDY["sampler"] | sampler
    plan = Plan.of(Study.model_validate(STUDY | {"space": space, "sampler": settings}))
    whole = plan.space.default() | values
    schedule = {name: {0: whole[name], 9: whole[name]} for name in plan.mutable}
    better = Ticket(7, 3, whole, reached=2.0, home=0, schedule=schedule, seed=11)
    tickets = [Explorer(plan).change(better, 18, random.Random(seed)) for seed in range(NUM_DRAWS)]
    return whole, [ticket for ticket in tickets if ticket is not None]


def test_numbers_move_by_the_factor_up_and_down_alike_and_the_schedule_says_where():
    before, tickets = changed({"learning_rate": {"low": 0.001, "high": 1.0, "log": True}}, {"learning_rate": 0.1})
    rates = Counter(round(ticket.hyperparameters["learning_rate"], 9) for ticket in tickets)
    assert set(rates) == {0.12, round(0.1 / 1.2, 9)}
    assert min(rates.values()) > 0.4 * len(tickets)  # of a fair coin 400 times, less than 1 in 10,000
    for ticket in tickets:
        assert (ticket.seed, ticket.proposal["parents"], ticket.proposal["attributes"]) == (
            11,
            [7],
            {"pbt:reached": 2.0},
        )
        assert ticket.schedule["learning_rate"] == {0: 0.1, 9: 0.1, 18: ticket.hyperparameters["learning_rate"]}
        same = [name for name, value in ticket.hyperparameters.items() if value == before[name]]
        assert all(18 not in ticket.schedule[name] for name in same if name in ticket.schedule)
        assert {"batch_size", "wire", "schedule"} <= set(same)  # these may not change


def test_steps_of_a_range_are_moves_of_one_at_least_up_and_down_alike():
    space = {"momentum": {"low": 0.0, "high": 0.9, "step": 0.1}, "B": {"low": 2, "high": 32, "step": 2}}
    _, tickets = changed(space, {"momentum": 0.3, "B": 6, "S": 2})
    moves = Counter(round(ticket.hyperparameters["momentum"], 9) for ticket in tickets)
    assert set(moves) == {0.2, 0.4}
    assert min(moves.values()) > 0.4 * len(tickets)
    assert {ticket.hyperparameters["B"] for ticket in tickets} == {4, 8}


def test_limits_constraints_and_choices_hold_and_zero_is_drawn_anew():
    space = {
        "B": {"low": 1, "high": 8},
        "momentum": {"choices": [0.0, 0.5, 0.9]},
        "weight_decay": {"low": 0.0, "high": 0.1},
    }
    _, tickets = changed(space, {"B": 8, "S": 8, "momentum": 0.5, "weight_decay": 0.0})
    assert len(tickets) == NUM_DRAWS
    for values in (ticket.hyperparameters for ticket in tickets):
        assert 0 <= values["S"] <= values["B"] <= 8
        assert values["momentum"] in (0.0, 0.9)
        assert 0 < values["weight_decay"] < 0.1
    assert {ticket.proposal["sources"]["weight_decay"] for ticket in tickets} == {"resample"}
    assert {ticket.proposal["sources"]["B"] for ticket in tickets} == {"perturb"}
    _, tickets = changed({"B": {"low": 1, "high": 8}}, {"B": 4}, resample=1.0)
    assert {ticket.hyperparameters["B"] for ticket in tickets} == set(range(1, 9))


def paused(folder, plan, number, epoch, value):
    """A member that has paused, with its checkpoint."""
    trial = folder.trial(number)
    trial.path.mkdir(parents=True, exist_ok=True)
    for rank in range(2):
        trial.state(9 * epoch, rank).write_text(f"{number} after {epoch}")
    trial.manifest.write_text(json.dumps({"step": 9 * epoch, "training": {"size": 2}}))
    whole = plan.space.default() | {"learning_rate": 0.1 + 0.01 * number}
    schedule = {name: {0: whole[name]} for name in plan.mutable}
    ticket = Ticket(number, epoch, whole, reached=float(epoch), home=0, schedule=schedule, seed=number)
    return Ended(number, [(float(epoch), value)], ticket, 9 * epoch)


def test_a_member_that_lags_takes_the_state_of_a_better_one_and_gives_none_until_it_pauses_again(tmp_path):
    plan, folder = Plan.of(Study.model_validate(STUDY | {"trials": 5})), StudyFolder(tmp_path)
    members = Members(plan, folder)
    for epoch, values in ((1, [0.1, 0.2, 0.3, 0.4]), (2, [0.9, 0.1, 0.2, 0.3])):  # the first one falls behind
        for number, value in enumerate(values):
            members.take_in(paused(folder, plan, number, epoch, value))
    lags = members.promote(0, has_new=False)
    assert (lags.number, lags.attempt, lags.seed, lags.proposal["parents"]) == (0, 2, 1, [1])
    assert folder.trial(0).staged_manifest.exists()
    # It was the best at rung 1, but its folder may still have the state that it has given up.
    members.take_in(paused(folder, plan, 4, 1, 0.9))
    late = members.promote(1, has_new=False)
    assert (late.number, late.seed, late.proposal) == (4, 4, None)
    goes_on = [members.promote(2, has_new=False) for _ in range(3)]
    assert [(ticket.number, ticket.seed, ticket.proposal) for ticket in goes_on] == [(n, n, None) for n in (1, 2, 3)]
    assert members.promote(5, has_new=False) is None
    members.take_in(Ended(1))  # with its end, its files are gone
    members.take_in(paused(folder, plan, 4, 2, 0.8))
    assert members.promote(3, has_new=False).seed == 4  # the best at rung 2 has ended


def test_it_is_said_where_no_state_can_be_linked(tmp_path, monkeypatch, caplog):
    plan, folder = Plan.of(Study.model_validate(STUDY | {"trials": 4})), StudyFolder(tmp_path)
    members = Members(plan, folder)
    for number, value in enumerate([0.4, 0.1, 0.2, 0.3]):
        members.take_in(paused(folder, plan, number, 1, value))

    def refused(*_arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    assert members.promote(0, has_new=False).proposal is None
    assert "trial 0 keeps its state, as that of trial 1 cannot be linked" in caplog.text
    assert "Operation not permitted" in caplog.text


def test_new_members_come_first_until_the_population_is_complete(tmp_path):
    settings = STUDY["sampler"] | {"population": 2}
    plan, folder = Plan.of(Study.model_validate(STUDY | {"trials": 4, "sampler": settings})), StudyFolder(tmp_path)
    members = Members(plan, folder)
    members.take_in(paused(folder, plan, 0, 1, 0.5))
    assert members.promote(0, has_new=True) is None
    assert members.promote(1, has_new=True).number == 0
    members.take_in(paused(folder, plan, 1, 2, 0.5))
    assert members.promote(0, has_new=False).number == 1


def test_rungs_are_the_multiples_of_an_interval():
    rungs = EvenRungs(Every.parse("3 epochs"))
    assert list(rungs.passed(0, 2)) == []
    assert list(rungs.passed(0, 3)) == [3]
    assert list(rungs.passed(3, 9.5)) == [6, 9]
