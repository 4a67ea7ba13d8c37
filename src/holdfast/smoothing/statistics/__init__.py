"""Binomial statistics of votes: no torch."""
