"""Exit codes of atoll and of its ranks."""

FAILURE = 1  # a search, training or check failed
USAGE = 2  # wrong options or a wrong file
EXIT_JOURNAL = 74  # of a rank: its journal cannot be written (EX_IOERR)
EXIT_STOPPED = 75  # stopped, and can be resumed (EX_TEMPFAIL)
