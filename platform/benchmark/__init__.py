"""Benchmarks: many studies, tuned and confirmed with equal budgets."""
