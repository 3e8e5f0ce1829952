# Redis, from apt: a stream for the tenant.

title[redis]="Redis streams"
client[redis]=ringlog-load
durability[redis]="\`appendonly yes\`, \`appendfsync always\`: acknowledged after fdatasync of its log, commands of the same moment share one"
setting[redis]="XADD with four fields; a batch is that many between MULTI and EXEC, atomic; all of it in memory; no index by type or entity, JSON not looked at"

redis_find() {
    redis_program=${REDIS_BIN:-$(command -v redis-server || true)}
    if [ -z "$redis_program" ]; then
        install_by_apt redis-server redis-server || return 1
        redis_program=$(command -v redis-server) || { why="no redis-server after its installation"; return 1; }
    fi
    version[redis]=$("$redis_program" --version | sed -n 's/.* v=\([^ ]*\).*/\1/p')
}

redis_start() {
    redis_port=$(free_port)
    mkdir -p "$data"
    "${on_server_core[@]}" "$redis_program" --port "$redis_port" --bind 127.0.0.1 --dir "$data" --save '' \
        --appendonly yes --appendfsync always --aof-use-rdb-preamble yes --daemonize no --loglevel warning \
        >>"$server_log" 2>&1 &
    server_pid=$!
    wait_until redis_says PING '+PONG'
}

redis_create() { :; }

redis_target() {
    target_flags=(--url "redis://127.0.0.1:$redis_port")
}

# redis_ask COMMAND: the first line of the reply.
redis_ask() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$redis_port"
        printf '%s\r\n' "$1" >&3
        read -r -t 5 line <&3
        echo "${line%$'\r'}"
    ) 2>/dev/null
}

# redis_says COMMAND LINE: whether the reply begins with that line.
redis_says() {
    [ "$(redis_ask "$1")" = "$2" ]
}

redis_read() {
    redis_says 'XREVRANGE ev:0 + - COUNT 1' '*1'
}

redis_count() {
    redis_ask 'XLEN ev:0' | tr -d ':'
}
