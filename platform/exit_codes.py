"""Exit codes of atoll and of its ranks."""

FAILURE = 1  # a search, training or check failed
USAGE = 2  # wrong options or a wrong file
EXIT_JOURNAL = 74  # a rank cannot write its journal (EX_IOERR)
EXIT_STOPPED = 75  # stopped and resumable (EX_TEMPFAIL)
EXIT_PEER_KILLED = 77  # a rank leaves, as another one was killed
EXIT_ORPHANED = 76  # the launcher of a rank has ended
