"""The tracker itself: what of a version becomes which part of a run and of a registered model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from penstock.adapters.tracker.mlflow.flavours import model_file
from penstock.adapters.tracker.mlflow.rest import Rest, basic
from penstock.ground.errors import SettingsError, TrackerError, Unsupported
from penstock.ports.adapters import Context
from penstock.ports.tracker import LiveTold, TrackerCapabilities, VersionTold

#: The alias of what is live.
LIVE = "production"
#: What MLflow takes in one batch, and of one value.
_METRICS, _PARAMS, _TAGS, _PARAM_CHARS, _TAG_CHARS = 1000, 100, 100, 6000, 5000
_NAME_CHARS = 250
_MOST_BYTES = 1 << 31
_HERE = "mlflow-artifacts:"
_TOKEN = "penstock.token"


class MlflowTracker:
    """One MLflow server."""

    capabilities = TrackerCapabilities(files=True, curves=True, models=True)
    example_url = "mlflow+http://127.0.0.1:5000"

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    @classmethod
    def open(cls, url: str, context: Context) -> MlflowTracker:
        """A connection; the server is first asked when it is told something. Raises: SettingsError(E7001)."""
        address = url.partition("+")[2]
        try:
            parts = urlsplit(address)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            known = False
        if not known or parts.query or parts.fragment:
            raise SettingsError("not an address of an MLflow server", place="tracker", expected=cls.example_url, got=url.rpartition("@")[2])
        if parts.username is not None:
            raise SettingsError(
                "a tracker's address holds no user and password", place="tracker", got=f"...@{parts.hostname}",
                hint="set the environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )  # fmt: skip
        return cls(Rest(address, context.clock, authorization=_authorization(context)))

    def close(self) -> None:
        """Nothing is held between calls."""

    # -- telling ----------------------------------------------------------------------------------------------------
    def tell(self, version: VersionTold) -> None:
        experiment = self._experiment(version.project)
        run = self._run(experiment, version.token) or self._begun(experiment, version)
        if run["info"]["status"] == "FINISHED":
            return
        run_id, uri = str(run["info"]["run_id"]), str(run["info"]["artifact_uri"])
        self._log(run_id, version)
        source, files = self._kept(uri, version)
        self._registered(run_id, source, version, files)
        ended = {"run_id": run_id, "status": "FINISHED", "end_time": _ms(version.ended)}
        self._rest.send("runs/update", ended)

    def live(self, told: LiveTold) -> None:
        name, place = _registered_name(told), f"{told.model}@{told.version}"
        run = self._run(self._experiment(told.project), told.token)
        number = self._number(name, str(run["info"]["run_id"])) if run else None
        if number is None:
            raise TrackerError("the tracker has no such version", place=place, expected="a version that was told before it became live")
        said = {
            "live_since": told.at.isoformat(),
            "live_by": told.by,
            "live_how": told.how,
            "live_reason": told.reason,
            "replaced": told.replaced,
        }
        for key, value in said.items():
            if value:
                self._rest.send("model-versions/set-tag", {"name": name, "version": number, **_tag(key, value)})
        self._rest.send("registered-models/alias", {"name": name, "alias": LIVE, "version": number})

    def _experiment(self, name: str) -> str:
        found = self._rest.get("experiments/get-by-name", but=("RESOURCE_DOES_NOT_EXIST",), experiment_name=name)
        if found is None:
            made = self._rest.send("experiments/create", {"name": name}, but=("RESOURCE_ALREADY_EXISTS",))
            found = {"experiment": made} if made else self._rest.get("experiments/get-by-name", experiment_name=name)
        experiment = (found or {}).get("experiment", {})
        if experiment.get("lifecycle_stage") == "deleted":
            raise TrackerError("the experiment was deleted", place=name, hint="restore it in MLflow, or rename the project")
        return str(self._field(experiment, "experiment_id"))

    def _run(self, experiment: str, token: str) -> dict[str, Any] | None:
        asked = {"experiment_ids": [experiment], "filter": f"tags.`{_TOKEN}` = '{token}'", "max_results": 1}
        found: list[dict[str, Any]] = (self._rest.send("runs/search", asked) or {}).get("runs", [])
        return found[0] if found else None

    def _begun(self, experiment: str, version: VersionTold) -> dict[str, Any]:
        identity = {
            "token": version.token, "project": version.project, "model": version.model, "version": version.version, "run": version.run,
            "refused": str(version.refused).lower(),
        }  # fmt: skip
        tags = [_tag(key, value) for key, value in identity.items()]
        tags += [{"key": "mlflow.note.content", "value": version.summary[:_TAG_CHARS]}, {"key": "mlflow.source.name", "value": "penstock"}]
        asked = {
            "experiment_id": experiment, "run_name": f"{version.model}-{version.version}", "start_time": _ms(version.started), "tags": tags,
        }  # fmt: skip
        made: dict[str, Any] = self._field(self._rest.send("runs/create", asked) or {}, "run")
        return made

    def _log(self, run_id: str, version: VersionTold) -> None:
        """All at the time of the version, so that what is told twice is the same to MLflow."""
        metrics = [
            {"key": _name(key), "value": value, "timestamp": _ms(version.ended), "step": 0} for key, value in version.metrics.items()
        ]
        for point in version.curve:
            for key, value in point.values.items():
                name = _name(f"{point.phase}/{key}")
                metrics.append({"key": name, "value": value, "timestamp": _ms(version.ended), "step": point.step})
        params = [{"key": _name(key), "value": _text(value)[:_PARAM_CHARS]} for key, value in version.params.items()]
        tags = [_tag(key, value) for key, value in version.tags.items() if value]
        batches = (("metrics", metrics, _METRICS), ("params", params, _PARAMS), ("tags", tags, _TAGS))
        for what, entries, most in batches:
            for batch in _batches(entries, most):
                self._rest.send("runs/log-batch", {"run_id": run_id, what: batch})

    def _kept(self, uri: str, version: VersionTold) -> tuple[str, str]:
        """The address of the artefact, and what to say of its files."""
        folder = self._store(uri)
        if folder is None:
            return f"{uri}/model", "not written: the server does not take files, it sends clients to a store of their own"
        for name, path in version.files.items():
            try:
                self._rest.put_file(f"{folder}/model/{name}", path)
            except FileNotFoundError:
                return f"{uri}/model", "gone before the tracker was told"
        return f"{uri}/model", version.tags.get("files", "here" if version.files else "none")

    def _registered(self, run_id: str, source: str, version: VersionTold, files: str) -> None:
        name = _registered_name(version)
        self._rest.send("registered-models/create", {"name": name}, but=("RESOURCE_ALREADY_EXISTS",))
        if self._number(name, run_id) is not None:
            return
        said = {"token": version.token, "version": version.version, "refused": str(version.refused).lower(), **version.tags, "files": files}
        tags = [_tag(key, value) for key, value in said.items() if value]
        asked = {"name": name, "source": source, "run_id": run_id, "description": version.summary, "tags": tags}
        self._rest.send("model-versions/create", asked)

    def _number(self, name: str, run_id: str) -> str | None:
        """MLflow's number of the version that a run made."""
        found = self._rest.get("model-versions/search", filter=f"name='{name}' and run_id='{run_id}'", max_results="1") or {}
        versions = found.get("model_versions") or []
        return str(versions[0]["version"]) if versions else None

    # -- fetching ---------------------------------------------------------------------------------------------------
    def fetch(self, reference: str, folder: Path) -> Path:
        name, number = self._found(reference)
        answer = self._rest.get("model-versions/get-download-uri", name=name, version=number) or {}
        uri = str(self._field(answer, "artifact_uri"))
        store = self._store(uri)
        if store is None:
            raise Unsupported(
                "the server does not hand out this model itself", place=reference, got=uri,
                hint="start it with --artifacts-destination, or take the file from there and import it from a path",
            )  # fmt: skip
        names = self._rest.list_files(store)
        file, ending = model_file(names, self._described(store, names, folder), reference)
        path = folder / f"model{ending}"
        self._rest.take_file(f"{store}/{file}", path, most=_MOST_BYTES)
        return path

    def _found(self, reference: str) -> tuple[str, str]:
        name, by_alias, alias = reference.rpartition("@")
        absent = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
        if by_alias:
            found = self._rest.get("registered-models/alias", but=absent, name=name, alias=alias)
        else:
            name, _, number = reference.rpartition("/")
            found = self._rest.get("model-versions/get", but=absent, name=name, version=number)
        if found is None:
            raise TrackerError("the tracker has no such model, version or alias", place=reference, got=self._rest.address)
        version = self._field(found, "model_version")
        if version.get("status", "READY") != "READY":
            raise TrackerError("the model is not ready", place=reference, expected="READY", got=version["status"])
        return name, str(version["version"])

    def _described(self, store: str, names: Mapping[str, int], folder: Path) -> str:
        """The text of the model's description, "" if it has none."""
        if "MLmodel" not in names:
            return ""
        path = folder / "MLmodel"
        self._rest.take_file(f"{store}/MLmodel", path, most=1 << 20)
        text = path.read_text(encoding="utf-8", errors="replace")
        path.unlink()
        return text

    def _store(self, uri: str) -> str | None:
        """The path in the server's own store, None if the files are elsewhere."""
        parts = urlsplit(uri)
        host = urlsplit(self._rest.address).netloc
        if f"{parts.scheme}:" != _HERE or parts.netloc not in ("", host):
            return None
        return parts.path.strip("/")

    def _field(self, answer: Mapping[str, Any], name: str) -> Any:
        if name not in answer:
            raise TrackerError("not an answer of MLflow", place=self._rest.address, expected=name, got=", ".join(answer) or "nothing")
        return answer[name]


