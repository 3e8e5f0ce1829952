# What the scripts share: programs, cores, disks, starting and stopping, reading results. Sourced, never run.
#
# A script sets `script` (its name in messages) before it sources this, and `root` is set here.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
release=$target/release
ringlog=${SERVER_BIN:-$release/ringlog}
load=${LOAD_BIN:-$release/ringlog-load}

# With it a script makes tenants that nothing limits: an onboarded one is stopped by its quota. Servers that are started from here
# take it from their environment.
bootstrap_key=script-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export RINGLOG_BOOTSTRAP_KEY=$bootstrap_key
unset RINGLOG_BOOTSTRAP_KEY_FILE

build_programs() {
    if [ -z "${SERVER_BIN:-}" ] || [ -z "${LOAD_BIN:-}" ]; then
        (cd "$root" && cargo build --release -p ringlog -p ringlog-load)
    fi
}

# Server on core 0, client on core 1, where there are two. Prefixes for commands; empty otherwise.
on_server_core=()
on_client_core=()
choose_cores() {
    if [ "$(nproc)" -ge 2 ] && command -v taskset >/dev/null; then
        on_server_core=(taskset -c 0)
        on_client_core=(taskset -c 1)
    else
        echo "$script: one core or no taskset: server and client share cores, the figures mean little" >&2
    fi
}

# The whole disk under a directory: partitions have no flush counter of their own.
disk_under() {
    local source name
    source=$(findmnt -n -o SOURCE --target "$1" 2>/dev/null || df --output=source "$1" | tail -n 1)
    # A subvolume is written behind its device, as in /dev/vda1[/home].
    name=$(basename "$(readlink -f "${source%%\[*}")")
    if [ -e "/sys/class/block/$name/partition" ]; then
        name=$(basename "$(dirname "$(readlink -f "/sys/class/block/$name")")")
    fi
    if [ -r "/sys/block/$name/stat" ]; then echo "$name"; fi
}

# The 16th number of a disk: flushes completed since the machine started. Fails where there is none (before Linux 5.5).
flushes_of() {
    local fields
    read -r -a fields <"/sys/block/$1/stat"
    [ "${#fields[@]}" -ge 16 ] || return 1
    echo "${fields[15]}"
}

now_us() {
    echo "${EPOCHREALTIME/[.,]/}"
}

# stop_process PID [SIGNAL]: asks, waits ten seconds, then kills.
stop_process() {
    local tries=0
    [ -n "$1" ] || return 0
    kill "-${2:-TERM}" "$1" 2>/dev/null || true
    while kill -0 "$1" 2>/dev/null && [ "$tries" -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    kill -9 "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# wait_for_file FILE PID: until the file has something in it. Fails after 30 s, or when the process has ended.
wait_for_file() {
    local tries=0
    until [ -s "$1" ]; do
        kill -0 "$2" 2>/dev/null || return 1
        tries=$((tries + 1))
        [ "$tries" -lt 1500 ] || return 1
        sleep 0.02
    done
}

# number NAME: one value of the JSON lines on standard input, line by line.
number() {
    sed -n "s/.*\"$1\":\(-\{0,1\}[0-9][0-9.e+-]*\)[,}].*/\1/p"
}

# text NAME: the same for a string without escapes.
text() {
    sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p"
}

median() {
    sort -g | awk '{ value[NR] = $1 } END { if (NR) print (value[int((NR + 1) / 2)] + value[int(NR / 2) + 1]) / 2; else print 0 }'
}

# make_tenant ADDRESS ID: makes a tenant of ringlog that nothing limits, and prints a key of it that writes and reads.
make_tenant() {
    local post=(curl -sf --max-time 10 -X POST -H 'Content-Type: application/json' -H "Authorization: Bearer $bootstrap_key")
    "${post[@]}" -d "{\"id\":\"$2\",\"tier\":\"unlimited\"}" "http://$1/api/v1/tenants" >/dev/null || return 1
    "${post[@]}" -d "{\"name\":\"script\",\"tenant_id\":\"$2\"}" "http://$1/api/v1/teams/agent-keys" | text api_key
}

# make_streaming_key ADDRESS: makes a tenant of ringlog that nothing limits, and prints a streaming key of it.
make_streaming_key() {
    local post=(curl -sf --max-time 10 -X POST -H 'Content-Type: application/json' -H "Authorization: Bearer $bootstrap_key")
    "${post[@]}" -d '{"id":"pushes","tier":"unlimited"}' "http://$1/api/v1/tenants" >/dev/null || return 1
    "${post[@]}" -d '{"name":"script","workspace_id":"pushes"}' "http://$1/api/v1/admin/streaming-keys" | text key
}

# processes_of PID: it and all that descend from it.
processes_of() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v root="$1" '
        { pid = $1; sub(/.*\) /, ""); parent[pid] = $2 }
        END {
            for (pid in parent) {
                up = pid
                while (up != root && up in parent && up > 1) up = parent[up]
                if (up == root) print pid
            }
        }'
}

# cpu_ticks_of PID: user and system time of it and of all that descend from it, the ended ones included, in ticks.
cpu_ticks_of() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v root="$1" '
        { pid = $1; sub(/.*\) /, ""); parent[pid] = $2; ticks[pid] = $12 + $13 + $14 + $15 }
        END {
            for (pid in parent) {
                up = pid
                while (up != root && up in parent && up > 1) up = parent[up]
                if (up == root) sum += ticks[pid]
            }
            print sum + 0
        }'
}

# memory_kib_of PID: proportional resident memory (Pss) of it and its descendants; Rss where Pss may not be read.
memory_kib_of() {
    local pid kib sum=0
    for pid in $(processes_of "$1"); do
        kib=$(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup" 2>/dev/null || true)
        [ -n "$kib" ] || kib=$(awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
        sum=$((sum + ${kib:-0}))
    done
    echo "$sum"
}

# Ticks of all cores since the machine started: busy, stolen, all.
machine_ticks() {
    awk '/^cpu / { print $2 + $3 + $4 + $7 + $8, $9, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat
}

# require_quiet SECONDS BUSY_MAX STEAL_MAX: looks so long at the machine; leaves `busy_percent` and `steal_percent`.
# Fails when either is above its limit.
require_quiet() {
    local before after
    before=$(machine_ticks)
    sleep "$1"
    after=$(machine_ticks)
    read -r busy_percent steal_percent < <(echo "$before $after" | awk '{
        all = $6 - $3; if (all < 1) all = 1; printf "%.1f %.1f\n", 100 * ($4 - $1) / all, 100 * ($5 - $2) / all }')
    awk -v busy="$busy_percent" -v steal="$steal_percent" -v busy_max="$2" -v steal_max="$3" \
        'BEGIN { exit !(busy <= busy_max && steal <= steal_max) }'
}

# A port of 127.0.0.1 that nobody listens on, for servers that cannot choose one themselves.
free_port() {
    local port hex
    while :; do
        port=$((20000 + RANDOM % 12000))
        hex=$(printf ':%04X' "$port")
        if ! awk -v hex="$hex" 'index($2, hex) { found = 1 } END { exit !found }' /proc/net/tcp /proc/net/tcp6 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}
