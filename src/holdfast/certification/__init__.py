"""Certifying: images, data sets, smoothed classifiers."""
