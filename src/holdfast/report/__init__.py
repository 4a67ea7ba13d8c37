"""Curves, tables and figures of certified runs, next to the published record. Nothing here imports torch."""
