"""`python -m bench.leaks OUT [--seed N]`: writes the challenge set as Parquet, with `truth.json`; `--table` prints it for README.md."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.leaks.challenge import TUNED, write

parser = argparse.ArgumentParser(prog="python -m bench.leaks", description="Writes the challenge set of leaks.")
parser.add_argument("out", type=Path)
parser.add_argument("--seed", type=int, default=TUNED[0])
parser.add_argument("--table", action="store_true", help="also print the table of README.md")
asked = parser.parse_args()
truth = write(asked.out, asked.seed)
print(f"{len(truth)} data sets, {sum(t['clean'] for t in truth)} of them clean, in {asked.out}")
if asked.table:
    for t in truth:
        what = t["leak"] or "clean"
        where = ", ".join(f"`{c}`" for c in t["leaking"]) or ("rows" if t["leak"] else "")
        print(f"| `{t['name']}` | {t['kind']} | {what} | {where} | {t['story']} {t['why'][0].upper() + t['why'][1:]}. |")
