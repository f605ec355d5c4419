"""`python -m bench.figures RESULTS.jsonl ... > docs/figures.md`: the page of figures from lines that `python -m bench --out` wrote.

What the numbers do not say stands in `notes.md` beside this file, and is written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Line = dict[str, Any]
HEAD = """# Figures

Measured by `make bench` (Penstock and a bare hand-written version of the same work in turn, in the same run) and `make bench-peers`. A ratio is
the median over the pairs of a run: Penstock's time divided by the bare version's. Trust ratios more than seconds. The bare version does the work alone: no
checks, no ledger, no rejected rows, no versions, no lineage, no gates.

"""
PEERS = """## Beside other tools

The same input and the same output, each tool in an environment of its own, on one small machine; `bench/README.md` says what each column does.
For `csv` the seconds leave out imports and the start of the JVM; whole processes have them in.

"""


def ratio(line: Line) -> list[str]:
    low, high = line["range"]
    spread = f" ({low:.2f} to {high:.2f})" if line["runs"] > 1 else " (one pair)"
    return [
        line["contest"],
        f"{line['ratio']:.2f}{spread}",
        f"≤ {line['goal']}" if line["goal"] else "",
        f"{line['penstock_s']:.2f} s, {line['penstock_peak_mb']:,} MB",
        f"{line['bare_s']:.2f} s, {line['bare_peak_mb']:,} MB",
    ]


def peer(line: Line) -> list[str]:
    low, high = line["range"]
    return [
        line["contest"],
        line["who"],
        f"{line['ratio']:.2f} ({low:.2f} to {high:.2f})" if line["runs"] > 1 else f"{line['ratio']:.2f} (one pair)",
        f"{line['penstock_s']:.2f} s, {line['penstock_peak_mb']:,} MB",
        f"{line['peer_s']:.2f} s, {line['peer_peak_mb']:,} MB",
        f"{line['penstock_wall_s']:.1f} s, {line['peer_wall_s']:.1f} s",
    ]


SECONDS: dict[str, Callable[[Line], tuple[str, str, str]]] = {
    "start_import": lambda x: ("`import penstock`, over a bare interpreter", f"{x['seconds']:.3f} s", f"≤ {x['goal_s']} s"),
    "start_help": lambda x: ("`penstock --help`, whole process", f"{x['seconds']:.3f} s", f"≤ {x['goal_s']} s"),
    "plan_1000_new": lambda x: ("plan of a project of 1,000 assets", f"{x['seconds']:.2f} s", f"≤ {x['goal_s']} s"),
    "tiny_asset": lambda x: ("one more tiny asset in a run", f"{x['ms_per_asset']:.0f} ms", f"≤ {x['goal_ms']} ms"),
    "appends": lambda x: (
        f"landing 1,000 rows: first tenth → last tenth of {x['commits']:,} commits",
        f"{x['first_ms']:.0f} → {x['last_ms']:.0f} ms ({x['growth']}x)",
        "flat",
    ),
    "merge": lambda x: (f"merge of {x['batch']:,} rows into {x['rows']:,}", f"{x['seconds']:.2f} s", f"≤ {x['goal_s']:g} s"),
    "queue_million": lambda x: (
        "jobs of each status, of a million; claim and complete of one",
        f"{x['counts_ms']:.0f} ms; {x['claim_complete_ms']:.1f} ms",
        f"≤ {x['goal_s']:g} s",
    ),
    "files": lambda x: (f"{x['files']:,} files listed and planned", f"{x['plan_s']:.2f} s", f"≤ {x['goal_s']:g} s"),
}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(r) + " |" for r in rows)]) + "\n\n"


def page(lines: list[Line]) -> str:
    machines = [x for x in lines if "machine" in x]
    text = HEAD
    for found in machines[:1]:
        versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items() if v)
        text += (
            f"Machine: {found['cores']} cores ({found['machine']}), {found['memory_gb']} GB, Python {found['python']}; {found['date']}, commit "
            f"{found['commit']}, load {found['load']} at the start. {versions}.\n\n"
        )
    ratios = [ratio(x) for x in lines if "bare_s" in x]
    text += table(["contest", "ratio", "goal", "Penstock", "bare"], ratios) if ratios else ""
    others = [list(SECONDS[x["contest"]](x)) for x in lines if x.get("contest") in SECONDS]
    text += table(["what", "measured", "goal"], others) if others else ""
    peers = [x for x in lines if "who" in x]
    if peers:
        text += PEERS
        text += table(["contest", "who", "ratio", "Penstock", "it", "whole processes"], [peer(x) for x in peers])
    return text


def main() -> None:
    lines = [json.loads(line) for path in sys.argv[1:] for line in Path(path).read_text().splitlines() if line.strip()]
    sys.stdout.write(page(lines) + (Path(__file__).parent / "notes.md").read_text())


if __name__ == "__main__":
    main()
