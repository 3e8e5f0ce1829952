#!/usr/bin/env bash
# What storage costs: the same requests to a server that throws them away, to ringlog in memory, and to ringlog durable.
#
#   scripts/bench.sh [RESULTS.jsonl]
#
#   a  null     answers 202 without parsing
#   b  memory   ringlog serve --durability memory
#   c  commit   ringlog serve --durability commit
#
# Interleaved a b c c b a on loopback, server on core 0 and client on core 1, a fresh data directory for each run.
# Closed loop. Every run is a line of JSON; the table shows medians. The default takes about six minutes.
#
#   REPEATS=3  DURATION=3  WARMUP=0.5  BATCHES="1 10 100 500"  CONNECTIONS=64  DEPTH=1  EVENT_BYTES=220
#   BENCH_DIR     where the data directories are made (default: under target/, on a disk and not in memory)
#   DEVICE        whose flushes are counted (default: the disk under BENCH_DIR)
#   SERVER_BIN, LOAD_BIN, NULL_BIN   use these programs and build nothing
set -euo pipefail

script=bench.sh
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

repeats=${REPEATS:-3}
duration=${DURATION:-3}
warmup=${WARMUP:-0.5}
batches=${BATCHES:-1 10 100 500}
connections=${CONNECTIONS:-64}
depth=${DEPTH:-1}
event_bytes=${EVENT_BYTES:-220}
null_server=${NULL_BIN:-$release/null_server}
results=${1:-$target/bench-$(date +%Y%m%d-%H%M%S).jsonl}

build_programs
if [ -z "${NULL_BIN:-}" ]; then
    (cd "$root" && cargo build --release -p ringlog-benches --bin null_server)
fi

mkdir -p "${BENCH_DIR:-$target}" "$(dirname "$results")"
work=$(mktemp -d "${BENCH_DIR:-$target}/bench.XXXXXX")
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

choose_cores
device=${DEVICE:-$(disk_under "$work")}
[ -n "$device" ] || echo "bench.sh: no disk found under $work: flushes are not counted" >&2

# As long as a real key, so that a request to the null server is as long as one to ringlog.
null_key=$(printf 'k%.0s' $(seq 300))

# run_one MODE BATCH
run_one() {
    local mode=$1 batch=$2 ports=$work/ports.json line=$work/result.json
    rm -rf "$work/data" "$ports" "$line"
    case $mode in
    null)
        "${on_server_core[@]}" "$null_server" --http 127.0.0.1:0 --ports-file "$ports" >"$work/server.log" 2>&1 &
        set -- --key "$null_key" --accept-any-2xx
        ;;
    *)
        "${on_server_core[@]}" "$ringlog" serve --data-dir "$work/data" --http 127.0.0.1:0 --tcp 127.0.0.1:0 \
            --ports-file "$ports" --onboard-per-hour 0 --cores 1 --durability "$mode" >"$work/server.log" 2>&1 &
        set -- --bootstrap-key "$bootstrap_key"
        ;;
    esac
    server_pid=$!
    if ! wait_for_file "$ports" "$server_pid"; then
        cat "$work/server.log" >&2
        echo "bench.sh: $mode did not start" >&2
        exit 1
    fi
    # A run with failed requests ends with 1 and still has a result, which says so.
    "${on_client_core[@]}" "$load" run --quiet --closed --ports-file "$ports" --connections "$connections" --depth "$depth" \
        --batch "$batch" --event-bytes "$event_bytes" --warmup "$warmup" --duration "$duration" \
        --server-pid "$server_pid" ${device:+--device "$device"} --json "$line" "$@" >"$work/load.log" 2>&1 || true
    stop_server
    if [ ! -s "$line" ]; then
        cat "$work/load.log" >&2
        echo "bench.sh: $mode at batch $batch gave no result" >&2
        exit 1
    fi
    printf '{"mode":"%s","batch_size":%s,"result":%s}\n' "$mode" "$batch" "$(cat "$line")" >>"$results"
}

# of MODE BATCH NAME: the median over all repeats.
of() {
    grep "^{\"mode\":\"$1\",\"batch_size\":$2," "$results" | number "$3" | median
}

: >"$results"
steal_before=$(awk '/^cpu / { print $9 }' /proc/stat)
for repeat in $(seq "$repeats"); do
    for batch in $batches; do
        for mode in null memory commit commit memory null; do
            printf '\rrepeat %d of %d  batch %s  %-8s' "$repeat" "$repeats" "$batch" "$mode" >&2
            run_one "$mode" "$batch"
        done
    done
done
printf '\r%60s\r' '' >&2
steal_after=$(awk '/^cpu / { print $9 }' /proc/stat)

echo "CLOSED LOOP, $connections connections, depth $depth, events of $event_bytes bytes, $((repeats * 2)) runs of $duration s each"
echo "$(uname -r), $(nproc) CPUs, disk ${device:-unknown}, steal $((steal_after - steal_before)) ticks, $(date -u +%Y-%m-%d)"
printf '%-7s %5s %12s %8s %12s %8s %10s %10s %9s %7s\n' \
    mode batch events/s "of null" us-CPU/event "of null" p50-us p99-us flushes/s errors
for batch in $batches; do
    null_rate=$(of null "$batch" events_per_second)
    null_cpu=$(of null "$batch" server_cpu_us_per_event)
    for mode in null memory commit; do
        rate=$(of "$mode" "$batch" events_per_second)
        cpu=$(of "$mode" "$batch" server_cpu_us_per_event)
        awk -v mode="$mode" -v batch="$batch" -v rate="$rate" -v null_rate="$null_rate" -v cpu="$cpu" \
            -v null_cpu="$null_cpu" -v p50="$(of "$mode" "$batch" service_p50_us)" \
            -v p99="$(of "$mode" "$batch" service_p99_us)" -v flushes="$(of "$mode" "$batch" flushes_per_second)" \
            -v errors="$(of "$mode" "$batch" error_count)" 'BEGIN {
                printf "%-7s %5d %12.0f %7.2fx %12.3f %7.2fx %10.0f %10.0f %9.0f %7.0f\n", mode, batch, rate,
                    null_rate ? rate / null_rate : 0, cpu, null_cpu ? cpu / null_cpu : 0, p50, p99, flushes, errors }'
    done
done
echo "every run: $results"
