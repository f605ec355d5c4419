"""What a run works with: the ports, the clock, and a listener for progress. Made by `project`, passed down, never global."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from penstock.craft.learning.signing import Keys
from penstock.graph.graph import Graph, Node
from penstock.ground.clock import Clock
from penstock.ground.ids import Ids
from penstock.plan.records import Action, Declared
from penstock.ports.compute import Compute
from penstock.ports.engine import Engine, RawFile, Session
from penstock.ports.lake import Lake
from penstock.ports.source import Database as DatabasePort
from penstock.ports.state import Claim, State
from penstock.ports.tracker import Tracker
from penstock.run.ledger import Step
from penstock.spec.sources import Database, Files


@dataclass(frozen=True)
class Event:
    """Something a person may want to see now. `kind`: started, step, check, gate, finished, failed, skipped, note."""

    kind: str
    asset: str
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


class Listener(Protocol):
    def __call__(self, event: Event) -> None: ...


@dataclass(frozen=True)
class ProjectCode:
    """The user's code, as far as work on it needs to know.

    Attributes:
        modules: what is loaded from the project's folder. `calls`: what runs in a process of its own, by what it is for.
        digest: tells a function and what it reaches apart from any other.
        keep: stores the project's own source files by content; gives each file's name there.
    """

    modules: tuple[str, ...]
    calls: Mapping[str, str]
    digest: Callable[[Callable[..., Any]], str]
    keep: Callable[[], Mapping[str, str]]


@dataclass(frozen=True)
class Runtime:
    """Ports and inputs of a run.

    Attributes:
        root: the project's folder. `folder`: its own data (`.penstock`).
        list_files, digest_file: how a file source is looked at; `open_database`: how a database source is opened.
        open_compute: where processes of their own run; opened when first asked for.
        keys: signs what is registered. `cores`: how many a job may use.
        fetch_model: a finished model's file, by its source, for the length of a block.
        project: its name. open_tracker: whom registered versions are told; None for nobody.
    """

    root: Path
    folder: Path
    lake: Lake
    engine: Engine
    state: State
    clock: Clock
    ids: Ids
    list_files: Callable[[Files], tuple[RawFile, ...]]
    digest_file: Callable[[RawFile], str]
    open_database: Callable[[Database], DatabasePort]
    open_compute: Callable[[], Compute]
    code: ProjectCode
    keys: Keys
    cores: int
    fetch_model: Callable[[str], AbstractContextManager[Path]]
    project: str
    open_tracker: Callable[[], Tracker] | None
    tell: Listener

    @property
    def compute(self) -> Compute:
        return self.open_compute()


@dataclass
class Job:
    """One action being worked on.

    Attributes:
        versions: newest version of every asset, as this job sees it.
        base: body of the asset's newest record, {} if it was never made.
        token: names this piece of work; the same work after a crash has the same token.
        started: tick of the clock at which work began.
        steps: the ledger so far.
    """

    runtime: Runtime
    graph: Graph
    node: Node
    declared: Declared
    action: Action
    run: str
    claim: Claim
    session: Session
    versions: Mapping[str, str]
    base: Mapping[str, Any]
    token: str
    started: float
    steps: list[Step] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def part(self) -> bool:
        return self.action.mode == "part"

    @property
    def seconds(self) -> float:
        return round(self.runtime.clock.tick() - self.started, 3)

    def tell(self, kind: str, text: str = "", **data: Any) -> None:
        self.runtime.tell(Event(kind, self.name, text, data))


@dataclass(frozen=True)
class Outcome:
    """What a job recorded. `changed` is False if there was nothing new to publish."""

    version: str
    body: Mapping[str, Any]
    changed: bool = True


def snapshot_of(body: Mapping[str, Any]) -> str:
    """The lake's version that holds the rows of an asset's version: another one after a compaction."""
    return str(body.get("snapshot", body["version"]))


def snapshot_for(runtime: Runtime, name: str, version: str) -> str:
    """The lake's version to read for an asset's version."""
    head = runtime.state.heads("asset", prefix=name).get(name)
    return snapshot_of(head.body) if head is not None and str(head.body["version"]) == version else version
