"""Which models there are, and which one a request means."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import gevent
from gevent.lock import RLock

from chatapp.errors import ProviderError, ProviderTimeout, ValidationFailed
from chatapp.providers import Model, Provider
from chatapp.services import Site

logger = logging.getLogger(__name__)

LISTING_SECONDS = 4.0  # a provider that is slower is left out this time
FRESH_SECONDS = 20.0
FAILED_FRESH_SECONDS = 5.0  # a model server that was just started is seen soon, one that hangs is not waited for again
LAST = "local"  # the model on board is small: it is the default only where there is no other


@dataclass(frozen=True)
class Listing:
    models: tuple[Model, ...]
    good_until: float


_listings: WeakKeyDictionary[Provider, Listing] = WeakKeyDictionary()
_asking: WeakKeyDictionary[Provider, RLock] = WeakKeyDictionary()


def available(site: Site) -> list[Model]:
    """Return the models of all providers that answer, by provider and name; the providers are asked side by side."""
    asked = [gevent.spawn(listing, provider) for provider in site.providers.values()]
    gevent.joinall(asked)
    found = [model for one in asked if one.successful() for model in one.value or ()]
    return sorted(found, key=lambda model: (model.provider == LAST, model.id))


def listing(provider: Provider) -> tuple[Model, ...]:
    """Return what the provider has, asked at most once per FRESH_SECONDS; nothing if it does not answer."""
    with _asking.setdefault(provider, RLock()):  # who comes meanwhile takes the same answer
        known = _listings.get(provider)
        if known is not None and known.good_until > time.monotonic():
            return known.models
        try:
            with gevent.Timeout(LISTING_SECONDS, ProviderTimeout):
                models, fresh = tuple(provider.models()), FRESH_SECONDS
        except ProviderError as error:
            logger.info("no models from %s: %s", provider.name, error.message)
            models, fresh = (), FAILED_FRESH_SECONDS
        _listings[provider] = Listing(models, time.monotonic() + fresh)
        return models


def default(site: Site, models: list[Model]) -> str | None:
    """Return the id of the model that is asked where none is named; None where there is none."""
    wanted = site.settings.default_model
    if wanted:
        named = [model.id for model in models if wanted in (model.id, model.name)]
        return named[0] if named else wanted
    return models[0].id if models else None


def resolve(site: Site, wanted: str | None, *, usual: str | None = None, field: str) -> str:
    """Return the model id `provider/name` that *wanted* means; None and "" mean the *usual* one, or else the default.

    A bare name is resolved where only one provider has it. Raises ValidationFailed, which names *field*.
    """
    if not wanted and usual and usual.partition("/")[0] in site.providers:
        return usual
    wanted = wanted or site.settings.default_model
    if wanted and wanted.partition("/")[0] in site.providers and wanted.partition("/")[2]:
        return wanted
    models = available(site)
    if not wanted:
        chosen = default(site, models)
        if chosen is None:
            raise ValidationFailed(
                "There is no model. Start Ollama, or set a model API's key.", fields={field: ["None."]}
            )
        return chosen
    named = [model.id for model in models if model.name == wanted]
    if len(named) == 1:
        return named[0]
    sentence = f"Several providers have {wanted}: " if named else f"There is no model {wanted}. There are: "
    names = ", ".join(named or [model.id for model in models[:20]]) or "none"
    raise ValidationFailed(fields={field: [f"{sentence}{names}."]})
