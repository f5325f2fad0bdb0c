"""What concerns people: signing up, signing in and out, invites. Passwords are hashed in threads, off the event loop."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from werkzeug.security import check_password_hash, generate_password_hash

from chatapp.database import db, exclusively, utcnow, writing
from chatapp.errors import Conflict, Forbidden, NotFound, Overloaded, RateLimited, Unauthorized, ValidationFailed
from chatapp.models import accounts, plans
from chatapp.models.accounts import ADMIN, BUILT_IN_EMAIL, MEMBER, Invite, SignIn, User
from chatapp.services import site

SIGN_IN_DAYS = 30
ROTATION_GRACE_SECONDS = 30  # two tabs may send the same refresh token at once
INVITE_DAYS = 7
FREE_TRIES = 5  # failures in a row before an e-mail has to wait
FREE_TRIES_PER_ADDRESS = 20  # an office shares one
MAX_WAIT_SECONDS = 900
MAX_EMAIL_CHARS = 320
FORGET_SECONDS = 3600.0
HASHING_PLACES = 40  # at some 0.1 s for each, who comes later would wait for seconds
HASHING_THREADS = 2  # a rush of sign-ins must leave memory and processor to streams
HASH_METHOD = "scrypt:32768:8:1"  # OWASP's advice for scrypt; about 0.1 s and 32 MiB
DUMMY_HASH = (
    "scrypt:32768:8:1$0$00000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "000000000000000000000000000000000000000000000000"
)
PLANS = "plans"  # are changed, and given to people, one at a time
WRONG = "E-mail and password do not match."


@dataclass(frozen=True)
class Grant:
    """A user with one of their sign-ins; `refresh_jti` is the id that the next refresh token must carry."""

    user: User
    sign_in_id: str
    refresh_jti: str


def off_loop(function: Callable[..., Any], *args: Any) -> Any:
    """Return function(*args), computed in a thread while other greenlets run; no database connection is held meanwhile.

    Raises Overloaded where so many wait already that this one would wait for seconds.
    """
    db.session.commit()
    if not places.acquire(blocking=False):
        raise Overloaded("Many people sign in just now. Try again in a moment.", retry_after=2)
    try:
        return hashing_threads().apply(function, args)
    finally:
        places.release()


places = BoundedSemaphore(HASHING_PLACES)


@cache
def hashing_threads() -> ThreadPool:
    """Return threads of their own: the hub's resolve names too, and a model must not wait behind a hundred passwords."""
    return ThreadPool(HASHING_THREADS)


def hash_password(password: str) -> str:
    hashed: str = off_loop(generate_password_hash, password, HASH_METHOD)
    return hashed


def is_first() -> bool:
    """Say whether nobody has an account yet: then the next one becomes the admin."""
    return accounts.is_empty(db.session())


def register(email: str, password: str, *, name: str | None, invite: str | None) -> Grant:
    """Make an account and sign it in. The first one is the admin; later ones need what the settings say.

    Raises Forbidden, Conflict, ValidationFailed.
    """
    if email == BUILT_IN_EMAIL:
        raise ValidationFailed(fields={"email": ["This address belongs to the site itself."]})
    mode = site().settings.registration
    if not is_first():  # refused before the costly hash; decided again inside the transaction
        check_admission(db.session(), mode, email, invite)
    hashed = hash_password(password)
    try:
        with writing() as session:
            exclusively(session, "a new account")  # of all who come first one is the admin, and an invite admits one
            first = accounts.is_empty(session)
            invitation = None if first else check_admission(session, mode, email, invite)
            if accounts.by_email(session, email) is not None:
                raise Conflict("There is an account with this e-mail already.")
            user = User(
                email=email,
                name=name or email.partition("@")[0],
                role=ADMIN if first else MEMBER,
                password_hash=hashed,
                plan=invitation.plan if invitation is not None else None,
            )
            session.add(user)
            session.flush()
            if invitation is not None:
                invitation.used_by = user.id
            return sign_in(session, user)
    except IntegrityError as error:
        raise Conflict("There is an account with this e-mail already.") from error


