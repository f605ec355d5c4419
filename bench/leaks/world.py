"""A made world: rows in time order, honest columns of many sorts, and a score from which labels are drawn."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

HOUR, DAY = 3_600_000_000, 86_400_000_000
#: Names of honest columns by what they hold; taken in an order of chance.
COUNTS = "visits calls orders items claims tickets logins returns stops errors shifts beds doors seats".split()
AMOUNTS = "income balance price_paid weight distance area spend fee volume load_kg budget premium rent turnover".split()
MEASURES = "temperature pressure humidity age_index speed ratio_a ratio_b level_1 level_2 drift_mm gain tilt noise_db ph".split()
CLASSES = "region plan channel brand device carrier origin sector colour tariff branch model_line season_code grade_in".split()
FLAGS = "is_member has_app weekend insured married urban first_time online exported heated remote certified".split()


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set of the challenge.

    Attributes:
        kind: binary, multiclass, regression or ranking.
        label: its column.
        columns: the feature columns.
        at, group, key, times: as `penstock.craft.learning.leakage.detect` takes them.
        leak: the kind of leak; "" for a clean one.
        leaking: columns any of which names the leak; () for rows on both sides.
        story, why: where it comes from; what leaks or why it looks as if.
    """

    name: str
    kind: str
    train: pa.Table
    test: pa.Table
    label: str
    columns: tuple[str, ...]
    story: str
    why: str
    leak: str = ""
    leaking: tuple[str, ...] = ()
    at: str | None = None
    group: str | None = None
    key: tuple[str, ...] = ()
    times: Mapping[str, str | None] = field(default_factory=dict)

    def truth(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name, "kind": self.kind, "label": self.label, "columns": list(self.columns), "at": self.at, "group": self.group,
            "key": list(self.key), "times": dict(self.times), "clean": not self.leak, "leak": self.leak, "leaking": list(self.leaking),
            "story": self.story, "why": self.why, "train_rows": self.train.num_rows, "test_rows": self.test.num_rows,
        }  # fmt: skip


class World:
    """Rows of one data set while it is made. The same seed and name give the same rows."""

    def __init__(self, seed: int, name: str, rows: tuple[int, int] = (800, 8000), columns: tuple[int, int] = (5, 25)) -> None:
        self.rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        self.n = int(np.exp(self.rng.uniform(np.log(rows[0]), np.log(rows[1]))))
        self.at = 15_000 * DAY + np.sort(self.rng.integers(0, 700 * DAY, self.n))
        self.columns: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self.score = np.zeros(self.n)
        self._honest(int(self.rng.integers(columns[0], columns[1] + 1)))

    def normal(self, scale: float = 1.0) -> Any:
        return self.rng.normal(scale=scale, size=self.n)

    def chance(self, p: Any) -> Any:
        return self.rng.random(self.n) < p

    def _honest(self, count: int) -> None:
        """About half of the columns tell a little of the score each, all together some of it."""
        pools = [list(self.rng.permutation(pool)) for pool in (COUNTS, AMOUNTS, MEASURES, CLASSES, FLAGS)]
        for i in range(count):
            sort = i % 5
            name = str(pools[sort].pop()) if pools[sort] else f"feature_{i:02d}"
            z = self.normal()
            if sort == 0:
                values: Any = self.rng.poisson(np.exp(0.5 * z) * 3)
            elif sort == 1:
                values = np.round(np.exp(z) * 100, 2)
            elif sort == 2:
                values = z + self.normal(0.2)
            elif sort == 3:
                values = np.array([f"{name[:3]}{k}" for k in range(12)])[np.clip(np.digitize(z, np.linspace(-2, 2, 11)) * 5 % 12, 0, 11)]
            else:
                values = z > 0.3
            if i % 5 != 4 and self.rng.random() < 0.25:
                values = pa.array(values, mask=self.chance(self.rng.uniform(0.02, 0.3)))
            self.columns[name] = values
            if i % 2 == 0:
                self.score = self.score + z * self.rng.uniform(0.2, 0.7) / np.sqrt(1 + count / 10)

    def groups(self, size: float) -> Any:
        """A group for each row, of so many rows on average, some larger than others."""
        count = max(25, int(self.n / size))
        weights = self.rng.gamma(2.0, size=count)
        return self.rng.choice(count, self.n, p=weights / weights.sum())

    def binary(self, rate: float | None = None, noise: float = 1.0) -> Any:
        """True for the rows of the highest score with noise."""
        z = self.hidden(noise)
        return z > np.quantile(z, 1 - (rate if rate is not None else self.rng.uniform(0.15, 0.5)))

    def hidden(self, noise: float = 1.0) -> Any:
        return self.score + self.normal(noise)

    def number(self, noise: float = 0.5) -> Any:
        return np.round(np.exp(4 + 0.6 * self.hidden(noise)), 2)

    def moments(self, micros: Any, null: Any = None) -> pa.Array:
        return pa.array(np.asarray(micros, np.int64), pa.timestamp("us"), mask=null)

    def known_to(self, label: Any, noise: float) -> Any:
        """A number that follows a label with noise."""
        y = np.asarray(label, np.float64)
        return (y - y.mean()) / (y.std() or 1) + self.normal(noise)

    def made(
        self,
        name: str,
        kind: str,
        label: Any,
        *,
        story: str,
        why: str,
        leak: str = "",
        leaking: Sequence[str] = (),
        test: Any = "time",
        at: bool = True,
        **options: Any,
    ) -> Dataset:
        """The data set; `test` is `time` (the newest quarter), `chance`, or flags of the test rows."""
        if isinstance(test, str):
            test = np.arange(self.n) >= self.n * 3 // 4 if test == "time" else self.chance(0.25)
        order = self.rng.permutation(list(self.columns))
        columns = {str(c): self.columns[str(c)] for c in order}
        table = pa.table({"at": self.moments(self.at), **columns, **self.extra, "outcome": label})
        sides = [table.filter(pa.array(part)) for part in (~test, test)]
        return Dataset(
            name, kind, *sides, "outcome", tuple(columns), story, why, leak, tuple(leaking), "at" if at else None, **options
        )  # fmt: skip
