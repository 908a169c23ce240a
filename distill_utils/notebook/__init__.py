"""What the notebooks show: figures, tables, widgets."""
