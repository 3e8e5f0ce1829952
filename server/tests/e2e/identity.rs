//! Tenants, scoped keys and the audit log over real sockets: who may, who may no longer, and who knows of it.

use serde_json::{Value, json};

use crate::harness::{Io, Place, Server, holds};
use crate::http::{Client, Response};
use crate::on_both;

on_both! {
    an_operator_makes_a_tenant_and_its_admin_scopes_keys,
    what_is_revoked_opens_nothing_on_any_core,
    a_deactivated_tenant_is_refused_on_every_path_and_core,
    a_deleted_tenant_is_gone,
    a_self_service_key_rotates_and_revokes_itself,
    foreign_and_absent_look_alike,
    wrong_requests_are_refused_and_named,
    everything_is_known_after_a_restart,
    the_audit_log_knows_who_did_what,
    a_rotated_bootstrap_key_is_refused_from_that_moment,
    a_signing_secret_rotates_under_a_running_server,
    a_bootstrap_key_rotates_under_a_running_server,
}

const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";

fn start(io: Io) -> Server {
    Place::new(io).start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")])
}

fn event(entity: &str) -> Value {
    json!({ "event_type": "user.action", "entity_id": entity, "payload": {} })
}

fn expect(answer: &Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

fn make_tenant(server: &Server, id: &str) -> Value {
    expect(&server.call("POST", "/api/v1/tenants", BOOTSTRAP, Some(&json!({ "id": id, "name": id }))), 201)
}

/// A new key's text.
fn mint(server: &Server, key: &str, body: &Value) -> String {
    let made = expect(&server.call("POST", "/api/v1/teams/agent-keys", key, Some(body)), 201);
    assert_eq!(made["key"], made["api_key"]);
    made["key"].as_str().unwrap().to_owned()
}

fn admin_of(server: &Server, tenant: &str) -> String {
    mint(server, BOOTSTRAP, &json!({ "name": "admin", "role": "admin", "tenant_id": tenant }))
}

fn write_status(client: &mut Client, key: &str) -> u16 {
    client.call("POST", "/api/v1/events", key, Some(&event("e"))).status
}

fn read_status(client: &mut Client, key: &str) -> u16 {
    client.call("GET", "/api/v1/events/query?limit=1", key, None).status
}

fn an_operator_makes_a_tenant_and_its_admin_scopes_keys(io: Io) {
    let server = start(io);
    let made = make_tenant(&server, "my-company-prod");
    assert_eq!(
        (&made["id"], &made["workspace"], &made["workspace_id"]),
        (&json!("my-company-prod"), &json!(2), &json!("ws-2"))
    );
    assert_eq!(
        (&made["tier"], &made["active"], &made["quotas"]["events_per_month"]),
        (&json!("unlimited"), &json!(true), &json!(null))
    );
    let again = server.call("POST", "/api/v1/tenants", BOOTSTRAP, Some(&json!({ "id": "my-company-prod" })));
    assert_eq!((again.status, again.error().as_str()), (409, "already_exists"));

    let admin = admin_of(&server, "my-company-prod");
    assert!(admin.starts_with("eyJhbGciOiJIUzI1NiIs"));
    // As the seed's page has it, by the tenant's own admin.
    let readonly = mint(&server, &admin, &json!({ "name": "prod-agent-readonly", "role": "readonly" }));
    let writer = mint(&server, &admin, &json!({ "name": "prod-agent", "role": "serviceaccount" }));
    server.post("/api/v1/events", &writer, &event("user-1"));
    assert_eq!(server.get("/api/v1/events/query", &readonly)["count"], 1);
    assert_eq!(server.get("/api/v1/events/query", &readonly)["events"][0]["tenant_id"], "my-company-prod");
    let refused = server.call("POST", "/api/v1/events", &readonly, Some(&event("user-1")));
    assert_eq!((refused.status, refused.error().as_str()), (403, "forbidden"));
    let taken = server.call("POST", "/api/v1/teams/agent-keys", &admin, Some(&json!({ "name": "prod-agent" })));
    assert_eq!((taken.status, taken.error().as_str()), (409, "already_exists"));

    let answer = server.call("GET", "/api/v1/teams/agent-keys", &admin, None);
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
    let listed = answer.json();
    let names: Vec<_> = listed["agent_keys"].as_array().unwrap().iter().map(|key| key["name"].clone()).collect();
    assert_eq!(names, ["admin", "prod-agent-readonly", "prod-agent"]);
    for key in [&admin, &readonly, &writer] {
        assert!(!answer.text().contains(key.split('.').nth(2).unwrap()), "a key is shown once");
    }
    // A self-service tenant's own key is in its list, under its name.
    server.onboard("someone");
    let by_operator = "/api/v1/teams/agent-keys?tenant_id=onboard-someone-at-example-com";
    let listed = server.get(by_operator, BOOTSTRAP);
    assert_eq!(
        (&listed["agent_keys"][0]["name"], &listed["agent_keys"][0]["role"]),
        (&json!("onboard"), &json!("developer"))
    );

    let changed = json!({ "name": "My Company", "tier": "scale" });
    let changed = expect(&server.call("PUT", "/api/v1/tenants/ws-2", BOOTSTRAP, Some(&changed)), 200);
    assert_eq!((&changed["name"], &changed["quotas"]["events_per_month"]), (&json!("My Company"), &json!(50_000_000)));
    let quotas = json!({ "events_per_month": "unlimited", "stored_bytes": 1_000_000 });
    let path = "/api/v1/tenants/my-company-prod/quotas";
    let set = expect(&server.call("PUT", path, BOOTSTRAP, Some(&quotas)), 200);
    assert_eq!(
        set["quotas"],
        json!({ "events_per_month": null, "stored_bytes": 1_000_000, "requests_per_second": 50_000 })
    );
    let known = server.get(path, BOOTSTRAP);
    assert_eq!((&known["quotas"], &known["overrides"]), (&set["quotas"], &set["overrides"]));
    let stats = server.get("/api/v1/tenants/my-company-prod/stats", BOOTSTRAP);
    assert_eq!((&stats["keys"], &stats["status"]), (&json!(3), &json!("active")));
    // Whichever core is asked, and whichever has the tenant's shard.
    for client in &mut server.connect_everywhere() {
        for (tenant, count) in [("my-company-prod", 1), ("default", 0)] {
            let stats = client.call("GET", &format!("/api/v1/tenants/{tenant}/stats"), BOOTSTRAP, None).json();
            assert_eq!((&stats["events_total"], &stats["events_stored"]), (&json!(count), &json!(count)));
        }
    }
    let all = server.get("/api/v1/tenants?limit=2", BOOTSTRAP);
    assert_eq!(
        (&all["count"], &all["has_more"], &all["tenants"][0]["id"]),
        (&json!(2), &json!(true), &json!("default"))
    );
    let rest = server.get(&format!("/api/v1/tenants?cursor={}", all["next_cursor"].as_str().unwrap()), BOOTSTRAP);
    assert_eq!((&rest["count"], &rest["has_more"]), (&json!(1), &json!(false)));
}

fn what_is_revoked_opens_nothing_on_any_core(io: Io) {
    let server = start(io);
    make_tenant(&server, "acme");
    let admin = admin_of(&server, "acme");
    let mut clients = server.connect_everywhere();
    for round in 0..4 {
        let name = format!("agent {round}");
        let path = format!("/api/v1/teams/agent-keys/agent%20{round}");
        let first = mint(&server, &admin, &json!({ "name": name, "role": "developer" }));
        // Every core has seen it work, and keeps what it has verified.
        clients.iter_mut().for_each(|client| assert_eq!(write_status(client, &first), 200));
        let rotated = expect(&server.call("POST", &format!("{path}/rotate"), &admin, None), 201);
        let second = rotated["key"].as_str().unwrap().to_owned();
        for client in &mut clients {
            assert_eq!((write_status(client, &first), read_status(client, &first)), (401, 401));
            assert_eq!(write_status(client, &second), 200);
        }
        let graced = json!({ "grace_seconds": 3600 });
        let rotated = expect(&server.call("POST", &format!("{path}/rotate"), &admin, Some(&graced)), 201);
        let third = rotated["key"].as_str().unwrap().to_owned();
        assert!(rotated["replaces"]["expires_at"].is_string());
        for client in &mut clients {
            assert_eq!((write_status(client, &second), write_status(client, &third)), (200, 200));
        }
        assert_eq!(server.call("DELETE", &path, &admin, None).status, 204);
        for client in &mut clients {
            for key in [&first, &second, &third] {
                assert_eq!((write_status(client, key), read_status(client, key)), (401, 401));
            }
        }
        assert_eq!(server.call("DELETE", &path, &admin, None).status, 404);
    }
}

fn a_deactivated_tenant_is_refused_on_every_path_and_core(io: Io) {
    let server = start(io);
    make_tenant(&server, "acme");
    let admin = admin_of(&server, "acme");
    let mut clients = server.connect_everywhere();
    let act = |what: &str| server.call("POST", &format!("/api/v1/tenants/acme/{what}"), BOOTSTRAP, None);
    for _ in 0..3 {
        clients.iter_mut().for_each(|client| assert_eq!(write_status(client, &admin), 200));
        let suspended = expect(&act("deactivate"), 200);
        assert_eq!((&suspended["status"], &suspended["active"]), (&json!("suspended"), &json!(false)));
        for client in &mut clients {
            assert_eq!((write_status(client, &admin), read_status(client, &admin)), (401, 401));
            assert_eq!(client.call("GET", "/api/v1/teams/agent-keys", &admin, None).status, 401);
            assert_eq!(client.call("POST", "/api/v1/auth/keys/self/rotate", &admin, None).status, 401);
            // Not for an operator that acts for it, either.
            let bearer = format!("Authorization: Bearer {BOOTSTRAP}\r\nX-Tenant-ID: acme");
            client.send(format!("GET /api/v1/events/query HTTP/1.1\r\nHost: h\r\n{bearer}\r\n\r\n").as_bytes());
            let refused = client.answer();
            assert_eq!((refused.status, refused.error().as_str()), (403, "tenant_suspended"));
        }
        assert_eq!(server.get("/api/v1/tenants/acme", BOOTSTRAP)["status"], "suspended");
        assert_eq!(expect(&act("activate"), 200)["status"], "active");
    }
    clients.iter_mut().for_each(|client| assert_eq!(read_status(client, &admin), 200));
}

fn a_deleted_tenant_is_gone(io: Io) {
    let server = start(io);
    make_tenant(&server, "acme");
    let admin = admin_of(&server, "acme");
    let streaming = "cd".repeat(16);
    for path in ["/api/v1/tenants/acme", "/api/v1/tenants/acme?confirm=acm", "/api/v1/tenants/ws-2?confirm=ws-2"] {
        let refused = server.call("DELETE", path, BOOTSTRAP, None);
        assert_eq!((refused.status, refused.error().as_str()), (400, "invalid_parameter"), "{path}");
    }
    assert_eq!(server.call("GET", "/api/v1/events/query", &admin, None).status, 200);
    let deleted = server.call("DELETE", "/api/v1/tenants/acme?confirm=acme", BOOTSTRAP, None);
    assert_eq!(expect(&deleted, 202)["status"], "deleting");
    for client in &mut server.connect_everywhere() {
        assert_eq!(read_status(client, &admin), 401);
        assert_eq!(client.call("GET", "/api/v1/tenants/acme/stats", BOOTSTRAP, None).status, 404);
        assert_eq!(client.call("POST", "/api/v1/tenants/acme/activate", BOOTSTRAP, None).status, 404);
    }
    // A line of the key file that is about it neither stops a start nor opens anything.
    let file = server.path("data/apikeys.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}{streaming}:2:gone\n")).unwrap();
    let server = server.kill().start(&["--cores=2"]);
    assert_eq!(server.call("POST", "/api/v1/events", &streaming, Some(&event("e"))).status, 401);
    assert_eq!(server.call("GET", "/api/v1/events/query", &admin, None).status, 401);
}

