"""The HTTP side of `penstock up`: events come in, jobs and flows are started, runs are asked for.

    POST /events/NAME    any JSON              202 {"event", "number", "at"}
    POST /jobs/NAME      {"input", "params"}   202 {"run", "job"}
    POST /flows/NAME     {"input", "params"}   202 {"run", "flow"}
    GET  /runs/ID                              200 {"run", "status", "output", "jobs"}
    GET  /healthz                              200 {"active"}

All but the last need `Authorization: Bearer TOKEN`. An `Idempotency-Key` makes a repeat give what the first one gave. Errors are
`{"schema": "penstock.error/1", "error": {...}}`. The token is looked at before the body, and the body is no longer than `LIMIT_BYTES`.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NoReturn

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from penstock.ground.errors import PenstockError, RequestRefused, SettingsError, TokenRefused, TooMuchWaits, UnknownName
from penstock.project.triggers import Triggers
from penstock.spec.jobs import OUTPUT_LIMIT_BYTES

#: The longest body, in bytes: what one step may hand on.
LIMIT_BYTES = OUTPUT_LIMIT_BYTES
#: Longest `Idempotency-Key`, in characters.
_KEY = 200
_RETRY_AFTER_S = 5


def app_of(triggers: Triggers, active: Callable[[], bool]) -> Starlette:
    """The application. It keeps nothing between two requests."""

    async def event(request: Request) -> Response:
        name, given, delivery = str(request.path_params["name"]), _token(request), _delivery(request)
        await run_in_threadpool(triggers.admit, given, name)
        data = await _body(request)
        return _json(HTTPStatus.ACCEPTED, await run_in_threadpool(triggers.event, name, data, given=given, delivery=delivery))

    def starting(kind: str) -> Callable[[Request], Any]:
        async def start(request: Request) -> Response:
            name, given, delivery = str(request.path_params["name"]), _token(request), _delivery(request)
            await run_in_threadpool(triggers.admit, given)
            form = await _body(request)
            return _json(HTTPStatus.ACCEPTED, await run_in_threadpool(triggers.start, kind, name, form, given=given, delivery=delivery))

        return start

    def run(request: Request) -> Response:
        return _json(HTTPStatus.OK, triggers.run(request.path_params["run"], given=_token(request)))

    async def healthz(request: Request) -> Response:
        return _json(HTTPStatus.OK, {"active": active()})

    routes = [
        Route("/events/{name}", event, methods=["POST"]), Route("/jobs/{name}", starting("job"), methods=["POST"]),
        Route("/flows/{name}", starting("flow"), methods=["POST"]), Route("/runs/{run}", run), Route("/healthz", healthz),
    ]  # fmt: skip
    return Starlette(routes=routes, exception_handlers={PenstockError: _refused, HTTPException: _not_ours})


# -- requests -------------------------------------------------------------------------------------------------------
def _token(request: Request) -> str:
    scheme, _, given = str(request.headers.get("authorization", "")).partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _delivery(request: Request) -> str:
    key = str(request.headers.get("idempotency-key", ""))
    if len(key) > _KEY:
        raise RequestRefused("the Idempotency-Key is too long", expected=f"at most {_KEY} characters", got=len(key))
    return key


async def _body(request: Request) -> Any:
    """The JSON of a request; None if it has no body. Raises: _Long, _Other, RequestRefused(E5012)."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise _Other("not JSON by its type", place="Content-Type", expected="application/json", got=kind[:80])
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > LIMIT_BYTES:
        _too_long(length)
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > LIMIT_BYTES:
            _too_long("more")
    if not data.strip():
        return None
    try:
        return json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RequestRefused("no JSON", expected="JSON in UTF-8", got=str(error)[:120]) from error


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _too_long(got: str) -> NoReturn:
    raise _Long("the body is too long", expected=f"at most {LIMIT_BYTES:,} bytes", got=got)


class _Long(RequestRefused):
    pass


class _Other(RequestRefused):
    pass


# -- answers --------------------------------------------------------------------------------------------------------
_STATUS: tuple[tuple[type[PenstockError], HTTPStatus], ...] = (
    (TokenRefused, HTTPStatus.UNAUTHORIZED), (UnknownName, HTTPStatus.NOT_FOUND), (_Long, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (_Other, HTTPStatus.UNSUPPORTED_MEDIA_TYPE), (TooMuchWaits, HTTPStatus.TOO_MANY_REQUESTS),
)  # fmt: skip


def _json(status: int, told: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(told, status, {"Cache-Control": "no-store", **(headers or {})})


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, PenstockError)
    fallback = HTTPStatus.SERVICE_UNAVAILABLE if error.retry else HTTPStatus.BAD_REQUEST if error.fault == "user" else 500
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), fallback)
    record = error.as_record()
    if isinstance(error, RequestRefused):
        record["kind"] = RequestRefused.__name__
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    if error.retry:
        headers["Retry-After"] = str(_RETRY_AFTER_S)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        headers["Connection"] = "close"  # what is still being sent is not read
    return _json(status, {"schema": "penstock.error/1", "error": record}, headers)


def _not_ours(request: Request, error: Exception) -> Response:
    """What the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    record = RequestRefused(error.detail, place=f"{request.method} {request.url.path}"[:120]).as_record()
    return _json(error.status_code, {"schema": "penstock.error/1", "error": record}, dict(error.headers or {}))


# -- listening ------------------------------------------------------------------------------------------------------
@contextmanager
def listening(app: Starlette, port: int) -> Iterator[int]:
    """Answers on 127.0.0.1 from a thread for the length of a block; gives the port, a free one for 0.

    Raises: SettingsError(E7001) if somebody else listens there.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
        sock.listen(256)  # whoever connects before the thread has begun waits
    except OSError as error:
        sock.close()
        raise SettingsError(
            "the port cannot be had", place="--port", got=f"{port}: {error.strerror}", hint="name another, or 0 for any"
        ) from error
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", timeout_keep_alive=5, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([sock],), name="http", daemon=True)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        sock.close()
