"""`python -m atoll` is the command line."""

from atoll.platform.cli import main

if __name__ == "__main__":
    main()
