"""What people are told at once, in every tab and on every device of theirs: `GET /api/events`.

Nothing of it is stored. It is told after the commit, so that who looks then finds what they were told of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chatapp.connections import Connections
from chatapp.services import site


def key_of(user_id: str) -> str:
    """Return the key under which a user's own streams are registered."""
    return f"user:{user_id}"


def tell(user_ids: Iterable[str], event: str, data: dict[str, Any], *, connections: Connections | None = None) -> None:
    """Send an event to all streams of these people. Never waits. Outside a request, *connections* are those of the site."""
    through = connections or site().connections
    for user_id in user_ids:
        through.broadcast(key_of(user_id), event, data)


def notify(user_ids: Iterable[str], message: str, **more: Any) -> None:
    """Show these people a sentence."""
    tell(user_ids, "notification", {"message": message, **more})
