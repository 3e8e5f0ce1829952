//! Who may do what: onboarding, keys, and the wall between tenants.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Io, Place, Server};
use crate::http::Response;
use crate::on_both;

on_both! {
    three_requests_take_a_stranger_to_a_query,
    the_three_commands_of_an_onboarding_work_when_pasted,
    the_first_run_prints_a_request_that_works,
    addresses_are_checked_and_used_once,
    an_address_may_onboard_so_often_in_an_hour,
    tenants_see_nothing_of_each_other,
    what_is_no_key_opens_nothing,
    a_key_taken_out_of_the_file_is_revoked_by_a_hangup,
    operators_act_for_a_named_tenant,
}

fn event(entity: &str) -> serde_json::Value {
    json!({ "event_type": "user.action", "entity_id": entity, "payload": { "action": "login", "source": "github" } })
}

fn three_requests_take_a_stranger_to_a_query(io: Io) {
    let server = Server::new(io);
    let who = json!({ "email": "agent@your-company.com", "name": "My Production App" });
    let made = server.call("POST", "/api/v1/onboard/start", "", Some(&who));
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    assert_eq!(made["tenant_id"], "onboard-agent-at-your-company-com");
    assert_eq!(made["tier"], "free");
    assert_eq!(made["events_quota"], 100_000);
    assert!(made["getting_started"].is_object());
    let key = made["api_key"].as_str().unwrap();
    assert!(key.starts_with("eyJ"));

    let stored = server.post("/api/v1/events", key, &event("user-123"));
    assert_eq!(stored["version"], 1);
    let found = server.get("/api/v1/events/query?event_type=user.action&limit=10&sort=desc", key);
    assert_eq!(found["count"], 1);
    assert_eq!(found["events"][0]["id"], stored["event_id"]);
    assert_eq!(found["events"][0]["payload"], event("")["payload"]);
}

/// The words of a line as a shell would split them, for the quotes that the line uses.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// Does what a shell would do with a line that begins with `curl`, and gives back the answer.
fn paste(server: &Server, line: &str) -> Response {
    let words = words(line);
    assert_eq!(words[0], "curl");
    let all_behind = |flag: &str| -> Vec<String> {
        words.windows(2).filter(|pair| pair[0] == flag).map(|pair| pair[1].clone()).collect()
    };
    let url = words.iter().find(|word| word.starts_with("http://")).expect("a line names an address");
    let (host, path) = url["http://".len()..].split_once('/').unwrap();
    let method = all_behind("-X").pop().unwrap_or("GET".to_owned());
    let headers: String = all_behind("-H").iter().map(|header| format!("{header}\r\n")).collect();
    let body = all_behind("-d").pop().unwrap_or_default();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let mut client = server.connect();
    client.send(format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}\r\n{body}").as_bytes());
    client.answer()
}

fn the_three_commands_of_an_onboarding_work_when_pasted(io: Io) {
    let server = Server::new(io);
    let made = server.call("POST", "/api/v1/onboard/start", "", Some(&json!({ "email": "me@example.com" }))).json();
    let commands = made["getting_started"].as_object().unwrap();
    assert_eq!(commands.len(), 3);
    let stored = paste(&server, commands["ingest_event"].as_str().unwrap());
    assert_eq!(stored.status, 200, "{}", stored.text());
    for query in ["query_events", "query_by_type"] {
        let found = paste(&server, commands[query].as_str().unwrap());
        assert_eq!((found.status, &found.json()["count"]), (200, &json!(1)), "{query}");
    }
}

fn the_first_run_prints_a_request_that_works(io: Io) {
    let server = Server::new(io);
    let stdout = server.stdout();
    let line = stdout.lines().find(|line| line.trim_start().starts_with("curl ")).expect("a line to paste");
    assert!(line.contains(&format!("http://{}/", server.http)));
    let made = paste(&server, line);
    assert_eq!(made.status, 201, "{}", made.text());
    server.post("/api/v1/events", made.json()["api_key"].as_str().unwrap(), &event("user-1"));

    // Secrets are on standard output and nowhere else, and the second run has none to show.
    let key = stdout.lines().find_map(|line| line.trim_start().strip_prefix("bootstrap key ")).unwrap().trim();
    assert!(key.starts_with("rl_bk_"), "{stdout}");
    assert!(!server.log().contains(key));
    let (status, place) = server.stop();
    assert!(status.success());
    assert_eq!(place.start(&[]).stdout(), "");
}

fn addresses_are_checked_and_used_once(io: Io) {
    let server = Server::new(io);
    let onboard = |email: &str| server.call("POST", "/api/v1/onboard/start", "", Some(&json!({ "email": email })));
    assert_eq!(onboard("me@example.com").status, 201);
    // The second is another address with the same id.
    for again in ["me@example.com", "ME@example.COM", "me@example-com.com"] {
        let answer = onboard(again);
        if again == "me@example-com.com" {
            assert_eq!(answer.status, 201);
            continue;
        }
        assert_eq!((answer.status, answer.error().as_str()), (409, "tenant_exists"), "{again}");
    }
    for bad in ["", "nobody", "@example.com", "a b@example.com", "me@", "me@example.com\n"] {
        let answer = onboard(bad);
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_email"), "{bad:?}");
    }
    for body in [json!({}), json!({ "email": 7 }), json!([]), json!("me@example.com")] {
        let answer = server.call("POST", "/api/v1/onboard/start", "", Some(&body));
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
}

fn an_address_may_onboard_so_often_in_an_hour(io: Io) {
    let server = Place::new(io).start(&["--onboard-per-hour=2"]);
    server.onboard("first");
    server.onboard("second");
    let body = json!({ "email": "third@example.com" });
    let refused = server.call("POST", "/api/v1/onboard/start", "", Some(&body));
    assert_eq!((refused.status, refused.error().as_str()), (429, "rate_limited"));
    let seconds: u64 = refused.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&seconds));
}

