# AllSource's core, built by cargo: the same HTTP API.

title[allsource]="AllSource core"
client[allsource]=ringlog-load
durability[allsource]="acknowledged after fsync of its log, one for each event"
setting[allsource]="authentication and rate limits off (\`ALLSOURCE_AUTH_DISABLED\`), no log lines, one worker thread; JSON over HTTP, batches are not atomic"
# It answers 16 requests at once, lets 64 wait for two seconds and refuses the rest: more connections only make errors.
connections_max[allsource]=16

allsource_find() {
    local built=$peers_dir/allsource log=$peers_dir/allsource-install.log
    allsource_program=${ALLSOURCE_BIN:-}
    [ -n "$allsource_program" ] || allsource_program=$(command -v allsource-core || true)
    if [ -z "$allsource_program" ] && [ ! -x "$built/bin/allsource-core" ]; then
        command -v cargo >/dev/null || { why="neither allsource-core nor cargo"; return 1; }
        watch_install "cargo install allsource-core (several hundred crates, up to an hour)" "$log" \
            env CARGO_TARGET_DIR="$peers_dir/allsource-target" nice cargo install --locked --root "$built" allsource-core ||
            { why="cargo install failed, see $log"; return 1; }
        rm -rf "$peers_dir/allsource-target"
    fi
    [ -n "$allsource_program" ] || allsource_program=$built/bin/allsource-core
    version[allsource]=${ALLSOURCE_VERSION:-$(sed -n 's/^"allsource-core \([^ ]*\) .*/\1/p' "$(dirname "$allsource_program")/../.crates.toml" 2>/dev/null)}
}

allsource_start() {
    allsource_port=$(free_port)
    env RUST_LOG=error TOKIO_WORKER_THREADS=1 ALLSOURCE_AUTH_DISABLED=true ALLSOURCE_DATA_DIR="$data" \
        ALLSOURCE_HOST=127.0.0.1 ALLSOURCE_PORT="$allsource_port" \
        "${on_server_core[@]}" "$allsource_program" >>"$server_log" 2>&1 &
    server_pid=$!
    wait_until curl -sf -o /dev/null --max-time 5 "http://127.0.0.1:$allsource_port/health"
}

allsource_create() { :; }

allsource_target() {
    # Nothing looks at the key; the events are those of tenant `default`.
    target_flags=(--url "http://127.0.0.1:$allsource_port" --key unused)
}

allsource_query() {
    curl -sf --max-time 60 "http://127.0.0.1:$allsource_port/api/v1/events/query?tenant_id=default&limit=1&order=desc"
}

allsource_read() {
    allsource_query | grep -q '"count":1[,}]'
}

allsource_count() {
    allsource_query | number total_count
}
