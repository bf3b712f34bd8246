"""The benchmark: conditions, hit rates, open set."""
