#!/usr/bin/env bash
# The flights of 2013 come month by month, and the project follows by itself. `python get_data.py` first. Works in `live/`, made anew.
#
#   ./live.sh           one `penstock up --once` for each of three months, then what happened and why
#   ./live.sh 12        the whole year
set -euo pipefail
cd "$(dirname "$0")"
months="${1:-3}"

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

rm -rf live
mkdir -p live/data/flights
cp data/planes.csv data/weather.csv live/data/
# The same project, but that flights come as a file a month, that a quarter of a year is enough to learn from, and that the newest month is scored.
sed -e 's#"data/flights.csv"#"data/flights/*.csv"#' -e 's#, ps.rows(300_000)##' -e 's#by_time(test="2013-12-01")#by_time(test="15d")#' \
    -e 's#where="month = 12"#where="month = (SELECT max(month) FROM departures)"#' pipeline.py > live/pipeline.py
cat >> live/pipeline.py <<'PYTHON'


@ps.job
def tell(given):
    """Stands for a message to whoever waits for the scores."""
    print("new scores:", given["version"])
    return {"told": given["version"]}


ps.automate(late_risk, when=ps.arrived(flights))
ps.automate(tell, when=ps.updated(late_risk))
PYTHON

for month in $(seq "$months"); do
    file="live/data/flights/2013-$(printf %02d "$month").csv"
    awk -F, -v month="$month" 'NR == 1 || $2 == month' data/flights.csv > "$file.part"
    mv "$file.part" "$file"
    say penstock -C live up --once
done
say penstock -C live show --automations
say penstock -C live show --jobs
say penstock -C live show --costs
run="$(penstock -C live show --automations --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["automations"][-1]["last"]["run"])')"
say penstock -C live show "$run"
say penstock -C live show "$run" --logs
