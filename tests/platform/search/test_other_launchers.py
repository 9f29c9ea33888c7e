"""What a root learns from other launchers' trials: as from those of its own launch, without sending them on."""

import copy
import random
from types import SimpleNamespace

import journals
import pytest
from archipelago import Archipelago

from atoll.communication.local_mailbox import LocalMailbox
from atoll.platform.search.launch_settings import LaunchSettings
from atoll.platform.search.other_launchers import OtherLaunchers, Reader
from atoll.platform.search.proposals import key
from atoll.platform.search.resume import Past
from atoll.platform.search.scoring import Scoring
from atoll.platform.search.shared_study import SharedStudy
from atoll.platform.search.shared_tickets import Member, TicketLog, joined
from atoll.platform.study.migration import Migration
from atoll.platform.study.plan import Plan
from atoll.platform.study.study import Study
from atoll.storage.events import StopRuleMet
from atoll.storage.journal import JournalWriter

SPACE = {"learning_rate": {"low": 0.01, "high": 1.0, "log": True}}


def plan(*, pollination=True):
    migration = {"pollination": pollination}
    content = {"space": SPACE, "topology": {"islands": 2}, "migration": migration}
    return Plan.of(Study(name="s", workload="digits_mlp", method="ddp", **content))


class Root:
    """A root on island 0 of two, which writes down what it is told."""

    def __init__(self, folder, *, pollination=True, index=0, real=False, past=None):
        self.told, self.failed, self.spent, self.replayed, self.workers = [], [], [], [], []
        self.elsewhere, self.met = [], []
        of = plan(pollination=pollination)
        note = lambda *news: self.told.append(news)  # noqa: E731
        self.learns = OtherLaunchers(
            roots=LocalMailbox.connected(1)[0],
            plan=of,
            past=copy.deepcopy(past) or Past(),
            scoring=Scoring(of.objectives, of.subject),
            island=self._island(index) if real else SimpleNamespace(take_in=note, has_workers=self.workers.append),
            index=index,
            candidates=SimpleNamespace(failed=self.failed.append),
            pruner=SimpleNamespace(replay=lambda number, report: self.replayed.append((number, report.epoch))),
            budget=SimpleNamespace(spend=self.spent.append),
            stopping=SimpleNamespace(elsewhere=self.elsewhere.append, met_elsewhere=self.met.append),
            reader=SharedStudy(folder, settings(1), {}, is_first=True).reader(),
        )

    def _island(self, index):
        """An island of this launch with no others."""
        world = Archipelago([1, 1], Migration(pollination=False))
        (self.population,) = world.on(index)
        return world.islands[index]

    def kinds(self):
        """What has happened to which trial."""
        return [(kind, getattr(content[0], "number", content[0])) for kind, *content in self.told]


