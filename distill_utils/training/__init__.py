"""The method: losses, trainer, teacher caches."""
