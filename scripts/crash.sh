#!/usr/bin/env bash
# Kills the server at random moments, under load, and proves that nothing that it acknowledged is lost.
#
#   scripts/crash.sh [ROUNDS=50]
#
# One ledger and the keys in it live through all rounds. Every VERIFY_EVERY rounds, and after a last kill, everything
# is read back: each acknowledged event once, as sent, with its id, version and place in order.
#
#   RINGLOG_IO     auto, uring or fallback: how the server does its I/O
#   SEED           of the moments and of the events (default: made from the time, and printed)
#   RATE           events per second (default 20000)
#   SECONDS_MAX    the whole script ends in failure after so long (default 280)
#   KEEP=1         leave the working directory; a failure always leaves it
#   SERVER_BIN, LOAD_BIN   use these programs and build nothing
set -euo pipefail

script=crash.sh
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

rounds=${1:-50}
verify_every=${VERIFY_EVERY:-10}
seed=${SEED:-$(($(date +%s) % 32768))}
rate=${RATE:-20000}
seconds_max=${SECONDS_MAX:-280}

case $rounds in '' | *[!0-9]* | 0) echo "usage: scripts/crash.sh [ROUNDS=50]" >&2; exit 2 ;; esac

build_programs
# The time for building is not the test's.
SECONDS=0
RANDOM=$seed

work=$(mktemp -d "${TMPDIR:-/tmp}/ringlog-crash.XXXXXX")
ports=$work/ports.json
ledger=$work/ledger.bin
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
    echo "crash.sh: FAILED: $*" >&2
    echo "crash.sh: again with: SEED=$seed ${RINGLOG_IO:+RINGLOG_IO=$RINGLOG_IO }scripts/crash.sh $rounds" >&2
    tail -n 20 "$work/server.log" >&2 2>/dev/null || true
    exit 1
}

start_server() {
    rm -f "$ports"
    "$ringlog" serve --data-dir "$work/data" --http 127.0.0.1:0 --tcp 127.0.0.1:0 --ports-file "$ports" \
        --onboard-per-hour 0 ${RINGLOG_IO:+--io "$RINGLOG_IO"} >>"$work/server.log" 2>&1 &
    server_pid=$!
}

# Until the server accepts, which is after its recovery.
wait_for_server() {
    wait_for_file "$ports" "$server_pid" || fail "the server did not start"
}

kill_server() {
    kill -9 "$server_pid" 2>/dev/null || fail "the server ended by itself"
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}

start_load() {
    rm -f "$work/stop"
    "$load" run --quiet --ports-file "$ports" --ledger "$ledger" --reconnect --stop-file "$work/stop" --seed "$seed" \
        --connections 8 --depth 4 --batch 1,10 --entities 2000 --rate "$rate" --duration 3600 --timeout 5 \
        >>"$work/load.log" 2>&1 &
    load_pid=$!
}

stop_load() {
    local code=0
    touch "$work/stop"
    wait "$load_pid" || code=$?
    load_pid=
    [ "$code" -eq 0 ] || { tail -n 30 "$work/load.log" >&2; fail "the load generator ended with $code"; }
}

# A number out of the verdict's JSON.
field() {
    number "$1" <"$work/verdict.json"
}

verify() {
    local code=0
    "$load" verify --ledger "$ledger" --ports-file "$ports" --json "$work/verdict.json" >"$work/verify.txt" 2>&1 || code=$?
    if [ "$code" -ne 0 ]; then
        cat "$work/verify.txt" >&2
        fail "round $round: verification ended with $code"
    fi
    printf 'round %3d  %4d s  acknowledged %9d  read back %9d  unknown %5d stored %5d not  lost %d  duplicated %d\n' \
        "$round" "$SECONDS" "$(field events_acknowledged)" "$(field events_read)" \
        "$(field unknown_present)" "$(field unknown_absent)" "$(field lost)" "$(field duplicated)"
}

echo "crash.sh: $rounds rounds, seed $seed, $rate events/s, io ${RINGLOG_IO:-auto}, in $work"
round=0
start_server
wait_for_server
# The tenants are made here, where nobody kills the server: their keys are in the ledger from now on.
"$load" run --quiet --closed --ports-file "$ports" --bootstrap-key "$bootstrap_key" --ledger "$ledger" --tenants 4 \
    --count 40 --connections 4 --seed "$seed" >>"$work/load.log" 2>&1 ||
    { tail -n 30 "$work/load.log" >&2; fail "the first events were not taken"; }
start_load

interrupted_starts=0
while [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    [ "$SECONDS" -lt "$seconds_max" ] || fail "only $((round - 1)) rounds in $SECONDS s"
    sleep "$(printf '0.%03d' $((20 + RANDOM % 900)))"
    kill_server
    # Now and then recovery itself is killed.
    if [ $((RANDOM % 5)) -eq 0 ]; then
        interrupted_starts=$((interrupted_starts + 1))
        start_server
        sleep "$(printf '0.%03d' $((1 + RANDOM % 60)))"
        kill_server
    fi
    start_server
    wait_for_server
    kill -0 "$load_pid" 2>/dev/null || stop_load
    if [ $((round % verify_every)) -eq 0 ] && [ "$round" -lt "$rounds" ]; then
        sleep 0.2
        stop_load
        verify
        start_load
    fi
done
sleep 0.2
stop_load
kill_server
start_server
wait_for_server
verify
[ "$(field events_acknowledged)" -gt $((rounds * 10)) ] || fail "too few events were acknowledged to prove anything"
echo "crash.sh: OK: $rounds rounds, $interrupted_starts of them with a killed recovery," \
    "$(field events_acknowledged) acknowledged events, 0 lost, $SECONDS s"
