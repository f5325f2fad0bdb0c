"""The published contracts, line by line, as their clients see them."""

SETUPS = ("sqlite, 1 worker", "postgresql, redis, 2 workers")
