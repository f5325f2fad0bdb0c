"""`chatapp models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from chatapp.cli._built_in import built_in_model
from chatapp.cli._shell import MODEL_AWAY, echo_json, opened, table

if TYPE_CHECKING:
    from chatapp.services import Site


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
def command(as_json: bool) -> None:
    """List the models that can be asked, and which provider does not answer."""
    with built_in_model(), opened() as site:
        from chatapp.services import models

        found, away = asked(site)
        usual = models.default(site, found)
        if as_json:
            echo_json({"models": [described(model) for model in found], "default": usual, "away": away})
        else:
            rows = [
                (model.id, model.provider, f"{model.context_length:,}" if model.context_length else "–")
                for model in found
            ]
            if rows:
                click.echo(table(("MODEL", "PROVIDER", "CONTEXT"), rows))
            for name, sentence in away.items():
                click.echo(f"{name}: {sentence}", err=True)
    if not found:
        if not as_json:
            click.echo("There is no model: see docs/running.md for how to give the site one.", err=True)
        raise SystemExit(MODEL_AWAY)


def asked(site: Site) -> tuple[list[Any], dict[str, str]]:
    """Return the models that there are, and by provider why it has told none."""
    import gevent

    from chatapp.errors import ProviderError, ProviderTimeout
    from chatapp.services import models

    def ask(provider: Any) -> str | None:
        try:
            with gevent.Timeout(models.LISTING_SECONDS, ProviderTimeout):
                provider.models()
        except ProviderError as error:
            return error.message
        return None

    asking = {name: gevent.spawn(ask, provider) for name, provider in site.providers.items()}
    found = models.available(site)
    gevent.joinall(list(asking.values()))
    return found, {name: one.value for name, one in asking.items() if one.value}


def described(model: Any) -> dict[str, Any]:
    from chatapp.schemas.models import Model

    dumped: dict[str, Any] = Model().dump(model)
    return dumped
