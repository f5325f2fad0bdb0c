"""Which models there are, and which one a request means."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import gevent
from gevent.lock import RLock

from chatapp import metrics
from chatapp.errors import Forbidden, ProviderError, ProviderTimeout, ValidationFailed
from chatapp.providers import Model, Provider
from chatapp.services import Site

logger = logging.getLogger(__name__)

LISTING_SECONDS = 4.0  # a provider that is slower is left out this time
FRESH_SECONDS = 20.0
FAILED_FRESH_SECONDS = 5.0  # a model server that was just started is seen soon, one that hangs is not waited for again
KNOWN_SECONDS = 60.0  # after which the state of a provider that nobody asked again is unknown
LAST = "local"  # the model on board is small: it is the default only where there is no other
May = Callable[[str], bool]


@dataclass(frozen=True)
class Listing:
    models: tuple[Model, ...]
    good_until: float
    answered: bool


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
        _listings[provider] = Listing(models, time.monotonic() + fresh, fresh == FRESH_SECONDS)
        metrics.name_models(model.id for model in models)
        return models


def known(provider: Provider) -> tuple[tuple[Model, ...], bool | None]:
    """Return what the provider had when it was asked last, and whether it answered; None if it was not asked lately.

    Waits for nobody: where that is long ago, it is asked in the background.
    """
    found = _listings.get(provider)
    if found is None or found.good_until < time.monotonic():
        gevent.spawn(listing, provider)
    if found is None or found.good_until + KNOWN_SECONDS < time.monotonic():
        return (), None
    return found.models, found.answered


def everything(model_id: str) -> bool:
    return True


def default(site: Site, models: list[Model], *, may: May = everything) -> str | None:
    """Return the id of the model that is asked where none is named; None where there is none that *may* be asked."""
    wanted = site.settings.default_model
    allowed = [model for model in models if may(model.id)]
    named = [model.id for model in allowed if wanted in (model.id, model.name)]
    if named:
        return named[0]
    listed = any(wanted in (model.id, model.name) for model in models)
    if wanted and not listed and may(wanted):
        return wanted
    return allowed[0].id if allowed else None


def resolve(site: Site, wanted: str | None, *, usual: str | None = None, field: str, may: May = everything) -> str:
    """Return the model id `provider/name` that *wanted* means; None and "" mean the *usual* one, or else the default.

    The default is one that *may* be asked; of one that is named this is not looked at. A bare name is resolved where only
    one provider has it. Raises ValidationFailed, which names *field*.
    """
    if not wanted and usual and usual.partition("/")[0] in site.providers:
        return usual
    usually = site.settings.default_model
    wanted = wanted or (usually if may(usually) else None)
    if wanted and wanted.partition("/")[0] in site.providers and wanted.partition("/")[2]:
        return wanted
    models = available(site)
    if not wanted:
        chosen = default(site, models, may=may)
        if chosen is None and models:
            raise Forbidden("Your plan includes none of the models that are there now. Ask an admin for another plan.")
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
