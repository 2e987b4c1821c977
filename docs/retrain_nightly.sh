#!/bin/sh
# One night: read the log, say whether it has changed, train again, compare with the running model, switch to the new one
# unless it is worse, and score all users. A crontab line, with a lock so that two nights never overlap:
#
#   30 3 * * *  flock -n /tmp/cutrec.lock env RUNNING=/srv/running LISTS=/srv/lists CHECKOUT/docs/retrain_nightly.sh
#
# RUNNING   the link to the running model
# LISTS     the folder for the lists of each day
# RELOAD    what tells the server about a new model: "systemctl reload cutrec"
#
# The exit status is 1 if the running model was kept, or if a step failed.
set -eu
cd "$(dirname "$0")/.."
: "${RUNNING:?the link to the running model, such as /srv/running}" "${LISTS:?a folder for the lists, such as /srv/lists}"
: "${RELOAD:=true}" "${CUTREC:=uv run --no-dev cutrec}" "${DVC:=uv run --no-dev dvc}"

if [ -f data/download/log.parquet ]; then
    rm -rf data/previous
    cp -R data/download data/previous
fi
$DVC repro download
if [ -d data/previous ] && [ -e "$RUNNING" ]; then
    $CUTREC drift data/previous data/download --model "$RUNNING" || echo "see data/drift/drift.html" >&2
fi

$DVC repro
status=0
if $CUTREC promote data/train "$RUNNING" --margin 0.01; then
    $RELOAD
else
    status=1
fi

$CUTREC recommend --part 1/1 --model "$RUNNING" --out "$LISTS/$(date +%F)-$(basename "$(readlink "$RUNNING")")"
exit $status
