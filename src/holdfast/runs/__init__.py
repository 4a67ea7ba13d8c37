"""The store: a run folder on disk."""
