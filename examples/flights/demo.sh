#!/usr/bin/env bash
# The flights of 2013, from CSV files to a score for each flight of December. `make demo` calls this; afterwards run it as you like.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say penstock plan
say penstock run
say penstock query "SELECT carrier, count(*) AS flights, round(avg(score), 3) AS risk FROM late_risk GROUP BY ALL ORDER BY risk DESC LIMIT 5"
say penstock show late_risk --lineage
say penstock show departures --ledger
say penstock run
