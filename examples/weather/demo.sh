#!/usr/bin/env bash
# From four years of weather to tomorrow's temperature: a regression, a sweep, a candidate that is refused, a release, a roll-back.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

python get_data.py
say penstock run
say penstock run warmest --sweep depth=2,4,8
say penstock run warmest --set warmest.depth=1 || echo "(refused, as it should be: exit $?)"
say penstock show warmest --why
say penstock show warmest --compare
say penstock release warmest --rollback --reason "to show how"
say penstock run warmest --rebuild v1
say penstock query "SELECT observed_at, round(score, 1) AS warmest FROM tomorrow ORDER BY 1 DESC LIMIT 3"
