"""Train students and teachers: losses, trainer, teacher cache."""
