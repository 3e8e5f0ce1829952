# snippet NAME: the block of the documentation that stands behind `<!-- snippet: NAME -->`, with the addresses of the server under test
# ($http_port, $tcp_port, $syslog_port) in place of the default ones. Sourced by clients.sh.
snippet() {
    local text
    text=$(awk -v mark="<!-- snippet: $1 -->" '
        $0 == mark { is_next = 1; next }
        is_next && /^```/ { if (inside) exit; inside = 1; next }
        inside' "$root"/docs/*.md)
    [ -n "$text" ] || { echo "$script: no snippet $1 in docs/" >&2; return 1; }
    sed -e "s/127\.0\.0\.1:3900/127.0.0.1:$http_port/g" -e "s/127\.0\.0\.1:50000/127.0.0.1:$tcp_port/g" \
        -e "s/50514/$syslog_port/g" <<<"$text"
}
