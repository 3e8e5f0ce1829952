#!/usr/bin/env bash
# What the load generator itself can do, beside wrk: both drive the null server with the same request.
#
#   scripts/generator.sh        (about four minutes; needs wrk, in Debian: apt-get install wrk)
#
#   wrk      closed loop, as it always is
#   closed   ringlog-load run --closed
#   open     ringlog-load run --rate 0.95 of what wrk reached in the same round: how much of it arrives
#   half     ringlog-load run --rate 0.5 of that: how late the generator sends (send lag)
#
# Interleaved, server on core 0, client on core 1, medians over ROUNDS rounds. Aims: open at 0.9 of wrk or more, and
# a send lag below 1 ms at p99 at half of wrk's rate.
#
#   CONNECTIONS="16 64 256"  ROUNDS=3  DURATION=4
#   LOAD_BIN, NULL_BIN   use these programs and build nothing
set -euo pipefail

script=generator.sh
case ${1:-} in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;; esac
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

rounds=${ROUNDS:-3}
duration=${DURATION:-4}
null_server=${NULL_BIN:-$release/null_server}
if ! command -v wrk >/dev/null; then
    echo "$script: wrk is not installed (apt-get install wrk)" >&2
    exit 2
fi
if [ -z "${LOAD_BIN:-}" ] || [ -z "${NULL_BIN:-}" ]; then
    (cd "$root" && cargo build --release -p ringlog-load && cargo build --release -p ringlog-benches --bin null_server)
fi
mkdir -p "$target"
work=$(mktemp -d "$target/generator.XXXXXX")
server_pid=
cleanup() {
    stop_process "$server_pid"
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
choose_cores

body='{"event_type":"order.placed","entity_id":"e-00000001","payload":{"amount":1200,"currency":"EUR","note":"a request of some length"}}'
printf '%s' "$body" >"$work/body.json"
cat >"$work/post.lua" <<LUA
wrk.method = "POST"
wrk.body = '$body'
wrk.headers["content-type"] = "application/json"
LUA

"${on_server_core[@]}" "$null_server" --http 127.0.0.1:0 --ports-file "$work/ports.json" >"$work/server.log" 2>&1 &
server_pid=$!
if ! wait_for_file "$work/ports.json" "$server_pid"; then
    cat "$work/server.log" >&2
    exit 1
fi
url=http://$(text http <"$work/ports.json")

# ours NAME CONNECTIONS FLAGS...: one line of JSON in $work/NAME-CONNECTIONS. A run with errors ends with 1 and still has one.
ours() {
    local name=$1 connections=$2
    shift 2
    "${on_client_core[@]}" "$load" run --quiet --url "$url" --raw POST /api/v1/events --body "$work/body.json" --verbatim \
        --header 'content-type: application/json' --connections "$connections" --warmup 0.5 --duration "$duration" \
        --json - "$@" 2>"$work/load.log" >>"$work/$name-$connections" || [ $? -eq 1 ] || { cat "$work/load.log" >&2; exit 1; }
}

for connections in ${CONNECTIONS:-16 64 256}; do
    for round in $(seq "$rounds"); do
        printf '\r%s connections, round %s of %s ' "$connections" "$round" "$rounds" >&2
        reached=$("${on_client_core[@]}" wrk -t 1 -c "$connections" -d "${duration}s" -s "$work/post.lua" "$url/api/v1/events" |
            awk '/^Requests\/sec:/ { print $2 }')
        echo "$reached" >>"$work/wrk-$connections"
        ours closed "$connections" --closed
        ours open "$connections" --rate "$(awk -v rate="$reached" 'BEGIN { print 0.95 * rate }')"
        ours half "$connections" --rate "$(awk -v rate="$reached" 'BEGIN { print 0.5 * rate }')"
    done
done
printf '\r%60s\r' '' >&2

echo "$(uname -r), $(nproc) CPUs, $(date -u +%Y-%m-%d), medians of $rounds rounds of $duration s"
echo "| connections | wrk, requests/s | closed loop, of wrk | open loop at 0.95, of wrk | send lag there, p99 µs | at half: p99 µs of the send lag | response | errors of all runs |"
echo "|---|---|---|---|---|---|---|---|"
for connections in ${CONNECTIONS:-16 64 256}; do
    wrk=$(median <"$work/wrk-$connections")
    of() { number "$2" <"$work/$1-$connections" | median; }
    awk -v connections="$connections" -v wrk="$wrk" -v closed="$(of closed requests_per_second)" \
        -v open="$(of open requests_per_second)" -v open_lag="$(of open send_lag_p99_us)" \
        -v lag="$(of half send_lag_p99_us)" -v response="$(of half response_p99_us)" \
        -v errors="$(cat "$work"/{closed,open,half}-"$connections" | number error_count | awk '{ sum += $1 } END { print sum + 0 }')" 'BEGIN {
            printf "| %d | %.0f | %.2f | %.2f | %.0f | %.0f | %.0f | %d |\n", connections, wrk, closed / wrk, open / wrk, open_lag, lag, response, errors }'
done
