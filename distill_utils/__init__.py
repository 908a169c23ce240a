"""Knowledge distillation for abstractive summarization, as a study you can run."""
