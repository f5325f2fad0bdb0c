"""Who is meant by an e-mail address, or by none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatapp.cli._shell import refuse

if TYPE_CHECKING:
    from chatapp.models.accounts import User


def named(email: str) -> User:
    """Return the user with this e-mail, or leave with a sentence."""
    from chatapp.services import accounts

    user = accounts.by_email(email)
    if user is None:
        refuse(f"there is no account {email}. `chatapp users list` shows those there are.")
    return user


def whose(email: str | None) -> User:
    """Return who asks: the one named, else the only one there is; where nobody signs in, the site's one person."""
    from chatapp.services import accounts, site

    if email:
        return named(email)
    if site().settings.auth == "off":
        return accounts.built_in()
    everyone = [user for user in accounts.everyone() if user.disabled_at is None]
    if not everyone:
        refuse("nobody has an account yet. Make one: chatapp users add EMAIL")
    if len(everyone) > 1:
        refuse(f"there are {len(everyone)} accounts: say who asks, with --user EMAIL.")
    return everyone[0]
