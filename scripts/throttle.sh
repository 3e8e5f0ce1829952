#!/usr/bin/env bash
# A sender without bounds before a disk that is slow: memory stays under its ceiling, nothing is lost, TCP alone slows the sender down.
#
#   scripts/throttle.sh [SECONDS=20]
#
# The server's writes are held to WRITE_BYTES_PER_SECOND by the kernel (cgroup v2 io.max, or v1 blkio.throttle), which needs root
# and the controller; without it this ends with 2 and says what is missing. The sender writes frames as fast as its sockets take
# them. Afterwards: RssAnon, sampled each second, was never above the ceiling of docs/architecture.md, as scripts/memory.sh has it;
# the tenant has as many events as were sent; the sender stood in its writes for most of the time.
#
#   WRITE_BYTES_PER_SECOND=10485760     CONNECTIONS=8     BATCH=100     EVENT_BYTES=220
#   CORES         the server's cores (default: as many as the machine has)
#   BENCH_DIR     where the data directory is made (default: under target/, on a disk and not in memory)
#   SERVER_BIN, LOAD_BIN   use these programs and build nothing
set -euo pipefail

script=throttle.sh
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

seconds=${1:-20}
case $seconds in '' | *[!0-9]* | 0) echo "usage: scripts/throttle.sh [SECONDS=20]" >&2; exit 2 ;; esac
limit=${WRITE_BYTES_PER_SECOND:-10485760}
connections=${CONNECTIONS:-8}
batch=${BATCH:-100}
event_bytes=${EVENT_BYTES:-220}
cores=${CORES:-$(nproc)}

build_programs

mkdir -p "${BENCH_DIR:-$target}"
work=$(mktemp -d "${BENCH_DIR:-$target}/throttle.XXXXXX")
server_pid=
load_pid=
group=

cleanup() {
    # Without the limit, so that an end does not take as long as what is still to be written.
    [ -z "$group" ] || lift
    for pid in $load_pid $server_pid; do
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    [ -z "$group" ] || rmdir "$group" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

fail() {
    echo "throttle.sh: FAILED: $*" >&2
    tail -n 20 "$work/server.log" >&2 2>/dev/null || true
    exit 1
}

disk=$(disk_under "$work")
[ -n "$disk" ] || { echo "throttle.sh: no disk under $work: set BENCH_DIR to a directory on one" >&2; exit 2; }
numbers=$(cat "/sys/block/$disk/dev")
name=ringlog-throttle-$$
if grep -qw io /sys/fs/cgroup/cgroup.controllers 2>/dev/null &&
    echo +io >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null && mkdir "/sys/fs/cgroup/$name" 2>/dev/null; then
    group=/sys/fs/cgroup/$name
    throttle() { echo "$numbers wbps=$1" >"$group/io.max"; }
    lift() { echo "$numbers wbps=max" >"$group/io.max" 2>/dev/null || true; }
    how="cgroup v2 io.max"
elif [ -e /sys/fs/cgroup/blkio/blkio.throttle.write_bps_device ] && mkdir "/sys/fs/cgroup/blkio/$name" 2>/dev/null; then
    group=/sys/fs/cgroup/blkio/$name
    throttle() { echo "$numbers $1" >"$group/blkio.throttle.write_bps_device"; }
    lift() { echo "$numbers 0" >"$group/blkio.throttle.write_bps_device" 2>/dev/null || true; }
    how="cgroup v1 blkio.throttle"
else
    echo "throttle.sh: the disk cannot be slowed down: neither the io controller of cgroup v2 nor blkio of v1 may be used here (root?)" >&2
    exit 2
fi

# In the group from its first instruction on, with all its threads.
sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$group" \
    "$ringlog" serve --data-dir "$work/data" --http 127.0.0.1:0 --tcp 127.0.0.1:0 --ports-file "$work/ports.json" \
    --onboard-per-hour 0 --cores "$cores" --durability commit >"$work/server.log" 2>&1 &
server_pid=$!
wait_for_file "$work/ports.json" "$server_pid" || fail "the server did not start"
# Its first segments are written at the disk's own speed.
throttle "$limit" || { echo "throttle.sh: $how takes no limit for $disk ($numbers)" >&2; exit 2; }

anon_max=0
sample() {
    local kib
    kib=$(awk '/^RssAnon:/ { print $2 }' "/proc/$server_pid/status" 2>/dev/null || true)
    [ "${kib:-0}" -le "$anon_max" ] || anon_max=$kib
}
written_before=$(awk '{ print $7 }' "/sys/block/$disk/stat")
sample
"$load" stream --source frames --ports-file "$work/ports.json" --bootstrap-key "$bootstrap_key" --connections "$connections" \
    --batch "$batch" --event-bytes "$event_bytes" --seconds "$seconds" --patience 600 --server-pid "$server_pid" \
    --json "$work/result.json" >"$work/load.log" 2>&1 &
load_pid=$!
while kill -0 "$load_pid" 2>/dev/null; do
    kill -0 "$server_pid" 2>/dev/null || fail "the server ended"
    sample
    printf '\r%4d s  RssAnon at most %5d MiB' "$SECONDS" $((anon_max / 1024)) >&2
    sleep 0.5
done
printf '\r%40s\r' '' >&2
load_code=0
wait "$load_pid" || load_code=$?
load_pid=
written=$((($(awk '{ print $7 }' "/sys/block/$disk/stat") - written_before) * 512))
cat "$work/load.log"
[ "$load_code" -eq 0 ] || fail "the sender ended with $load_code"

sent=$(number events_sent <"$work/result.json")
stored=$(number events_stored <"$work/result.json")
blocked=$(number writing_percent <"$work/result.json")
took=$(number seconds <"$work/result.json")
shards=$(find "$work/data" -maxdepth 1 -name 'shard-*' -type d | wc -l)
segment_bytes=$(stat -c %s "$(find "$work/data" -maxdepth 2 -path "$work/data/shard-*/log-*.seg" | head -n 1)")
mib=$((1024 * 1024))
segment_events=$((segment_bytes / 128))
entities=10000
[ "$entities" -le "$segment_events" ] || entities=$segment_events
ceiling=$((shards * (172 * segment_events + 256 * entities + 8 * mib) + cores * 96 * mib + 64 * mib))

printf '%s, %s at %d bytes/s; the disk wrote %d bytes in %s s, ours and all others\n' "$how" "$disk" "$limit" "$written" "$took"
printf 'RssAnon at most %d MiB, ceiling %d MiB; %d events sent, %d stored; the sender stood in writes for %.0f %% of the time\n' \
    $((anon_max / 1024)) $((ceiling / mib)) "$sent" "$stored" "$blocked"
[ "$sent" -eq "$stored" ] || fail "events were lost"
[ $((anon_max * 1024)) -le "$ceiling" ] || fail "memory is above its ceiling"
awk -v blocked="$blocked" 'BEGIN { exit !(50 <= blocked) }' || fail "nothing slowed the sender down: is the disk slow at all?"
echo "throttle.sh: OK"
