"""Whether a study is still the one that was started, and what it keeps of its start."""

import json

import pytest

from atoll.platform.launch import same_study
from atoll.platform.study.study import Study
from atoll.storage.folder import StudyFolder

CONTENT = {"name": "s", "workload": "digits_mlp", "method": "ddp"}
EARLIER = {"name": "mixed", "samplers": [{"name": "optuna-gp"}, {"name": "random"}]}  # another version's default


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path / "s")
    folder.create()
    folder.definition.write_text(json.dumps({"definition": same_study.definition(Study(**CONTENT, sampler=EARLIER))}))
    return folder


@pytest.mark.parametrize("content", [{}, {"sampler": {"name": "mixed"}}])
def test_a_study_that_names_no_sampler_keeps_that_of_its_start(folder, content):
    kept = same_study.as_recorded(Study(**CONTENT, **content), folder)
    assert kept.sampler == Study(**CONTENT, sampler=EARLIER).sampler
    assert kept.workload == "digits_mlp"


@pytest.mark.parametrize("sampler", [{"name": "random"}, {"name": "mixed", "samplers": [{"name": "random"}] * 2}])
def test_a_study_that_names_another_sampler_has_it(folder, sampler):
    named = Study(**CONTENT, sampler=sampler)
    assert same_study.as_recorded(named, folder) == named


def test_a_new_study_has_the_default(tmp_path):
    study = Study(**CONTENT)
    assert same_study.as_recorded(study, StudyFolder(tmp_path)) is study


def test_a_study_whose_record_cannot_be_read_is_compared_later(folder):
    folder.definition.write_text("{}")
    study = Study(**CONTENT)
    assert same_study.as_recorded(study, folder) is study
