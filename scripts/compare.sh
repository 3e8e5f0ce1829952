#!/usr/bin/env bash
# ringlog beside other stores: the same events, the same cores, the same load generator, interleaved A B B A.
#
#   scripts/compare.sh [PEER...]        (default: allsource redis nats postgres umadb)
#
# Installs a peer that is absent by its registry's ordinary client (cargo: allsource; apt, as root: redis, nats, postgres; pip: umadb)
# and skips it with a line when it cannot be had. Prints tables and writes them between the marker lines of docs/benchmarks.md.
#
# For each peer and each batch size: ringlog, peer, peer, ringlog, each on a fresh data directory, server on core 0, client on core 1:
#
#   max       closed loop, CONNECTIONS connections with one request in flight each: events/s, server CPU per event
#   half      open loop at half of that side's own max, in its second run: latency from the intended moment of sending
#
# and once for each side:
#
#   flushes   one connection, one request after the other: flushes of the disk for each acknowledged request
#   kill      under load: memory, bytes on disk, then kill -9, and the time from exec to the first answered read of data;
#             what was acknowledged is counted again
#
# How long: 4 runs of a second (start, stop) and WARMUP + DURATION for max, 2 of WARMUP/2 + DURATION for half, so
# 4 x (1 + 4) + 2 x 3.5 = 27 s for a batch size, 108 s for four; flushes and kill 15 s; a peer 123 s, five peers and ringlog's own
# part 11 minutes. Installing is not in that: cargo takes up to an hour for allsource, once.
#
#   BATCHES="1 10 100 500"  DURATION=3  WARMUP=1  CONNECTIONS=64  EVENT_BYTES=220
#   QUICK=1       batches 1 and 100, runs of one second: shows that it works, the figures mean little
#   FORCE=1       on a machine that is not quiet too; the table says so
#   PEERS_DIR     where installed peers are kept (default: ${XDG_CACHE_HOME:-$HOME/.cache}/ringlog-peers)
#   NO_INSTALL=1  skip what is absent
#   BENCH_DIR     where the data directories are made (default: under target/, on a disk and not in memory)
#   DEVICE        whose flushes are counted (default: the disk under BENCH_DIR)
#   OUT           the file with the marker lines (default: docs/benchmarks.md); - writes none
#   ALLSOURCE_BIN, REDIS_BIN, NATS_BIN, POSTGRES_BIN_DIR, UMADB_VENV   use these
#   SERVER_BIN, LOAD_BIN   use these programs and build nothing
set -euo pipefail

script=compare.sh
case ${1:-} in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;; esac
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

if [ -n "${QUICK:-}" ]; then
    batches=${BATCHES:-1 100}
    duration=${DURATION:-1}
    warmup=${WARMUP:-0.4}
else
    batches=${BATCHES:-1 10 100 500}
    duration=${DURATION:-3}
    warmup=${WARMUP:-1}
fi
connections=${CONNECTIONS:-64}
event_bytes=${EVENT_BYTES:-220}
peers_dir=${PEERS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ringlog-peers}
out=${OUT:-$root/docs/benchmarks.md}
command_line="scripts/compare.sh${*:+ $*}"
for name in QUICK FORCE BATCHES DURATION WARMUP CONNECTIONS EVENT_BYTES; do
    [ -z "${!name:-}" ] || command_line="$name=$(printf '%q' "${!name}") $command_line"
done
peers=("$@")
[ "${#peers[@]}" -gt 0 ] || peers=(allsource redis nats postgres umadb)
for peer in "${peers[@]}"; do
    case $peer in allsource | redis | nats | postgres | umadb) ;; *) echo "$script: unknown peer $peer" >&2; exit 2 ;; esac
done
if [ "$out" != - ] && ! { grep -q '^<!-- compare: begin -->$' "$out" && grep -q '^<!-- compare: end -->$' "$out"; }; then
    echo "$script: $out has no lines <!-- compare: begin --> and <!-- compare: end -->" >&2
    exit 2
