"""What an admin may do with people: see who there is, give them a role and a plan, shut them out, delete them."""

from __future__ import annotations

from typing import Any

import gevent
from sqlalchemy.orm import Session

from chatapp.database import db, exclusively, utcnow, writing
from chatapp.errors import Conflict, NotFound
from chatapp.models import accounts, generations, leaving
from chatapp.models.accounts import ADMIN, User
from chatapp.services import plans, site
from chatapp.services.accounts import check_plan, require_admin

GONE = "There is no such person."
LAST_ADMIN = "This is the only admin who can sign in: make somebody else one first."
ACCOUNTS = "a new account"  # what changes who is an admin happens one at a time


def page(user: User, *, q: str, page: int, page_size: int) -> dict[str, Any]:
    """Return one page of all people, the oldest first; *q* is looked for in e-mails and names. Raises Forbidden."""
    require_admin(user)
    rows, total = accounts.page(db.session(), q=q, offset=(page - 1) * page_size, limit=page_size)
    return {"users": [described(row) for row in rows], "total": total, "page": page, "page_size": page_size}


def one(user: User, user_id: str) -> dict[str, Any]:
    """Return one person. Raises Forbidden, NotFound."""
    require_admin(user)
    return described(found(db.session(), user_id))


def change(user: User, user_id: str, **values: Any) -> dict[str, Any]:
    """Set name, role, plan, disabled. Who is disabled is signed out at once; what they have, and what runs, is kept.

    Raises Forbidden, NotFound, ValidationFailed, and Conflict for the last admin.
    """
    require_admin(user)
    with writing() as session:
        exclusively(session, ACCOUNTS)
        person = found(session, user_id)
        was_admin = is_active_admin(person)
        if "plan" in values:
            check_plan(session, values["plan"])
        disabled = values.pop("disabled", None)
        for name, value in values.items():
            setattr(person, name, value)
        if disabled is not None:
            person.disabled_at = (person.disabled_at or utcnow()) if disabled else None
        if was_admin and not is_active_admin(person):
            check_not_last(session)
        if disabled:
            accounts.revoke_all(session, person.id)
    return described(person)


def delete(user: User, user_id: str) -> None:
    """Delete a person and all that is theirs; answers being made for them are left at once.

    First they are shut out, then their conversations go, a transaction each, since one for all would hold up everybody.
    What a crash leaves in between is deleted by asking again. Raises Forbidden, NotFound, and Conflict for the last admin.
    """
    change(user, user_id, disabled=True)
    while (conversation_id := first_conversation(user_id)) is not None:
        delete_conversation(conversation_id)
        gevent.sleep(0)
    with writing() as session:
        exclusively(session, ACCOUNTS)
        person = found(session, user_id)
        running = leaving.running(session, person.id)
        accounts.forgive(session, f"email:{person.email}")
        leaving.delete_invites(session, person.id, person.email)
        leaving.leave_projects(session, person.id)
        session.delete(person)
    drop(running)


def first_conversation(user_id: str) -> str | None:
    session = db.session()
    session.commit()
    conversation_id = leaving.any_conversation(session, user_id)
    session.commit()
    return conversation_id


def delete_conversation(conversation_id: str) -> None:
    with writing() as session:
        site().log.store.erase(generations.made_in(session, conversation_id), session=session)
        running = leaving.delete_conversation(session, conversation_id)
    drop(running)


def drop(generation_ids: list[str]) -> None:
    for generation_id in generation_ids:
        site().runners.drop(generation_id)


def found(session: Session, user_id: str) -> User:
    person = session.get(User, user_id, populate_existing=True)
    if person is None or (person.email == accounts.BUILT_IN_EMAIL and site().settings.auth == "on"):
        raise NotFound(GONE)
    return person


def is_active_admin(person: User) -> bool:
    return person.role == ADMIN and person.disabled_at is None


def check_not_last(session: Session) -> None:
    """Raise Conflict where nobody is left who could undo what was just done."""
    session.flush()
    if not accounts.admins(session):
        raise Conflict(LAST_ADMIN)


def described(person: User) -> dict[str, Any]:
    """Return a person as admins see them; `plan` is their own, `effective_plan` what they have."""
    return {
        "id": person.id,
        "email": person.email,
        "name": person.name,
        "role": person.role,
        "plan": person.plan,
        "effective_plan": plans.plan_of(person).name,
        "disabled": person.disabled_at is not None,
        "created_at": person.created_at,
    }
