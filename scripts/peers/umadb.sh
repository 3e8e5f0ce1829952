# UmaDB, from pip: the server and the Python client of one package.

title[umadb]="UmaDB"
client[umadb]="its own client for Python"
durability[umadb]="acknowledged after its commit is synced, requests of the same moment share one"
setting[umadb]="gRPC; type and tag for each event, batches are atomic; **driven by another client** (its own for Python, whose threads share one interpreter: where that core is full, the figures are the client's)"

umadb_find() {
    local venv=$peers_dir/umadb log=$peers_dir/umadb-install.log
    umadb_venv=${UMADB_VENV:-$venv}
    if [ ! -x "$umadb_venv/bin/umadb" ]; then
        command -v python3 >/dev/null || { why="no python3"; return 1; }
        watch_install "pip install umadb" "$log" sh -c "python3 -m venv '$venv' && '$venv/bin/pip' install --quiet umadb" ||
            { why="pip install failed, see $log"; return 1; }
    fi
    [ -x "$umadb_venv/bin/umadb" ] || { why="its package has no server for this machine"; return 1; }
    version[umadb]=$("$umadb_venv/bin/umadb" --version 2>/dev/null | sed -n 's/.* \([0-9][0-9.]*\).*/\1/p')
}

umadb_start() {
    umadb_port=$(free_port)
    mkdir -p "$data"
    env TOKIO_WORKER_THREADS=1 "${on_server_core[@]}" "$umadb_venv/bin/umadb" --listen "127.0.0.1:$umadb_port" \
        --db-path "$data" >>"$server_log" 2>&1 &
    server_pid=$!
    wait_until umadb_accepts
}

umadb_accepts() {
    (exec 3<>"/dev/tcp/127.0.0.1/$umadb_port") 2>/dev/null
}

umadb_create() { :; }

umadb_target() {
    target_flags=(--url "http://127.0.0.1:$umadb_port")
}

# In place of ringlog-load, with the flags that compare.sh uses; run in a process of its own.
umadb_load() {
    exec "${on_client_core[@]}" "$umadb_venv/bin/python3" "$root/scripts/peers/umadb_load.py" "$@"
}

# Python takes a tenth of a second to start, so that this is good to that.
umadb_read() {
    [ -n "$(umadb_count)" ]
}

umadb_count() {
    "$umadb_venv/bin/python3" "$root/scripts/peers/umadb_load.py" count --url "http://127.0.0.1:$umadb_port" 2>/dev/null
}
