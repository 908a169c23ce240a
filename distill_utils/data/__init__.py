"""Read, split, deduplicate and tokenize corpora."""
