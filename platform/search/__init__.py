"""The search loop of a worker's root, and its parts."""
