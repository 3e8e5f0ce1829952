# Turns the lines that compare.sh gathered in $results into Markdown. Sourced by it.

# one SIDE PHASE BATCH NAME: a value that was taken once.
one() {
    lines_of "$1" "" "$2" "$3" | number "$4" | tail -n 1
}

# show DECIMALS VALUE: with commas between the thousands.
show() {
    [ -n "$2" ] || { printf -- '-'; return; }
    awk -v decimals="$1" -v value="$2" 'BEGIN {
        text = sprintf("%." decimals "f", value)
        whole = text; sub(/\..*/, "", whole)
        rest = substr(text, length(whole) + 1)
        while (match(whole, /[0-9][0-9][0-9][0-9]($|,)/)) whole = substr(whole, 1, RSTART) "," substr(whole, RSTART + 1)
        printf "%s%s", whole, rest }'
}

# show_ms MICROSECONDS: nothing took none, so that 0 means that nothing was answered in time.
show_ms() {
    show 2 "$(awk -v us="$1" 'BEGIN { if (us > 0) print us / 1000 }')"
}

# marks SIDE PAIR PHASE BATCH: what is wrong with these runs, as letters that the legend explains.
marks() {
    local text=
    most "$1" "$2" "$3" "$4" error_count 0 || text+=e
    if ! most "$1" "$2" "$3" "$4" client_percent 95 || lines_of "$1" "$2" "$3" "$4" | grep -q '"loader_bound":true'; then text+=c; fi
    most "$1" "$2" "$3" "$4" stolen_percent 1 || text+=s
    [ -z "$text" ] || printf ' (%s)' "$text"
}

# most SIDE PAIR PHASE BATCH NAME LIMIT: whether no run is above the limit.
most() {
    lines_of "$1" "$2" "$3" "$4" | number "$5" |
        awk -v limit="$6" '$1 > limit { above = 1 } END { exit above }'
}

divide() {
    awk -v a="${1:-0}" -v b="${2:-0}" 'BEGIN { if (b > 0) printf "%.4f", a / b }'
}

header() {
    local side line='|  |' rule='|---|'
    for side in "${sides[@]}"; do
        line+=" ${title[$side]} |"
        rule+='---|'
    done
    printf '%s\n%s\n' "$line" "$rule"
}

# row NAME FUNCTION: one cell for each side.
row() {
    local side line="| $1 |"
    for side in "${sides[@]}"; do line+=" $("$2" "$side") |"; done
    echo "$line"
}

pair_of() {
    if [ "$1" = ringlog ]; then echo .; else echo "$1"; fi
}

# The cells of a batch size; `batch` is set by the caller.
cell_rate() { show 0 "$(of "$1" "$(pair_of "$1")" max "$batch" events_per_second)"; marks "$1" "$(pair_of "$1")" max "$batch"; }
cell_ratio() {
    [ "$1" != ringlog ] || { printf '1'; return; }
    show 2 "$(divide "$(of ringlog "$1" max "$batch" events_per_second)" "$(of "$1" "$1" max "$batch" events_per_second)")"
}
cell_cpu() { show 2 "$(of "$1" "$(pair_of "$1")" max "$batch" server_us)"; }
cell_half() { show 0 "$(of "$1" "$(pair_of "$1")" half "$batch" events_per_second)"; marks "$1" "$(pair_of "$1")" half "$batch"; }
cell_p50() { show_ms "$(of "$1" "$(pair_of "$1")" half "$batch" response_p50_us)"; }
cell_p99() { show_ms "$(of "$1" "$(pair_of "$1")" half "$batch" response_p99_us)"; }
cell_closed_p99() { show_ms "$(of "$1" "$(pair_of "$1")" max "$batch" service_p99_us)"; }

cell_memory() { show 0 "$(divide "$(one "$1" kill 100 memory_kib)" 1024)"; }
cell_events() { show 0 "$(one "$1" kill 100 held)"; }
cell_grown() { show 0 "$(bytes_per_event "$1")"; }
cell_disk() { show 0 "$(divide "$(one "$1" kill 100 disk_kib)" 1024)"; }
cell_recovery() { show 0 "$(one "$1" kill 100 recovery_ms)"; }
cell_lost() {
    local acknowledged held
    acknowledged=$(one "$1" kill 100 acknowledged)
    held=$(one "$1" kill 100 held)
    if [ "${held:-0}" -ge "${acknowledged:-0}" ]; then printf 0; else show 0 $((acknowledged - held)); fi
}
cell_requests() { show 0 "$(one "$1" flushes "$batch" requests_sent)"; }
cell_flushes() { show 0 "$(one "$1" flushes "$batch" disk_flushes)"; }

bytes_per_event() {
    awk -v from="$(one "$1" kill 100 disk_before_kib)" -v to="$(one "$1" kill 100 disk_kib)" -v held="$(one "$1" kill 100 held)" \
        'BEGIN { bytes = held > 0 ? (to - from) * 1024 / held : 0; if (bytes >= 1) print bytes }'
}

# Whether it flushed at least once for each request of a lone client.
is_proven() {
    local sent flushed
    sent=$(one "$1" flushes 1 requests_sent)
    flushed=$(one "$1" flushes 1 disk_flushes)
    [ -n "$sent" ] && [ "$flushed" -ge "$sent" ]
}

