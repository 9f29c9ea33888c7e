"""Makes a store as large as a long search's, with synthetic trials and reports, to measure its readers.

python benchmarks/large_store.py [--trials N] [--reports N] [--quick] [--json FILE] STORE.db
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from comparison import write

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a new SQLite file")
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--reports", type=int, default=20, help="reports per trial")
    parser.add_argument("--quick", action="store_true", help="2,000 trials")
    parser.add_argument("--json", metavar="FILE", help="write the figures; - for standard output")
    options = parser.parse_args()
    if options.store.exists():
        parser.error(f"{options.store} is there already; name a file that is not")
    num_trials = 2000 if options.quick else options.trials
    begun = time.perf_counter()
    large.make(options.store, num_trials, options.reports)
    figures = {
        "trials": num_trials,
        "reports": num_trials * options.reports,
        "seconds": time.perf_counter() - begun,
        "megabytes": options.store.stat().st_size / 1e6,
    }
    line = "{trials:,} trials, {reports:,} reports: {megabytes:.0f} MB in {seconds:.1f} s".format(**figures)
    print(line, file=sys.stderr)
    write(options, figures)


if __name__ == "__main__":
    main()
