"""Events that somebody raises, by command or by HTTP: written down at once, acted on by the scheduler."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from datetime import datetime
from typing import Any

from penstock.ground.errors import TokenRefused, UnknownName, did_you_mean
from penstock.ports.state import Record, State
from penstock.spec.automation import Automation, OnEvent, leaves
from penstock.spec.jobs import plain

KIND = "event"
#: How many of the newest events of a name are asked whether one is a repeat.
REPEATS_AMONG = 1000


def names_waited_for(automations: Collection[Automation]) -> set[str]:
    """The names of events that some automation waits for."""
    return {leaf.name for a in automations for leaf in leaves(a.when) if isinstance(leaf, OnEvent)}


def check_token(given: str, expected: str, *, place: str) -> None:
    """Raises: TokenRefused(E5010) unless both are the same and not empty. Takes as long whatever is wrong with a token."""
    same = hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))
    if not (same and expected):
        raise TokenRefused("the token is not the one", place=place, hint="send the secret that the project was given")


def raise_event(
    state: State, name: str, data: Any = None, *, known: Collection[str], now: datetime, given: str, expected: str, delivery: str = ""
) -> Record:
    """Writes an event down. The scheduler fires what waits for it, once for each event.

    Args:
        known: names that automations wait for. `given`, `expected`: the caller's token and the project's.
        delivery: the sender's id of this delivery; one that is among the newest events of that name gives the event that is there.
    Durable: on return. Repeat: another event, unless `delivery` tells that it is the same.
    Raises:  TokenRefused(E5010) before anything else; UnknownName(E1003); UserCodeError(E5001) for data that is no JSON or too great.
    """
    check_token(given, expected, place=f"event {name[:40]!a}")
    if name not in known:
        raise UnknownName("no automation waits for this event", place=name[:80], hint=did_you_mean(name[:80], known))
    body = {"data": plain(data, f"event {name}"), "delivery": delivery[:200]}
    if delivery:
        for record in state.history(KIND, name, limit=REPEATS_AMONG):
            if record.body["delivery"] == body["delivery"]:
                return record
    return state.append(KIND, name, body, at=now)