# worse WHAT SIDE OURS THEIRS MORE_IS_BETTER DECIMALS: a line when the peer is better than ringlog.
worse() {
    local suffix=
    is_proven "$2" || suffix=", which did not flush for each request"
    if awk -v a="${3:-0}" -v b="${4:-0}" -v more="$5" 'BEGIN { exit !(a > 0 && b > 0 && (more ? b > a : b < a)) }'; then
        echo "* $1: ringlog $(show "$6" "$3"), ${title[$2]} $(show "$6" "$4")$suffix"
    fi
}

losses() {
    local peer
    for peer in "${sides[@]:1}"; do
        for batch in $batches; do
            worse "$batch an append, events/s" "$peer" "$(of ringlog "$peer" max "$batch" events_per_second)" \
                "$(of "$peer" "$peer" max "$batch" events_per_second)" 1 0
            worse "$batch an append, server CPU, µs an event" "$peer" "$(of ringlog "$peer" max "$batch" server_us)" \
                "$(of "$peer" "$peer" max "$batch" server_us)" 0 2
            worse "$batch an append, p50 at half of own max, µs" "$peer" "$(of ringlog "$peer" half "$batch" response_p50_us)" \
                "$(of "$peer" "$peer" half "$batch" response_p50_us)" 0 0
            worse "$batch an append, p99 at half of own max, µs" "$peer" "$(of ringlog "$peer" half "$batch" response_p99_us)" \
                "$(of "$peer" "$peer" half "$batch" response_p99_us)" 0 0
        done
        worse "resident memory, MiB" "$peer" "$(divide "$(one ringlog kill 100 memory_kib)" 1024)" \
            "$(divide "$(one "$peer" kill 100 memory_kib)" 1024)" 0 0
        worse "growth on disk, bytes an event" "$peer" "$(bytes_per_event ringlog)" "$(bytes_per_event "$peer")" 0 0
        worse "back after kill -9, ms" "$peer" "$(one ringlog kill 100 recovery_ms)" "$(one "$peer" kill 100 recovery_ms)" 0 0
    done
}

write_tables() {
    local side lines
    echo "\`$command_line\`, $(date -u '+%Y-%m-%d %H:%M') UTC, $took_seconds s. $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $cpu_count CPUs, Linux $(uname -r),"
    echo "$(findmnt -n -o FSTYPE --target "$root" 2>/dev/null || echo 'unknown file system') on ${device:-an unknown disk}. Steal over the whole time $steal_all %.${noise:+ **Not a quiet machine: $noise.**}"
    [ -z "${QUICK:-}" ] || echo "**QUICK=1: runs of $duration s, which show that the script works and little else.**"
    echo
    echo "Server on core 0 with all its threads, load generator on core 1, loopback; ringlog, peer, peer, ringlog for each batch size, each run $duration s"
    echo "after $warmup s of warm-up on a fresh data directory; medians. Events of $event_bytes bytes of JSON on average. Up to $connections connections with one request in"
    echo "flight each; an append of more than one event is one request in the peer's own batch form."
    [ -z "${version[allsource]:-}" ] || echo "AllSource had $(connections_of allsource) connections: it refuses more at once."
    echo
    echo "| | version | what an acknowledgement means | how it was set up | client |"
    echo "|---|---|---|---|---|"
    for side in "${sides[@]}"; do
        echo "| ${title[$side]} | ${version[$side]:-unknown} | ${durability[$side]} | ${setting[$side]} | ${client[$side]} |"
    done
    for line in ${skipped[@]+"${skipped[@]}"}; do printf '\nNot measured: %s.\n' "$line"; done
    echo
    echo "Is it so? One connection, one append after the other: acknowledged appends and flushes that the disk completed meanwhile."
    echo
    header
    for batch in 1 100; do
        row "appends of $batch" cell_requests
        row "flushes of the disk" cell_flushes
    done
    for batch in $batches; do
        echo
        echo "**$batch an append**"
        echo
        header
        row "max, events/s (closed loop)" cell_rate
        row "ringlog beside it, times as many" cell_ratio
        row "server CPU at max, µs an event" cell_cpu
        row "p99 at max, ms (closed loop)" cell_closed_p99
        row "half of own max, events/s (open loop)" cell_half
        row "p50 there, ms" cell_p50
        row "p99 there, ms" cell_p99
    done
    echo
    echo "Marks: (e) some requests failed, (c) the client was the bound, so that the server could do more, (s) more than 1 % of the machine was stolen meanwhile."
    echo "Latency at half counts from the intended moment of sending. Each side's half is of its own max: a faster side is asked more."
    echo "CPU is of all of the server's processes; the kernel's own threads are not in it."
    echo
    echo "**Under load for $(awk -v duration="$duration" 'BEGIN { print duration + 1 }') s with 100 an append, then kill -9**"
    echo
    header
    row "events held" cell_events
    row "resident memory, MiB (Pss)" cell_memory
    row "growth on disk, bytes an event" cell_grown
    row "on disk in all, MiB" cell_disk
    row "exec to first read of data, ms" cell_recovery
    row "acknowledged and lost" cell_lost
    echo
    echo "Sides hold different numbers of events, as each was fed for the same time. ringlog writes segments of 128 MiB in advance, PostgreSQL its log in pieces of 16 MiB:"
    echo "their growth is rounded up; UmaDB makes its file of 256 MiB at its start, whose filling does not show (-). The page cache is warm when a side comes back. A kill -9 proves nothing about power cuts."
    echo
    echo "**Where ringlog loses, by these figures**"
    echo
    lines=$(losses)
    if [ -n "$lines" ]; then echo "$lines"; else echo "Nowhere in this run."; fi
}
