"""What people use, and how much they may in a day (UTC)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from math import ceil
from typing import Any

from sqlalchemy import Engine

from chatapp.database import connected, db, glance, utcnow
from chatapp.errors import QuotaExceeded
from chatapp.models import usage
from chatapp.models.accounts import User
from chatapp.models.usage import Spent
from chatapp.runner import Job
from chatapp.services import plans, site
from chatapp.services.accounts import require_admin

MINE = ("day", "model")


def model_for(user: User, wanted: str | None, *, usual: str | None = None, field: str) -> str:
    """Return the id of the model that *user* asks now, as `plans.choose`. Raises QuotaExceeded too."""
    model_id = plans.choose(user, wanted, usual=usual, field=field)
    check_quota(user)
    return model_id


def quota_of(user: User) -> int | None:
    """Return how many tokens *user* may use in a day, None for any number."""
    own = plans.plan_of(user).tokens_per_day
    return (site().settings.tokens_per_day if own is None else own) or None


def check_quota(user: User) -> None:
    """Raise QuotaExceeded where *user* has used up the day's tokens. An answer that runs over is finished all the same."""
    quota = quota_of(user)
    if quota is None:
        return
    with glance(site().engine) as connection:
        used = usage.of_day(connection, user.id, usage.today())
    if used < quota:
        return
    renews = renews_at()
    raise QuotaExceeded(
        f"You have used {used:,} of the {quota:,} tokens that your plan, {plans.plan_of(user).name}, gives you in a day. "
        f"They are renewed at midnight UTC, {renews:%Y-%m-%d %H:%M}Z.",
        retry_after=max(1, ceil((renews - utcnow()).total_seconds())),
    )


def renews_at() -> datetime:
    """Return the next midnight UTC."""
    return datetime.combine(utcnow().date() + timedelta(days=1), time(), UTC)


def count(engine: Engine, job: Job, spent: Spent) -> None:
    """Store what an answer cost that is not stored itself. Outside any request."""
    with connected(engine, writes=True) as connection:
        usage.add_passing(connection, job.user_id, job.model, spent)


def of_all(
    asker: User,
    *,
    user: object | None,
    model: str | None,
    first: date | None,
    last: date | None,
    group: Sequence[str],
    page: int,
    page_size: int,
) -> dict[str, Any]:
    """Return what people used, a page of rows for each of *group*. Raises Forbidden."""
    require_admin(asker)
    session = db.session()
    rows, total = usage.summed(
        session,
        by=group,
        user_id=str(user) if user else None,
        model=model,
        first=first.isoformat() if first else None,
        last=last.isoformat() if last else None,
        offset=(page - 1) * page_size,
        limit=page_size,
    )
    emails = usage.emails(session, {row["user"] for row in rows if "user" in row})
    shown = [{**row, "email": emails.get(row["user"])} if "user" in row else row for row in rows]
    return {"usage": shown, "total": sums(total), "rows": total["rows"], "page": page, "page_size": page_size}


def of_mine(user: User, *, first: date | None, last: date | None, page: int, page_size: int) -> dict[str, Any]:
    """Return what *user* used by day and model, and what is left of today's quota."""
    rows, total = usage.summed(
        db.session(),
        by=MINE,
        user_id=user.id,
        first=first.isoformat() if first else None,
        last=last.isoformat() if last else None,
        offset=(page - 1) * page_size,
        limit=page_size,
    )
    with glance(site().engine) as connection:
        used = usage.of_day(connection, user.id, usage.today())
    quota = quota_of(user)
    return {
        "plan": plans.plan_of(user).name,
        "quota": quota,
        "used": used,
        "left": max(0, quota - used) if quota is not None else None,
        "renews_at": renews_at(),
        "usage": rows,
        "total": sums(total),
        "rows": total["rows"],
        "page": page,
        "page_size": page_size,
    }


def sums(total: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in total.items() if name != "rows"}