def check_admission(session: Session, mode: str, email: str, invite: str | None) -> Invite | None:
    """Return the invite by which *email* comes, None where there is none and none is needed. Raises Forbidden."""
    if mode == "closed":
        raise Forbidden("This site takes no new accounts.")
    invitation = accounts.invite_by_hash(session, digest(invite)) if invite else None
    if invitation is not None and invitation.email and invitation.email != email:
        invitation = None
    if invitation is None and mode != "open":
        raise Forbidden("You need an invitation to join. Ask the person who runs this site.")
    return invitation


def login(email: str, password: str, *, address: str) -> Grant:
    """Sign in. A wrong password and an unknown e-mail answer alike, in the same time. Raises Unauthorized, RateLimited."""
    email = email.strip().lower()[:MAX_EMAIL_CHARS]
    keys = {f"email:{email}": FREE_TRIES, f"address:{address}": FREE_TRIES_PER_ADDRESS}
    check_waits(db.session(), keys)
    user = accounts.by_email(db.session(), email)
    known = user is not None and user.disabled_at is None
    matches = off_loop(check_password_hash, (user and user.password_hash) or DUMMY_HASH, password)
    with writing() as session:
        for key in keys:
            exclusively(session, key)
        check_waits(session, keys)  # again: of many tries at once all were let in before the first had failed
        if user is not None and known and matches:
            accounts.forgive(session, f"email:{email}")
            return sign_in(session, user)
        failed = [accounts.record_failure(session, key, within_seconds=FORGET_SECONDS) for key in keys]
    raise Unauthorized(WRONG, tries_left=max(0, FREE_TRIES - failed[0]))


def check_waits(session: Session, keys: dict[str, int]) -> None:
    for key, free in keys.items():
        check_wait(session, key, free)


def check_wait(session: Session, key: str, free: int) -> None:
    """Raise RateLimited while *key* has to wait: twice as long with each failure past the free ones."""
    failed, last = accounts.failures(session, key, within_seconds=FORGET_SECONDS)
    if failed < free or last is None:
        return
    seconds = min(MAX_WAIT_SECONDS, 2 ** min(failed - free + 1, 20))
    left = (last + timedelta(seconds=seconds) - utcnow()).total_seconds()
    if left > 0:
        wait = int(left) + 1
        raise RateLimited(f"Too many failed tries. Try again in {wait} s.", retry_after=wait)


def sign_in(session: Session, user: User) -> Grant:
    jti = str(uuid.uuid4())
    entry = SignIn(user_id=user.id, refresh_jti=jti, expires_at=utcnow() + timedelta(days=SIGN_IN_DAYS))
    session.add(entry)
    session.flush()
    return Grant(user, entry.id, jti)


def refresh(user_id: str, sign_in_id: str, jti: str) -> Grant:
    """Renew a sign-in with a refresh token, which is spent by it. Raises Unauthorized.

    A token that was spent before comes from a copy: then nobody can tell who is who, and the sign-in ends (RFC 9700, 4.14).
    """
    reused = False
    with writing() as session:
        exclusively(session, f"sign-in {sign_in_id}")
        user = accounts.signed_in(session.connection(), user_id, sign_in_id)
        entry = session.get(SignIn, sign_in_id)
        if user is None or entry is None or entry.expires_at < utcnow():
            raise Unauthorized
        if jti == entry.refresh_jti:
            entry.previous_jti, entry.refresh_jti, entry.rotated_at = jti, str(uuid.uuid4()), utcnow()
            entry.expires_at = utcnow() + timedelta(days=SIGN_IN_DAYS)
        elif not in_grace(entry, jti):
            accounts.revoke(session, sign_in_id)
            reused = True
        grant = Grant(user, sign_in_id, entry.refresh_jti)
    if reused:
        raise Unauthorized("This sign-in was ended, since its token was used twice. Sign in again.")
    return grant


