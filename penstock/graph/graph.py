"""The graph of a project's assets: who needs whom. Built from values, ordered, without circles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from penstock.ground.errors import CycleError, DefinitionError, UnknownName, did_you_mean
from penstock.ground.names import asset_name
from penstock.spec.features import Features
from penstock.spec.models import Feature, Model, Predictions
from penstock.spec.sources import Database, Files
from penstock.spec.tables import Table

Kind = Literal["source", "table", "features", "model", "predictions"]
Asset = Files | Database | Table | Features | Model | Predictions


@dataclass(frozen=True)
class Node:
    """One asset with its name and the names it needs, each once, in order of first use."""

    name: str
    asset: Asset
    inputs: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        return kind_of(self.asset)


@dataclass(frozen=True)
class Graph:
    """All assets; `nodes` is in running order: inputs stand before what needs them, else by name."""

    nodes: Mapping[str, Node]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

    def node(self, name: str) -> Node:
        """Raises: UnknownName(E1003) with the nearest names."""
        if name not in self.nodes:
            raise UnknownName("no asset has this name", place=name, hint=did_you_mean(name, self.nodes))
        return self.nodes[name]

    def upstream(self, name: str) -> tuple[str, ...]:
        """All that an asset needs, directly or not, in running order; without itself."""
        return self._closure(name, {n.name: n.inputs for n in self})

    def downstream(self, name: str) -> tuple[str, ...]:
        """All that needs an asset, directly or not, in running order; without itself."""
        return self._closure(name, self.users())

    def users(self) -> Mapping[str, tuple[str, ...]]:
        """For each asset the assets that need it directly."""
        users: dict[str, list[str]] = {name: [] for name in self.nodes}
        for node in self:
            for needed in node.inputs:
                users[needed].append(node.name)
        return {name: tuple(found) for name, found in users.items()}

    def _closure(self, name: str, edges: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        self.node(name)
        seen: set[str] = set()
        waiting = list(edges[name])
        while waiting:
            nearest = waiting.pop()
            if nearest not in seen:
                seen.add(nearest)
                waiting.extend(edges[nearest])
        return tuple(n for n in self.nodes if n in seen)


def kind_of(asset: Asset) -> Kind:
    """The noun of a record."""
    if isinstance(asset, Files | Database):
        return "source"
    if isinstance(asset, Table):
        return "table"
    if isinstance(asset, Features):
        return "features"
    return "model" if isinstance(asset, Model) else "predictions"


def inputs_of(asset: Asset) -> tuple[str, ...]:
    """Names that an asset needs. References must have been replaced by names (`spec.models.with_names`)."""
    if isinstance(asset, Table):
        return asset.inputs
    if isinstance(asset, Features):
        return asset.table.inputs if asset.table is not None else (asset.over,)
    if isinstance(asset, Model):
        return tuple(dict.fromkeys((asset.over, *(f.asset for f in asset.features if isinstance(f, Feature)))))
    if isinstance(asset, Predictions):
        return (asset.model, asset.over)
    return ()


def build(assets: Mapping[str, Asset]) -> Graph:
    """The graph of named assets.

    Cost:   O(assets + edges).
    Raises: NameRefused(E1002), UnknownName(E1003) for an input that is no asset, CycleError(E1004) that names the circle,
            DefinitionError(E1001) for an input of the wrong kind.
    """
    found = {asset_name(name): Node(name, asset, inputs_of(asset)) for name, asset in sorted(assets.items())}
    for node in found.values():
        for needed in node.inputs:
            if needed not in found:
                raise UnknownName("an input is no asset of the project", place=f"{node.name}({needed})", hint=did_you_mean(needed, found))
            _fits(node, found[needed])
    return Graph(_ordered(found))


def _fits(node: Node, needed: Node) -> None:
    asset = node.asset
    wants: tuple[str, ...] = ("source", "table", "features", "predictions")
    if isinstance(asset, Features) and asset.table is None:
        wants = ("source", "table")
    elif isinstance(asset, Model):
        wants = ("source", "table") if needed.name == asset.over else ("features",)
    elif isinstance(asset, Predictions):
        wants = ("model",) if needed.name == asset.model else ("source", "table")
    if needed.kind not in wants:
        raise DefinitionError(
            "an input is of the wrong kind", place=f"{node.name}({needed.name})", expected=" or ".join(wants), got=needed.kind
        )


def _ordered(found: Mapping[str, Node]) -> dict[str, Node]:
    """Depth first, without recursion: a chain of 10,000 assets is no deeper for Python than one of two."""
    done: dict[str, Node] = {}
    for start in found:
        path: dict[str, Iterator[str]] = {}
        if start not in done:
            path[start] = iter(found[start].inputs)
        while path:
            name = next(reversed(path))
            for needed in path[name]:
                if needed in path:
                    circle = [*list(path)[list(path).index(needed) :], needed]
                    raise CycleError("assets need each other in a circle", place=needed, got=" -> ".join(circle))
                if needed not in done:
                    path[needed] = iter(found[needed].inputs)
                    break
            else:
                done[name] = found[name]
                del path[name]
    return done
