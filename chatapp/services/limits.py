"""How much of something a person may do in some time."""

from __future__ import annotations

import math
from datetime import timedelta

from sqlalchemy.orm import Session

from chatapp.database import exclusively, utcnow
from chatapp.errors import RateLimited
from chatapp.models import limits
from chatapp.models.accounts import User
from chatapp.models.limits import Start
from chatapp.services import site

WINDOW = timedelta(minutes=1)


def count_start(session: Session, user: User) -> None:
    """Count one more stream that *user* begins. Raises RateLimited for one too many in any minute.

    In the transaction that stores the start: so each is counted once, in all processes alike, and one that fails or was
    made before is not counted at all.
    """
    most, now = site().settings.streams_per_minute, utcnow()
    exclusively(session, f"starts of {user.id}")
    limits.forget_starts(session, user.id, until=now - WINDOW)
    counts_since = limits.nth_last_start(session, user.id, most)
    if counts_since is not None:
        seconds = max(1, math.ceil((counts_since + WINDOW - now).total_seconds()))
        raise RateLimited(
            f"You may begin {most} streams in a minute. Wait {seconds} s, and try again.", retry_after=seconds
        )
    session.add(Start(user_id=user.id, at=now))
    session.flush()
