"""Define, load and plan studies."""
