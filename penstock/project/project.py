"""A project: a folder with definitions, opened. The one object that the command line, notebooks and tests work with."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from penstock.craft.exports.python_text import identifier
from penstock.craft.learning.signing import Keys
from penstock.graph.graph import Graph, Node, build, inputs_of
from penstock.graph.select import select
from penstock.ground.clock import Clock, SystemClock
from penstock.ground.environ import cores, user
from penstock.ground.errors import DefinitionError, PenstockError, RunFailed, SettingsError, SourceError
from penstock.ground.ids import Ids, SystemIds
from penstock.ground.paths import private_folder
from penstock.plan.decide import needs_digest, plan
from penstock.plan.records import Declared, FileSeen, Plan
from penstock.ports.adapters import Context
from penstock.ports.compute import Compute
from penstock.ports.engine import RawFile
from penstock.ports.files import FileStore
from penstock.ports.state import State
from penstock.ports.tracker import Tracker, parted
from penstock.project import settings as settings_of
from penstock.project.adapters import modules_of, opened
from penstock.project.code import CodeReader, kept, laid_out, sources
from penstock.project.discover import Found, found_in, load_modules
from penstock.project.settings import Settings
from penstock.run.runtime import Event, ProjectCode, Runtime
from penstock.spec.models import Model
from penstock.spec.sources import Database, Files, Secret

if TYPE_CHECKING:
    from penstock.craft.exports.outline import Written
    from penstock.project.exports import Scheduler
    from penstock.project.levels import PortLevel
    from penstock.project.query import Result
    from penstock.project.trace import TraceStep
    from penstock.run.backfill import Backfilled, Tell
    from penstock.run.difference import Difference
    from penstock.run.execute import RunReport, Sight, Wanted
    from penstock.run.rebuild import Rebuilt
    from penstock.run.registry import Promotion
    from penstock.run.replay import ReplayReport
    from penstock.run.sweep import Search, Space, Swept
    from penstock.run.upkeep import Keep, UpkeepResult
    from penstock.run.worker import Attempt, Works

Params = Mapping[str, Mapping[str, Any]]
#: What runs in a process of its own.
CALLS = {"fit": "penstock.project.isolated:fit", "job": "penstock.project.isolated:job"}


def silent(event: Event) -> None:
    """A listener that does not listen."""


def _defaults(node: Node) -> dict[str, Any]:
    """Parameters of an asset as its code has them; parameters that a sweep adopted count while these stay."""
    return Declared(node.name, node.kind, (), "", params=dict(getattr(node.asset, "params", ()))).recorded_params


class Project:
    """An opened project. Cheap to make: modules, lake, state and engine are opened when they are first needed.

    Use as a context manager, or call `close`.
    """

    def __init__(
        self, settings: Settings, *, clock: Clock | None = None, ids: Ids | None = None, listener: Callable[[Event], None] = silent
    ) -> None:
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.ids: Ids = ids or SystemIds(self.clock)
        self.listener = listener

    @classmethod
    def open(cls, folder: str | Path = ".", *, level: str | None = None, **inputs: Any) -> Project:
        """Opens the project in a folder, or in the nearest folder above that has a `penstock.toml` or a `pipeline.py`.

        Raises: SettingsError(E7001) if there is no such folder.
        """
        start = Path(folder).resolve()
        for place in (start, *start.parents):
            if (place / settings_of.FILE).exists() or (place / "pipeline.py").exists():
                return cls(settings_of.load(place, level=level), **inputs)
        raise SettingsError(
            "there is no project here",
            place=str(folder),
            expected="a folder with pipeline.py or penstock.toml",
            hint="`penstock new NAME` makes one",
        )

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives everything back. Repeat: does nothing."""
        self.__dict__.pop("runtime", None)
        self.__dict__.pop("compute", None)
        if "tracker" in self.__dict__:
            self.__dict__.pop("tracker").close()
        if "state" in self.__dict__:
            self.__dict__.pop("state").close()

    # -- what is declared -------------------------------------------------------------------------------------------
    @property
    def root(self) -> Path:
        return self.settings.root

    @cached_property
    def graph(self) -> Graph:
        """The project's assets. Raises: ProjectNotLoaded(E1005), DefinitionError(E1001), CycleError(E1004), UnknownName(E1003)."""
        return build(self.found.assets)

    @cached_property
    def found(self) -> Found:
        """All that the project's modules declare: assets, jobs, flows, automations. Raises: as `graph`."""
        return found_in(load_modules(self.root, self.settings.modules))

    @property
    def _context(self) -> Context:
        return Context(private_folder(self.settings.folder), self.clock, self.ids, settings_of.secret, dict(self.settings.options))

    @cached_property
    def state(self) -> State:
        """What is recorded. Planning needs no other adapter."""
        return cast("State", opened("state", self.settings.urls.get("state", f"sqlite:///{self.settings.folder}/state.db"), self._context))

    @cached_property
    def runtime(self) -> Runtime:
        """The opened adapters of this level."""
        context, urls, folder = self._context, self.settings.urls, self.settings.folder
        return Runtime(
            root=self.root,
            folder=folder,
            lake=opened("lake", urls.get("lake", (folder / "lake").as_uri()), context),
            engine=opened("engine", urls.get("engine", "duckdb://"), context),
            state=self.state,
            clock=self.clock,
            ids=self.ids,
            list_files=self.list_files,
            digest_file=self.files.digest,
            open_database=self._database,
            open_compute=lambda: self.compute,
            code=self._code,
            keys=self.keys,
            cores=int(self.settings.options.get("threads", 0)) or cores(),
            fetch_model=self._fetched_model,
            project=self.settings.name,
            open_tracker=(lambda: self.tracker) if "tracker" in urls else None,
            tell=lambda event: self.listener(event),
        )

    @cached_property
    def compute(self) -> Compute:
        """Where processes of their own run; shared by all projects of this process."""
        from penstock.project.processes import default_url, shared

        learns = any(node.kind == "model" for node in self.graph)
        return shared(self.settings.urls.get("compute") or default_url(sources(self.root), learns=learns, own=self._own), self._context)

    @property
    def _own(self) -> list[str]:
        """Modules of ours that every job in a process of its own needs."""
        urls = self.settings.urls
        ports = {
            "state": urls.get("state", "sqlite://"),
            "lake": urls.get("lake", "file://"),
            "engine": urls.get("engine", "duckdb://"),
            "files": "file://",
        }
        return [
            CALLS["job"].partition(":")[0],
            "penstock.run.execute",
            "penstock.run.kinds",
            "penstock.run.upkeep",
            *(module for port, url in ports.items() for module in modules_of(port, url)),
        ]

    @property
    def _code(self) -> ProjectCode:
        store = self.settings.folder / "code"
        return ProjectCode(self.settings.modules, CALLS, CodeReader(self.root).digest, lambda: kept(self.root, store))

    @contextmanager
    def _fetched_model(self, source: str) -> Iterator[Path]:
        """A finished model's file: a path, relative to the project's folder, or an address of a tracker."""
        if "://" not in source:
            yield self.root / source
            return
        address, reference = parted(source)
        tracker = cast("Tracker", opened("tracker", address, self._context))
        try:
            with TemporaryDirectory(prefix="model-", dir=private_folder(self.settings.folder / "spill")) as folder:
                yield tracker.fetch(reference, Path(folder))
        finally:
            tracker.close()

    @cached_property
    def tracker(self) -> Tracker:
        """Where registered versions are also told. Raises: SettingsError(E7001) if this level has none."""
        if "tracker" not in self.settings.urls:
            raise SettingsError("this level has no tracker", place=f"level.{self.settings.level}.tracker")
        return cast("Tracker", opened("tracker", self.settings.urls["tracker"], self._context))

    @property
    def keys(self) -> Keys:
        """What signs models and promotions of this project."""
        return Keys(self.settings.folder / "keys")

    @cached_property
    def files(self) -> FileStore:
        """Where patterns of file sources are looked up."""
        return cast("FileStore", opened("files", f"file://{self.root}", self._context))

    def list_files(self, source: Files) -> tuple[RawFile, ...]:
        """The files that a source's pattern matches now. Raises: SourceError(E2001) if there are none."""
        return tuple(self.files.list(source.pattern, format=source.format, hive=source.hive))

    def _database(self, source: Database) -> Any:
        url = re.sub(r"^(sqlite:///)(?!/)", rf"\g<1>{self.root}/", source.url)
        context = Context(self.settings.folder, self.clock, self.ids, settings_of.secret)
        password = settings_of.secret(source.password.name) if isinstance(source.password, Secret) else None
        return opened("source", url, context, password=password)

    def declared(self, params: Params | None = None) -> dict[str, Declared]:
        """Every asset as declared; parameters as given, else as adopted from a sweep, else as written in the code."""
        from penstock.project.declare import declared

        given = {name: dict(values) for name, values in (params or {}).items()}
        for name, record in self.state.heads("adopted").items():
            node = self.graph.nodes.get(name)
            if node is not None and record.body.get("defaults") == _defaults(node):
                given[name] = {**record.body["params"], **given.get(name, {})}
        return declared(self.graph, CodeReader(self.root), given)

    # -- plan and run -----------------------------------------------------------------------------------------------
    def seen(self, chosen: Collection[str], unseen: dict[str, PenstockError] | None = None) -> dict[str, dict[str, FileSeen]]:
        """The files of the chosen file sources as they are now; contents are looked at only where size and time do not tell.

        Raises: SourceError(E2001) for a source without files, or puts it into `unseen` if that is given.
        """
        listing = self.state.heads("listing")
        found: dict[str, dict[str, FileSeen]] = {}
        for node in self.graph:
            if node.name not in chosen or not isinstance(node.asset, Files):
                continue
            try:
                found[node.name] = {f.label: self._seen(f, listing.get(f"{node.name}/{f.label}")) for f in self.list_files(node.asset)}
            except SourceError as error:
                if unseen is None:
                    raise
                unseen[node.name] = error
        return found

    def _seen(self, file: RawFile, record: Any) -> FileSeen:
        now = FileSeen(file.size_bytes, file.changed_ns)
        if record is None or record.body.get("gone"):
            return now
        was = FileSeen(record.body["size"], record.body["changed_ns"], record.body["digest"])
        if was.digest and needs_digest(was, now, loaded_ns=record.body["loaded_ns"]):
            return replace(now, digest=self.files.digest(file))
        return now

    def _remember(self, seen: Mapping[str, Mapping[str, FileSeen]], before_ns: int) -> None:
        """Records files whose content was looked at and is as it was landed, so that it need not be looked at again."""
        listing = self.state.heads("listing")
        entries = []
        for name, files in seen.items():
            for label, now in files.items():
                record = listing.get(f"{name}/{label}")
                if record is not None and now.digest and now.digest == record.body["digest"]:
                    body = {**record.body, "changed_ns": now.changed_ns, "loaded_ns": before_ns}
                    entries.append(("listing", f"{name}/{label}", body))
        if entries:
            self.state.append_all(entries, at=self.clock.now())

    def looks(self, chosen: Collection[str]) -> set[str]:
        """Sources that only reading can tell about."""
        return {n.name for n in self.graph if n.name in chosen and isinstance(n.asset, Database)}

    def plan(self, *selection: str, params: Params | None = None, force: bool = False) -> Plan:
        """What is stale among the selected assets and all they need, why, and what making it will cost. Changes nothing.

        Raises: UnknownName(E1003), SourceError(E2001) and definition errors.
        """
        from penstock.project.notebook import ShownPlan
        from penstock.run.recorded import recorded

        chosen = set(select(self.graph, selection, needed=True))
        made = recorded(self.state)
        forced = set(select(self.graph, selection)) if force else set()
        return ShownPlan(
            plan(self.declared(params), made, self.seen(chosen), chosen=chosen, force=forced, looks=self.looks(chosen)).actions
        )

    def run(self, *selection: str, params: Params | None = None, force: bool = False, priority: int = 0) -> RunReport:
        """Makes the selected assets and all they need fresh; returns a `RunReport`. Failures are in the report, not raised."""
        from penstock.project.notebook import ShownReport
        from penstock.run.execute import run
        from penstock.run.outbox import tell_owed

        chosen = set(select(self.graph, selection, needed=True))
        forced = set(select(self.graph, selection)) if force else set()
        wanted: list[Wanted] = []

        def look() -> Wanted:
            wanted.append(self._wanted(chosen, params, force=forced if not wanted else ()))
            return wanted[-1]

        def sight(payload: Mapping[str, Any]) -> Wanted:
            """As this run looked at the sources, if the job is as it would put it in itself."""
            name, last = payload["asset"], wanted[-1]
            if name not in last.chosen or payload["params"].get(name, {}) != dict((params or {}).get(name, {})):
                return self._sight(payload)
            return replace(last, force={name} if payload["force"] else (), looks={name} if payload["look"] else ())

        report = run(look, self.runtime, self.works(sight), params=params, priority=priority)
        tell_owed(self.runtime)
        return ShownReport(report.run, report.started, report.seconds, report.results)

    def backfill(
        self, name: str, first: str, last: str = "", *, params: Params | None = None, priority: int = 0, tell: Tell | None = None
    ) -> Backfilled:
        """Makes the slices of a table from `first` to `last` (`2013-01`, `2013-01-31`) that are missing or touched, a commit for each.

        What the table needs is made fresh first. Slices that fail are in what is returned; see `run.backfill`.
        Raises: DefinitionError(E1001) for an asset that is not made of slices; RunFailed(E5002) if an input cannot be made.
        """
        from penstock.run.backfill import backfill, sliced, span

        node = self.graph.node(name)
        sliced(node)
        begin, end = span(f"{first}..{last or first}")
        report = self.run(*node.inputs, params=params)
        if broken := [r.asset for r in report.results if r.status in ("failed", "skipped")]:
            raise RunFailed("an input of the table could not be made", place=name, got=", ".join(broken))
        own = {name: dict(params[name])} if params and name in params else {}
        return backfill(
            node, self.graph, self.declared(params)[name], self.runtime, self.works(), first=begin, last=end, params=own, priority=priority,
            **({"tell": tell} if tell else {}),
        )  # fmt: skip

    def _wanted(self, chosen: Collection[str], params: Params | None = None, *, force: Collection[str] = ()) -> Wanted:
        """What is wanted of some assets, with the sources as they are now."""
        from penstock.run.execute import Wanted

        unseen: dict[str, PenstockError] = {}
        before_ns = int(self.clock.now().timestamp() * 1e9)
        seen = self.seen(chosen, unseen)
        self._remember(seen, before_ns)
        return Wanted(self.graph, self.declared(params), seen, chosen, force, self.looks(chosen), unseen)

    def _sight(self, payload: Mapping[str, Any]) -> Wanted:
        """What a queued job wants; see `run.execute.Sight`."""
        name = str(payload["asset"])
        self.graph.node(name)
        wanted = self._wanted({name}, payload["params"], force={name} if payload["force"] else ())
        return replace(wanted, looks={name} if payload["look"] else ())

    def works(self, sight: Sight | None = None) -> Works:
        """What each kind of a run's own jobs does; `project.jobs.works` has all kinds. A run itself (`sight`) tells the tracker at its end."""
        from functools import partial

        from penstock.run.backfill import make_slice
        from penstock.run.execute import make
        from penstock.run.kinds import KINDS

        made = partial(make, kinds=KINDS)
        return {
            "make": partial(made, sight=sight) if sight else partial(self._made_elsewhere, made),
            "slice": partial(make_slice, sight=self._sight), "upkeep": self._cared_for,
        }  # fmt: skip

    def _made_elsewhere(self, made: Callable[..., dict[str, Any]], attempt: Attempt) -> dict[str, Any]:
        from penstock.run.outbox import tell_owed

        found = made(attempt, sight=self._sight)
        if self.graph.node(str(attempt.payload["asset"])).kind == "model":
            tell_owed(self.runtime)
        return found

    def _cared_for(self, attempt: Attempt) -> list[dict[str, Any]]:
        return [result.record() for result in self.upkeep(str(attempt.payload["asset"]))]

    def upkeep(self, *selection: str, keep: Keep | None = None, orphan_age: timedelta | None = None) -> list[UpkeepResult]:
        """Compacts small files, forgets old versions, removes orphans. `run` does it by itself for tables that need it."""
        from penstock.run.upkeep import ORPHAN_AGE, Keep, upkeep

        chosen = select(self.graph, selection)
        partitions = {
            name: tuple(getattr(self.graph.node(name).asset, "partition", ())) for name in chosen if self.graph.node(name).kind != "model"
        }
        return upkeep(self.runtime, partitions, keep=keep or Keep(), orphan_age=ORPHAN_AGE if orphan_age is None else orphan_age)

    # -- looking ----------------------------------------------------------------------------------------------------
    def query(self, sql: str, *, as_of: datetime | None = None, params: Mapping[str, Any] | None = None) -> Result:
        """SQL over the project's tables, now or as they were at a moment; see `Result` for its forms."""
        from penstock.project.query import query

        return query(self.runtime, sql, as_of=as_of, params=params)

    def features_at(
        self, name: str, moment: datetime, entities: Sequence[Mapping[str, Any]] | None = None, *, as_of: datetime | None = None
    ) -> Result:
        """Features as they were known at a moment, one row an entity; see `project.known.features_at`."""
        from penstock.project.known import features_at

        return features_at(self.graph, self.runtime, name, moment, entities, as_of=as_of)

    def trace(self, name: str, key: Mapping[str, Any]) -> TraceStep:
        """Where one row came from, back to input files and positions."""
        from penstock.project.trace import trace

        return trace(self.graph, self.runtime, name, key)

    # -- other schedulers -------------------------------------------------------------------------------------------
    def level(self) -> list[PortLevel]:
        """Which level each part needs now; see `project.levels`."""
        from penstock.project.levels import JOBS, levels, peaks_of, this_machine

        assets = {name: record.body for name, record in self.state.heads("asset").items() if name in self.graph.nodes}
        peaks = peaks_of(self.state.queue.jobs(limit=JOBS))
        return levels(self.settings, assets, peaks, this_machine(self.settings.folder), automations=len(self.found.automations))

    def export(
        self,
        scheduler: Scheduler,
        folder: str | Path,
        *,
        select: Sequence[str] = (),
        at: str | None = None,
        command: str = "penstock",
        resource: str | None = None,
        start: datetime | None = None,
    ) -> tuple[Written, list[Path]]:
        """Writes schedule and dependencies for another scheduler into a folder; see `project.exports.written`.

        Args: at, command: the project's folder and our command where the tasks run. start: for `catch_up="all"`; today if not said.
        """
        from penstock.craft.exports.outline import Export
        from penstock.craft.exports.stepfunctions import RESOURCE
        from penstock.project.exports import store, written

        level = "" if self.settings.level == "embedded" else self.settings.level
        export = Export(identifier(self.settings.name), at or str(self.root), command, level)
        day = (start or self.clock.now()).date()
        made = written(scheduler, self.graph, self.found, export, select=select, start=day, resource=resource or RESOURCE)
        return made, store(made.files, Path(folder))

    # -- models -----------------------------------------------------------------------------------------------------
    def release(self, model: str, *, version: str = "", by: str | None = None, reason: str = "", despite_gates: bool = False) -> Promotion:
        """Makes a version live (the newest that passed, if none is named); see `run.registry.release`."""
        from penstock.run.outbox import tell_owed
        from penstock.run.registry import release

        self._model(model)
        made = release(self.runtime, self.runtime.keys, model, version, by=by or user(), reason=reason, despite_gates=despite_gates)
        tell_owed(self.runtime)
        return made

    def rollback(self, model: str, *, by: str | None = None, reason: str = "") -> Promotion:
        """Makes the version live that was live before; see `run.registry.rollback`."""
        from penstock.run.outbox import tell_owed
        from penstock.run.registry import rollback

        self._model(model)
        made = rollback(self.runtime, self.runtime.keys, model, by=by or user(), reason=reason)
        tell_owed(self.runtime)
        return made

    def live_at(self, model: str, moment: datetime) -> Promotion | None:
        """What was live at a moment, verified by its signature; None if nothing was.

        Raises: SignatureRefused(E6003) for a record that was altered or signed by nobody we trust.
        """
        from penstock.run.registry import live_at, verified

        self._model(model)
        found = live_at(self.state, model, moment)
        return verified(found, self.keys) if found else None

    def sweep(
        self,
        model: str,
        space: Space,
        *,
        search: Search = "grid",
        trials: int = 20,
        metric: str = "",
        seed: int = 0,
        params: Params | None = None,
    ) -> Swept:
        """Tries parameters out of fold on the training rows, then trains the best once as a version and adopts its parameters.

        What the model needs is made fresh first. A sweep that was stopped goes on where it was.
        Raises: as `run.sweep.sweep`; RunFailed(E5002) if an input cannot be made.
        """
        from penstock.run.execute import alone
        from penstock.run.sweep import sweep

        node = self._model(model)
        if node.inputs:
            report = self.run(*node.inputs, params=params)
            if broken := [r.asset for r in report.results if r.status in ("failed", "skipped")]:
                raise RunFailed("an input of the model could not be made", place=model, got=", ".join(broken))
        with alone(node, self.graph, self.declared(params)[model], self.runtime, claim=f"asset:{model}", why="a sweep") as job:
            found = sweep(job, space, search=search, trials=trials, metric=metric, seed=seed)
        if found.best is not None:
            best = dict(found.best.params)
            body = {"params": best, "defaults": _defaults(node), "sweep": found.sweep}
            self.state.append("adopted", model, body, at=self.clock.now())
            self.run(model, params=params)
        return found

    def rebuild(self, model: str, version: str) -> Rebuilt:
        """Trains a registered version again from the recorded data, code, parameters and seed, and compares; see `run.rebuild`."""
        from penstock.run.execute import alone
        from penstock.run.learn import declared_as
        from penstock.run.rebuild import rebuild
        from penstock.run.registry import entry

        node = self._model(model)
        told = entry(self.state, model, version)
        assert isinstance(node.asset, Model)
        then = declared_as(node.asset, told)
        node = Node(model, then, inputs_of(then))
        store = self.settings.folder / "code"
        as_then = replace(self.declared()[model], params=told["params"])
        with alone(node, self.graph, as_then, self.runtime, claim=f"rebuild:{model}", why="a rebuild", versions=told["inputs"]) as job:
            return rebuild(job, told, lambda files, folder: laid_out(files, store, folder))

    def difference(self, predictions: str, first: str, second: str) -> Difference:
        """Where and how much the scores of two versions differ, on the rows of a predictions asset; see `run.difference`."""
        from penstock.run.difference import difference
        from penstock.run.execute import alone

        node = self.graph.node(predictions)
        if node.kind != "predictions":
            raise DefinitionError("not predictions", place=predictions, expected="predictions", got=node.kind)
        declared_ = self.declared()[predictions]
        with alone(node, self.graph, declared_, self.runtime, claim=f"difference:{predictions}", why="a comparison") as job:
            return difference(job, first, second)

    def _model(self, name: str) -> Node:
        node = self.graph.node(name)
        if node.kind != "model":
            raise DefinitionError("not a model", place=name, expected="model", got=node.kind)
        return node

    def replay(self, name: str, params: Params | None = None) -> ReplayReport:
        """Tries the rejected rows of an asset again; those that pass today's checks land."""
        from penstock.run.replay import replay

        return replay(self.graph.node(name), self.declared(params)[name], self.graph, self.runtime)
