"""The search as the root of a worker runs it."""
