#!/usr/bin/env bash
# Clients as they are published, with the settings that the documentation shows, against a server of this tree. Everything that they send is
# queried back and compared field by field with scripts/clients/expected/. Fails at any difference.
#
#   bash scripts/clients.sh [NAME...]        curl logger rsyslog syslog-ng fluent-bit browser otel-python otel-node; all by default
#
# Needs: curl, python3 with venv, node 20 and npm, logger (util-linux), apt-get and dpkg (Debian 12 or newer), and access to apt's, PyPI's and
# npm's registries. Packages are unpacked in a temporary directory, nothing is installed, every server is on a loopback port of its own.
# Fluent Bit is built from its sources, with cc and make. SERVER_BIN=PATH and FLUENT_BIT=PATH take programs that are built already;
# KEEP=1 keeps the temporary directory.
set -euo pipefail

script=clients
. "$(dirname "$0")/lib.sh"
. "$root/scripts/clients/snippet.sh"
. "$root/scripts/clients/fluent-bit.sh"

# RFC 3164 has times without a zone, which are taken for UTC.
export TZ=UTC
key=00112233445566778899aabbccddeeff
all=(curl logger rsyslog syslog-ng fluent-bit browser otel-python otel-node)

work=$(mktemp -d)
server_pid=
clean_up() {
    stop_client
    stop_process "$server_pid"
    if [ "${KEEP:-0}" = 1 ]; then echo "$script: $work is kept" >&2; else rm -rf "$work"; fi
}
trap clean_up EXIT

# A client that stays, started by a function in a shell of its own: its process id is in a file.
stop_client() {
    [ -s "$work/client.pid" ] || return 0
    stop_process "$(cat "$work/client.pid")"
    rm -f "$work/client.pid"
}

# A server with nothing in it: workspace 1 has the key of the documentation, and what comes by syslog.
start_server() {
    local at=$work/$1
    mkdir -p "$at"
    printf '%s:1:documentation\n' "$key" >"$at/keys.conf"
    http_port=$(free_port) tcp_port=$(free_port) syslog_port=$(free_port)
    (cd "$at" && exec "$ringlog" serve --data-dir data --keys-file keys.conf --cores 1 --segment-bytes 64MiB --ports-file ports.json \
        --http "127.0.0.1:$http_port" --tcp "127.0.0.1:$tcp_port" --syslog-workspace 1 \
        --syslog-tcp "127.0.0.1:$syslog_port" --syslog-udp "127.0.0.1:$syslog_port") >"$at/stdout" 2>"$at/log" &
    server_pid=$!
    wait_for_file "$at/ports.json" "$server_pid" || { cat "$at/log" >&2; return 1; }
    until curl -sf -o "$at/ready" "http://127.0.0.1:$http_port/ready"; do
        kill -0 "$server_pid" || { cat "$at/log" >&2; return 1; }
        sleep 0.05
    done
}

stop_server() {
    stop_process "$server_pid"
    server_pid=
}

compare() {
    python3 "$root/scripts/clients/found.py" "127.0.0.1:$http_port" "$bootstrap_key" default "$root/scripts/clients/expected/$1.json"
}