def settings(launch):
    return LaunchSettings(Member(launch, launch, launch - 1, 1, launch - 1, (1, 0)), {}, opened_by=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(Reader, "INTERVAL", 0.0)
    folder = journals.start_folder(tmp_path / "s")
    log = TicketLog(folder.ticket_log(1))
    log.create()
    for launch in (1, 2):
        log.append(joined(settings(launch).member))
    return folder


@pytest.fixture
def other(folder):
    """The journal of another launcher's root."""
    lines = JournalWriter(folder.root_journal(1, 2), 2)
    yield lines
    lines.close()


def start(lines, number, island=0, **changes):
    hyperparameters = plan().space.default() | {"learning_rate": 0.1 + number / 100}
    journals.start_trial(lines, number, island=island, hyperparameters=hyperparameters, **changes)
    return hyperparameters


def test_its_trials_join_the_population_and_their_reports_the_rule_of_pruning(folder, other):
    root = Root(folder)
    start(other, 0)
    start(other, 1, island=1)
    for number in (0, 1):
        journals.report(other, number, 1)
        journals.end_trial(other, number, 0.5, busy_seconds=3.0)
    root.learns.receive()
    assert root.kinds() == [("started", 0), ("taken", 1), ("arrived", 0)]  # the other one is on another island
    individual = root.told[2][1]
    assert (individual.losses, individual.home, individual.island) == ((-0.5,), -1, 0)
    assert root.replayed == [(0, 1), (1, 1)]
    assert root.spent == [3.0, 3.0]
    assert root.workers == [2]
    root.learns.receive()
    assert len(root.told) == 3


def test_its_results_and_decisions_are_those_of_the_rules_that_end_the_search(folder, other):
    root = Root(folder)
    start(other, 0)
    journals.end_trial(other, 0, 0.5)
    met = StopRuleMet(rule="target", settings={"target": 0.5}, reason="r", trial=0, num_trials=1)
    other.append(met)
    root.learns.receive()
    assert [(trial.number, trial.state, trial.objective) for trial in root.elsewhere] == [(0, "complete", 0.5)]
    assert [(event.rule, event.settings) for event in root.met] == [("target", {"target": 0.5})]


def test_what_has_failed_there_is_not_evaluated_here_and_what_is_lost_is_dropped(folder, other):
    root = Root(folder)
    hyperparameters = start(other, 0)
    journals.end_trial(other, 0, None)
    start(other, 1)
    journals.end_trial(other, 1, None, state="lost", busy_seconds=9.0)
    root.learns.receive()
    assert root.failed == [key(hyperparameters)]
    assert root.kinds() == [("started", 0), ("dropped", 0), ("started", 1), ("dropped", 1)]
    assert root.spent == [0.0]  # a lost trial is trained again


@pytest.mark.parametrize("pollination", [True, False])
def test_its_migrants_move_as_its_journal_says(folder, other, pollination):
    root = Root(folder, pollination=pollination)
    for number, island in ((0, 0), (1, 1)):
        start(other, number, island=island)
        journals.end_trial(other, number, 0.5)
        other.append(journals.event("migrated", {"number": number, "from_island": island, "to_island": 1 - island}))
    root.learns.receive()
    left = [] if pollination else [("left", 0)]
    assert root.kinds() == [("started", 0), ("arrived", 0), *left, ("taken", 1), ("arrived", 1)]
    assert root.told[-1][1].steps == 1


@pytest.mark.parametrize("seed", range(12))
def test_an_individual_that_moves_and_returns_there_is_in_one_place_whatever_the_order_of_news(folder, seed):
    """The lines of different roots, and of an individual's result, are read in any order."""
    rng = random.Random(seed)
    moves = [(0, 1), (1, 0), (0, 1), (1, 0), (0, 1)][: rng.randrange(1, 6)]
    lines = [
        {"number": 0, "from_island": origin, "to_island": target, "steps": steps}
        for steps, (origin, target) in enumerate(moves)
    ]
    roots = [Root(folder, pollination=False, index=index, real=True) for index in (0, 1)]
    events = [("migrated", line) for line in lines] + ["end"]
    if seed % 3:
        rng.shuffle(events)
    writers = [JournalWriter(folder.root_journal(number, 2), 2) for number in (1, 2)]
    start(writers[0], 0)
    for event in events:
        writer = rng.choice(writers)
        if event == "end":
            journals.end_trial(writers[0], 0, 0.5)
        else:
            writer.append(journals.event(*event))
        if rng.random() < 0.5:
            for root in roots:
                root.learns.receive()
    for root in roots:
        root.learns.receive()
    here = [[(i.number, i.steps) for i in root.population] for root in roots]
    assert here == [[(0, len(moves))] if index == moves[-1][1] else [] for index in (0, 1)]
    for writer in writers:
        writer.close()


def test_moves_before_this_launch_began_are_known_when_the_result_is_read(folder, other):
    """Another journal may have been read further at the start than the one with the result."""
    past = Past()
    past.add(journals.event("migrated", {"number": 0, "from_island": 1, "to_island": 0, "steps": 1}))
    roots = [Root(folder, pollination=False, index=index, real=True, past=past) for index in (0, 1)]
    start(other, 0)
    journals.end_trial(other, 0, 0.5)
    other.append(journals.event("migrated", {"number": 0, "from_island": 0, "to_island": 1, "steps": 0}))
    for root in roots:
        root.learns.receive()
    assert [[(i.number, i.steps) for i in root.population] for root in roots] == [[(0, 2)], []]


def test_a_result_that_is_continued_there_is_renewed_on_every_island(folder, other):
    root = Root(folder)
    start(other, 1, island=1)
    journals.end_trial(other, 1, 0.5)
    start(other, 1, island=1, attempt=1, home=1)
    journals.end_trial(other, 1, 0.8, attempt=1)
    root.learns.receive()
    assert root.kinds() == [("taken", 1), ("renewed", 1)]
    assert root.told[1][1].losses == (-0.8,)


def test_its_own_journals_are_passed_over(folder):
    root = Root(folder)
    mine = JournalWriter(folder.root_journal(0), 1)
    start(mine, 0)
    mine.close()
    root.learns.receive()
    assert root.told == []
