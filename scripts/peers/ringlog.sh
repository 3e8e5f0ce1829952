# ringlog itself: the side that every peer is compared with. What the functions are for: scripts/compare.sh.

title[ringlog]="ringlog"
client[ringlog]=ringlog-load
durability[ringlog]="acknowledged after the write completed with RWF_DSYNC; requests of the same moment share a write"
setting[ringlog]="one tenant with a key, \`--cores 1\`; JSON over HTTP, batches are atomic; JSON checked, versions for each entity, read by newest, type, entity"

ringlog_find() {
    version[ringlog]=$("$ringlog" --version 2>/dev/null | awk '{ print $2 }')
}

ringlog_start() {
    local ports=$work/ports.json
    rm -f "$ports"
    "${on_server_core[@]}" "$ringlog" serve --data-dir "$data" --http 127.0.0.1:0 --tcp 127.0.0.1:0 --ports-file "$ports" \
        --onboard-per-hour 0 --cores 1 --durability commit >>"$server_log" 2>&1 &
    server_pid=$!
    wait_for_file "$ports" "$server_pid" || return 1
    ringlog_address=$(text http <"$ports")
}

ringlog_create() {
    ringlog_key=$(make_tenant "$ringlog_address" compare)
    [ -n "$ringlog_key" ]
}

ringlog_target() {
    target_flags=(--url "http://$ringlog_address" --key "$ringlog_key")
}

ringlog_query() {
    curl -sf --max-time 60 -H "Authorization: Bearer $ringlog_key" \
        "http://$ringlog_address/api/v1/events/query?limit=1&order=desc"
}

ringlog_read() {
    ringlog_query | grep -q '"count":1[,}]'
}

ringlog_count() {
    ringlog_query | number total_count
}