fi

build_programs
choose_cores
cpu_count=$(nproc)
mkdir -p "${BENCH_DIR:-$target}" "$peers_dir"
work=$(mktemp -d "${BENCH_DIR:-$target}/compare.XXXXXX")
results=$target/compare-$(date +%Y%m%d-%H%M%S).jsonl
tables=$work/tables.md
data=
server_log=
server_pid=
load_pid=
sampler_pid=
ticks_per_second=$(getconf CLK_TCK)

cleanup_side() {
    local pid
    for pid in $sampler_pid $load_pid; do
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    stop_process "$server_pid" INT
}
cleanup() {
    cleanup_side
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Ends the side that is being measured; the others go on without it.
fail() {
    printf '\n%s: FAILED: %s\n' "$script" "$*" >&2
    echo "$*" >"$work/why"
    tail -n 10 "$server_log" >&2 2>/dev/null || true
    tail -n 10 "$work/load.log" >&2 2>/dev/null || true
    exit 1
}

device=${DEVICE:-$(disk_under "$work")}
[ -n "$device" ] || echo "$script: no disk found under $work: flushes are not counted" >&2
if [ -n "$device" ] && [ "$(cat "/sys/block/$device/queue/write_cache" 2>/dev/null || true)" = "write through" ]; then
    echo "$script: $device has no volatile cache and is never sent a flush: flushes prove nothing here" >&2
fi

# What a file of peers/ fills in, by side. A side NAME has these functions:
#   NAME_find      finds or installs it; sets version; on failure says why in `why`
#   NAME_start     starts it on $data, fresh or not, and waits until it accepts; sets server_pid
#   NAME_create    on a fresh directory, once it runs: what must be there before events come
#   NAME_target    sets target_flags: where the load generator finds it
#   NAME_read      succeeds when a read gave the newest event
#   NAME_count     prints how many events it holds
#   NAME_load      optional: another load generator, with the flags of ringlog-load and --begin-file, made when it begins to send
declare -A title client durability setting version connections_max

# wait_until COMMAND...: every 10 ms until it succeeds. Fails after a minute, or when the server has ended.
wait_until() {
    local tries=0
    until "$@" >/dev/null 2>&1; do
        kill -0 "$server_pid" 2>/dev/null || return 1
        tries=$((tries + 1))
        [ "$tries" -lt 6000 ] || return 1
        sleep 0.01
    done
}

# watch_install WHAT LOG COMMAND...: runs it with a line of progress every half minute.
watch_install() {
    local what=$1 log=$2 began=$SECONDS pid
    shift 2
    [ -z "${NO_INSTALL:-}" ] || return 1
    echo "$script: $what; its output goes to $log" >&2
    "$@" >"$log" 2>&1 &
    pid=$!
    load_pid=$pid
    while kill -0 "$pid" 2>/dev/null; do
        if [ $(((SECONDS - began) % 30)) -eq 29 ]; then
            echo "$script: $((SECONDS - began)) s: $(tail -n 1 "$log" | cut -c 1-100)" >&2
        fi
        sleep 1
    done
    load_pid=
    wait "$pid"
}

# install_by_apt PACKAGE SERVICE: and stops the service that the package may have started.
install_by_apt() {
    if [ -n "${NO_INSTALL:-}" ] || [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        why="not installed (apt-get install $1 gives it, as root)"
        return 1
    fi
    watch_install "apt-get install $1" "$peers_dir/$1-install.log" \
        env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$1" ||
        { why="apt-get install $1 failed, see $peers_dir/$1-install.log"; return 1; }
    if command -v systemctl >/dev/null && systemctl is-active --quiet "$2" 2>/dev/null; then
        systemctl disable --now "$2" >/dev/null 2>&1 || true
    fi
}

for side in ringlog "${peers[@]}"; do
    # shellcheck source=/dev/null
    . "$root/scripts/peers/$side.sh"
done
ringlog_find || { echo "$script: $ringlog does not run" >&2; exit 1; }
sides=(ringlog)
skipped=()
for peer in "${peers[@]}"; do
    why="it cannot be had"
    if "${peer}_find"; then
        sides+=("$peer")
        echo "$script: $peer ${version[$peer]}" >&2
    else
        skipped+=("$peer: $why")
        echo "$script: SKIPPED $peer: $why" >&2
    fi
done
[ "${#sides[@]}" -gt 1 ] || { echo "$script: no peer to compare with" >&2; exit 1; }

noise=
if ! require_quiet 5 10 1; then
    noise="busy $busy_percent %, steal $steal_percent % over 5 s before the start"
    if [ -z "${FORCE:-}" ]; then
        echo "$script: the machine is not quiet: $noise, load $(cut -d' ' -f1 /proc/loadavg). FORCE=1 measures all the same" >&2
        exit 3
    fi
    echo "$script: NOT QUIET: $noise" >&2
fi
# What this script itself does must not be in the server's way.
[ "${#on_client_core[@]}" -eq 0 ] || taskset -cp 1 $$ >/dev/null

SECONDS=0
runs_done=0
batch_count=$(wc -w <<<"$batches")
runs_all=$(((${#sides[@]} - 1) * (batch_count * 6 + 2) + 2))
progress() {
    local left='?'
    [ "$runs_done" -lt 4 ] || left=$((SECONDS * (runs_all - runs_done) / runs_done))
    printf '\r%5d s, run %d of %d, about %s s left: %-40s' "$SECONDS" $((runs_done + 1)) "$runs_all" "$left" "$*" >&2
    runs_done=$((runs_done + 1))
}

# start_fresh SIDE
start_fresh() {
    rm -rf "$work/data"
    data=$work/data
    server_log=$work/$1.log
    : >"$server_log"
    "$1_start" || fail "$1 did not start"
    "$1_create" || fail "$1 could not be prepared"
    "$1_target"
}

stop_side() {
    local signal="$1_stop_signal"
    stop_process "$server_pid" "${!signal:-TERM}"
    server_pid=
}

# start_load SIDE FLAGS...: in the background, with the side's own generator where it has one. Without --rate a closed loop.
start_load() {
    local side=$1
    shift
    set -- run --quiet "${target_flags[@]}" --event-bytes "$event_bytes" --timeout 20 --json "$work/result.json" "$@"
    case " $* " in *' --rate '*) ;; *) set -- "$@" --closed ;; esac
    rm -f "$work/result.json" "$work/stop" "$work/begin"
    if declare -F "${side}_load" >/dev/null; then
        "${side}_load" "$@" --begin-file "$work/begin" >"$work/load.log" 2>&1 &
    else
        "${on_client_core[@]}" "$load" "$@" >"$work/load.log" 2>&1 &
    fi
    load_pid=$!
}

# Until a generator that takes long to start sends; the others do at once.
await_begin() {
    declare -F "$1_load" >/dev/null || return 0
    while [ ! -e "$work/begin" ] && kill -0 "$load_pid" 2>/dev/null; do sleep 0.02; done
}

# A run with failed requests ends with 1 and still has a result, which says so.
wait_for_load() {
    wait "$load_pid" || true
    load_pid=
    [ -s "$work/result.json" ] || fail "$1: the load generator gave no result"
}

connections_of() {
    local most=${connections_max[$1]:-$connections}
    echo $((most < connections ? most : connections))
}

# measure SIDE PAIR PHASE BATCH WARMUP FLAGS...: one run, one line of results.
# CPU is sampled within the measured seconds: connecting and warming up is not in it.
measure() {
    local side=$1 pair=$2 phase=$3 batch=$4 warm=$5 machine
    shift 5
    machine=$(machine_ticks)
    start_load "$side" --connections "$(connections_of "$side")" --batch "$batch" --warmup "$warm" --duration "$duration" "$@"
    (
        await_begin "$side"
        sleep "$(awk -v warm="$warm" 'BEGIN { print warm + 0.5 }')"
        first="$(now_us) $(cpu_ticks_of "$server_pid") $(cpu_ticks_of "$load_pid")"
        sleep "$(awk -v duration="$duration" 'BEGIN { print duration - 0.6 }')"
        echo "$first $(now_us) $(cpu_ticks_of "$server_pid") $(cpu_ticks_of "$load_pid")"
    ) >"$work/samples" &
    sampler_pid=$!
    wait_for_load "$side"
    wait "$sampler_pid" || true
    sampler_pid=
    awk -v side="$side" -v pair="$pair" -v phase="$phase" -v batch="$batch" -v ticks="$ticks_per_second" \
        -v machine="$machine $(machine_ticks)" \
        -v rate="$(number events_per_second <"$work/result.json")" '{
            seconds = ($4 - $1) / 1e6
            split(machine, m, " ")
            all = m[6] - m[3]
            printf "{\"side\":\"%s\",\"pair\":\"%s\",\"phase\":\"%s\",\"batch_size\":%d,", side, pair, phase, batch
            printf "\"server_us\":%.4f,\"server_percent\":%.1f,\"client_percent\":%.1f,\"stolen_percent\":%.2f,\"result\":",
                (rate > 0 ? ($5 - $2) / ticks / seconds / rate * 1e6 : 0), ($5 - $2) / ticks / seconds * 100,
                ($6 - $3) / ticks / seconds * 100, (all ? 100 * (m[5] - m[2]) / all : 0)
        }' "$work/samples" >>"$results"
    printf '%s}\n' "$(cat "$work/result.json")" >>"$results"
}

# lines_of SIDE PAIR PHASE BATCH: what was noted of these runs; a dot as PAIR stands for any.
lines_of() {
    grep "^{\"side\":\"$1\",\"pair\":\"$2[^\"]*\",\"phase\":\"$3\",\"batch_size\":$4," "$results" || true
}

# of SIDE PAIR PHASE BATCH NAME: the median of one value; nothing when there was no such run.
of() {
    local values
    values=$(lines_of "$1" "$2" "$3" "$4" | number "$5")
    [ -z "$values" ] || median <<<"$values"
}

interleave() {
    local peer=$1 batch side turn=0 half
    for batch in $batches; do
        turn=0
        for side in ringlog "$peer" "$peer" ringlog; do
            turn=$((turn + 1))
            progress "$side beside $peer, batch $batch, max"
            start_fresh "$side"
            measure "$side" "$peer" max "$batch" "$warmup"
            if [ "$turn" -ge 3 ]; then
                half=$(of "$side" "$peer" max "$batch" events_per_second | awk '{ print $1 / 2 }')
                progress "$side beside $peer, batch $batch, half"
                if awk -v half="$half" 'BEGIN { exit !(half >= 1) }'; then
                    measure "$side" "$peer" half "$batch" "$(awk -v warm="$warmup" 'BEGIN { print warm / 2 }')" --rate "$half"
                fi
            fi
            stop_side "$side"
        done
    done
}

# One connection, one request after the other. A line: side, batch, requests, flushes of the disk.
count_flushes() {
    local side=$1 batch requests before
    [ -n "$device" ] || return 0
    start_fresh "$side"
    # What starting left to write.
    sleep 1
    for batch in 1 100; do
        requests=$((batch == 1 ? 300 : 20))
        before=$(flushes_of "$device") || return 0
        start_load "$side" --connections 1 --batch "$batch" --count "$requests" --warmup 0
        wait_for_load "$side"
        printf '{"side":"%s","pair":"","phase":"flushes","batch_size":%d,"requests_sent":%s,"disk_flushes":%d}\n' "$side" "$batch" \
            "$(number requests_good <"$work/result.json")" $(($(flushes_of "$device") - before)) >>"$results"
    done
    stop_side "$side"
}

# Memory, bytes on disk and the way back from kill -9, all with batches of 100.
kill_and_recover() {
    local side=$1 before_kib after_kib kib began_us back_us acknowledged held
    start_fresh "$side"
    before_kib=$(du -sk "$data" | cut -f1)
    start_load "$side" --connections "$(connections_of "$side")" --batch 100 --warmup 0 --duration 3600 --stop-file "$work/stop"
    await_begin "$side"
    sleep "$(awk -v duration="$duration" 'BEGIN { print duration + 1 }')"
    kib=$(memory_kib_of "$server_pid")
    after_kib=$(du -sk "$data" | cut -f1)
    # Of all its processes, so that none goes on writing.
    # shellcheck disable=SC2046
    kill -9 $(processes_of "$server_pid") 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    touch "$work/stop"
    wait_for_load "$side"
    acknowledged=$(number events_good <"$work/result.json")
    began_us=$(now_us)
    "$side"_start || fail "$side did not start after kill -9"
    wait_until "${side}_read" || fail "$side: no read after kill -9"
    back_us=$(($(now_us) - began_us))
    held=$("${side}_count")
    printf '{"side":"%s","pair":"","phase":"kill","batch_size":100,"memory_kib":%d,"disk_before_kib":%d,"disk_kib":%d,"acknowledged":%d,"held":%d,"recovery_ms":%d}\n' \
        "$side" "$kib" "$before_kib" "$after_kib" "$acknowledged" "${held:-0}" $((back_us / 1000)) >>"$results"
    stop_side "$side"
}

# Everything about one side, in a process of its own whose failure is noted and ends nothing else.
run_side() {
    local side=$1 before=$runs_done code=0
    set +e
    (
        set -e
        trap cleanup_side EXIT
        trap 'exit 130' INT TERM
        [ "$side" = ringlog ] || interleave "$side"
        progress "$side, flushes"
        count_flushes "$side"
        progress "$side, kill -9"
        kill_and_recover "$side"
    )
    code=$?
    set -e
    [ "$code" -ne 130 ] || exit 130
    runs_done=$((before + 2))
    [ "$side" = ringlog ] || runs_done=$((runs_done + batch_count * 6))
    [ "$code" -eq 0 ]
}

: >"$results"
ticks_before=$(machine_ticks)
run_side ringlog || exit 1
measured=(ringlog)
for side in "${sides[@]:1}"; do
    : >"$work/why"
    if run_side "$side"; then
        measured+=("$side")
    else
        skipped+=("$side: it failed: $(cat "$work/why")")
        sed -i "/\"side\":\"$side\"/d; /\"pair\":\"$side\"/d" "$results"
    fi
done
sides=("${measured[@]}")
[ "${#sides[@]}" -gt 1 ] || { echo "$script: no peer was measured" >&2; exit 1; }
took_seconds=$SECONDS
steal_all=$(echo "$ticks_before $(machine_ticks)" | awk '{ all = $6 - $3; printf "%.2f", all ? 100 * ($5 - $2) / all : 0 }')
printf '\r%90s\r' '' >&2

# shellcheck source=scripts/peers/tables.sh
. "$root/scripts/peers/tables.sh"
write_tables >"$tables"
cat "$tables"
if [ "$out" != - ]; then
    awk -v tables="$tables" '
        /^<!-- compare: begin -->$/ { print; while ((getline line < tables) > 0) print line; inside = 1 }
        /^<!-- compare: end -->$/ { inside = 0 }
        !inside || /^<!-- compare: end -->$/ { if ($0 != "<!-- compare: begin -->") print }' "$out" >"$work/out.md"
    cat "$work/out.md" >"$out"
    echo "$script: written to $out" >&2
fi
echo "$script: $took_seconds s; every run: $results" >&2
