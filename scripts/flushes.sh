#!/usr/bin/env bash
# Counts the flushes that the disk under the data directory completes: what "durable" and "in memory" really do.
#
#   scripts/flushes.sh
#
#   commit   one client, one event a request: at least one flush for each acknowledged request
#   memory   the same once start-up has settled: none at all
#
# Ends with 1 if either does not hold, with 2 if flushes cannot be counted here. Others on the same disk add to the count: too
# many do not matter for commit; memory is tried again up to ATTEMPTS times and must be clean once.
#
#   REQUESTS=2000  ATTEMPTS=5
#   BENCH_DIR     where the data directories are made (default: under target/, on a disk and not in memory)
#   DEVICE        whose flushes are counted, as in vda (default: the disk under BENCH_DIR)
#   RINGLOG_IO    auto, uring or fallback: how the server does its I/O
#   SYNC          dsync or fdatasync: how a write is made durable
#   SERVER_BIN, LOAD_BIN   use these programs and build nothing
set -euo pipefail

script=flushes.sh
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

requests=${REQUESTS:-2000}
attempts=${ATTEMPTS:-5}

build_programs

mkdir -p "${BENCH_DIR:-$target}"
work=$(mktemp -d "${BENCH_DIR:-$target}/flushes.XXXXXX")
ports=$work/ports.json
server_pid=

stop_server() {
    stop_process "$server_pid"
    server_pid=
}
cleanup() {
    stop_server
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

fail() {
    echo "flushes.sh: FAILED: $*" >&2
    tail -n 20 "$work/server.log" >&2 2>/dev/null || true
    exit 1
}
cannot_tell() {
    echo "flushes.sh: cannot count flushes: $*" >&2
    exit 2
}

device=${DEVICE:-$(disk_under "$work")}
[ -n "$device" ] || cannot_tell "no disk found under $work ($(df --output=source "$work" | tail -n 1)); name one with DEVICE, or another place with BENCH_DIR"
[ -r "/sys/block/$device/stat" ] || cannot_tell "/sys/block/$device/stat cannot be read"
if [ "$(cat "/sys/block/$device/queue/write_cache" 2>/dev/null || true)" = "write through" ]; then
    cannot_tell "$device has no volatile cache, so that the kernel never sends it a flush"
fi

flushes() {
    flushes_of "$device" || cannot_tell "/sys/block/$device/stat has no count of flushes, which needs Linux 5.5"
}

# start_server MODE: fresh directory, one core, one tenant, whose key is left in `key`.
start_server() {
    local address
    rm -rf "$work/data" "$ports"
    "$ringlog" serve --data-dir "$work/data" --http 127.0.0.1:0 --tcp 127.0.0.1:0 --ports-file "$ports" \
        --onboard-per-hour 0 --cores 1 --durability "$1" ${SYNC:+--sync "$SYNC"} ${RINGLOG_IO:+--io "$RINGLOG_IO"} \
        >"$work/server.log" 2>&1 &
    server_pid=$!
    wait_for_file "$ports" "$server_pid" || fail "$1: the server did not start"
    address=$(text http <"$ports")
    key=$(make_tenant "$address" flushes) || true
    [ -n "$key" ] || fail "$1: no tenant could be made"
}

# Until the disk has seen no flush for three seconds. It may never come to that when others use it.
settle() {
    local last now still=0 seconds=0
    last=$(flushes)
    while [ "$still" -lt 3 ] && [ "$seconds" -lt 60 ]; do
        sleep 1
        seconds=$((seconds + 1))
        now=$(flushes)
        if [ "$now" -eq "$last" ]; then still=$((still + 1)); else still=0; fi
        last=$now
    done
    [ "$still" -ge 3 ] || echo "flushes.sh: the disk does not come to rest: others flush it" >&2
}

# count MODE: sends the requests and leaves `acknowledged` and `flushed`.
count() {
    local before
    before=$(flushes)
    "$load" run --quiet --closed --ports-file "$ports" --key "$key" --connections 1 --depth 1 --batch 1 --count "$requests" \
        --json "$work/result.json" >"$work/load.log" 2>&1 || { tail -n 20 "$work/load.log" >&2; fail "$1: the load generator failed"; }
    flushed=$(($(flushes) - before))
    acknowledged=$(sed -n 's/.*"requests_good":\([0-9]*\).*/\1/p' "$work/result.json")
    [ "${acknowledged:-0}" -ge "$requests" ] || fail "$1: only ${acknowledged:-0} of $requests requests were acknowledged"
    printf '%-8s %8d requests acknowledged  %8d flushes of %s\n' "$1" "$acknowledged" "$flushed" "$device"
}

start_server commit
settle
count commit
[ "$flushed" -ge "$acknowledged" ] || fail "commit: fewer flushes than acknowledged requests"
stop_server

start_server memory
attempt=0
while :; do
    attempt=$((attempt + 1))
    settle
    count memory
    [ "$flushed" -ne 0 ] || break
    [ "$attempt" -lt "$attempts" ] || fail "memory: the disk was flushed in each of $attempts runs"
done
stop_server
echo "flushes.sh: OK"
