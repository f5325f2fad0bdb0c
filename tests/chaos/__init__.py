"""Faults at random, under load: `make chaos`. The short forms are tests like all others."""
