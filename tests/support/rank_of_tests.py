"""A rank that runs tests: mpiexec -n RANKS python rank_of_tests.py PLAN.json (see on_ranks.py)."""

import sys
from pathlib import Path

import on_ranks

if __name__ == "__main__":
    on_ranks.main(Path(sys.argv[1]))
