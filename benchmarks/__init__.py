"""What `make bench` runs: the site beside what else could relay a model's stream."""
