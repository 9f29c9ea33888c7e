"""Results as data: what `atoll.open` returns."""
