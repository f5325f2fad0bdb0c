"""Users, their sign-ins, failed attempts and invites."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

from sqlalchemy import Connection, ForeignKey, String, bindparam, delete, func, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from chatapp.database import Base, Prepared, utcnow
from chatapp.models._columns import Created, Id
from chatapp.models._rows import made_of

ADMIN = "admin"
MEMBER = "user"
BUILT_IN_EMAIL = "me@localhost"


class User(Base):
    """A person. `email` is kept in lower case."""

    __tablename__ = "users"

    id: Mapped[Id]
    email: Mapped[str] = mapped_column(String(320), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    role: Mapped[str] = mapped_column(String(20), default=MEMBER)
    plan: Mapped[str | None] = mapped_column(String(40))  # None: the site's default plan
    password_hash: Mapped[str] = mapped_column(String(300))
    created_at: Mapped[Created]
    disabled_at: Mapped[datetime | None]


class SignIn(Base):
    """One sign-in on one device: its tokens carry its id and die with it.

    `refresh_jti` names the one refresh token that is good; the one before it is accepted for a few seconds, since two
    tabs may refresh at once. An older one coming back was stolen or copied: the whole sign-in is revoked.
    """

    __tablename__ = "sign_ins"

    id: Mapped[Id]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    refresh_jti: Mapped[str] = mapped_column(String(36))
    previous_jti: Mapped[str | None] = mapped_column(String(36))
    rotated_at: Mapped[datetime | None]
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Attempts(Base):
    """Failed sign-ins in a row, by e-mail or address; in the database, since every worker must count the same."""

    __tablename__ = "sign_in_attempts"

    key: Mapped[str] = mapped_column(String(400), primary_key=True)
    failures: Mapped[int]
    last_at: Mapped[datetime]


class Invite(Base):
    """Lets one person make an account. Only the token's hash is kept."""

    __tablename__ = "invites"

    id: Mapped[Id]
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    email: Mapped[str | None] = mapped_column(String(320))
    plan: Mapped[str | None] = mapped_column(String(40))
    created_by: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]
    used_by: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)


def by_email(session: Session, email: str) -> User | None:
    return session.scalar(select(User).where(User.email == email))


def is_empty(session: Session) -> bool:
    """Say whether nobody has an account; the built-in user, whom nobody can sign in as, does not count."""
    return session.scalar(select(User.id).where(User.email != BUILT_IN_EMAIL).limit(1)) is None


def everyone(session: Session) -> list[User]:
    """Return all users but the built-in one, the oldest first."""
    return list(session.scalars(select(User).where(User.email != BUILT_IN_EMAIL).order_by(User.created_at, User.id)))


def page(session: Session, *, q: str, offset: int, limit: int) -> tuple[list[User], int]:
    """Return one page of all users but the built-in one, oldest first, and how many there are, with *q* in e-mail or name."""
    where = [User.email != BUILT_IN_EMAIL]
    if q:
        where.append(or_(User.email.icontains(q, autoescape=True), User.name.icontains(q, autoescape=True)))
    total = session.scalar(select(func.count()).select_from(User).where(*where)) or 0
    order = (User.created_at, User.id)
    return list(session.scalars(select(User).where(*where).order_by(*order).offset(offset).limit(limit))), total


def admins(session: Session) -> int:
    """Return how many admins can sign in."""
    counted = select(func.count()).where(User.role == ADMIN, User.disabled_at.is_(None), User.email != BUILT_IN_EMAIL)
    return session.scalar(counted) or 0


def signed_in(connection: Connection | sqlite3.Connection, user_id: str, sign_in_id: str) -> User | None:
    """Return the user if they and this sign-in of theirs are still good."""
    return made_of(User, SIGNED_IN.first(connection, person=user_id, sign_in=sign_in_id))


SIGNED_IN = Prepared(
    select(User.__table__)
    .join(SignIn, SignIn.user_id == User.id)
    .where(
        User.id == bindparam("person"),
        SignIn.id == bindparam("sign_in"),
        SignIn.revoked_at.is_(None),
        User.disabled_at.is_(None),
    )
)


def still_signed_in(session: Session, sign_in_ids: set[str]) -> dict[str, str]:
    """Return those of the sign-ins that are still good, and whose they are."""
    rows = session.execute(
        select(SignIn.id, SignIn.user_id)
        .join(User, SignIn.user_id == User.id)
        .where(SignIn.id.in_(sign_in_ids), SignIn.revoked_at.is_(None), User.disabled_at.is_(None))
    )
    return {row.id: row.user_id for row in rows}


def revoke(session: Session, sign_in_id: str) -> None:
    session.execute(update(SignIn).where(SignIn.id == sign_in_id).values(revoked_at=utcnow()))


def revoke_all(session: Session, user_id: str) -> None:
    """End all sign-ins of a user."""
    session.execute(
        update(SignIn).where(SignIn.user_id == user_id, SignIn.revoked_at.is_(None)).values(revoked_at=utcnow())
    )


def failures(session: Session, key: str, *, within_seconds: float) -> tuple[int, datetime | None]:
    """Return how many failures in a row *key* has, and when the last was; old ones do not count."""
    row = session.get(Attempts, key, populate_existing=True)
    if row is None or row.last_at < utcnow() - timedelta(seconds=within_seconds):
        return 0, None
    return row.failures, row.last_at


def record_failure(session: Session, key: str, *, within_seconds: float) -> int:
    """Count one more failure of *key* and return how many there are."""
    before, _ = failures(session, key, within_seconds=within_seconds)
    session.merge(Attempts(key=key, failures=before + 1, last_at=utcnow()))
    return before + 1


def forgive(session: Session, key: str) -> None:
    session.execute(delete(Attempts).where(Attempts.key == key))


def sweep(session: Session, *, before: datetime) -> int:
    """Delete sign-ins and attempts that have meant nothing since *before*; return how many sign-ins."""
    session.execute(delete(Attempts).where(Attempts.last_at < before))
    old = list(session.scalars(select(SignIn.id).where(SignIn.expires_at < before)))
    session.execute(delete(SignIn).where(SignIn.id.in_(old)))
    return len(old)


def invite_by_hash(session: Session, token_hash: str) -> Invite | None:
    """Return the invite if it can still be used."""
    return session.scalar(
        select(Invite).where(Invite.token_hash == token_hash, Invite.used_by.is_(None), Invite.expires_at > utcnow())
    )


def open_invites(session: Session) -> list[Invite]:
    return list(
        session.scalars(select(Invite).where(Invite.used_by.is_(None)).order_by(Invite.created_at.desc(), Invite.id))
    )
