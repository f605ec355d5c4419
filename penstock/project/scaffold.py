"""`penstock new`: a small project that runs at once, as a place to begin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penstock.ground.errors import DefinitionError, SettingsError


@dataclass(frozen=True)
class Scaffold:
    """A new project: its folder, and its files relative to it."""

    folder: Path
    files: tuple[str, ...]


def scaffold(folder: Path) -> Scaffold:
    """Makes the folder and the files of a small project in it.

    Raises: SettingsError(E7001) if the folder has something in it; DefinitionError(E1001) if it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise DefinitionError("a file has this name", place=str(folder), expected="a name for a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise SettingsError(
            "the folder is not empty; nothing was written", place=str(folder), expected="a new or an empty folder",
            hint="give another name, or write pipeline.py by hand: a project is any folder that has one",
        )  # fmt: skip
    name = folder.resolve().name
    texts = {
        "pipeline.py": PIPELINE,
        "penstock.toml": SETTINGS.format(name=_toml(name)),
        "README.md": README.format(name=name),
        ".gitignore": ".penstock/\n__pycache__/\n",
        "data/trips.csv": TRIPS,
    }
    for relative, text in texts.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Scaffold(folder, tuple(texts))


def _toml(text: str) -> str:
    """A text as TOML's basic string, which JSON's is too."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


PIPELINE = '''"""Bicycle trips: how busy is each station, and when?"""

import penstock as ps

trips = ps.files("data/trips.csv")


@ps.table(
    key="trip_id", time="started_at",
    checks=[ps.not_null("station"), ps.between("minutes", 0, 24 * 60)],
)
def rides(trips):
    """Each ride that ended. A row that fails a check is kept aside with its reason, and can be replayed."""
    return ps.sql("""
        SELECT trip_id, station, started_at, ended_at, date_diff('minute', started_at, ended_at) AS minutes, member
        FROM trips
        WHERE ended_at IS NOT NULL
    """)


@ps.table(key=["station", "day"])
def station_days(rides, *, longer_than=0):
    """Rides per station and day. Try: penstock run --set station_days.longer_than=10"""
    return ps.sql("""
        SELECT station, CAST(started_at AS DATE) AS day, count(*) AS rides, round(avg(minutes), 1) AS mean_minutes
        FROM rides
        WHERE minutes > $longer_than
        GROUP BY ALL
    """, longer_than=longer_than)
'''

SETTINGS = """# Where each part runs. Without this file everything is embedded, under .penstock/.
[project]
name = {name}

# [level.big]
# engine = "duckdb://"
# memory_limit = "4GB"
# threads = 4
"""

README = """# {name}

    penstock plan                # what is stale, why, and what it will cost
    penstock run                 # make it fresh
    penstock query "select * from station_days order by rides desc"
    penstock show                # all assets
    penstock show rides --rejected
    penstock show station_days --lineage

`pipeline.py` holds the definitions, `data/` the raw files, `.penstock/` everything that is made.
Add rows to `data/trips.csv`, or another file and `"data/*.csv"` in `pipeline.py`, and run again.
"""

TRIPS = """trip_id,station,started_at,ended_at,member
1,Harbour,2024-05-01 07:58:00,2024-05-01 08:10:00,true
2,Market,2024-05-01 08:01:00,2024-05-01 08:19:00,true
3,Harbour,2024-05-01 08:05:00,2024-05-01 08:31:00,false
4,Station,2024-05-01 08:12:00,2024-05-01 08:24:00,true
5,Market,2024-05-01 12:30:00,2024-05-01 13:02:00,false
6,,2024-05-01 12:41:00,2024-05-01 12:55:00,true
7,University,2024-05-01 17:03:00,2024-05-01 17:21:00,true
8,Harbour,2024-05-01 17:15:00,2024-05-01 17:37:00,true
9,Station,2024-05-01 17:22:00,,true
10,Market,2024-05-02 07:55:00,2024-05-02 08:08:00,true
11,Harbour,2024-05-02 08:02:00,2024-05-02 08:15:00,true
12,University,2024-05-02 08:10:00,2024-05-02 07:40:00,false
13,Station,2024-05-02 08:20:00,2024-05-02 08:33:00,true
14,Harbour,2024-05-02 16:48:00,2024-05-02 17:29:00,false
15,Market,2024-05-02 17:05:00,2024-05-02 17:22:00,true
16,University,2024-05-02 17:30:00,2024-05-02 17:46:00,true
"""