fn a_self_service_key_rotates_and_revokes_itself(io: Io) {
    let server = start(io);
    let first = server.onboard("me");
    let rotated = expect(&server.call("POST", "/api/v1/auth/keys/self/rotate", &first, None), 201);
    let second = rotated["api_key"].as_str().unwrap().to_owned();
    assert_eq!((&rotated["name"], &rotated["role"]), (&json!("onboard"), &json!("developer")));
    for client in &mut server.connect_everywhere() {
        assert_eq!((write_status(client, &first), write_status(client, &second)), (401, 200));
    }
    // It may not do more than that.
    assert_eq!(server.call("GET", "/api/v1/teams/agent-keys", &second, None).status, 403);
    let graced = json!({ "grace_seconds": 60 });
    let rotated = expect(&server.call("POST", "/api/v1/auth/keys/self/rotate", &second, Some(&graced)), 201);
    let third = rotated["key"].as_str().unwrap();
    let again = server.call("POST", "/api/v1/auth/keys/self/rotate", &second, None);
    assert_eq!((again.status, again.error().as_str()), (409, "already_exists"));
    assert_eq!(server.call("DELETE", "/api/v1/auth/keys/self", third, None).status, 204);
    for client in &mut server.connect_everywhere() {
        assert_eq!((write_status(client, third), write_status(client, &second)), (401, 200));
    }
    assert_eq!(server.call("DELETE", "/api/v1/auth/keys/self", BOOTSTRAP, None).status, 403);
}

