"""Names in configurations: what a study searches, a method on a workload or a user's function; the MPI library."""

FUNCTION = "objective"  # in place of a method's name, if trials call a function
MPI = "MPI"  # among versions: the library of the ranks, by its own name
NOTEBOOK = "notebook:"  # the beginning of the name of a function that is in no file


def subject(method: str, workload: str) -> str:
    """What a study searches, in words."""
    return f"objective {workload}" if method == FUNCTION else f"{method} on {workload}"
