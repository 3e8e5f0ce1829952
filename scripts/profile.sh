#!/usr/bin/env bash
# What one request costs the server, step by step, from a profile: at one event a request and at a hundred.
#
#   scripts/profile.sh
#
# For each size two runs on a fresh data directory, server on core 0 and client on core 1, durability commit. The first, with no
# profiler in the way, says what a request costs in all: user and system time of the server's process over requests. The second,
# under perf with call chains, says how that divides. A sample belongs to
#   - what the kernel was doing, if its chain names it: receiving, sending, writing to the disk, waiting;
#   - else to the innermost function of ours in the chain, inlined ones included: a copy belongs to who copied. The file that the
#     function is in decides the step; the list is `stage_of_file` below.
# Samples that fit nowhere are shown as unattributed. On loopback the kernel delivers an answer to the client's socket inside
# the server's send: that is in "send". The other half, the client's sending, is in the client's time and not here.
# The kernel's own threads, which complete durable writes, are in neither: their time is not the process's. Without hardware counters,
# as in most virtual machines, perf samples by a timer, and what runs with interrupts off is charged to where they come on again.
#
#   DURATION=10   seconds of each run      BATCHES="1 100"      CONNECTIONS_1=256  CONNECTIONS_100=64      FREQUENCY=999
#   BENCH_DIR     where the data directories are made (default: under target/)
#   OUTPUT        where the profiles are kept (default: thrown away)
#   SERVER_BIN, LOAD_BIN   use these programs and build nothing; the server must have its line tables, as our release builds do
#
# Needs perf, awk, and addr2line from binutils or LLVM (LLVM's names inlined functions better).
set -euo pipefail

duration=${DURATION:-10}
batches=${BATCHES:-1 100}
frequency=${FREQUENCY:-999}
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
release=$target/release
ringlog=${SERVER_BIN:-$release/ringlog}
load=${LOAD_BIN:-$release/ringlog-load}

if ! command -v perf >/dev/null; then
    echo "profile.sh: perf is not installed: apt-get install linux-perf (Debian), linux-tools-\$(uname -r) (Ubuntu), perf (Fedora)" >&2
    exit 2
fi
addr2line=$(command -v llvm-addr2line || command -v addr2line || true)
if [ -z "$addr2line" ]; then
    echo "profile.sh: neither llvm-addr2line nor addr2line is installed: apt-get install binutils" >&2
    exit 2
fi
if [ "$(id -u)" -ne 0 ] && [ "$(cat /proc/sys/kernel/perf_event_paranoid)" -gt 1 ]; then
    echo "profile.sh: the kernel may not be profiled: run as root, or sudo sysctl kernel.perf_event_paranoid=1" >&2
    exit 2
fi
if [ "$(nproc)" -lt 2 ]; then
    echo "profile.sh: one core: server and client would share it" >&2
    exit 2
fi
if [ -z "${SERVER_BIN:-}" ] || [ -z "${LOAD_BIN:-}" ]; then
    (cd "$root" && cargo build --release -p ringlog -p ringlog-load)
fi
ringlog=$(readlink -f "$ringlog")
# With it the load generator makes tenants that nothing limits: an onboarded one is stopped by its quota.
bootstrap_key=script-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

mkdir -p "${BENCH_DIR:-$target}"
work=$(mktemp -d "${BENCH_DIR:-$target}/profile.XXXXXX")
server_pid=
load_pid=

