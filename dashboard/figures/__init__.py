"""Figures as pure functions of data, without a store or a browser."""
