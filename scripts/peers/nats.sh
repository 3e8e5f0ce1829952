# NATS JetStream, from apt: a file stream.

title[nats]="NATS JetStream"
client[nats]=ringlog-load
setting[nats]="file storage, one stream, subject \`ev.TENANT.TYPE.ENTITY\`, published with a reply subject and awaited; a batch is that many messages in one write, not atomic; JSON not looked at"

nats_find() {
    nats_program=${NATS_BIN:-$(command -v nats-server || true)}
    if [ -z "$nats_program" ]; then
        install_by_apt nats-server nats-server || return 1
        nats_program=$(command -v nats-server) || { why="no nats-server after its installation"; return 1; }
    fi
    version[nats]=$("$nats_program" --version | sed -n 's/.* v\([^ ]*\).*/\1/p')
    # Versions before 2.10 sync on a timer and cannot be told otherwise.
    nats_sync='sync_interval: always'
    durability[nats]="\`sync_interval: always\`: acknowledged after fsync"
    nats_configure 4222 /nonexistent >"$work/nats-try.conf"
    if ! "$nats_program" -t -c "$work/nats-try.conf" >/dev/null 2>&1; then
        nats_sync=
        durability[nats]="**NOT DURABLE when acknowledged**: this version cannot sync for an acknowledgement (2.10 can, \`NATS_BIN\` names one), it syncs every two minutes; a power cut takes back what was acknowledged"
    fi
}

# nats_configure PORT DIRECTORY
nats_configure() {
    printf 'listen: "127.0.0.1:%s"\njetstream { store_dir: "%s"\n max_file_store: 64GB\n %s }\n' "$1" "$2" "$nats_sync"
}

nats_start() {
    nats_port=$(free_port)
    mkdir -p "$data"
    nats_configure "$nats_port" "$data" >"$work/nats.conf"
    env GOMAXPROCS=1 "${on_server_core[@]}" "$nats_program" -c "$work/nats.conf" >>"$server_log" 2>&1 &
    server_pid=$!
    wait_until nats_ask '$JS.API.INFO' ''
}

nats_create() {
    nats_ask '$JS.API.STREAM.CREATE.EV' \
        '{"name":"EV","subjects":["ev.>"],"storage":"file","retention":"limits","num_replicas":1,"max_msgs":-1,"max_bytes":-1,"duplicate_window":100000000}' |
        grep -q '"did_create":true'
}

nats_target() {
    target_flags=(--url "nats://127.0.0.1:$nats_port")
}

# nats_ask SUBJECT BODY: the answer to a request; fails when none comes.
nats_ask() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$nats_port"
        read -r -t 5 line <&3
        printf 'CONNECT {"verbose":false,"pedantic":false}\r\nSUB _ASK 1\r\nPUB %s _ASK %d\r\n%s\r\n' "$1" "${#2}" "$2" >&3
        while read -r -t 5 line <&3; do
            case $line in
            'MSG '*)
                read -r -t 5 line <&3
                echo "$line"
                exit 0
                ;;
            esac
        done
        exit 1
    ) 2>/dev/null
}

nats_read() {
    nats_ask '$JS.API.STREAM.MSG.GET.EV' '{"last_by_subj":"ev.>"}' | grep -q '"data":"'
}

nats_count() {
    nats_ask '$JS.API.STREAM.INFO.EV' '' | sed -n 's/.*"messages":\([0-9]*\).*/\1/p'
}
