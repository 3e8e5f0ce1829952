//! Programmatic and streaming keys over real sockets: made, used, listed, and over at once on every core.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Io, Place, Server};
use crate::http::{Client, Response};
use crate::on_both;

on_both! {
    a_programmatic_key_lives_as_the_seeds_page_says,
    a_programmatic_key_does_what_its_maker_may_and_ends_with_it,
    a_wrong_request_for_a_key_is_refused_and_named,
    an_admin_sees_to_its_workspaces_keys_and_to_no_others,
    streaming_keys_are_made_and_deleted_over_the_api,
    a_running_server_takes_up_the_key_file_by_itself,
}

const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";
const OWN: &str = "/api/v1/user/apikeys";
const ALL: &str = "/api/v1/admin/apikeys";
const STREAMING: &str = "/api/v1/admin/streaming-keys";

fn start(io: Io) -> Server {
    Place::new(io).start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")])
}

fn expect(answer: &Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

fn refused(answer: &Response) -> (u16, String) {
    (answer.status, answer.error())
}

/// An admin key of a new tenant, which is the workspace of that number.
fn admin_of(server: &Server, tenant: &str) -> String {
    expect(&server.call("POST", "/api/v1/tenants", BOOTSTRAP, Some(&json!({ "id": tenant }))), 201);
    mint(server, BOOTSTRAP, &json!({ "name": "admin", "role": "admin", "tenant_id": tenant }))
}

fn mint(server: &Server, key: &str, body: &Value) -> String {
    let made = expect(&server.call("POST", "/api/v1/teams/agent-keys", key, Some(body)), 201);
    made["key"].as_str().unwrap().to_owned()
}

/// A new programmatic key and its id.
fn make(server: &Server, key: &str, body: &Value) -> (String, String) {
    let made = expect(&server.call("POST", OWN, key, Some(body)), 201);
    (made["key"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned())
}

/// As an operator asks: with the workspace in a header.
fn in_workspace(server: &Server, method: &str, path: &str, key: &str, workspace: &str) -> Response {
    let mut client = server.connect();
    let head = format!("Host: h\r\nAuthorization: Bearer {key}\r\nX-Workspace-ID: {workspace}\r\n");
    client.send(format!("{method} {path} HTTP/1.1\r\n{head}\r\n").as_bytes());
    client.answer()
}

fn names(list: &Value, member: &str) -> Vec<String> {
    let keys = list[member].as_array().unwrap();
    assert_eq!(list["count"], keys.len());
    keys.iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
}

fn write_status(client: &mut Client, key: &str) -> u16 {
    let event = json!({ "event_type": "user.action", "entity_id": "e", "payload": {} });
    client.call("POST", "/api/v1/events", key, Some(&event)).status
}

fn read_status(client: &mut Client, key: &str) -> u16 {
    client.call("GET", "/api/v1/events/query?limit=1", key, None).status
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn a_programmatic_key_lives_as_the_seeds_page_says(io: Io) {
    let server = start(io);
    let admin = admin_of(&server, "acme");
    let asked = json!({ "name": "CI Pipeline", "workspace_id": "ws-2", "description": "nightly" });
    let answer = server.call("POST", OWN, &admin, Some(&asked));
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let made = expect(&answer, 201);
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert!(is_hex(key.strip_prefix("tell_").unwrap(), 32), "{key}");
    assert_eq!((&made["key_prefix"], &made["name"]), (&json!(&key[..9]), &json!("CI Pipeline")));
    assert!(id.starts_with("key_"));
    assert_eq!((&made["workspace_id"], &made["description"]), (&json!("ws-2"), &json!("nightly")));
    assert_eq!(
        (&made["permissions"], &made["last_used_at"], &made["expires_at"]),
        (&json!([]), &json!(null), &json!(null))
    );

    // It opens what the JWT opens, in either header.
    let mut clients = server.connect_everywhere();
    for client in &mut clients {
        assert_eq!((write_status(client, key), read_status(client, key)), (200, 200));
        assert_eq!(client.call("GET", "/api/v1/teams/agent-keys", key, None).status, 200);
        client.send(format!("GET /api/v1/events/query HTTP/1.1\r\nHost: h\r\nX-API-Key: {key}\r\n\r\n").as_bytes());
        assert_eq!(client.answer().status, 200);
    }
    // It is shown once.
    let listed = server.call("GET", OWN, &admin, None);
    assert_eq!(names(&listed.json(), "api_keys"), ["CI Pipeline"]);
    assert!(!listed.text().contains(&key[9..]));
    let log = server.call("GET", "/api/v1/audit/events?action=programmatic_key_minted", &admin, None);
    assert_eq!(log.json()["events"][0]["detail"]["creator"], log.json()["events"][0]["actor"]);
    assert!(!log.text().contains(&key[9..]) && !log.text().contains("proof"));

    // What a stop hands over is there after the start.
    let (status, place) = server.stop();
    assert!(status.success());
    let server = place.start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")]);
    let listed = server.get(OWN, &admin);
    assert!(listed["api_keys"][0]["last_used_at"].is_string(), "{listed}");
    let moment = |text: &Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let in_an_hour = moment(&made["created_at"]) + jiff::SignedDuration::from_hours(1);
    let brief = json!({ "name": "brief", "expires_at": in_an_hour.to_string() });
    let brief = expect(&server.call("POST", OWN, &admin, Some(&brief)), 201);
    assert_eq!(moment(&brief["expires_at"]), in_an_hour);
    assert_eq!(names(&server.get(OWN, brief["key"].as_str().unwrap()), "api_keys"), ["CI Pipeline", "brief"]);

    let mut clients = server.connect_everywhere();
    clients.iter_mut().for_each(|client| assert_eq!(write_status(client, key), 200));
    assert_eq!(server.call("DELETE", &format!("{OWN}/{id}"), &admin, None).status, 204);
    for client in &mut clients {
        assert_eq!((write_status(client, key), read_status(client, key)), (401, 401));
    }
    let again = server.call("DELETE", &format!("{OWN}/{id}"), &admin, None);
    assert_eq!(refused(&again), (404, "not_found".to_owned()));
    let server = server.kill().start(&["--cores=2"]);
    assert_eq!(write_status(&mut server.connect(), key), 401);
}

fn a_programmatic_key_does_what_its_maker_may_and_ends_with_it(io: Io) {
    let server = start(io);
    let admin = admin_of(&server, "acme");
    let developer = mint(&server, &admin, &json!({ "name": "dev", "role": "developer" }));
    let readonly = mint(&server, &admin, &json!({ "name": "dashboards", "role": "readonly" }));
    let (whole, _) = make(&server, &developer, &json!({ "name": "whole" }));
    let (reading, _) = make(&server, &developer, &json!({ "name": "reading", "permissions": ["read"] }));
    let (board, _) = make(&server, &readonly, &json!({ "name": "board" }));
    let (child, _) = make(&server, &whole, &json!({ "name": "child" }));
    let beyond = json!({ "name": "beyond", "permissions": ["read", "admin"] });
    let answer = server.call("POST", OWN, &developer, Some(&beyond));
    assert_eq!(refused(&answer), (403, "forbidden".to_owned()));
    assert_eq!(answer.json()["permission"], "admin");
    let mut clients = server.connect_everywhere();
    for client in &mut clients {
        for (key, write) in [(&whole, 200), (&child, 200), (&reading, 403), (&board, 403)] {
            assert_eq!((write_status(client, key), read_status(client, key)), (write, 200));
        }
        assert_eq!(client.call("GET", "/api/v1/teams/agent-keys", &whole, None).status, 403);
    }
    // One revocation, and nothing that it stood for opens anything, on either core.
    assert_eq!(server.call("DELETE", "/api/v1/teams/agent-keys/dev", &admin, None).status, 204);
    for client in &mut clients {
        for key in [&developer, &whole, &child, &reading] {
            assert_eq!((write_status(client, key), read_status(client, key)), (401, 401));
        }
        assert_eq!(read_status(client, &board), 200);
    }
    // A restart knows of it.
    let server = server.kill().start(&["--cores=2"]);
    for key in [&whole, &child, &reading] {
        assert_eq!(read_status(&mut server.connect(), key), 401);
    }
    assert_eq!(read_status(&mut server.connect(), &board), 200);
    assert_eq!(names(&server.get(ALL, &admin), "api_keys"), ["board"]);
}

fn a_wrong_request_for_a_key_is_refused_and_named(io: Io) {
    let server = start(io);
    let admin = admin_of(&server, "acme");
    let long = "n".repeat(101);
    for (body, status, param) in [
        (json!({}), 422, "name"),
        (json!({ "name": "" }), 422, "name"),
        (json!({ "name": long }), 422, "name"),
        (json!({ "name": "x", "description": "d".repeat(501) }), 422, "description"),
        (json!({ "name": "x", "permissions": ["root"] }), 422, "permissions"),
        (json!({ "name": "x", "expires_at": "2020-01-01T00:00:00Z" }), 422, "expires_at"),
        (json!({ "name": "x", "expires_at": "2099-01-01T00:00:00Z" }), 422, "expires_at"),
        (json!({ "name": "x", "expire_at": "2099-01-01T00:00:00Z" }), 400, ""),
        (json!({ "name": 7 }), 400, ""),
        (json!([]), 400, ""),
    ] {
        let answer = server.call("POST", OWN, &admin, Some(&body));
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert_eq!(answer.json()["param"].as_str().unwrap_or(""), param, "{body}");
    }
    for workspace in ["ws-1", "ws-99", "default", "nobody", "system"] {
        let body = json!({ "name": "x", "workspace_id": workspace });
        let answer = server.call("POST", OWN, &admin, Some(&body));
        assert_eq!(refused(&answer), (403, "tenant_forbidden".to_owned()), "{workspace}");
    }
    let unnamed = server.call("POST", OWN, BOOTSTRAP, Some(&json!({ "name": "x" })));
    assert_eq!(refused(&unnamed), (400, "bad_request".to_owned()));
    assert_eq!(server.get(OWN, &admin)["count"], 0);
    for (key, status) in [("", 401), ("tell_00000000000000000000000000000000", 401)] {
        assert_eq!(server.call("GET", OWN, key, None).status, status);
    }
}

fn an_admin_sees_to_its_workspaces_keys_and_to_no_others(io: Io) {
    let server = start(io);
    let (acme, umbrella) = (admin_of(&server, "acme"), admin_of(&server, "umbrella"));
    let developer = mint(&server, &acme, &json!({ "name": "dev", "role": "developer" }));
    let (key, id) = make(&server, &developer, &json!({ "name": "CI" }));
    let (_, operators) = make(&server, BOOTSTRAP, &json!({ "name": "ops", "workspace_id": "ws-2" }));
    let listed = expect(&in_workspace(&server, "GET", ALL, &acme, "ws-2"), 200);
    assert_eq!(names(&listed, "api_keys"), ["CI", "ops"]);
    assert_eq!(names(&server.get(ALL, &acme), "api_keys"), ["CI", "ops"]);
    assert_eq!(names(&expect(&in_workspace(&server, "GET", ALL, BOOTSTRAP, "ws-2"), 200), "api_keys"), ["CI", "ops"]);
    assert_eq!(names(&server.get(ALL, &umbrella), "api_keys"), [""; 0]);
    assert_eq!(in_workspace(&server, "GET", ALL, &umbrella, "ws-2").status, 403);
    assert_eq!(server.call("GET", ALL, &developer, None).status, 403);
    // A key of another workspace and one that never was are the same to whoever asks.
    let absent = "key_000000000000000000000000";
    for (by, path, what) in [
        (&umbrella, ALL, id.as_str()),
        (&umbrella, OWN, &id),
        (&acme, OWN, &id),
        (&developer, OWN, &operators),
        (&umbrella, ALL, absent),
        (&umbrella, OWN, absent),
        (&umbrella, OWN, "nonsense"),
        (&acme, OWN, "key_%2e%2e"),
    ] {
        let answer = server.call("DELETE", &format!("{path}/{what}"), by, None);
        assert_eq!(refused(&answer), (404, "not_found".to_owned()), "{path}/{what}");
        assert_eq!(answer.json()["message"], "there is no such key");
    }
    let mut clients = server.connect_everywhere();
    clients.iter_mut().for_each(|client| assert_eq!(write_status(client, &key), 200));
    assert_eq!(in_workspace(&server, "DELETE", &format!("{ALL}/{id}"), &acme, "ws-2").status, 204);
    clients.iter_mut().for_each(|client| assert_eq!(write_status(client, &key), 401));
    assert_eq!(names(&server.get(ALL, &acme), "api_keys"), ["ops"]);
}

fn streaming_keys_are_made_and_deleted_over_the_api(io: Io) {
    let server = start(io);
    let (acme, umbrella) = (admin_of(&server, "acme"), admin_of(&server, "umbrella"));
    let file = server.path("data/apikeys.conf");
    let text = || std::fs::read_to_string(&file).unwrap();
    let before = text();
    let made = expect(&server.call("POST", STREAMING, &acme, Some(&json!({ "name": "mobile-prod" }))), 201);
    let key = made["key"].as_str().unwrap();
    assert!(is_hex(key, 32));
    assert_eq!((&made["workspace_id"], &made["key_prefix"]), (&json!("ws-2"), &json!(&key[..8])));
    assert_eq!(text(), format!("{before}{key}:2:mobile-prod\n"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // In force everywhere before it is answered.
    let mut clients = server.connect_everywhere();
    for client in &mut clients {
        assert_eq!((write_status(client, key), read_status(client, key)), (200, 403));
    }
    let taken = server.call("POST", STREAMING, &acme, Some(&json!({ "name": "mobile-prod" })));
    assert_eq!(refused(&taken), (409, "already_exists".to_owned()));
    expect(&server.call("POST", STREAMING, &umbrella, Some(&json!({ "name": "mobile-prod" }))), 201);
    let listed = server.call("GET", STREAMING, &acme, None);
    assert_eq!(names(&listed.json(), "streaming_keys"), ["mobile-prod"]);
    assert!(!listed.text().contains(key));
    let of_default = expect(&in_workspace(&server, "GET", STREAMING, BOOTSTRAP, "ws-1"), 200);
    assert_eq!(names(&of_default, "streaming_keys"), ["default"]);
    assert_eq!(server.call("GET", STREAMING, BOOTSTRAP, None).status, 400);
    assert_eq!(server.call("GET", STREAMING, key, None).status, 403);
    for body in [json!({}), json!({ "name": "" }), json!({ "name": "a\nb" }), json!({ "name": "n".repeat(101) })] {
        assert_eq!(server.call("POST", STREAMING, &acme, Some(&body)).status, 400, "{body}");
    }

    let path = format!("{STREAMING}/{}", made["id"].as_str().unwrap());
    let foreign = server.call("DELETE", &path, &umbrella, None);
    assert_eq!(refused(&foreign), (404, "not_found".to_owned()));
    let server = server.kill().start(&["--cores=2"]);
    let mut clients = server.connect_everywhere();
    clients.iter_mut().for_each(|client| assert_eq!(write_status(client, key), 200));
    assert_eq!(server.call("DELETE", &path, &acme, None).status, 204);
    clients.iter_mut().for_each(|client| assert_eq!(write_status(client, key), 401));
    assert!(text().starts_with(&before) && !text().contains(key));
    assert_eq!(server.call("DELETE", &format!("{STREAMING}/mobile-prod"), &umbrella, None).status, 204);
    assert_eq!(text(), before);
    let log = server.get("/api/v1/audit/events?action=key_revoked", &acme);
    let event = &log["events"][0];
    assert_eq!((&event["actor_name"], &log["count"]), (&json!("admin"), &json!(1)), "{log}");
    assert_eq!(format!("key_{}", event["detail"]["key"]), made["id"].as_str().unwrap());
}

/// What is told by nothing but its effect is asked for until it shows.
fn until(server: &Server, what: &str, shows: impl Fn() -> bool) {
    let begun = Instant::now();
    while !shows() {
        assert!(begun.elapsed().as_secs() < 20, "{what}: {}", server.log());
    }
}

fn a_running_server_takes_up_the_key_file_by_itself(io: Io) {
    let server = start(io);
    let verb = |arguments: &[&str]| {
        let place = Place::new(io);
        let file = format!("--keys-file={}", server.path("data/apikeys.conf").display());
        let output = place.command(&[&["apikeys"][..], arguments, &[file.as_str()][..]].concat()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let opens = |key: &str| write_status(&mut server.connect(), key) == 200;
    let (code, key) = verb(&["new", "mobile-prod", "--workspace", "1"]);
    let key = key.trim_end().to_owned();
    assert!(code == 0 && is_hex(&key, 32), "{key}");
    until(&server, "a new key", || opens(&key));
    assert_eq!(verb(&["show", "mobile-prod"]), (0, format!("{key}\n")));
    assert_eq!(verb(&["new", "mobile-prod"]).0, 5);
    assert_eq!(verb(&["show", "nobody"]).0, 3);
    let (_, list) = verb(&[]);
    assert!(list.contains(&key[..8]) && !list.contains(&key) && list.contains("default"), "{list}");
    // Nobody answers: nothing is deleted.
    assert_eq!(verb(&["delete", "mobile-prod"]).0, 4);

    // A bad line is named, and what was in force stays.
    let file = server.path("data/apikeys.conf");
    let good = std::fs::read_to_string(&file).unwrap();
    let wrong_line = good.lines().count() + 1;
    std::fs::write(&file, format!("{good}nonsense\n")).unwrap();
    until(&server, "a bad line", || server.log().contains(&format!("line {wrong_line}")));
    assert!(opens(&key));
    assert_eq!(verb(&["delete", "mobile-prod", "--yes"]).0, 78);
    server.signal(Signal::HUP);
    assert!(opens(&key));
    // At once, as the SIGHUP may be on its way still: a file that is cut short for a moment has no keys.
    let aside = file.with_extension("new");
    std::fs::write(&aside, &good).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(verb(&["delete", "mobile-prod", "--yes"]).0, 0);
    until(&server, "a deleted key", || !opens(&key));
    assert!(std::fs::read_to_string(&file).unwrap().starts_with('#'));
    // The key file's end is not the server's, and takes nothing back.
    let first = good.lines().find(|line| !line.starts_with('#')).unwrap().split(':').next().unwrap();
    std::fs::remove_file(&file).unwrap();
    until(&server, "a missing file", || server.log().contains("the key file is gone"));
    assert!(opens(first));
}
