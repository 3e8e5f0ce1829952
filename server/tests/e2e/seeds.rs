//! What the two guides that ringlog grew from tell their readers to type, in their order and with their bodies: names of
//! hosts and of the binary aside.

use serde_json::{Value, json};

use crate::harness::{Io, Place, Server};
use crate::http::{Client, Response};
use crate::on_both;

on_both! {
    the_tenant_setup_guide_works_as_it_is_written,
    the_guide_to_keys_works_as_it_is_written,
}

const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";

fn start(io: Io) -> Server {
    Place::new(io).start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text and not {value}")).to_owned()
}

/// A request as `curl` sends it: the body byte for byte.
fn curl(server: &Server, method: &str, path: &str, headers: &[&str], body: &str) -> Response {
    let mut client: Client = server.connect();
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n", server.http);
    for header in headers {
        head += &format!("{header}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    client.send(format!("{head}\r\n{body}").as_bytes());
    client.answer()
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}")
}

const JSON: &str = "Content-Type: application/json";

fn expect(answer: &Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

fn the_tenant_setup_guide_works_as_it_is_written(io: Io) {
    let server = start(io);

    // Path 1, step 1: create tenant + get API key
    let body = r#"{
    "email": "agent@your-company.com",
    "name": "My Production App"
  }"#;
    let made = expect(&curl(&server, "POST", "/api/v1/onboard/start", &[JSON], body), 201);
    assert!(text(&made["api_key"]).starts_with("eyJ"));
    assert_eq!(made["tenant_id"], "onboard-agent-at-your-company-com");
    assert_eq!((&made["tier"], &made["events_quota"]), (&json!("free"), &json!(100_000)));
    assert!(made["getting_started"].is_object());
    let api_key = text(&made["api_key"]);

    // Step 2: ingest your first event
    let body = r#"{
    "event_type": "user.action",
    "entity_id": "user-123",
    "payload": { "action": "login", "source": "github" }
  }"#;
    let stored = expect(&curl(&server, "POST", "/api/v1/events", &[&bearer(&api_key), JSON], body), 200);
    assert!(text(&stored["event_id"]).len() == 36, "{stored}");

    // Step 3: query events back
    let query = "/api/v1/events/query?event_type=user.action&limit=10&sort=desc";
    let found = expect(&curl(&server, "GET", query, &[&bearer(&api_key)], ""), 200);
    assert_eq!((&found["count"], &found["events"][0]["entity_id"]), (&json!(1), &json!("user-123")));
    assert_eq!(found["events"][0]["payload"], json!({ "action": "login", "source": "github" }));

    // Path 2, step 1: create a named tenant
    let body = r#"{
    "id": "my-company-prod",
    "name": "My Company Production"
  }"#;
    let made = expect(&curl(&server, "POST", "/api/v1/tenants", &[&bearer(BOOTSTRAP), JSON], body), 201);
    assert_eq!((&made["id"], &made["name"]), (&json!("my-company-prod"), &json!("My Company Production")));

    // Step 2: mint a scoped API key, as an admin of the tenant
    let admin = json!({ "name": "admin", "role": "admin", "tenant_id": "my-company-prod" }).to_string();
    let admin = curl(&server, "POST", "/api/v1/teams/agent-keys", &[&bearer(BOOTSTRAP), JSON], &admin);
    let admin_jwt = text(&expect(&admin, 201)["key"]);
    let body = r#"{
    "name": "prod-agent-readonly",
    "role": "readonly"
  }"#;
    let minted = expect(&curl(&server, "POST", "/api/v1/teams/agent-keys", &[&bearer(&admin_jwt), JSON], body), 201);
    assert_eq!((&minted["name"], &minted["role"]), (&json!("prod-agent-readonly"), &json!("readonly")));
    let scoped = text(&minted["api_key"]);

    // Step 3: the agent uses the scoped key. It reads its own tenant's events and no other's, and writes none.
    let query = "/api/v1/events/query";
    assert_eq!(expect(&curl(&server, "GET", query, &[&bearer(&scoped)], ""), 200)["count"], 0);
    let body = r#"{"event_type": "user.action", "entity_id": "user-123", "payload": {}}"#;
    assert_eq!(curl(&server, "POST", "/api/v1/events", &[&bearer(&scoped), JSON], body).status, 403);

    // Best practices: a key that is compromised is revoked without affecting the others.
    let path = "/api/v1/teams/agent-keys/prod-agent-readonly";
    assert_eq!(curl(&server, "DELETE", path, &[&bearer(&admin_jwt)], "").status, 204);
    assert_eq!(curl(&server, "GET", query, &[&bearer(&scoped)], "").status, 401);
    assert_eq!(curl(&server, "GET", query, &[&bearer(&admin_jwt)], "").status, 200);

    // Quick reference
    assert_eq!(curl(&server, "GET", "/health", &[], "").status, 200);
    let routes = curl(&server, "GET", "/x402/routes", &[], "");
    assert_eq!((routes.status, routes.text().as_str()), (200, r#"{"enabled":false,"routes":[]}"#));
}

fn the_guide_to_keys_works_as_it_is_written(io: Io) {
    let server = start(io);

    // You get your first streaming key when you run setup.
    let body = r#"{"email":"me@your-company.com","password":"correct horse battery"}"#;
    let made = expect(&curl(&server, "POST", "/api/v1/auth/setup", &[JSON], body), 200);
    let (token, first) = (text(&made["token"]), text(&made["streaming_key"]));
    let is_key = |key: &str| key.len() == 32 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    assert!(is_key(&first), "{first}");
    let send = |key: &str| {
        let body = r#"{"type":"track","event":"Button Clicked","device_id":"25367c4ba7d0aab4fb7d20188ccff883"}"#;
        curl(&server, "POST", "/v1/events", &[&bearer(key)], body).status
    };
    assert_eq!((send(&first), send("00000000000000000000000000000000")), (202, 401));

    // ringlog apikeys, apikeys new mobile-prod --workspace 1, show, delete
    let place = Place::new(io);
    let file = server.path("data/apikeys.conf");
    let apikeys = |arguments: &[&str]| {
        let keys_file = format!("--keys-file={}", file.display());
        let all = [&["apikeys"][..], arguments, &[keys_file.as_str()]].concat();
        let output = place.command(&all).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let until = |shows: &dyn Fn() -> bool| {
        let begun = std::time::Instant::now();
        while !shows() {
            assert!(begun.elapsed().as_secs() < 20, "{}", server.log());
        }
    };
    assert!(apikeys(&[]).contains(&first[..8]));
    let key = apikeys(&["new", "mobile-prod", "--workspace", "1"]).trim_end().to_owned();
    assert!(is_key(&key), "{key}");
    assert_eq!(apikeys(&["show", "mobile-prod"]).trim_end(), key);
    until(&|| send(&key) == 202);
    assert!(std::fs::read_to_string(&file).unwrap().contains(&format!("{key}:1:mobile-prod\n")));
    apikeys(&["delete", "mobile-prod", "--yes"]);
    until(&|| send(&key) == 401);

    // The file's format: with a comment, and with and without a name.
    let before = std::fs::read_to_string(&file).unwrap();
    let line = "# Production workspace\na1b2c3d4e5f60718293a4b5c6d7e8f90:1\n";
    std::fs::write(&file, format!("{before}{line}")).unwrap();
    until(&|| send("a1b2c3d4e5f60718293a4b5c6d7e8f90") == 202);

    // Programmatic API keys
    let body = r#"{
"name": "CI Pipeline",
"workspace_id": "ws-1",
"expires_at": "2026-12-31T23:59:59Z"
}"#;
    let body = body.replace("2026-12-31T23:59:59Z", &in_a_month());
    let made = expect(&curl(&server, "POST", "/api/v1/user/apikeys", &[&bearer(&token), JSON], &body), 201);
    let (key, id) = (text(&made["key"]), text(&made["id"]));
    assert!(key.strip_prefix("tell_").is_some_and(is_key), "{key}");
    assert!(id.starts_with("key_") && made["name"] == "CI Pipeline", "{made}");
    assert_eq!(made["key_prefix"], key[..9]);

    // Use it like a regular JWT token.
    let query = "/api/v1/events/query?event_type=Button%20Clicked";
    let found = expect(&curl(&server, "GET", query, &[&bearer(&key)], ""), 200);
    assert!(found["count"].as_u64().unwrap() >= 1, "{found}");

    // List your keys; revoke a key.
    let listed = expect(&curl(&server, "GET", "/api/v1/user/apikeys", &[&bearer(&token)], ""), 200);
    assert!(listed.to_string().contains(&id) && !listed.to_string().contains(&key));
    let path = format!("/api/v1/user/apikeys/{id}");
    assert_eq!(curl(&server, "DELETE", &path, &[&bearer(&token)], "").status, 204);
    assert_eq!(curl(&server, "GET", query, &[&bearer(&key)], "").status, 401);

    // Admins can view and revoke any key in their workspace.
    let made = expect(&curl(&server, "POST", "/api/v1/user/apikeys", &[&bearer(&token), JSON], &body), 201);
    let (key, id) = (text(&made["key"]), text(&made["id"]));
    let workspace = "X-Workspace-ID: ws-1";
    let listed = expect(&curl(&server, "GET", "/api/v1/admin/apikeys", &[&bearer(&token), workspace], ""), 200);
    assert!(listed.to_string().contains(&id));
    let path = format!("/api/v1/admin/apikeys/{id}");
    assert_eq!(curl(&server, "DELETE", &path, &[&bearer(&token), workspace], "").status, 204);
    assert_eq!(curl(&server, "GET", query, &[&bearer(&key)], "").status, 401);

    // All key creation and revocation events are audit logged.
    let log = expect(&curl(&server, "GET", "/api/v1/audit/events?limit=100", &[&bearer(&token)], ""), 200);
    let count =
        |action: &str| log["events"].as_array().unwrap().iter().filter(|event| event["action"] == action).count();
    assert_eq!(count("programmatic_key_minted"), 2);
    assert!(count("key_revoked") >= 3, "{log}");
}

/// The guide's date would be too far ahead, or behind, in other years.
fn in_a_month() -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(30 * 24)).to_string()
}
