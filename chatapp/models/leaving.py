"""What goes with a person who is deleted, beside what hangs on their row by itself."""

from __future__ import annotations

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from chatapp.database import exclusively
from chatapp.models.accounts import Invite
from chatapp.models.conversations import Conversation
from chatapp.models.generations import Generation
from chatapp.models.projects import OWNER, ROLES, Membership, Project


def any_conversation(session: Session, user_id: str) -> str | None:
    """Return the id of one of the user's conversations, None if there is none left."""
    return session.scalar(select(Conversation.id).where(Conversation.user_id == user_id).limit(1))


def delete_conversation(session: Session, conversation_id: str) -> list[str]:
    """Delete a conversation; return the ids of the generations that ran in it."""
    where = Generation.conversation_id == conversation_id
    running = list(session.scalars(select(Generation.id).where(where, Generation.ended_at.is_(None))))
    session.execute(delete(Conversation).where(Conversation.id == conversation_id))
    return running


def running(session: Session, user_id: str) -> list[str]:
    """Return the ids of the generations that are being made for the user, wherever."""
    where = (Generation.user_id == user_id, Generation.ended_at.is_(None))
    return list(session.scalars(select(Generation.id).where(*where)))


def delete_invites(session: Session, user_id: str, email: str) -> None:
    """Delete invites by which the user came, which would be open again, and those that name their address."""
    session.execute(delete(Invite).where(or_(Invite.used_by == user_id, Invite.email == email)))


def leave_projects(session: Session, user_id: str) -> None:
    """Delete projects that nobody else is in; others get an owner: an editor before a reader, the eldest first."""
    mine = select(Membership.project_id).where(Membership.user_id == user_id, Membership.role == OWNER)
    for project_id in list(session.scalars(mine)):
        exclusively(session, f"members of {project_id}")  # or the owner who stays could leave meanwhile
        here = (Membership.project_id == project_id, Membership.user_id != user_id)
        others = sorted(
            session.execute(select(Membership.role, Membership.created_at, Membership.user_id).where(*here)),
            key=lambda one: (ROLES.index(one.role), one.created_at, one.user_id),
        )
        if not others:
            session.execute(delete(Project).where(Project.id == project_id))
        elif others[0].role != OWNER:
            heir = (Membership.project_id == project_id, Membership.user_id == others[0].user_id)
            session.execute(update(Membership).where(*heir).values(role=OWNER))
