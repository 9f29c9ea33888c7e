"""The dashboard: pages over the store, read-only by default."""
