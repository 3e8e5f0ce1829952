#!/usr/bin/env bash
# What each source takes, durable, beside the same source of a server that throws everything away.
#
#   scripts/sources.sh [--seconds S] [RESULTS.jsonl]
#
#   frames      binary frames over TCP          syslog      RFC 5424 over TCP, octet counting
#   events      JSON lines to /v1/events        syslog-udp  the same messages as datagrams
#   ingest      a frame a request to /v1/ingest shipper     JSON lines to /ingest/ndjson
#   otlp        protobuf to /otlp/v1/logs       batch       {"events":[..]} to /api/v1/events/batch
#
# Null and ringlog in turns, null commit commit null, on loopback, server on core 0 and client on core 1, a fresh data
# directory for each run. A stream's rate counts from its first byte until the server has closed it, which it does when all
# is stored, and the tenant's usage must be as many events. Over HTTP it is a closed loop, and an answer is one that says "stored".
# Datagrams have no end: what was lost is shown, and their null server's rate is not known. Every run is a line of JSON.
#
#   SOURCES="frames syslog syslog-udp events ingest otlp shipper batch"  BATCHES="1 10 100 500"  REPEATS=1
#   STREAMS=4     connections of a stream source     CONNECTIONS=64  of HTTP     EVENT_BYTES=220
#   DURABILITY=commit, interval:10ms or memory
#   BENCH_DIR     where the data directories are made (default: under target/, on a disk and not in memory)
#   DEVICE        whose flushes are counted (default: the disk under BENCH_DIR)
#   SERVER_BIN, LOAD_BIN, NULL_BIN   use these programs and build nothing
set -euo pipefail

script=sources.sh
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

seconds=3
if [ "${1:-}" = --seconds ]; then
    seconds=${2:?--seconds takes a number}
    shift 2
fi
sources=${SOURCES:-frames syslog syslog-udp events ingest otlp shipper batch}
batches=${BATCHES:-1 10 100 500}
repeats=${REPEATS:-1}
streams=${STREAMS:-4}
connections=${CONNECTIONS:-64}
event_bytes=${EVENT_BYTES:-220}
null_server=${NULL_BIN:-$release/null_server}
results=${1:-$target/sources-$(date +%Y%m%d-%H%M%S).jsonl}

build_programs
if [ -z "${NULL_BIN:-}" ]; then
    (cd "$root" && cargo build --release -p ringlog-benches --bin null_server)
fi

mkdir -p "${BENCH_DIR:-$target}" "$(dirname "$results")"
work=$(mktemp -d "${BENCH_DIR:-$target}/sources.XXXXXX")
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
[ -n "$device" ] || echo "sources.sh: no disk found under $work: flushes are not counted" >&2

null_streaming_key=00112233445566778899aabbccddeeff
# As long as a real key, so that a request to the null server is as long as one to ringlog.
null_key=$(printf 'k%.0s' $(seq 300))

start_server() {
    local ports=$work/ports.json
    rm -rf "$work/data" "$ports" "$work/result.json"
    case $1 in
    null)
        "${on_server_core[@]}" "$null_server" --ports-file "$ports" >"$work/server.log" 2>&1 &
        ;;
    *)
        "${on_server_core[@]}" "$ringlog" serve --data-dir "$work/data" --http 127.0.0.1:0 --tcp 127.0.0.1:0 \
            --syslog-tcp 127.0.0.1:0 --syslog-udp 127.0.0.1:0 --syslog-workspace 1 --ports-file "$ports" --onboard-per-hour 0 --cores 1 \
            --durability "${DURABILITY:-commit}" >"$work/server.log" 2>&1 &
        ;;
    esac
    server_pid=$!
    if ! wait_for_file "$ports" "$server_pid"; then
        cat "$work/server.log" >&2
        echo "sources.sh: $1 did not start" >&2
        exit 1
    fi
}

# run_one MODE SOURCE BATCH
run_one() {
    local mode=$1 source=$2 batch=$3 ports=$work/ports.json line=$work/result.json address key made=() who=()
    start_server "$mode"
    address=$(text http <"$ports")
    case $source in
    frames | syslog | syslog-udp)
        [ "$mode" = null ] && who=(--streaming-key "$null_streaming_key") || who=(--bootstrap-key "$bootstrap_key")
        "${on_client_core[@]}" "$load" stream --source "$source" --ports-file "$ports" --connections "$streams" --batch "$batch" \
            --event-bytes "$event_bytes" --seconds "$seconds" --server-pid "$server_pid" ${device:+--device "$device"} \
            --json "$line" "${who[@]}" >"$work/load.log" 2>&1 || true
        ;;
    batch)
        [ "$mode" = null ] && who=(--key "$null_key" --accept-any-2xx) || who=(--bootstrap-key "$bootstrap_key")
        run_http "$batch" --always-batch "${who[@]}"
        ;;
    *)
        key=$null_streaming_key
        [ "$mode" = null ] || key=$(make_streaming_key "$address")
        case $source in
        events) made=(/v1/events --made events --header 'content-type: text/plain') ;;
        ingest) made=(/v1/ingest --made frame --streaming-key "$key" --header 'content-type: application/octet-stream') ;;
        otlp) made=(/otlp/v1/logs --made otlp --header 'content-type: application/x-protobuf') ;;
        shipper) made=(/ingest/ndjson --made shipper --header 'content-type: application/x-ndjson') ;;
        *) echo "sources.sh: there is no source $source" >&2; exit 2 ;;
        esac
        run_http "$batch" --key "$key" --raw POST "${made[@]}"
        [ "$mode" = null ] || check_stored "$address" "$source at batch $batch"
        ;;
    esac
    stop_server
    if [ ! -s "$line" ]; then
        cat "$work/load.log" >&2
        echo "sources.sh: $mode of $source at batch $batch gave no result" >&2
        exit 1
    fi
    printf '{"mode":"%s","source_name":"%s","events_per_batch":%s,"result":%s}\n' "$mode" "$source" "$batch" "$(cat "$line")" >>"$results"
}