# unpack PACKAGE...: Debian's, below $packages, as far as the machine has not got them.
packages=$work/packages
unpack() {
    mkdir -p "$packages/deb"
    chmod 755 "$work" && chmod 777 "$packages/deb"
    (cd "$packages/deb" && apt-get -q download "$@" >>"$work/apt.log" 2>&1) ||
        { apt-get -q update >>"$work/apt.log" 2>&1 && (cd "$packages/deb" && apt-get -q download "$@" >>"$work/apt.log" 2>&1); } ||
        { tail -n 5 "$work/apt.log" >&2; return 1; }
    local file
    for file in "$packages"/deb/*.deb; do dpkg -x "$file" "$packages/root"; done
    libraries=$(find "$packages/root" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
}

# send_by_socket SOCKET: what the local programs of a log shipper's machine say.
send_by_socket() {
    local number
    for number in 1 2 3; do
        logger --socket "$1" --tag "deploy[$number]" --priority daemon.warning "release $number is out"
    done
}

wait_for_socket() {
    until [ -S "$1" ]; do
        kill -0 "$(cat "$work/client.pid")" || { cat "$2" >&2; return 1; }
        sleep 0.05
    done
}

client_curl() {
    snippet curl >"$work/curl.sh"
    bash -euo pipefail "$work/curl.sh" >"$work/curl.out"
    grep -q '"event_id"' "$work/curl.out"
    # A line that is not JSON refuses itself alone and is kept, for a key that reads.
    curl -sf "http://127.0.0.1:$http_port/ingest/ndjson" -H "X-API-Key: $key" -H 'X-Request-Id: of-a-script' --data-binary 'nonsense
' -o "$work/refused" && return 1
    local read=(curl -sf -H "Authorization: Bearer $bootstrap_key" -H 'X-Tenant-ID: default')
    until "${read[@]}" "http://127.0.0.1:$http_port/api/v1/rejects?reason=not_an_object&source=shipper" | grep -q '"sample":"nonsense"'; do sleep 0.05; done
}

client_logger() {
    logger --version
    snippet logger >"$work/logger.sh"
    bash -euo pipefail "$work/logger.sh"
}

client_rsyslog() {
    local program modules=() at=$work/rsyslog
    program=$(command -v rsyslogd || true)
    if [ -z "$program" ]; then
        unpack rsyslog libestr0 libfastjson4 liblognorm5
        program=$packages/root/usr/sbin/rsyslogd
        modules=(-M "$(dirname "$(find "$packages/root" -name omprog.so)")")
    fi
    {
        echo 'module(load="imuxsock" SysSock.Use="off")'
        echo "input(type=\"imuxsock\" Socket=\"$at/socket\")"
        echo "global(workDirectory=\"$at\" localHostname=\"web-1\")"
        snippet rsyslog
    } >"$at/rsyslog.conf"
    LD_LIBRARY_PATH=${libraries:-} "$program" -v | sed -n 1p
    LD_LIBRARY_PATH=${libraries:-} "$program" -n -f "$at/rsyslog.conf" -i "$at/pid" "${modules[@]}" >"$at/client.log" 2>&1 &
    echo $! >"$work/client.pid"
    wait_for_socket "$at/socket" "$at/client.log"
    send_by_socket "$at/socket"
}

client_syslog-ng() {
    local at=$work/syslog-ng
    unpack syslog-ng-core syslog-ng-mod-http libivykis0 libnet1 libpcre3 libwrap0
    local program=$packages/root/usr/sbin/syslog-ng modules
    modules=$(dirname "$(find "$packages/root" -name libhttp.so)")
    export LD_LIBRARY_PATH=$libraries
    {
        echo '@version: 3.38'
        echo 'options { keep-hostname(yes); stats-freq(0); };'
        echo "source s_local { unix-dgram(\"$at/socket\"); };"
        snippet syslog-ng
        echo 'log { source(s_local); destination(d_ringlog); };'
    } >"$at/syslog-ng.conf"
    "$program" --version --module-path="$modules" | sed -n 1p
    "$program" --foreground --no-caps --module-path="$modules" -f "$at/syslog-ng.conf" -R "$at/persist" -p "$at/pid" -c "$at/control" \
        >"$at/client.log" 2>&1 &
    echo $! >"$work/client.pid"
    unset LD_LIBRARY_PATH
    wait_for_socket "$at/socket" "$at/client.log"
    send_by_socket "$at/socket"
}

client_fluent-bit() {
    local at=$work/fluent-bit program
    program=$(fluent_bit)
    printf '%s\n' '{"time":"2026-01-02T03:04:05.678901Z","log":"release 1 is out","host":"web-1","level":"info"}' \
        '{"time":"2026-01-02T03:04:06.000000Z","log":"release \"2\" is out","host":"web-1","nested":{"n":1}}' >"$at/app.log"
    # All lines of it must be as far in as those of the snippet.
    cat >"$at/parsers.conf" <<'PARSERS'
[PARSER]
    Name        app
    Format      json
    Time_Key    time
    Time_Format %Y-%m-%dT%H:%M:%S.%L%z
PARSERS
    {
        cat <<CONFIG
[SERVICE]
    Flush        0.2
    Parsers_File $at/parsers.conf
[INPUT]
    Name           tail
    Path           $at/app.log
    Parser         app
    Read_from_Head true
CONFIG
        snippet fluent-bit | sed -E "s/^( *Port +)3900/\1$http_port/"
    } >"$at/fluent-bit.conf"
    libraries=$([ ! -d "$packages/root" ] || find "$packages/root" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
    export LD_LIBRARY_PATH=$libraries
    "$program" --version
    RINGLOG_KEY=$key "$program" -c "$at/fluent-bit.conf" >"$at/client.log" 2>&1 &
    echo $! >"$work/client.pid"
}

# modules NAME...: of npm, in a directory of the client's own.
modules() {
    echo '{"private":true,"type":"module"}' >package.json
    npm install --silent --no-audit --no-fund "$@" 2>npm.log || { cat npm.log >&2; return 1; }
    echo "$@"
}

client_browser() {
    cd "$work/browser"
    modules '@tell-rs/browser@0.3' 'jsdom@26'
    cp "$root/scripts/clients/page.mjs" .
    snippet browser >snippet.mjs
    node page.mjs snippet.mjs
}

client_otel-node() {
    cd "$work/otel-node"
    modules '@opentelemetry/api-logs@0.219' '@opentelemetry/sdk-logs@0.219' '@opentelemetry/exporter-logs-otlp-http@0.219' '@opentelemetry/resources@2'
    snippet otel-node >snippet.mjs
    node snippet.mjs
}

client_otel-python() {
    local at=$work/otel-python
    python3 -m venv "$at/venv"
    "$at/venv/bin/pip" install --quiet --disable-pip-version-check opentelemetry-exporter-otlp-proto-http
    "$at/venv/bin/pip" list --disable-pip-version-check 2>>"$at/pip.log" | grep opentelemetry-exporter-otlp-proto-http
    snippet otel-python | sed "s/Bearer KEY/Bearer $key/" >"$at/snippet.py"
    "$at/venv/bin/python" "$at/snippet.py"
    "$at/venv/bin/python" "$root/scripts/clients/otel_logs.py" "http://127.0.0.1:$http_port/otlp/v1/logs" "$key" 4 --batch 2 --compression gzip
}

names=("$@")
[ "${#names[@]}" -gt 0 ] || names=("${all[@]}")
[ -n "${SERVER_BIN:-}" ] || (cd "$root" && cargo build --release -p ringlog)
failed=()
for name in "${names[@]}"; do
    declare -F "client_$name" >>"$work/names" || { echo "$script: no client $name; there are ${all[*]}" >&2; exit 2; }
    echo "== $name"
    start_server "$name"
    set +e
    # Not as a condition: within one, a shell does not end at an error.
    (set -e; "client_$name"; compare "$name")
    status=$?
    set -e
    if [ "$status" != 0 ]; then
        failed+=("$name")
        tail -n 20 "$work/$name/client.log" 2>/dev/null >&2 || true
    fi
    stop_client
    stop_server
done
[ "${#failed[@]}" -eq 0 ] || { echo "$script: failed: ${failed[*]}" >&2; exit 1; }
echo "$script: ${names[*]}: as they were sent"
