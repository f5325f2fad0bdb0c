"""`chatapp sweep`."""

from __future__ import annotations

import click

from chatapp.cli._shell import echo_json, opened


@click.command("sweep")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of sentences.")
def command(as_json: bool) -> None:
    """Delete what nobody can ask for any longer, as the running site does every few minutes."""
    with opened() as site:
        counts = site.runners.sweep()
    if as_json:
        echo_json(counts)
        return
    for what, number in counts.items():
        click.echo(f"{number:,} {what.replace('_', ' ')}")
