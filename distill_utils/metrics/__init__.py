"""Numbers from texts and scores; knows no study and no model."""
