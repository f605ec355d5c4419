"""MLflow's REST API by the standard library: JSON in and out, files in and out, every answer in time or an error of ours."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

from penstock.ground.clock import Clock
from penstock.ground.errors import TrackerError, TrackerUnreachable

#: Seconds that a server may be silent, while it answers and while it takes or gives a file.
TIMEOUT_S = 30.0
#: A server that did not answer is not asked again for so long; what waits for it would else be waited for again and again.
PAUSE_S = 60.0
#: Seconds that one file may take.
FILE_S = 1800.0
_MOST_JSON = 32 << 20
_CHUNK = 1 << 20
_BUSY = (408, 429)
_API, _FILES = "api/2.0/mlflow/", "api/2.0/mlflow-artifacts/artifacts"


class _Stays(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: a token would be sent to whoever is named."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Rest:
    """One server. Called from one thread at a time."""

    def __init__(self, address: str, clock: Clock, *, authorization: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.address = address.rstrip("/")
        self._clock = clock
        self._timeout_s = timeout_s
        self._headers = {"Authorization": authorization} if authorization else {}
        self._opener = urllib.request.build_opener(_Stays)
        self._silent_until: float | None = None
        self._silence = ""

    def get(self, path: str, *, but: Collection[str] = (), **query: str) -> dict[str, Any] | None:
        """An answer; None if it is one of the errors in `but`. Raises: TrackerUnreachable(E6005), TrackerError(E6004)."""
        return self._json(self._request("GET", f"{_API}{path}?{urlencode(query)}"), but)

    def send(self, path: str, body: Mapping[str, Any], *, method: str = "POST", but: Collection[str] = ()) -> dict[str, Any] | None:
        """As `get`, with a body."""
        data = json.dumps(body, allow_nan=False).encode()
        return self._json(self._request(method, _API + path, data, **{"Content-Type": "application/json"}), but)

    # -- files ------------------------------------------------------------------------------------------------------
    def put_file(self, path: str, file: Path) -> None:
        """Writes a file into the server's store, in the place of one that is there."""
        with open(file, "rb") as data:
            told = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
            self._json(self._request("PUT", f"{_FILES}/{quote(path)}", data, **told), ())

    def list_files(self, folder: str) -> dict[str, int]:
        """Files right within a folder of the store: name -> size in bytes."""
        found = self._json(self._request("GET", f"{_FILES}?{urlencode({'path': folder})}"), ()) or {}
        return {str(f["path"]): int(f.get("file_size") or 0) for f in found.get("files", []) if not f.get("is_dir")}

    def take_file(self, path: str, to: Path, *, most: int) -> None:
        """Writes a file of the store to a path. Raises: TrackerError(E6004) if it has more than `most` bytes; OSError of the path."""
        begun, size = self._clock.tick(), 0
        answer = self._opened(self._request("GET", f"{_FILES}/{quote(path)}"), ())
        assert answer is not None
        with answer, open(to, "wb") as out:
            while chunk := self._read(answer, _CHUNK):
                size += len(chunk)
                if size > most:
                    raise TrackerError("a file of the model is too large", place=path, expected=f"at most {most} bytes")
                if self._clock.tick() - begun > FILE_S:
                    raise self._gone("it sends too slowly")
                out.write(chunk)

    # -- asking -----------------------------------------------------------------------------------------------------
    def _request(self, method: str, path: str, data: bytes | IO[bytes] | None = None, **headers: str) -> urllib.request.Request:
        return urllib.request.Request(f"{self.address}/{path}", data, {**self._headers, **headers}, method=method)

    def _json(self, request: urllib.request.Request, but: Collection[str]) -> dict[str, Any] | None:
        answer = self._opened(request, but)
        if answer is None:
            return None
        with answer:
            text = self._read(answer, _MOST_JSON)
        try:
            found = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            raise TrackerError("the answer is not JSON", place=self.address, expected="an MLflow server", got=text[:80]) from error
        if not isinstance(found, dict):
            raise TrackerError("not an answer of MLflow", place=self.address, expected="a JSON object", got=text[:80])
        return found

    def _opened(self, request: urllib.request.Request, but: Collection[str]) -> http.client.HTTPResponse | None:
        """An answer to read; None if the server's own word for an error is one of `but`."""
        if self._silent_until is not None and self._clock.tick() < self._silent_until:
            raise TrackerUnreachable(f"the tracker did not answer a moment ago: {self._silence}", place=self.address)
        self._silent_until = None
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=self._timeout_s)
            return answer
        except urllib.error.HTTPError as error:
            word, said = _said(error)
            if word in but:
                return None
            raise self._refused(error.code, f"{word} {said}".strip(), request) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(_why(error)) from error

    def _read(self, answer: http.client.HTTPResponse, most: int) -> bytes:
        """Up to so many bytes, fewer only at the end. The standard library does not tell when the end came too early."""
        try:
            found = answer.read(most)
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(_why(error)) from error
        if len(found) < most and answer.length:
            raise self._gone("it broke off within an answer")
        return found

    def _gone(self, why: str) -> TrackerUnreachable:
        self._silent_until, self._silence = self._clock.tick() + PAUSE_S, why
        hint = "is the server up, and is this its address?"
        return TrackerUnreachable(f"the tracker does not answer: {why}", place=self.address, hint=hint)

    def _refused(self, status: int, said: str, request: urllib.request.Request) -> TrackerError:
        place, said = f"{self.address} {urlsplit(request.full_url).path}", f"{status} {said}".strip()
        if status in _BUSY or status >= 500:
            return TrackerUnreachable(f"the tracker cannot do it now: {said}", place=place)
        hint = ""
        if status in (401, 403):
            hint = "set the environment variable MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        elif 300 <= status < 400:
            hint = "the server sends clients elsewhere: use that address"
        return TrackerError(f"the tracker refuses it: {said}", place=place, hint=hint)


def _why(error: Exception) -> str:
    return str(getattr(error, "reason", error)) or type(error).__name__


def _said(error: urllib.error.HTTPError) -> tuple[str, str]:
    """The server's own word for an error, and what it says of it."""
    with error:
        try:
            text = error.read(1 << 16).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return "", ""
    try:
        body = json.loads(text)
        return str(body["error_code"]), str(body.get("message", ""))[:500]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", str(error.headers.get("Location") or text[:200])


def basic(user: str, password: str) -> str:
    """What a server is told of a user and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
