"""Evaluate and time models, and collect ``results.json``."""
