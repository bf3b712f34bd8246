"""Radio: what many stations play, day after day, and the reports of it."""
