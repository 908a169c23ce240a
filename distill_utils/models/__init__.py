"""Checkpoints, students made from teachers, generation, inference backends."""
