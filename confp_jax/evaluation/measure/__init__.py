"""What is measured: query sets, trials, rows."""
