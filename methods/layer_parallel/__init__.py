"""Methods that cut the network between layers, and the modules that place its parts on ranks."""
