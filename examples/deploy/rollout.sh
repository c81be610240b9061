#!/bin/sh
# Brings the program that was put on each host into service, a batch of hosts after the other:
#
#     rollout.sh PROGRAM BATCH HOST…
#
# A host whose restart is undone keeps serving its old version, and ends the rollout: the batches behind
# it are not touched. ON_HOST is what runs a command on a host; ssh, unless it says otherwise.
set -eu
program=$1 batch=$2
shift 2
answers=$(mktemp -d)
trap 'rm -rf "$answers"' EXIT
while [ $# -gt 0 ]; do
    jobs='' count=0
    while [ $# -gt 0 ] && [ "$count" -lt "$batch" ]; do
        "${ON_HOST:-ssh}" "$1" "$program restart --json" > "$answers/$1" &
        jobs="$jobs $1=$!" count=$((count + 1))
        shift
    done
    failed=0
    for job in $jobs; do
        host=${job%=*}
        if wait "${job##*=}"; then
            echo "$host: ok"
        else
            failed=1
            echo "$host: $(sed -n 's/^ *"reason": "\(.*\)",*$/\1/p' "$answers/$host")" >&2
        fi
    done
    if [ "$failed" = 1 ]; then
        echo "stopped; not touched: ${*:-none}" >&2
        exit 1
    fi
done
