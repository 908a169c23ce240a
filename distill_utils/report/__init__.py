"""What people read: tables, sentences, pages, model cards."""
