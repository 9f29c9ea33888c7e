"""What is stored: journals in the study's folder, and the rows of a SQL database that a recorder makes of them."""
