#!/usr/bin/env bash
# Two keys in turns on every connection, a million frames, one connection for each core and more: each tenant has exactly its own,
# in the order of each connection.
#
#   scripts/frames.sh [FRAMES=1000000]
#
# Once over io_uring and once over the fallback. Everything is read back over the query, oldest first. Ends with 1 at the first
# event that is missing, doubled, moved, or another tenant's.
#
#   CORES         the server's cores (default: as many as the machine has)     CONNECTIONS=2 for each core
#   BATCH=1       events of a frame     TENANTS=2     EVENT_BYTES=120     IO_MODES="uring fallback"
#   BENCH_DIR     where the data directory is made (default: under target/)
#   SERVER_BIN, LOAD_BIN   use these programs and build nothing
set -euo pipefail

script=frames.sh
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

frames=${1:-1000000}
case $frames in '' | *[!0-9]* | 0) echo "usage: scripts/frames.sh [FRAMES=1000000]" >&2; exit 2 ;; esac
cores=${CORES:-$(nproc)}

build_programs

mkdir -p "${BENCH_DIR:-$target}"
work=$(mktemp -d "${BENCH_DIR:-$target}/frames.XXXXXX")
server_pid=
cleanup() {
    stop_process "$server_pid"
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

for io in ${IO_MODES:-uring fallback}; do
    rm -rf "$work/data" "$work/ports.json"
    "$ringlog" serve --data-dir "$work/data" --http 127.0.0.1:0 --tcp 127.0.0.1:0 --ports-file "$work/ports.json" \
        --onboard-per-hour 0 --cores "$cores" --io "$io" --durability commit >"$work/server.log" 2>&1 &
    server_pid=$!
    if ! wait_for_file "$work/ports.json" "$server_pid"; then
        cat "$work/server.log" >&2
        echo "frames.sh: the server did not start with --io $io" >&2
        exit 1
    fi
    echo "$io, $cores cores"
    "$load" stream --source frames --ports-file "$work/ports.json" --bootstrap-key "$bootstrap_key" --tenants "${TENANTS:-2}" \
        --connections $((cores * ${CONNECTIONS:-2})) --batch "${BATCH:-1}" --event-bytes "${EVENT_BYTES:-120}" --count "$frames" --verify
    stop_process "$server_pid"
    server_pid=
    grep -o 'sources: .*' "$work/server.log" || true
done
echo "frames.sh: OK"
