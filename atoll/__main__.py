"""`python -m atoll` and `atoll`: the command line, which hears signals before its imports."""

from __future__ import annotations

import sys
from typing import NoReturn

from atoll.platform import rank_guard, stop_signals


def main() -> NoReturn:
    """Run a command."""
    rank_guard.guard(sys.argv[1:])
    stop_signals.end_on_signals(sys.argv[1:])
    from atoll.platform import cli

    cli.main()


if __name__ == "__main__":
    main()
