"""What may be searched: one file per method, with the method's name and an object SPACE."""


def location(method: str) -> str:
    """The search space of a registered method, as module:object."""
    return f"atoll.searchspaces.{method}:SPACE"