# run_http BATCH ARGUMENTS: a run with failed requests ends with 1 and still has a result, which says so.
run_http() {
    local batch=$1
    shift
    "${on_client_core[@]}" "$load" run --quiet --closed --ports-file "$work/ports.json" --connections "$connections" --batch "$batch" \
        --event-bytes "$event_bytes" --warmup 0.5 --duration "$seconds" --server-pid "$server_pid" ${device:+--device "$device"} \
        --json "$work/result.json" "$@" >"$work/load.log" 2>&1 || true
}

# check_stored ADDRESS WHAT: an answer could be 2xx and have refused lines; the tenant must have as many events as were acknowledged.
check_stored() {
    local stored good
    stored=$(curl -sf --max-time 10 -H "Authorization: Bearer $bootstrap_key" "http://$1/api/v1/tenants/pushes/stats" | number events_total)
    good=$(number events_good <"$work/result.json")
    if [ "${stored:-0}" -lt "${good:-1}" ]; then
        echo "sources.sh: $2: ${good:-no} events were acknowledged and ${stored:-none} are there" >&2
        exit 1
    fi
}

# of MODE SOURCE BATCH NAME: the median over all repeats.
of() {
    grep "^{\"mode\":\"$1\",\"source_name\":\"$2\",\"events_per_batch\":$3," "$results" | number "$4" | median
}

: >"$results"
steal_before=$(awk '/^cpu / { print $9 }' /proc/stat)
for _ in $(seq "$repeats"); do
    for source in $sources; do
        for batch in $batches; do
            case $source in
            syslog-udp) modes="commit commit" ;;
            *) modes="null commit commit null" ;;
            esac
            for mode in $modes; do
                printf '\r%-10s  batch %-4s %-8s' "$source" "$batch" "$mode" >&2
                run_one "$mode" "$source" "$batch"
            done
            # A datagram is one message, whatever the batch.
            [ "$source" != syslog-udp ] || break
        done
    done
done
printf '\r%60s\r' '' >&2
steal_after=$(awk '/^cpu / { print $9 }' /proc/stat)

echo "AS FAST AS IT GOES, $streams streams or $connections connections, events of $event_bytes bytes, $((repeats * 2)) runs of $seconds s each"
echo "$(uname -r), $(nproc) CPUs, disk ${device:-unknown}, steal $((steal_after - steal_before)) ticks, $(date -u +%Y-%m-%d)"
printf '%-10s %5s %12s %12s %8s %12s %12s %10s %12s %8s\n' \
    source batch events/s "of null" ratio us-CPU/event "of null" flushes/s "client us" lost
for source in $sources; do
    for batch in $batches; do
        [ "$source" != syslog-udp ] || batch=${batches%% *}
        case $source in
        frames | syslog*) client=client_cpu_us_per_event ;;
        *) client=none ;;
        esac
        awk -v source="$source" -v batch="$batch" -v rate="$(of commit "$source" "$batch" events_per_second)" \
            -v null_rate="$(of null "$source" "$batch" events_per_second)" \
            -v cpu="$(of commit "$source" "$batch" server_cpu_us_per_event)" \
            -v null_cpu="$(of null "$source" "$batch" server_cpu_us_per_event)" \
            -v flushes="$(of commit "$source" "$batch" flushes_per_second)" \
            -v client="$(of commit "$source" "$batch" "$client")" \
            -v errors="$(of commit "$source" "$batch" error_count)" -v sent="$(of commit "$source" "$batch" events_sent)" \
            -v stored="$(of commit "$source" "$batch" events_stored)" 'BEGIN {
                printf "%-10s %5d %12.0f %12.0f %7.2fx %12.3f %12.3f %10.0f %12.3f %8.0f\n", source, batch, rate, null_rate,
                    null_rate ? rate / null_rate : 0, cpu, null_cpu, flushes, client, sent - stored + errors }'
        [ "$source" != syslog-udp ] || break
    done
done
echo "every run: $results"
