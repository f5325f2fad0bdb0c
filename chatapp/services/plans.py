"""Which models a person may ask. What the catalogue of known models says, an admin overrides, model by model.

A model that the catalogue does not know is in every plan until an admin says otherwise.
"""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from importlib import resources
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from chatapp.database import db, exclusively, glance, writing
from chatapp.errors import Conflict, Forbidden, NotFound
from chatapp.models import plans
from chatapp.models.accounts import ADMIN, User
from chatapp.providers import Model
from chatapp.services import models, site
from chatapp.services.accounts import PLANS, require_admin

FRESH_SECONDS = 2.0  # what an admin changes is seen by other processes within this time
NEW_SECONDS = 0.1  # the same for a plan that is not known yet
NOTHING_TOLD = ("chat",)  # the capabilities of a model whose API tells none
GONE = "There is no such plan."
DATED = re.compile(r"-(?:\d{8}|\d{4}-\d\d-\d\d|\d{4}|latest)$")


@dataclass(frozen=True)
class Known:
    """A model of the catalogue; `rank` is the place of the lowest plan that includes it, from 1."""

    rank: int
    context_length: int
    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class Catalogue:
    """The shipped plans, the lowest first, and the models by id."""

    plans: tuple[str, ...]
    models: Mapping[str, Known]


@dataclass(frozen=True)
class Plan:
    """A plan as it is now. `said` holds what an admin said of single models."""

    name: str
    position: int
    tokens_per_day: int | None
    said: Mapping[str, bool]


@dataclass(frozen=True)
class Standing:
    """All plans by name, the lowest first, as they were a moment ago."""

    plans: Mapping[str, Plan]
    read_at: float


_standing: WeakKeyDictionary[Engine, Standing] = WeakKeyDictionary()


@cache
def catalogue() -> Catalogue:
    """Return the shipped catalogue."""
    told = tomllib.loads((resources.files("chatapp") / "data" / "models.toml").read_text(encoding="utf-8"))
    ranks = {name: rank for rank, name in enumerate(told["plans"], 1)}
    known = {
        name: Known(ranks[one["plan"]], one["context_length"], tuple(one["capabilities"]))
        for name, one in told["models"].items()
    }
    return Catalogue(tuple(told["plans"]), known)


def plain(model_id: str) -> str:
    """Return a model's id without what model servers overlook."""
    return model_id.strip().lower().removesuffix(":latest")


@lru_cache(maxsize=1000)
def spellings(model_id: str) -> tuple[str, str]:
    """Return the id as it is compared, and the one that stands for its dated versions."""
    name = plain(model_id)
    return name, DATED.sub("", name)


def known_as(model_id: str) -> Known | None:
    """Return what the catalogue says of a model."""
    known = catalogue().models
    return next((known[name] for name in spellings(model_id) if name in known), None)


def standing(engine: Engine, *, fresh_seconds: float = FRESH_SECONDS) -> Mapping[str, Plan]:
    """Return all plans by name, the lowest first; at most *fresh_seconds* old."""
    found, asked_at = _standing.get(engine), time.monotonic()
    if found is None or found.read_at + fresh_seconds < asked_at:
        with glance(engine) as connection:
            rows, said = plans.all_plans(connection), plans.all_said(connection)
        read = {
            row.name: Plan(
                row.name,
                row.position,
                row.tokens_per_day,
                {plain(name): allowed for name, allowed in said.get(row.name, {}).items()},
            )
            for row in rows
        }
        found = _standing[engine] = Standing(read, asked_at)
    return found.plans


def plan_of(user: User) -> Plan:
    """Return the plan of *user*: their own, or the site's default one."""
    parts = site()
    name = user.plan or parts.settings.default_plan
    now = standing(parts.engine)
    if name not in now:  # it may be new
        now = standing(parts.engine, fresh_seconds=NEW_SECONDS)
    # one that was deleted, by hand or in a race, must open nothing
    return now.get(name) or next(iter(now.values()), Plan("none", 0, None, {}))


def allowed(plan: Plan, model_id: str) -> bool:
    """Say whether *plan* includes the model."""
    for name in spellings(model_id):
        if name in plan.said:
            return plan.said[name]
    known = known_as(model_id)
    return known is None or plan.position >= known.rank


def may(user: User, model_id: str) -> bool:
    """Say whether *user* may ask the model; admins may ask all."""
    return user.role == ADMIN or allowed(plan_of(user), model_id)


def check(user: User, model_id: str) -> None:
    """Raise Forbidden, which names the plan, where *user* may not ask the model."""
    if not may(user, model_id):
        raise Forbidden(
            f"Your plan, {plan_of(user).name}, does not include {model_id}. "
            "Choose another model, or ask an admin for another plan."
        )


