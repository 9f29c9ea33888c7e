"""The table of mutants (`benchmarks/mutants.py`) follows the code: each mistake has one place where it can be made."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_each_mutant_has_one_place(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "benchmarks/mutants.py")
    mutants = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutants", mutants)
    spec.loader.exec_module(mutants)
    places = mutants.find(ROOT, mutants.MUTANTS)  # raises with the names of those that have none, or several
    assert set(places) == {mutant.id for mutant in mutants.MUTANTS}
    assert all((ROOT / place.file).is_file() for place in places.values())
