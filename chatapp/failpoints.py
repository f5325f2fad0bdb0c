"""Places where a test build dies, stalls or fails; anywhere else they are nothing.

Call `failpoints.reach(name)`, through the module: a test build puts its own function in its place.
"""

from __future__ import annotations

POINTS = (
    "question-committed",  # and the runner not started
    "before-asking",  # the log has begun, the model was not asked
    "first-token",  # read from the model, not stored
    "before-commit",  # of a batch, within its transaction
    "after-commit",  # before the followers are woken
    "before-end",  # within the terminal transaction
    "after-end",  # before the followers are woken
    "taken-over",  # an orphan has its new owner, and no runner yet
    "draining",
    "migrating",  # all is changed, and nothing committed
)


def reach(name: str) -> None:
    """Do nothing at the point *name*, one of POINTS."""