fn foreign_and_absent_look_alike(io: Io) {
    let server = start(io);
    make_tenant(&server, "acme");
    make_tenant(&server, "umbrella");
    let (acme, umbrella) = (admin_of(&server, "acme"), admin_of(&server, "umbrella"));
    mint(&server, &umbrella, &json!({ "name": "theirs", "role": "readonly" }));
    let mut client = server.connect();
    let mut ask = |method: &str, path: &str, body: &str| {
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\nX-Request-Id: same\r\nAuthorization: Bearer {acme}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.send(text.as_bytes());
        let answer = client.answer();
        (answer.status, answer.text())
    };
    for (method, path, body) in [
        ("DELETE", "/api/v1/teams/agent-keys/NAME", ""),
        ("POST", "/api/v1/teams/agent-keys/NAME/rotate", ""),
        ("GET", "/api/v1/tenants/TENANT", ""),
        ("GET", "/api/v1/tenants/TENANT/stats", ""),
        ("DELETE", "/api/v1/tenants/TENANT?confirm=TENANT", ""),
        ("POST", "/api/v1/tenants/TENANT/deactivate", ""),
        ("GET", "/api/v1/teams/agent-keys?tenant_id=TENANT", ""),
        ("POST", "/api/v1/teams/agent-keys", r#"{"name":"x","role":"readonly","tenant_id":"TENANT"}"#),
        ("POST", "/api/v1/teams/agent-keys/admin/rotate", r#"{"tenant_id":"TENANT"}"#),
    ] {
        let with = |name: &str, tenant: &str| {
            let fill = |text: &str| text.replace("NAME", name).replace("TENANT", tenant);
            (fill(path), fill(body))
        };
        let (path, body) = with("theirs", "umbrella");
        let foreign = ask(method, &path, &body);
        let (path, body) = with("nobody", "nobody00");
        assert_eq!(foreign, ask(method, &path, &body), "{method} {path}");
        assert!(matches!(foreign.0, 403 | 404), "{foreign:?}");
    }
    assert_eq!(server.get("/api/v1/events/query", &umbrella)["count"], 0);
}

fn wrong_requests_are_refused_and_named(io: Io) {
    let server = start(io);
    make_tenant(&server, "acme");
    let admin = admin_of(&server, "acme");
    let keys = "/api/v1/teams/agent-keys";
    let long = "x".repeat(129);
    for (method, path, key, body, code) in [
        ("POST", "/api/v1/tenants", BOOTSTRAP, json!({}), "bad_request"),
        ("POST", "/api/v1/tenants", BOOTSTRAP, json!([]), "bad_request"),
        ("POST", "/api/v1/tenants", BOOTSTRAP, json!({ "id": "../x" }), "invalid_parameter"),
        ("POST", "/api/v1/tenants", BOOTSTRAP, json!({ "id": "system" }), "invalid_parameter"),
        ("POST", "/api/v1/tenants", BOOTSTRAP, json!({ "id": "ws-9" }), "invalid_parameter"),
        ("POST", "/api/v1/tenants", BOOTSTRAP, json!({ "id": "b", "name": "a\nb" }), "invalid_parameter"),
        ("POST", "/api/v1/tenants", BOOTSTRAP, json!({ "id": "b", "tier": "gold" }), "invalid_parameter"),
        ("POST", "/api/v1/tenants", BOOTSTRAP, json!({ "id": "b", "nmae": "b" }), "bad_request"),
        ("PUT", "/api/v1/tenants/acme", BOOTSTRAP, json!({}), "invalid_parameter"),
        ("PUT", "/api/v1/tenants/acme/quotas", BOOTSTRAP, json!({ "events_per_month": -1 }), "bad_request"),
        ("GET", "/api/v1/tenants?limit=0", BOOTSTRAP, Value::Null, "invalid_parameter"),
        ("GET", "/api/v1/tenants?nonsense=1", BOOTSTRAP, Value::Null, "invalid_parameter"),
        ("POST", keys, &admin, json!({ "role": "readonly" }), "bad_request"),
        ("POST", keys, &admin, json!({ "name": "", "role": "readonly" }), "invalid_parameter"),
        ("POST", keys, &admin, json!({ "name": long, "role": "readonly" }), "invalid_parameter"),
        ("POST", keys, &admin, json!({ "name": "a\u{0}b", "role": "readonly" }), "invalid_parameter"),
        ("POST", keys, &admin, json!({ "name": "a/b", "role": "readonly" }), "invalid_parameter"),
        ("POST", keys, &admin, json!({ "name": "..", "role": "readonly" }), "invalid_parameter"),
        ("POST", keys, &admin, json!({ "name": "x", "role": "root" }), "invalid_parameter"),
        ("POST", keys, &admin, json!({ "name": "x", "expires_in_days": 0 }), "invalid_parameter"),
        ("POST", keys, &admin, json!({ "name": "x", "expires_in_day": 1 }), "bad_request"),
        ("POST", keys, BOOTSTRAP, json!({ "name": "x", "role": "readonly" }), "bad_request"),
        (
            "POST",
            "/api/v1/teams/agent-keys/admin/rotate",
            &admin,
            json!({ "grace_seconds": 999_999 }),
            "invalid_parameter",
        ),
        ("GET", "/api/v1/audit/events?actor=somebody", &admin, Value::Null, "invalid_parameter"),
        ("GET", "/api/v1/audit/events?since=yesterday", &admin, Value::Null, "invalid_parameter"),
    ] {
        let refused = server.call(method, path, key, Some(&body).filter(|body| !body.is_null()));
        assert_eq!(
            (refused.status, refused.error().as_str()),
            (400, code),
            "{method} {path} {body}: {}",
            refused.text()
        );
    }
    let mut client = server.connect();
    client.send(
        format!(
            "POST {keys} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {admin}\r\nContent-Length: 7\r\n\r\n{{\"name\""
        )
        .as_bytes(),
    );
    assert_eq!(client.answer().error(), "invalid_json");
    assert_eq!(server.get(keys, &admin)["count"], 1);
    assert_eq!(server.get("/api/v1/tenants", BOOTSTRAP)["count"], 2);
}

fn everything_is_known_after_a_restart(io: Io) {
    let mut server = start(io);
    make_tenant(&server, "acme");
    make_tenant(&server, "suspended");
    let admin = admin_of(&server, "acme");
    let asleep = admin_of(&server, "suspended");
    let revoked = mint(&server, &admin, &json!({ "name": "revoked", "role": "developer" }));
    let rotated = mint(&server, &admin, &json!({ "name": "rotated", "role": "developer" }));
    assert_eq!(server.call("DELETE", "/api/v1/teams/agent-keys/revoked", &admin, None).status, 204);
    let current = expect(&server.call("POST", "/api/v1/teams/agent-keys/rotated/rotate", &admin, None), 201);
    let current = current["key"].as_str().unwrap().to_owned();
    expect(&server.call("POST", "/api/v1/tenants/suspended/deactivate", BOOTSTRAP, None), 200);
    expect(&server.call("PUT", "/api/v1/tenants/acme/quotas", BOOTSTRAP, Some(&json!({ "stored_bytes": 5 }))), 200);
    let paths = ["/api/v1/tenants", "/api/v1/tenants/acme/quotas", "/api/v1/tenants/acme/stats"];
    let before: Vec<_> = paths.iter().map(|path| server.get(path, BOOTSTRAP)).collect();
    let keys = server.get("/api/v1/teams/agent-keys", &admin);
    for life in 0..2 {
        let place = if life == 0 { server.kill() } else { server.stop().1 };
        server = place.start(&["--cores=2"]);
        let after: Vec<_> = paths.iter().map(|path| server.get(path, BOOTSTRAP)).collect();
        assert_eq!(after, before);
        assert_eq!(server.get("/api/v1/teams/agent-keys", &admin), keys);
        for (key, status) in [(&admin, 200), (&current, 200), (&revoked, 401), (&rotated, 401), (&asleep, 401)] {
            assert_eq!(server.call("GET", "/api/v1/events/query", key, None).status, status);
        }
    }
}

fn the_audit_log_knows_who_did_what(io: Io) {
    let server = start(io);
    make_tenant(&server, "acme");
    make_tenant(&server, "umbrella");
    let (acme, umbrella) = (admin_of(&server, "acme"), admin_of(&server, "umbrella"));
    let readonly = mint(&server, &acme, &json!({ "name": "eyes", "role": "readonly" }));
    // What a client sends as its request id is in the log as it is, or not at all.
    let mut client = server.connect();
    let denied = |id: &str| {
        format!(
            "DELETE /api/v1/teams/agent-keys/eyes HTTP/1.1\r\nHost: h\r\nX-Request-Id: {id}\r\nAuthorization: Bearer {readonly}\r\n\r\n"
        )
    };
    for id in ["first-denial", "{\"forged\":1}"] {
        client.send(denied(id).as_bytes());
        assert_eq!(client.answer().status, 403);
    }
    assert_eq!(server.call("DELETE", "/api/v1/teams/agent-keys/eyes", &acme, None).status, 204);
    // A burst of keys that are none.
    for _ in 0..12 {
        assert_eq!(client.call("GET", "/api/v1/events/query", "guess", None).status, 401);
    }
    // A note is written behind the changes; it is there when it can be read.
    let events = |key: &str, query: &str| {
        let page = server.get(&format!("/api/v1/audit/events?limit=1000&{query}"), key);
        page["events"].as_array().unwrap().clone()
    };
    let denials = events(&acme, "action=permission_denied");
    assert_eq!(denials.len(), 1, "{denials:?}");
    let denial = &denials[0];
    assert_eq!(
        (&denial["outcome"], &denial["request_id"], &denial["actor_name"]),
        (&json!("denied"), &json!("first-denial"), &json!("eyes"))
    );
    assert_eq!((&denial["source"], &denial["tenant_id"]), (&json!("127.0.0.1"), &json!("acme")));
    assert_eq!(denial["detail"]["route"], "DELETE /api/v1/teams/agent-keys/{}");
    assert_eq!(denial["detail"]["permission"], "admin");
    let failed = events(BOOTSTRAP, "action=authentication_failed");
    assert_eq!(
        (failed.len(), &failed[0]["detail"]["count"], &failed[0]["actor"]),
        (1, &json!(10), &json!("anonymous"))
    );

    let seen = events(&acme, "");
    assert!(seen.iter().all(|event| event["tenant_id"] == "acme"));
    let actions: Vec<_> = seen.iter().rev().map(|event| event["action"].as_str().unwrap()).collect();
    for action in ["tenant_created", "key_minted", "permission_denied", "key_revoked", "admin_right_used"] {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
    assert!(events(&umbrella, "action=key_revoked").is_empty());
    assert_eq!(server.call("GET", "/api/v1/audit/events", &readonly, None).status, 401);
    let by_bootstrap = events(&acme, "actor=key:1");
    assert!(by_bootstrap.iter().all(|event| event["actor_name"] == "bootstrap") && !by_bootstrap.is_empty());
    let at = denial["at"].as_str().unwrap();
    assert!(events(&acme, &format!("since={at}&until={at}")).contains(denial));

    let whole = events(BOOTSTRAP, "");
    for pair in whole.windows(2) {
        assert_eq!(pair[0]["prev"], pair[1]["hash"]);
    }
    let text = serde_json::to_string(&whole).unwrap();
    for secret in [BOOTSTRAP, &acme, &umbrella, &readonly] {
        assert!(!text.contains(secret.rsplit('.').next().unwrap()));
    }
    assert!(!text.contains("proof") && !text.contains("forged"));

    let busy = server.path("data");
    let (status, place) = server.stop();
    assert!(status.success());
    let verify = |arguments: &[&str]| {
        let base = ["audit", "verify", "--data-dir", busy.to_str().unwrap(), io.flag()];
        place.command(&[&base[..], arguments].concat()).output().unwrap()
    };
    let proved = verify(&["--json"]);
    assert_eq!(proved.status.code(), Some(0), "{}", String::from_utf8_lossy(&proved.stderr));
    let proved: Value = serde_json::from_slice(&proved.stdout).unwrap();
    assert!(whole.len() as u64 <= proved["records"].as_u64().unwrap());
    // A head that a reader noted while the server ran is in the chain; another's is not.
    assert_eq!(verify(&["--contains", whole[0]["hash"].as_str().unwrap()]).status.code(), Some(0));
    assert_eq!(verify(&["--contains", &"ab".repeat(32)]).status.code(), Some(8));
    assert_eq!(verify(&["--contains", "ab"]).status.code(), Some(2));
}

fn a_rotated_bootstrap_key_is_refused_from_that_moment(io: Io) {
    let server = start(io);
    make_tenant(&server, "acme");
    let admin = admin_of(&server, "acme");
    let server = server.stop().1.start(&["--cores=2", "--bootstrap-key=another-bootstrap-key"]);
    for client in &mut server.connect_everywhere() {
        assert_eq!(client.call("GET", "/api/v1/tenants", BOOTSTRAP, None).status, 401);
        assert_eq!(client.call("GET", "/api/v1/tenants", "another-bootstrap-key", None).status, 200);
        // Scoped keys go on.
        assert_eq!(read_status(client, &admin), 200);
    }
    let log = server.path("data/catalog");
    assert!(holds(&log, "bootstrap_key_set"));
    assert!(!holds(&log, BOOTSTRAP) && !holds(&log, "another-bootstrap-key"));
}

fn write_private(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn a_bootstrap_key_rotates_under_a_running_server(io: Io) {
    let place = Place::new(io);
    let file = place.path("bootstrap-key");
    assert_eq!(place.refused(&["--bootstrap-key-file=bootstrap-key"]).status.code(), Some(78));
    write_private(&file, "short\n");
    assert_eq!(place.refused(&["--bootstrap-key-file=bootstrap-key"]).status.code(), Some(78));
    write_private(&file, &format!("{BOOTSTRAP}\n"));
    let server = place.start(&["--cores=2", "--bootstrap-key-file=bootstrap-key"]);
    assert!(!server.stdout().contains(BOOTSTRAP) && !server.log().contains(BOOTSTRAP));
    make_tenant(&server, "acme");
    let admin = admin_of(&server, "acme");
    write_private(&file, "another-bootstrap-key");
    server.signal(rustix::process::Signal::HUP);
    let status = |key: &str| server.call("GET", "/api/v1/tenants", key, None).status;
    let begun = std::time::Instant::now();
    while status("another-bootstrap-key") != 200 {
        assert!(begun.elapsed().as_secs() < 20, "{}", server.log());
    }
    for client in &mut server.connect_everywhere() {
        assert_eq!(client.call("GET", "/api/v1/tenants", BOOTSTRAP, None).status, 401);
        assert_eq!(read_status(client, &admin), 200);
    }
}

fn a_signing_secret_rotates_under_a_running_server(io: Io) {
    let server = start(io);
    make_tenant(&server, "acme");
    let old = admin_of(&server, "acme");
    let place = Place::new(io);
    let data = server.path("data");
    let rotate = |more: &str| {
        let arguments = ["keys", "rotate-secret", "--json", "--data-dir", data.to_str().unwrap()];
        let more: Vec<&str> = more.split_whitespace().collect();
        let output = place.command(&[&arguments[..], &more[..]].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        server.signal(rustix::process::Signal::HUP);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    // A reload is told by nothing but its effect.
    assert_eq!(rotate(""), json!({ "signs": "k2", "verifies": ["k1"], "retired": [] }));
    let kid = |key: &str| key.split('.').next().unwrap().to_owned();
    let begun = std::time::Instant::now();
    let new = (0..)
        .map(|number| server.onboard(&format!("tried-{number}")))
        .inspect(|_| assert!(begun.elapsed().as_secs() < 20, "{}", server.log()))
        .find(|key| kid(key) != kid(&old))
        .unwrap();
    for client in &mut server.connect_everywhere() {
        assert_eq!((read_status(client, &old), read_status(client, &new)), (200, 200));
    }
    assert_eq!(rotate("--retire"), json!({ "signs": "k2", "verifies": [], "retired": ["k1"] }));
    let begun = std::time::Instant::now();
    while server.call("GET", "/api/v1/events/query", &old, None).status != 401 {
        assert!(begun.elapsed().as_secs() < 20, "{}", server.log());
    }
    for client in &mut server.connect_everywhere() {
        assert_eq!((read_status(client, &old), read_status(client, &new)), (401, 200));
    }
    let file = data.join("jwt-secret");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let server = server.kill().start(&["--cores=2"]);
    assert_eq!(server.call("GET", "/api/v1/events/query", &old, None).status, 401);
    assert_eq!(server.get("/api/v1/events/query", &new)["count"], 0);
    let actions = server.get("/api/v1/audit/events?action=signing_secret_retired", BOOTSTRAP);
    assert_eq!(actions["events"][0]["detail"]["kid"], "k1");
}

#[test]
fn a_broken_chain_is_found_offline() {
    use ringlog_engine::io::{IoMode, SyncMode};
    use ringlog_server::catalog::engine_log::{EngineLog, EngineLogSettings};
    use ringlog_server::catalog::log::CatalogLog;

    let server = start(Io::Fallback);
    make_tenant(&server, "acme");
    let data = server.path("data");
    let verify = |place: &Place| {
        let output = place
            .command(&["audit", "verify", "--io=fallback", "--data-dir", data.to_str().unwrap()])
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    // The directory of a server that runs is not looked into.
    let place = Place::new(Io::Fallback);
    assert_eq!(verify(&place).0, 7);
    assert_eq!(place.command(&["audit", "verify"]).output().unwrap().status.code(), Some(3));
    let place = server.stop().1;
    assert_eq!(verify(&place), (0, String::new()));
    let settings = EngineLogSettings { io: IoMode::Fallback, sync: SyncMode::Dsync };
    let (mut log, thread, _) = EngineLog::open(&data.join("catalog"), settings).unwrap();
    let mut records = Vec::new();
    log.replay(&mut |record| {
        records.push(record.to_vec());
        Ok(())
    })
    .unwrap();
    // A record that somebody has put there again, whole and with every checksum right.
    log.append(&records[1], "key:1", "key_minted").unwrap();
    drop(log);
    thread.join().unwrap();
    let (code, text) = verify(&place);
    assert_eq!(code, 8);
    assert!(text.contains(&format!("record {} does not follow record {}", records.len() + 1, records.len())), "{text}");
    assert_ne!(place.refused(&[]).status.code(), Some(0));
}