def choose(user: User, wanted: str | None, *, usual: str | None = None, field: str) -> str:
    """Return the id of the model that *wanted* means, as `models.resolve`. Raises ValidationFailed, Forbidden."""
    model_id = models.resolve(site(), wanted, usual=usual, field=field, may=partial(may, user))
    check(user, model_id)
    return model_id


def usable(user: User, found: Iterable[Model]) -> list[Model]:
    """Return those of the models *found* that *user* may ask, with what the catalogue knows where the API told nothing."""
    return [completed(model) for model in found if may(user, model.id)]


def completed(model: Model) -> Model:
    known = known_as(model.id)
    if known is None:
        return model
    told = model.capabilities != NOTHING_TOLD
    return replace(
        model,
        context_length=model.context_length or known.context_length,
        capabilities=model.capabilities if told else known.capabilities,
    )


# what an admin may do


def listed(user: User) -> list[dict[str, Any]]:
    """Return all plans, the lowest first. Raises Forbidden."""
    require_admin(user)
    now, names = fresh(), known_names()
    return [described(plan, names) for plan in now.values()]


def one(user: User, name: str) -> dict[str, Any]:
    """Return the plan called *name*. Raises Forbidden, NotFound."""
    require_admin(user)
    return described(found(name), known_names())


def make(user: User, name: str, *, models: Mapping[str, bool | None], tokens_per_day: int | None) -> dict[str, Any]:
    """Make a plan, which begins with what the lowest one has by the catalogue. Raises Forbidden, Conflict."""
    require_admin(user)
    with writing() as session:
        exclusively(session, PLANS)
        if name.casefold() in {kept.name.casefold() for kept in plans.all_plans(session.connection())}:
            raise Conflict("There is a plan of this name already.")
        session.add(plans.Plan(name=name, position=1, tokens_per_day=tokens_per_day))
        session.flush()
        say_all(session, name, models)
    return described(found(name), known_names())


def change(user: User, name: str, **values: Any) -> dict[str, Any]:
    """Set `tokens_per_day`, and which `models` are in the plan or not. Raises Forbidden, NotFound."""
    require_admin(user)
    with writing() as session:
        plan = kept(session, name)
        if "tokens_per_day" in values:
            plan.tokens_per_day = values["tokens_per_day"]
        say_all(session, name, values.get("models") or {})
    return described(found(name), known_names())


def delete(user: User, name: str) -> None:
    """Delete a plan that nobody has. Raises Forbidden, NotFound, Conflict."""
    require_admin(user)
    with writing() as session:
        plan = kept(session, name)
        if name == site().settings.default_plan:
            raise Conflict("This is the plan of all who were given none (CHATAPP_DEFAULT_PLAN).")
        if plans.people(session).get(name) or plans.is_promised(session, name):
            raise Conflict("Somebody has this plan, or was promised it in an invite. Give them another one first.")
        plans.remove(session, plan)
    forget()


def kept(session: Session, name: str) -> plans.Plan:
    exclusively(session, PLANS)
    known = "\0" not in name  # which PostgreSQL does not look for
    plan = session.get(plans.Plan, name, populate_existing=True) if known else None
    if plan is None:
        raise NotFound(GONE)
    return plan


def say_all(session: Session, name: str, said: Mapping[str, bool | None]) -> None:
    for model_id, is_in in said.items():
        plans.say(session, name, plain(model_id), is_in)


def forget() -> None:
    """Have the plans read again, since they were changed here."""
    _standing.pop(site().engine, None)


def fresh() -> Mapping[str, Plan]:
    forget()
    return standing(site().engine)


def found(name: str) -> Plan:
    plan = fresh().get(name)
    if plan is None:
        raise NotFound(GONE)
    return plan


def known_names() -> set[str]:
    """Return the ids of the models that there are, and of those in the catalogue."""
    db.session.commit()  # no connection is held while model servers are asked
    return {*catalogue().models, *(model.id for model in models.available(site()))}


def described(plan: Plan, names: set[str]) -> dict[str, Any]:
    counts = plans.people(db.session())
    people = counts.get(plan.name, 0)
    is_default = plan.name == site().settings.default_plan
    return {
        "name": plan.name,
        "tokens_per_day": plan.tokens_per_day,
        "models": {name: allowed(plan, name) for name in sorted({*names, *plan.said})},
        "overrides": dict(plan.said),
        "people": people + (counts.get(None, 0) if is_default else 0),
        "is_default": is_default,
    }
