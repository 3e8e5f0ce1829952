#!/usr/bin/env bash
# How long a start takes with much stored: from exec to the first good /health, and to the first answered query.
#
#   scripts/restart.sh [GIB=10]
#
# Fills a fresh data directory with so much of full, sealed segments, then starts the server on it twice: after SIGTERM, and after
# kill -9 under load. Drops the page cache before each start when it may (root); says whether it did.
# A start is watched by polling, which is good to about 10 ms.
#
#   CORES         the server's cores (default: the server's own choice)
#   BENCH_DIR     where the data directory is made (default: under target/, on a disk and not in memory)
#   RINGLOG_IO    auto, uring or fallback: how the server does its I/O
#   KEEP=1        leave the working directory; a failure always leaves it
#   SERVER_BIN, LOAD_BIN   use these programs and build nothing
set -euo pipefail

script=restart.sh
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

gib=${1:-10}
case $gib in '' | *[!0-9]* | 0) echo "usage: scripts/restart.sh [GIB=10]" >&2; exit 2 ;; esac

build_programs

mkdir -p "${BENCH_DIR:-$target}"
work=$(mktemp -d "${BENCH_DIR:-$target}/restart.XXXXXX")
data=$work/data
ports=$work/ports.json
server_pid=
load_pid=
address=
keeps=${KEEP:-}

cleanup() {
    for pid in $load_pid $server_pid; do
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [ -n "$keeps" ]; then
        echo "left in place: $work" >&2
    else
        rm -rf "$work"
    fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

fail() {
    keeps=1
    echo "restart.sh: FAILED: $*" >&2
    tail -n 20 "$work/server.log" >&2 2>/dev/null || true
    exit 1
}

start_server() {
    rm -f "$ports"
    started_us=$(now_us)
    "$ringlog" serve --data-dir "$data" --http 127.0.0.1:0 --tcp 127.0.0.1:0 --ports-file "$ports" \
        --onboard-per-hour 0 ${CORES:+--cores "$CORES"} ${RINGLOG_IO:+--io "$RINGLOG_IO"} >>"$work/server.log" 2>&1 &
    server_pid=$!
}

# Until /health answers; gives up after five minutes.
wait_for_health() {
    local tries=0
    address=
    while :; do
        if [ -z "$address" ] && [ -s "$ports" ]; then
            address=$(text http <"$ports")
        fi
        if [ -n "$address" ] && curl -sf -o /dev/null --max-time 10 "http://$address/health"; then return; fi
        kill -0 "$server_pid" 2>/dev/null || fail "the server ended while it started"
        tries=$((tries + 1))
        [ "$tries" -lt 60000 ] || fail "the server did not start within five minutes"
        sleep 0.002
    done
}

first_query() {
    curl -sf --max-time 60 -H "Authorization: Bearer $1" \
        "http://$address/api/v1/events/query?limit=100&sort=desc" >"$work/answer.json" || fail "the first query failed"
    grep -q '"count":100[,}]' "$work/answer.json" || fail "the first query did not give 100 events"
}

drop_caches() {
    sync
    if [ "$(id -u)" -eq 0 ] && echo 3 2>/dev/null >/proc/sys/vm/drop_caches; then
        caches="page cache dropped"
    else
        caches="PAGE CACHE WARM: dropping it needs root"
    fi
}

# measure NAME: starts the server and prints how long it took.
measure() {
    local health_us query_us
    drop_caches
    start_server
    wait_for_health
    health_us=$(($(now_us) - started_us))
    first_query "${keys[0]}"
    query_us=$(($(now_us) - started_us))
    printf '%-26s  health %7d ms   first query %7d ms   %s\n' \
        "$1" $((health_us / 1000)) $((query_us / 1000)) "$caches"
}

run_load() {
    rm -f "$work/stop"
    local key_flags=()
    for key in "${keys[@]}"; do key_flags+=(--key "$key"); done
    "$load" run --quiet --closed --ports-file "$ports" "${key_flags[@]}" --connections 32 --depth 2 --batch 500 \
        --event-bytes 220 --entities 10000 --duration 86400 --warmup 0 --stop-file "$work/stop" "$@" >>"$work/load.log" 2>&1 &
    load_pid=$!
}

stop_load() {
    touch "$work/stop"
    wait "$load_pid" || { tail -n 20 "$work/load.log" >&2; fail "the load generator failed"; }
    load_pid=
}

sealed_count() {
    find "$data" -maxdepth 2 -path "$data/shard-*/log-*.idx" 2>/dev/null | wc -l
}

free_kib=$(df --output=avail -k "$work" | tail -n 1)
[ "$free_kib" -gt $(((gib + 3) * 1024 * 1024)) ] || fail "$((free_kib / 1024 / 1024)) GiB are free under $work, $((gib + 3)) are needed"

start_server
wait_for_health
keys=()
for tenant in a b c d; do
    key=$(make_tenant "$address" "$tenant") || true
    [ -n "$key" ] || fail "no tenant could be made"
    keys+=("$key")
done
one_segment=$(find "$data" -maxdepth 2 -path "$data/shard-*/log-*.seg" | head -n 1)
[ -n "$one_segment" ] || fail "the server made no segment under $data"
segment_bytes=$(stat -c %s "$one_segment")
wanted=$(((gib * 1024 * 1024 * 1024 + segment_bytes - 1) / segment_bytes))

echo "restart.sh: filling $data with $wanted segments of $((segment_bytes / 1024 / 1024)) MiB"
fill_from_us=$(now_us)
run_load
while [ "$(sealed_count)" -lt "$wanted" ]; do
    sleep 0.2
    kill -0 "$load_pid" 2>/dev/null || { tail -n 20 "$work/load.log" >&2; fail "the load generator ended before the directory was full"; }
    kill -0 "$server_pid" 2>/dev/null || fail "the server ended while it was filled"
done
stop_load
echo "restart.sh: $(sealed_count) sealed segments, $(du -sh "$data" | cut -f1) on disk, after $((($(now_us) - fill_from_us) / 1000000)) s"

stop_from_us=$(now_us)
kill -TERM "$server_pid"
stop_code=0
wait "$server_pid" || stop_code=$?
server_pid=
stop_us=$(($(now_us) - stop_from_us))
[ "$stop_code" -eq 0 ] || fail "the server ended with $stop_code after SIGTERM"
printf '%-26s  exit %9d ms\n' "SIGTERM" $((stop_us / 1000))

measure "start after SIGTERM"

run_load --reconnect
sleep 3
kill -9 "$server_pid"
wait "$server_pid" 2>/dev/null || true
server_pid=
kill -9 "$load_pid" 2>/dev/null || true
wait "$load_pid" 2>/dev/null || true
load_pid=

measure "start after kill -9"
echo "restart.sh: $(sealed_count) sealed segments, $(nproc) CPUs, $(uname -r), $(date -u +%Y-%m-%d)"
