"""Compute metrics from texts and scores; independent of studies and models."""
