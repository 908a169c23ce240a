"""From models to ``results.json``."""
