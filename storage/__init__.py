"""Stored results: journals in the study's folder, and the rows that a recorder makes of them in a SQL database."""
