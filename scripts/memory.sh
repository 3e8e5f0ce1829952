#!/usr/bin/env bash
# Holds the server's memory against the ceiling of docs/architecture.md while it takes many events.
#
#   scripts/memory.sh [EVENTS=20000000]
#
# Samples RssAnon, RssFile and VmHWM of the server once a second. Ends with 1 when the largest RssAnon or the largest RssFile is
# above its ceiling. Ceilings, in bytes, with N = segment_bytes / 128 events and U entities to a segment:
#
#   anonymous   shards x (172 N + 256 U + 8 MiB) + cores x 96 MiB + 64 MiB + 4 x what clients have in flight
#   mapped      segments x (8 KiB + 48 tenants + 32 N / 1024 + 1.13 U) + shards x runs x (8 KiB + 34 U) + 64 MiB
#
#   TENANTS=8  ENTITIES=10000 (of each tenant)  CONNECTIONS=32  DEPTH=2  BATCH=500  EVENT_BYTES=220
#   CORES         the server's cores (default: as many as the machine has)
#   DURABILITY    commit (default), interval:10ms or memory
#   BENCH_DIR     where the data directory is made (default: under target/, on a disk and not in memory)
#   KEEP=1        leave the working directory; a failure always leaves it
#   SERVER_BIN, LOAD_BIN   use these programs and build nothing
set -euo pipefail

script=memory.sh
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

events=${1:-20000000}
case $events in '' | *[!0-9]* | 0) echo "usage: scripts/memory.sh [EVENTS=20000000]" >&2; exit 2 ;; esac
tenants=${TENANTS:-8}
entities=${ENTITIES:-10000}
connections=${CONNECTIONS:-32}
depth=${DEPTH:-2}
batch=${BATCH:-500}
event_bytes=${EVENT_BYTES:-220}
cores=${CORES:-$(nproc)}

build_programs

mkdir -p "${BENCH_DIR:-$target}"
work=$(mktemp -d "${BENCH_DIR:-$target}/memory.XXXXXX")
data=$work/data
ports=$work/ports.json
server_pid=
load_pid=
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
    echo "memory.sh: FAILED: $*" >&2
    tail -n 20 "$work/server.log" >&2 2>/dev/null || true
    exit 1
}

"$ringlog" serve --data-dir "$data" --http 127.0.0.1:0 --tcp 127.0.0.1:0 --ports-file "$ports" --onboard-per-hour 0 \
    --cores "$cores" --durability "${DURABILITY:-commit}" >"$work/server.log" 2>&1 &
server_pid=$!
wait_for_file "$ports" "$server_pid" || fail "the server did not start"

anon_max=0
file_max=0
peak=0
sample() {
    local name value rest
    while read -r name value rest; do
        case $name in
        RssAnon:) [ "$value" -le "$anon_max" ] || anon_max=$value ;;
        RssFile:) [ "$value" -le "$file_max" ] || file_max=$value ;;
        VmHWM:) peak=$value ;;
        esac
    done <"/proc/$server_pid/status"
}

sample
anon_at_start=$anon_max
"$load" run --quiet --closed --ports-file "$ports" --bootstrap-key "$bootstrap_key" --tenants "$tenants" \
    --entities "$entities" --connections "$connections" --depth "$depth" --batch "$batch" --event-bytes "$event_bytes" \
    --count $(((events + batch - 1) / batch)) --timeout 60 --json "$work/result.json" >"$work/load.log" 2>&1 &
load_pid=$!
while kill -0 "$load_pid" 2>/dev/null; do
    kill -0 "$server_pid" 2>/dev/null || fail "the server ended under load"
    sample
    printf '\r%5d s  RssAnon at most %6d MiB  RssFile at most %6d MiB' \
        "$SECONDS" $((anon_max / 1024)) $((file_max / 1024)) >&2
    sleep 1
done
printf '\r%70s\r' '' >&2
load_code=0
wait "$load_pid" || load_code=$?
load_pid=
[ "$load_code" -eq 0 ] || { tail -n 20 "$work/load.log" >&2; fail "the load generator ended with $load_code"; }
# Sealing and merging go on for a moment.
for _ in 1 2 3 4 5; do sample; sleep 1; done
good=$(number events_good <"$work/result.json")
[ "${good:-0}" -ge "$events" ] || fail "only ${good:-0} of $events events were acknowledged"

shards=$(find "$data" -maxdepth 1 -name 'shard-*' -type d | wc -l)
segments=$(find "$data" -maxdepth 2 -path "$data/shard-*/log-*.idx" | wc -l)
one_segment=$(find "$data" -maxdepth 2 -path "$data/shard-*/log-*.seg" | head -n 1)
[ -n "$one_segment" ] || fail "the server made no segment under $data"
segment_bytes=$(stat -c %s "$one_segment")
mib=$((1024 * 1024))
segment_events=$((segment_bytes / 128))
# As if all tenants lived in each shard: placement is the server's.
segment_entities=$((tenants * entities))
[ "$segment_entities" -le "$segment_events" ] || segment_entities=$segment_events
in_flight=$((connections * depth * batch * (event_bytes * 3 / 2 + 64)))
anon_ceiling=$((shards * (172 * segment_events + 256 * segment_entities + 8 * mib) + cores * 96 * mib + 64 * mib + 4 * in_flight))
# At most eight runs of each tier, and one tier more for each factor of eight.
runs=8
for ((covered = 8; covered <= segments; covered *= 8)); do runs=$((runs + 8)); done
file_ceiling=$((segments * (8192 + 48 * tenants + segment_events / 32 + segment_entities * 113 / 100) +
    shards * runs * (8192 + 34 * tenants * entities) + 64 * mib))

printf '%d events of %d bytes, batch %d, %d tenants, %d entities each; %d cores, %d shards, %d sealed segments of %d MiB; %d s\n' \
    "$good" "$event_bytes" "$batch" "$tenants" "$entities" "$cores" "$shards" "$segments" $((segment_bytes / mib)) "$SECONDS"
printf '%-28s %8s %8s\n' "MiB" "most" "ceiling"
printf '%-28s %8d %8d\n' "anonymous (RssAnon)" $((anon_max / 1024)) $((anon_ceiling / mib))
printf '%-28s %8d %8d\n' "mapped (RssFile)" $((file_max / 1024)) $((file_ceiling / mib))
printf '%-28s %8d\n' "both at once (VmHWM)" $((peak / 1024))
printf '%-28s %8d\n' "anonymous at the start" $((anon_at_start / 1024))
[ $((anon_max * 1024)) -le "$anon_ceiling" ] || fail "anonymous memory is above its ceiling"
[ $((file_max * 1024)) -le "$file_ceiling" ] || fail "mapped memory is above its ceiling"
echo "memory.sh: OK"
