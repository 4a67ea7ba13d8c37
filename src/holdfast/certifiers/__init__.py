"""Proof methods, one file each: a Certifier and its DEFAULT."""
