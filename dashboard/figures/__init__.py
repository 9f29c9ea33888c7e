"""From data to figures, without a store or a browser."""