stop() {
    [ -n "$1" ] || return 0
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
cleanup() {
    stop "$load_pid"
    stop "$server_pid"
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

start_server() {
    rm -rf "$work/data" "$work/ports.json"
    RINGLOG_BOOTSTRAP_KEY=$bootstrap_key taskset -c 0 "$ringlog" serve --data-dir "$work/data" --http 127.0.0.1:0 --tcp 127.0.0.1:0 \
        --ports-file "$work/ports.json" --onboard-per-hour 0 --cores 1 --durability commit >"$work/server.log" 2>&1 &
    server_pid=$!
    local tries=0
    until [ -s "$work/ports.json" ]; do
        tries=$((tries + 1))
        if [ "$tries" -gt 1500 ] || ! kill -0 "$server_pid" 2>/dev/null; then
            cat "$work/server.log" >&2
            echo "profile.sh: the server did not start" >&2
            exit 1
        fi
        sleep 0.02
    done
}

# drive BATCH CONNECTIONS SECONDS RESULT: load, in the background.
drive() {
    # shellcheck disable=SC2086
    taskset -c 1 "$load" run --quiet --closed --ports-file "$work/ports.json" --bootstrap-key "$bootstrap_key" --tenants 4 \
        --connections "$2" --batch "$1" --warmup 2 --duration "$3" --server-pid "$server_pid" --json "$4" >"$work/load.log" 2>&1 &
    load_pid=$!
}

finish_load() {
    if ! wait "$load_pid"; then
        load_pid=
        cat "$work/load.log" >&2
        echo "profile.sh: the load generator failed" >&2
        exit 1
    fi
    load_pid=
}

# number NAME FILE: one value of a line of JSON.
number() {
    sed -n "s/.*\"$1\":\([0-9.e+-]*\)[,}].*/\1/p" "$2"
}

# The executable part of the program: perf tells places in the file, addr2line wants addresses.
read -r text_offset text_address < <(readelf -lW "$ringlog" | awk '$1 == "LOAD" && / R E / { print $2, $3; exit }')

# inline_chains SCRIPT: for each place in our program that samples name, a line "KEY file function|file function|...",
# innermost first. A caller's place is where it will go on; the call itself ends one byte before.
inline_chains() {
    awk -v program="($ringlog)" '
        NF == 0 { depth = 0; next }
        /^[^ \t]/ { depth = 0; next }
        { depth++; if (index($0, program)) print $1 (depth == 1 ? "" : "-") }
    ' "$1" | sort -u >"$work/keys"
    local key back
    while read -r key; do
        back=0
        [ "${key%-}" = "$key" ] || back=1
        printf '0x%x\n' $((0x${key%-} - text_offset + text_address - back))
    done <"$work/keys" >"$work/addresses"
    "$addr2line" -a -i -f -C -e "$ringlog" <"$work/addresses" | awk -v keys="$work/keys" '
        function flush_line() { if (chain != "") print key, chain; chain = "" }
        /^0x[0-9a-f]+$/ { flush_line(); getline key <keys; is_name = 1; next }
        is_name { name = $0; is_name = 0; next }
        {
            file = $0
            sub(/:[0-9?]+( \(discriminator [0-9]+\))?$/, "", file)
            gsub(/[ |]/, "_", file); gsub(/[ |]/, "_", name)
            chain = chain (chain == "" ? "" : "|") file " " name
            is_name = 1
        }
        END { flush_line() }
    '
}

# attribute SCRIPT CHAINS: lines "step<TAB>place<TAB>samples" for each function or path through the kernel, and one without a
# place for each step's sum.
attribute() {
    awk -v chains="$2" -v program="($ringlog)" '
    BEGIN {
        while ((getline line <chains) > 0) {
            cut = index(line, " ")
            chain_of[substr(line, 1, cut - 1)] = substr(line, cut + 1)
        }
    }

    # The step of a file of ours; "" for files of others, which count for whoever called them.
    function stage_of_file(file) {
        if (file ~ /\/(rustc|\.cargo|registry)\//) return ""
        if (file ~ /server\/src\/(wire\/(http|json|json_simd|envelope|chunked|time|params)|net\/http1)\.rs$/) return "parse"
        if (file ~ /server\/src\/auth\//) return "authenticate"
        if (file ~ /engine\/src\/(event|format\/record)\.rs$/) return "encode"
        if (file ~ /engine\/src\/(shard\/(admit|mod|segments)|index\/[a-z]+|format\/batch)\.rs$/) return "append"
        if (file ~ /engine\/src\/(shard\/commit|format\/block|io\/disk|io\/buffer)\.rs$/) return "commit"
        if (file ~ /engine\/src\/event_id\.rs$|server\/src\/(wire\/(answer|response|status)|handle\/(events|query|health|onboard))\.rs$/) return "answer"
        if (file ~ /server\/src\/(core|net|handle)\/|engine\/src\/(io|host)|server\/src\/(start|main)/) return "loop"
        if (file ~ /engine\/src\/shard\/jobs\.rs$/) return "segments"
        if (file ~ /(server|engine)\/src\//) return "other of ours"
        return ""
    }

    function short_file(file) {
        sub(/.*\/(server|engine)\/src\//, "", file)
        return file
    }

    # The bare name; for a closure, that of the function of the same file that it was inlined into.
    function function_name(frames, of, count, file,    pair, name) {
        for (; of <= count; of++) {
            split(frames[of], pair, " ")
            if (pair[1] != file) continue
            name = pair[2]
            sub(/::h[0-9a-f]+$/, "", name)
            if (name ~ /^_?</) sub(/.*::/, "", name)
            sub(/<.*/, "", name)
            sub(/.*::/, "", name)
            if (name !~ /^[{]/) return name
        }
        return "a closure"
    }

    # Innermost function of ours in the user part of the chain: sets `place`, returns the step.
    function user_stage(    at, count, frames, of, pair, stage) {
        for (at = 1; at <= user_count; at++) {
            if (!(user[at] in chain_of)) continue
            count = split(chain_of[user[at]], frames, "|")
            for (of = 1; of <= count; of++) {
                split(frames[of], pair, " ")
                stage = stage_of_file(pair[1])
                if (stage == "") continue
                place = short_file(pair[1]) ": " function_name(frames, of, count, pair[1])
                return stage
            }
        }
        return ""
    }

    function kernel_stage() {
        if (kernel ~ / (io_send|tcp_sendmsg|sock_sendmsg|__sys_sendto) /) {
            place = kernel ~ / (net_rx_action|process_backlog) / ? "kernel: delivery to the socket of the client, inside io_send" : "kernel: io_send itself"
            return "send"
        }
        if (kernel ~ / (io_recv|tcp_recvmsg|sock_recvmsg|io_poll_check_events|io_poll_task_func|tcp_poll) /) { place = "kernel: io_recv"; return "receive" }
        if (kernel ~ / (io_write|io_fsync|__io_complete_rw_common|io_complete_rw|io_req_rw_complete|submit_bio|blk_mq_[a-z_]+|virtblk_[a-z_]+|nvme_[a-z_]+|vring_interrupt|iomap_[a-z_]+|ext4_[a-z_]+) /) { place = "kernel: writes (file system and block device)"; return "disk" }
        if (kernel ~ / (schedule|__schedule|io_cqring_wait_schedule|schedule_hrtimeout[a-z_]*|finish_task_switch[a-z.]*) /) { place = "kernel: waiting and waking"; return "wait" }
        if (kernel ~ / (net_rx_action|tcp_v4_rcv|sk_[a-z_]+|__tcp_[a-z_]+|inet_[a-z_]+) /) { place = "kernel: network interrupts"; return "network" }
        if (kernel ~ / (asm_exc_page_fault|exc_page_fault) /) return ""
        if (kernel ~ / (asm_sysvec_[a-z_]+|handle_softirqs|irq_exit_rcu|asm_common_interrupt) /) { place = "kernel: timers and interrupts"; return "interrupts" }
        if (kernel ~ / (__do_sys_io_uring_enter|__x64_sys_io_uring_enter|io_[a-z_]+|__io_[a-z_]+) /) { place = "kernel: io_uring itself"; return "uring" }
        return ""
    }

    function classify(    stage) {
        if (comm == "") return
        place = ""
        stage = ""
        if (kernel != " ") stage = kernel_stage()
        if (stage == "") stage = user_stage()
        if (stage == "" && kernel ~ / entry_SYSCALL_64_after_hwframe /) { stage = "syscalls"; place = "kernel: other system calls" }
        if (stage == "") { stage = "unattributed"; place = first }
        # Threads of their own are a step of their own: what they do is told by the place.
        if (comm ~ /^shard-/) stage = "segments"
        else if (comm !~ /^(core-|iou-)/) stage = "threads"
        samples[stage]++
        places[stage "\t" place]++
    }

    /^[^ \t]/ { classify(); comm = $1; kernel = " "; user_count = 0; depth = 0; first = ""; next }
    NF == 0 { next }
    {
        depth++
        symbol = $2
        if (first == "") first = symbol " " $NF
        if (/\(\[kernel/ || $NF ~ /\.ko\)|^\(\[[a-z_]+\]\)$/ && $2 != "[unknown]") kernel = kernel symbol " "
        else if (index($0, program)) user[++user_count] = $1 (depth == 1 ? "" : "-")
    }
    END {
        classify()
        for (stage in samples) printf "%s\t\t%d\n", stage, samples[stage]
        for (place in places) printf "%s\t%d\n", place, places[place]
    }' "$1"
}

# report BATCH CONNECTIONS: from what the runs left behind.
report() {
    local cpu rate total
    cpu=$(awk -v per_event="$(number server_cpu_us_per_event "$work/plain.json")" -v batch="$1" 'BEGIN { print per_event * batch }')
    rate=$(number requests_per_second "$work/plain.json")
    total=$(awk -F '\t' '$2 == "" { total += $3 } END { print total + 0 }' "$work/shares")
    [ "$total" -gt 0 ] || { echo "profile.sh: perf took no samples" >&2; exit 1; }
    echo
    printf '### %d event%s a request, %d connections, %.0f requests/s\n\n' "$1" "$([ "$1" -eq 1 ] || echo s)" "$2" "$rate"
    printf '%.2f µs of CPU a request; %d samples (%s)\n\n' "$cpu" "$total" "$(cat "$work/event")"
    echo '| step | share | µs a request |'
    echo '|---|---|---|'
    awk -F '\t' -v cpu="$cpu" -v total="$total" '
        function said(samples) { return sprintf("%.1f %%, %.2f µs", 100 * samples / total, cpu * samples / total) }
        # The key with the most samples; "" if there is none.
        function largest(of,    key, most) {
            most = ""
            for (key in of) if (most == "" || of[key] > of[most]) most = key
            return most
        }
        BEGIN {
            count = split("receive:receive (kernel)|parse:parse|authenticate:authenticate|encode:encode|append:append|commit:commit, ours|disk:commit, write to the disk (kernel)|answer:answer|send:send (kernel)|loop:loop and connections, ours|uring:io_uring itself (kernel)|wait:waiting and waking (kernel)|network:?network interrupts (kernel)|interrupts:?timers and other interrupts (kernel)|syscalls:?other system calls (kernel)|segments:?segments, on their own thread|threads:?other threads|other of ours:?other of ours|unattributed:unattributed", rows, "|")
        }
        $2 == "" { steps[$1] = $3; next }
        { places[$1 "\t" $2] = $3 }
        END {
            for (row = 1; row <= count; row++) {
                cut = index(rows[row], ":")
                step = substr(rows[row], 1, cut - 1)
                title[step] = substr(rows[row], cut + 1)
                # Rows with a question mark are left out where there is nothing to show.
                if (sub(/^[?]/, "", title[step]) && !steps[step]) continue
                printf "| %s | %.1f %% | %.2f |\n", title[step], 100 * steps[step] / total, cpu * steps[step] / total
            }
            printf "\nThe three largest steps, and what is largest in each:\n\n"
            for (rank = 1; rank <= 3; rank++) {
                step = largest(steps)
                printf "%d. **%s**: %s\n", rank, title[step], said(steps[step])
                delete inside
                for (key in places) if (index(key, step "\t") == 1) inside[substr(key, length(step) + 2)] = places[key]
                for (within = 1; within <= 3; within++) {
                    place = largest(inside)
                    if (place == "" || inside[place] * 20 < steps[step]) break
                    printf "   - `%s`: %s\n", place, said(inside[place])
                    delete inside[place]
                }
                delete steps[step]
            }
            printf "\nThe three largest functions of ours:\n\n"
            for (rank = 1; rank <= 3;) {
                key = largest(places)
                if (key == "") break
                split(key, pair, "\t")
                if (pair[2] ~ /\.rs: / && pair[1] !~ /^(segments|threads)$/) printf "%d. `%s` (%s): %s\n", rank++, pair[2], title[pair[1]], said(places[key])
                delete places[key]
            }
        }' "$work/shares"
}

echo "$(uname -r), $(nproc) CPUs, $(perf --version), $(date -u +%Y-%m-%d)"
for batch in $batches; do
    if [ "$batch" -eq 1 ]; then connections=${CONNECTIONS_1:-256}; else connections=${CONNECTIONS_100:-64}; fi
    start_server
    drive "$batch" "$connections" "$duration" "$work/plain.json"
    finish_load
    stop "$server_pid"
    start_server
    drive "$batch" "$connections" "$duration" "$work/profiled.json"
    # Past the warm-up, and over before the load is.
    sleep 2.5
    perf record --quiet -F "$frequency" --call-graph dwarf,8192 -p "$server_pid" -o "$work/perf.data" -- \
        sleep "$(awk -v seconds="$duration" 'BEGIN { print (seconds > 2) ? seconds - 1 : seconds / 2 }')" 2>"$work/perf.log" || {
        cat "$work/perf.log" >&2
        exit 1
    }
    finish_load
    stop "$server_pid"
    server_pid=
    perf evlist -i "$work/perf.data" 2>/dev/null | head -n 1 >"$work/event"
    perf script -i "$work/perf.data" --no-inline -F comm,ip,sym,dso >"$work/script" 2>"$work/perf.log"
    inline_chains "$work/script" >"$work/chains"
    attribute "$work/script" "$work/chains" >"$work/shares"
    report "$batch" "$connections"
    if [ -n "${OUTPUT:-}" ]; then
        mkdir -p "$OUTPUT"
        cp "$work/script" "$OUTPUT/samples-$batch"
        cp "$work/chains" "$OUTPUT/chains-$batch"
        cp "$work/shares" "$OUTPUT/shares-$batch"
    fi
done
