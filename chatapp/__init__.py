"""A chat site for a small team: a generation is an append-only log, and everything that streams follows one."""

__version__ = "0.1.0"
