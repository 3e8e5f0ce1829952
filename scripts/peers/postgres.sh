# PostgreSQL, from apt: one table with the indexes that the same queries need.

title[postgres]="PostgreSQL"
client[postgres]=ringlog-load
durability[postgres]="\`fsync\` and \`synchronous_commit\` on: acknowledged after fdatasync of its log, commits of the same moment may share one"
setting[postgres]="one table, payload as json (checked), indexes (tenant, position), (tenant, type, position), (tenant, entity, position); one event is a prepared INSERT, a batch a binary COPY, each a transaction; TCP, trust; shared_buffers 1 GB, no checkpoint within a run; no version for each entity"

postgres_find() {
    local bin
    bin=${POSTGRES_BIN_DIR:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)}
    if [ -z "$bin" ] && ! command -v initdb >/dev/null; then
        install_by_apt postgresql postgresql || return 1
        bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    fi
    postgres_bin=${bin:-$(dirname "$(command -v initdb)")}
    [ -x "$postgres_bin/postgres" ] || { why="no program postgres in $postgres_bin"; return 1; }
    version[postgres]=$("$postgres_bin/postgres" --version | awk '{ print $3 }')
    # It refuses to run as root.
    as_postgres=()
    if [ "$(id -u)" -eq 0 ]; then
        id postgres >/dev/null 2>&1 || { why="it does not run as root, and there is no user postgres"; return 1; }
        as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups)
        chmod 711 "$work"
        if ! "${as_postgres[@]}" test -x "$work"; then
            why="its user may not enter $work; name another place with BENCH_DIR"
            return 1
        fi
    fi
    # Made once and copied for each run.
    postgres_template=$work/postgres-template
    postgres_mkdir "$postgres_template"
    "${as_postgres[@]}" "$postgres_bin/initdb" -D "$postgres_template" -U postgres --auth=trust --encoding=UTF8 --no-locale \
        --no-sync >"$work/initdb.log" 2>&1 || { why="initdb failed: $(tail -n 1 "$work/initdb.log")"; return 1; }
    cat >>"$postgres_template/postgresql.conf" <<'CONF'
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 120
fsync = on
synchronous_commit = on
shared_buffers = 1GB
max_wal_size = 16GB
checkpoint_timeout = 1h
log_min_messages = fatal
jit = off
CONF
}

postgres_mkdir() {
    mkdir -p "$1"
    chmod 700 "$1"
    [ "$(id -u)" -ne 0 ] || chown postgres:postgres "$1"
}

postgres_start() {
    if [ ! -e "$data/PG_VERSION" ]; then
        postgres_mkdir "$data"
        cp -a "$postgres_template/." "$data/"
    fi
    rm -f "$data/postmaster.pid"
    postgres_port=$(free_port)
    "${on_server_core[@]}" "${as_postgres[@]}" "$postgres_bin/postgres" -D "$data" -p "$postgres_port" >>"$server_log" 2>&1 &
    server_pid=$!
    wait_until postgres_ask 'SELECT 1'
}

# postgres_ask SQL
postgres_ask() {
    "$postgres_bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$postgres_port" -U postgres -c "$1" postgres 2>/dev/null
}

postgres_create() {
    postgres_ask 'CREATE TABLE events (
            position bigint GENERATED ALWAYS AS IDENTITY, stored_at timestamptz NOT NULL DEFAULT now(),
            tenant int NOT NULL, event_type text NOT NULL, entity text NOT NULL, payload json NOT NULL, metadata json,
            PRIMARY KEY (tenant, position));
        CREATE INDEX ON events (tenant, event_type, position);
        CREATE INDEX ON events (tenant, entity, position);'
}

postgres_target() {
    target_flags=(--url "postgres://127.0.0.1:$postgres_port/postgres")
}

# A fast shutdown: without it, it waits for its clients.
postgres_stop_signal=INT

postgres_read() {
    [ -n "$(postgres_ask 'SELECT payload FROM events WHERE tenant = 0 ORDER BY position DESC LIMIT 1')" ]
}

postgres_count() {
    postgres_ask 'SELECT count(*) FROM events'
}
