"""Benchmarks: studies that tune and confirm methods with equal budgets."""
