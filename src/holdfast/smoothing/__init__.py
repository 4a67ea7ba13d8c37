"""Noise, votes, binomial statistics, sequential tests and sample planning for smoothed classifiers."""
