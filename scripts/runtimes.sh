#!/usr/bin/env bash
# One null HTTP server on four loops, side by side: what does the loop cost?
#
#   scripts/runtimes.sh
#
#   a  ring           the engine's own ring (io/ring.rs)
#   b  monoio         as it comes
#   c  monoio-flags   with SINGLE_ISSUER, DEFER_TASKRUN, COOP_TASKRUN and 4096 entries
#   d  glommio        as it comes
#   e  server         the server's own loop and connections (null_server): the whole of HTTP, deadlines, request ids
#
# a to d find the ends of requests with the same code and give the same answer; e does what the server does for every request
# and is here to show what that adds. Interleaved a b c d e e d c b a on loopback, server on core 0 and client on core 1, keep-alive.
# The client is wrk if it is installed, else ringlog-load; the same for all. Requests per CPU-second count user and system time
# of the server's process, so that the kernel's share is in. The table is markdown, for docs/decisions/0001. About three minutes.
#
#   REPEATS=3  DURATION=5  WARMUP=1  CONNECTIONS=64  DEPTH=1 (requests in flight on each connection)
#   LOOPS="ring monoio monoio-flags glommio server"      CLIENT=wrk or ringlog-load
#   RUNTIMES_BIN, NULL_BIN, LOAD_BIN   use these programs and build nothing
set -euo pipefail

repeats=${REPEATS:-3}
duration=${DURATION:-5}
warmup=${WARMUP:-1}
connections=${CONNECTIONS:-64}
depth=${DEPTH:-1}
loops=${LOOPS:-ring monoio monoio-flags glommio server}
client=${CLIENT:-$(command -v wrk >/dev/null && echo wrk || echo ringlog-load)}
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
release=$target/release
runtimes=${RUNTIMES_BIN:-$release/null_runtimes}
null_server=${NULL_BIN:-$release/null_server}
load=${LOAD_BIN:-$release/ringlog-load}

case $client in wrk | ringlog-load) ;; *) echo "runtimes.sh: CLIENT is wrk or ringlog-load" >&2; exit 2 ;; esac
if [ "$(nproc)" -lt 2 ]; then
    echo "runtimes.sh: one core: server and client would share it" >&2
    exit 2
fi
if [ -z "${RUNTIMES_BIN:-}" ] || [ -z "${NULL_BIN:-}" ]; then
    (cd "$root" && cargo build --release -p ringlog-benches --features runtimes --bin null_runtimes --bin null_server)
fi
if [ "$client" = ringlog-load ] && [ -z "${LOAD_BIN:-}" ]; then
    (cd "$root" && cargo build --release -p ringlog-load)
fi

