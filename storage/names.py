"""What a study searches, by name: a method on a workload, or a function of the user's."""

FUNCTION = "objective"  # in place of a method's name, if trials call a function
NOTEBOOK = "notebook:"  # the beginning of the name of a function that is in no file


def subject(method: str, workload: str) -> str:
    """What a study searches, in words."""
    return f"objective {workload}" if method == FUNCTION else f"{method} on {workload}"
