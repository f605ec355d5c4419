#!/usr/bin/env bash
# What a team does with the model of this example: trials, a candidate that is refused, a release, a roll-back, a version made again.
# Run demo.sh before (`make demo`). Takes some minutes: it trains ten models on 300,000 flights.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say penstock run late_departure --sweep leaves=15,63 --sweep iterations=60
say penstock run late_departure --set late_departure.iterations=2 || echo "(refused, as it should be: exit $?)"
say penstock show late_departure --why
say penstock show late_departure --compare
say penstock release late_departure --rollback --by ada --reason "the dispatchers want last week's scores back"
say penstock run late_risk --set late_departure.iterations=2
say penstock show late_departure --releases
say penstock run late_departure --rebuild v1
say penstock show late_departure --card
