"""A study: its schema, and what its names stand for."""
