"""Jobs of a batch system: their scripts, chains of them, and what becomes of them."""
