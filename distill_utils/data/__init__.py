"""Corpora: read, split, deduplicated, tokenized."""
