"""`chatapp users`: the people of the site, for whoever has its shell. Passwords are typed or piped, never arguments."""

from __future__ import annotations

import sys
from typing import Any

import click

from chatapp.cli._people import named
from chatapp.cli._shell import echo_json, opened, refuse, table, visible

PASSWORD_OPTION = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


@click.group("users")
def command() -> None:
    """Add and list people, set passwords and roles."""


@command.command("add")
@click.argument("email")
@click.option("--name", help="What they are called; by default the e-mail's first part.")
@click.option("--role", type=click.Choice(["user", "admin"]), help="By default user, but admin for the first account.")
@click.option("--plan", help="BASIC, PRO or ENTERPRISE; by default the site's own.")
@PASSWORD_OPTION
def add(email: str, name: str | None, role: str | None, plan: str | None, password_stdin: bool) -> None:
    """Make an account. The password is asked for, twice."""
    with opened():
        from chatapp.database import writing
        from chatapp.services import accounts

        given = checked(email, name)
        with writing() as session:
            accounts.check_plan(session, plan)
        if accounts.by_email(given["email"]) is not None:
            refuse(f"there is an account {given['email']} already.", 1)
        password = new_password(password_stdin)
        user = accounts.add(given["email"], password, name=given["name"], role=role, plan=plan)
        click.echo(f"{user.email} can sign in now, as {a(user.role)}.")


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
def listed(as_json: bool) -> None:
    """List the accounts."""
    with opened():
        from chatapp.schemas.accounts import User
        from chatapp.services import accounts

        everyone = accounts.everyone()
        if as_json:
            echo_json({"users": [{**User().dump(user), "plan": user.plan} for user in everyone]})
        elif everyone:
            rows = [
                (user.email, visible(user.name), user.role, user.plan or "–", f"{user.created_at:%Y-%m-%d}")
                for user in everyone
            ]
            click.echo(table(("EMAIL", "NAME", "ROLE", "PLAN", "SINCE"), rows))
        else:
            click.echo("Nobody has an account yet. Make one: chatapp users add EMAIL", err=True)


@command.command("passwd")
@click.argument("email")
@PASSWORD_OPTION
def passwd(email: str, password_stdin: bool) -> None:
    """Set a new password, and end all sign-ins of that account."""
    with opened():
        from chatapp.services import accounts

        user = named(email)
        accounts.set_password(user, new_password(password_stdin))
        click.echo(f"{user.email} has a new password; all devices have to sign in again.")


@command.command("role")
@click.argument("email")
@click.argument("role", type=click.Choice(["admin", "user"]))
def set_role(email: str, role: str) -> None:
    """Make somebody an admin, or a user again."""
    with opened():
        from chatapp.services import accounts

        user = accounts.set_role(named(email), role)
        click.echo(f"{user.email} is {a(user.role)} now.")


def a(role: str) -> str:
    return f"an {role}" if role == "admin" else f"a {role}"


def checked(email: str, name: str | None) -> dict[str, Any]:
    """Return the address and the name as the API's own sign-up takes them. Raises ValidationFailed."""
    from marshmallow import ValidationError

    from chatapp.errors import ValidationFailed
    from chatapp.schemas.accounts import Register

    try:
        found: dict[str, Any] = Register(only=("email", "name")).load({"email": email, "name": name})
    except ValidationError as error:
        raise ValidationFailed(fields=error.normalized_messages()) from error
    return found


def new_password(piped: bool) -> str:
    """Return a password that was typed twice, or the first line of standard input."""
    from marshmallow import ValidationError

    from chatapp.schemas.accounts import Register

    if piped:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt="Again")
    else:
        refuse("there is no terminal to ask for the password: pipe it, with --password-stdin.")
    try:
        Register(only=("password",)).load({"password": password})
    except ValidationError:
        refuse("a password has 8 to 200 characters.")
    return password
