"""Methods that cut the network between layers, and what puts the parts on ranks."""
