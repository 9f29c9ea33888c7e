"""One page a file: a layout, and the callbacks that keep it up to date."""
