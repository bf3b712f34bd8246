"""The calls a user makes: add, identify, monitor, compare, maintain."""