def in_grace(entry: SignIn, jti: str) -> bool:
    recent = entry.rotated_at is not None and entry.rotated_at > utcnow() - timedelta(seconds=ROTATION_GRACE_SECONDS)
    return recent and jti == entry.previous_jti


def logout(sign_in_id: str) -> None:
    """End the sign-in: all its tokens are void at once."""
    with writing() as session:
        accounts.revoke(session, sign_in_id)


def built_in() -> User:
    """Return the one person of a site without sign-in, made on first use."""
    user = accounts.by_email(db.session(), BUILT_IN_EMAIL)
    if user is not None:
        return user
    with writing() as session:
        exclusively(session, "a new account")
        user = accounts.by_email(session, BUILT_IN_EMAIL)
        if user is None:
            user = User(email=BUILT_IN_EMAIL, name="You", role=ADMIN, password_hash="")
            session.add(user)
    return user


def invite(user: User, *, email: str | None, plan: str | None) -> tuple[Invite, str]:
    """Return a new invite and its token, which is not kept; who comes by it has *plan*. Raises Forbidden, ValidationFailed."""
    require_admin(user)
    token = secrets.token_urlsafe(24)
    with writing() as session:
        check_plan(session, plan)
        entry = Invite(
            token_hash=digest(token),
            email=email,
            plan=plan,
            created_by=user.id,
            expires_at=utcnow() + timedelta(days=INVITE_DAYS),
        )
        session.add(entry)
    return entry, token


def invites(user: User) -> list[Invite]:
    """Return the invites that nobody has used, newest first. Raises Forbidden."""
    require_admin(user)
    return accounts.open_invites(db.session())


def withdraw(user: User, invite_id: str) -> None:
    """Delete an invite. Raises Forbidden, NotFound."""
    require_admin(user)
    with writing() as session:
        entry = session.scalar(select(Invite).where(Invite.id == invite_id))
        if entry is None:
            raise NotFound("There is no such invite.")
        session.delete(entry)


# for whoever has the site's shell, who needs nobody's leave


def by_email(email: str) -> User | None:
    return accounts.by_email(db.session(), email.strip().lower())


def everyone() -> list[User]:
    """Return all accounts but the built-in one, the oldest first."""
    return accounts.everyone(db.session())


def add(email: str, password: str, *, name: str | None, role: str | None, plan: str | None) -> User:
    """Make an account; without a *role* the first one is the admin. Raises Conflict."""
    hashed = hash_password(password)
    with writing() as session:
        exclusively(session, "a new account")
        if accounts.by_email(session, email) is not None:
            raise Conflict("There is an account with this e-mail already.")
        role = role or (ADMIN if accounts.is_empty(session) else MEMBER)
        user = User(email=email, name=name or email.partition("@")[0], role=role, plan=plan, password_hash=hashed)
        session.add(user)
    return user


def set_password(user: User, password: str) -> None:
    """Set a new password; every sign-in with the old one ends."""
    user_id, hashed = user.id, hash_password(password)
    with writing() as session:
        session.get_one(User, user_id).password_hash = hashed
        accounts.revoke_all(session, user_id)
        accounts.forgive(session, f"email:{user.email}")


def set_role(user: User, role: str) -> User:
    """Make somebody an admin, or a user. Raises Conflict for the last admin."""
    with writing() as session:
        exclusively(session, "a new account")
        kept = session.get_one(User, user.id, populate_existing=True)
        if kept.role == ADMIN != role and accounts.admins(session) < 2:
            raise Conflict("This is the only admin: make somebody else one first.")
        kept.role = role
    return kept


def check_plan(session: Session, name: str | None) -> None:
    """Raise ValidationFailed unless there is a plan called *name*; None, for the default one, is fine."""
    if name is not None:
        exclusively(session, PLANS)  # or it could be deleted meanwhile
        names = [plan.name for plan in plans.all_plans(session.connection())]
        if name not in names:
            raise ValidationFailed(fields={"plan": [f"There is no plan {name}. There are: {', '.join(names)}."]})


def require_admin(user: User) -> None:
    if user.role != ADMIN:
        raise Forbidden("Only an admin may do this.")


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