fn tenants_see_nothing_of_each_other(io: Io) {
    let server = Place::new(io).start(&["--cores=2"]);
    let (alice, bob) = (server.onboard("alice"), server.onboard("bob"));
    for number in 1..=3 {
        assert_eq!(server.post("/api/v1/events", &alice, &event("shared"))["version"], number);
    }
    // The same entity counts for itself in each tenant.
    assert_eq!(server.post("/api/v1/events", &bob, &event("shared"))["version"], 1);
    assert_eq!(server.get("/api/v1/events/query?entity_id=shared", &alice)["count"], 3);
    let seen = server.get("/api/v1/events/query", &bob);
    assert_eq!((&seen["count"], &seen["events"][0]["position"]), (&json!(1), &json!(1)));

    let alices = "onboard-alice-at-example-com";
    for path in [format!("/api/v1/events/query?tenant_id={alices}"), "/api/v1/events/query?tenant_id=nobody".into()] {
        let refused = server.call("GET", &path, &bob, None);
        assert_eq!((refused.status, refused.error().as_str()), (403, "tenant_forbidden"), "{path}");
    }
    let mut body = event("shared");
    body["tenant_id"] = json!(alices);
    assert_eq!(server.call("POST", "/api/v1/events", &bob, Some(&body)).status, 403);
    assert_eq!(server.call("POST", "/api/v1/events", &alice, Some(&body)).status, 200);
    let mut client = server.connect();
    client.send(
        format!(
            "GET /api/v1/events/query HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {bob}\r\nX-Tenant-ID: {alices}\r\n\r\n"
        )
        .as_bytes(),
    );
    assert_eq!(client.answer().status, 403);
}

fn what_is_no_key_opens_nothing(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("keys");
    let parts: Vec<&str> = key.split('.').collect();
    let flipped = |text: &str| {
        let (head, last) = text.split_at(text.len() / 2);
        let other = if last.starts_with('A') { 'B' } else { 'A' };
        format!("{head}{other}{}", &last[1..])
    };
    // {"alg":"none"}
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    let wrong = [
        "nonsense".to_owned(),
        "0".repeat(32),
        "rl_bk_nonsense".to_owned(),
        format!("{}.{}.{}", parts[0], parts[1], flipped(parts[2])),
        format!("{}.{}.{}", parts[0], flipped(parts[1]), parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        unsigned,
        "x".repeat(5000),
    ];
    for key in wrong.iter().map(String::as_str).chain([""]) {
        for (method, path) in [("GET", "/api/v1/events/query"), ("POST", "/api/v1/events")] {
            let body = (method == "POST").then(|| event("e"));
            let refused = server.call(method, path, key, body.as_ref());
            assert_eq!((refused.status, refused.error().as_str()), (401, "unauthorized"), "{path} {key}");
            assert!(key.is_empty() || !refused.text().contains(key));
        }
    }
    assert_eq!(server.get("/api/v1/events/query", &key)["count"], 0);
}

fn a_key_taken_out_of_the_file_is_revoked_by_a_hangup(io: Io) {
    let server = Place::new(io).start(&["--cores=2"]);
    let file = server.path("data/apikeys.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
    let first = line.split(':').next().unwrap().to_owned();
    server.post("/api/v1/events", &first, &event("by-stream-key"));

    let second = "ab".repeat(16);
    std::fs::write(&file, format!("{second}:1:another\n")).unwrap();
    server.signal(Signal::HUP);
    // The change is told by nothing but its effect: one key begins to open when the other has ceased to.
    let is_open = |key: &str| server.call("POST", "/api/v1/events", key, Some(&event("tried"))).status == 200;
    let begun = std::time::Instant::now();
    while !is_open(&second) {
        assert!(begun.elapsed().as_secs() < 20, "{}", server.log());
    }
    assert!(!is_open(&first));
    let (status, place) = server.stop();
    assert!(status.success());
    let server = place.start(&["--cores=2"]);
    assert_eq!(server.post("/api/v1/events", &second, &event("by-stream-key"))["version"], 2);
    assert_eq!(server.call("POST", "/api/v1/events", &first, Some(&event("by-stream-key"))).status, 401);
    // Such keys are for those who send, and lie about in their programs.
    assert_eq!(server.call("GET", "/api/v1/events/query", &second, None).status, 403);
}

fn operators_act_for_a_named_tenant(io: Io) {
    let server = Place::new(io).start(&["--bootstrap-key=a-bootstrap-key-of-mine"]);
    let key = server.onboard("someone");
    let mut client = server.connect();
    let mut with = |header: &str| {
        let bearer = "Authorization: Bearer a-bootstrap-key-of-mine";
        client.send(format!("GET /api/v1/events/query HTTP/1.1\r\nHost: h\r\n{bearer}\r\n{header}\r\n").as_bytes());
        client.answer()
    };
    server.post("/api/v1/events", &key, &event("one"));
    let named = with("X-Tenant-ID: onboard-someone-at-example-com\r\n");
    assert_eq!((named.status, &named.json()["count"]), (200, &json!(1)), "{}", named.text());
    let default = with("X-Workspace-ID: ws-1\r\n");
    assert_eq!((default.status, &default.json()["count"]), (200, &json!(0)), "{}", default.text());
    for refused in ["X-Tenant-ID: nobody\r\n", "X-Workspace-ID: ws-99\r\n"] {
        let answer = with(refused);
        assert!((400..500).contains(&answer.status), "{refused}: {}", answer.text());
    }
    assert!(!server.stdout().contains("bootstrap"));
}