def _authorization(context: Context) -> str:
    token, user, password = (_secret(context, f"MLFLOW_TRACKING_{name}") for name in ("TOKEN", "USERNAME", "PASSWORD"))
    if token:
        return f"Bearer {token}"
    return basic(user, password) if user else ""


def _secret(context: Context, name: str) -> str:
    try:
        return context.secret(name)
    except SettingsError:
        return ""


def _registered_name(told: VersionTold | LiveTold) -> str:
    """Of two projects' models of one name each is itself. A slash, a colon or a quote cannot stand in a name there."""
    return re.sub(r"[/:'\"]", "_", f"{told.project}.{told.model}")


def _tag(key: str, value: str) -> dict[str, str]:
    return {"key": _name(f"penstock.{key}"), "value": value[:_TAG_CHARS]}


def _name(text: str) -> str:
    """A name as MLflow takes it; other signs become underscores."""
    return re.sub(r"[^\w\-. /]", "_", text, flags=re.ASCII)[:_NAME_CHARS].strip("/. ") or "_"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _ms(moment: Any) -> int:
    return int(moment.timestamp() * 1000)


def _batches(entries: list[Any], most: int) -> Iterator[list[Any]]:
    rest = iter(entries)
    while batch := list(islice(rest, most)):
        yield batch