mkdir -p "$target"
work=$(mktemp -d "$target/runtimes.XXXXXX")
server_pid=
stop_server() {
    [ -n "$server_pid" ] || return 0
    kill -9 "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}
cleanup() {
    stop_server
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# One event of 220 bytes with a key as long as a real one.
body=$(printf '{"event_type":"order.placed","entity_id":"order-000001","payload":{"note":"%s"}}' "$(printf 'n%.0s' $(seq 142))")
key=$(printf 'k%.0s' $(seq 300))
printf '%s' "$body" >"$work/body"
cat >"$work/requests.lua" <<END
wrk.method = "POST"
wrk.path = "/api/v1/events"
wrk.body = '$body'
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer $key"
local several
init = function() several = string.rep(wrk.format(), $depth) end
request = function() return several end
done = function(summary)
    local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout
    io.write(string.format("counted %d %d %d\n", summary.requests, summary.duration, errors))
end
END
# drive SECONDS: prints requests, microseconds, errors.
drive() {
    if [ "$client" = wrk ]; then
        taskset -c 1 wrk -t 1 -c "$connections" -d "$1s" -s "$work/requests.lua" "http://$address" >"$work/client.log" 2>&1 || return 1
        sed -n 's/^counted //p' "$work/client.log"
    else
        # shellcheck disable=SC2086
        taskset -c 1 "$load" run --quiet --closed --url "http://$address" --raw POST /api/v1/events --body "$work/body" \
            --header 'content-type: application/json' --key "$key" --accept-any-2xx --connections "$connections" --depth "$depth" \
            --warmup 0 --duration "$1" --json "$work/result.json" >"$work/client.log" 2>&1 || return 1
        echo "$(sed -n 's/.*"requests_good":\([0-9]*\).*/\1/p' "$work/result.json")" \
            "$(sed -n 's/.*"seconds":\([0-9.]*\).*/\1/p' "$work/result.json" | awk '{ printf "%d", $1 * 1000000 }')" \
            "$(sed -n 's/.*"error_count":\([0-9]*\).*/\1/p' "$work/result.json")"
    fi
}

# Ticks of user and system time; the name of the process, in brackets, may hold spaces.
cpu_ticks() {
    sed 's/.*) //' "/proc/$server_pid/stat" | awk '{ print $12 + $13 }'
}

# run_one LOOP: appends "LOOP requests/s requests/CPU-second errors" to the results.
run_one() {
    local tries=0 before after requests micros errors
    rm -f "$work/ports.json"
    if [ "$1" = server ]; then
        taskset -c 0 "$null_server" --cpu 0 --ports-file "$work/ports.json" >"$work/server.log" 2>&1 &
    else
        taskset -c 0 "$runtimes" --loop "$1" --cpu 0 --ports-file "$work/ports.json" >"$work/server.log" 2>&1 &
    fi
    server_pid=$!
    until [ -s "$work/ports.json" ]; do
        tries=$((tries + 1))
        if [ "$tries" -gt 500 ] || ! kill -0 "$server_pid" 2>/dev/null; then
            cat "$work/server.log" >&2
            echo "runtimes.sh: $1 did not start" >&2
            exit 1
        fi
        sleep 0.02
    done
    address=$(sed -n 's/.*"http":"\([^"]*\)".*/\1/p' "$work/ports.json")
    drive "$warmup" >/dev/null || { cat "$work/client.log" >&2; exit 1; }
    before=$(cpu_ticks)
    read -r requests micros errors < <(drive "$duration")
    after=$(cpu_ticks)
    if ! kill -0 "$server_pid" 2>/dev/null || [ -z "${requests:-}" ]; then
        cat "$work/server.log" "$work/client.log" >&2
        echo "runtimes.sh: $1 gave no result" >&2
        exit 1
    fi
    stop_server
    awk -v of="$1" -v requests="$requests" -v micros="$micros" -v ticks=$((after - before)) -v hertz="$(getconf CLK_TCK)" -v errors="$errors" \
        'BEGIN { print of, requests * 1e6 / micros, ticks ? requests * hertz / ticks : 0, errors }' >>"$work/results"
}

backwards=
for one in $loops; do backwards="$one $backwards"; done
steal_before=$(awk '/^cpu / { print $9 }' /proc/stat)
for repeat in $(seq "$repeats"); do
    for one in $loops $backwards; do
        printf '\rrepeat %d of %d  %-14s' "$repeat" "$repeats" "$one" >&2
        run_one "$one"
    done
done
printf '\r%40s\r' '' >&2
steal_after=$(awk '/^cpu / { print $9 }' /proc/stat)

# spread LOOP COLUMN: median, smallest and largest.
spread() {
    awk -v of="$1" -v column="$2" '$1 == of { print $column }' "$work/results" | sort -g |
        awk '{ value[NR] = $1 } END { print (value[int((NR + 1) / 2)] + value[int(NR / 2) + 1]) / 2, value[1], value[NR] }'
}

version() {
    awk -v name="\"$1\"" '$1 == "name" { found = $3 == name } found && $1 == "version" { gsub("\"", "", $3); print $3; exit }' "$root/Cargo.lock"
}

echo "\`scripts/runtimes.sh\`, $((repeats * 2)) runs of $duration s each, $connections connections, depth $depth, client $client."
echo "Linux $(uname -r), $(nproc) CPUs, steal $((steal_after - steal_before)) ticks, monoio $(version monoio), glommio $(version glommio), $(date -u +%Y-%m-%d)."
echo
echo '| loop | requests/s, median (min to max) | requests per CPU-second, median (min to max) | µs of CPU a request | errors |'
echo '|---|---|---|---|---|'
for one in $loops; do
    case $one in
    ring) name="own ring" ;;
    monoio) name="monoio, as it comes" ;;
    monoio-flags) name="monoio, with the right ring flags" ;;
    glommio) name="glommio, as it comes" ;;
    server) name="own ring with the server's connections" ;;
    *) name=$one ;;
    esac
    read -r rate rate_min rate_max < <(spread "$one" 2)
    read -r per_cpu cpu_min cpu_max < <(spread "$one" 3)
    errors=$(awk -v of="$one" '$1 == of { errors += $4 } END { print errors + 0 }' "$work/results")
    awk -v name="$name" -v rate="$rate" -v rate_min="$rate_min" -v rate_max="$rate_max" -v per_cpu="$per_cpu" -v cpu_min="$cpu_min" \
        -v cpu_max="$cpu_max" -v errors="$errors" 'BEGIN {
            printf "| %s | %.0f (%.0f to %.0f) | %.0f (%.0f to %.0f) | %.2f | %d |\n", name, rate, rate_min, rate_max,
                per_cpu, cpu_min, cpu_max, per_cpu ? 1e6 / per_cpu : 0, errors }'
done
