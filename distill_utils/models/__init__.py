"""Load checkpoints, create students, generate summaries, run inference backends."""
