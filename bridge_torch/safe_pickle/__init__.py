"""Pickles read by an interpreter that builds plain data and imports nothing, and written."""
