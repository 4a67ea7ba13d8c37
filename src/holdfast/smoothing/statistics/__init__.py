"""Exact statistics of votes. No torch in here."""
