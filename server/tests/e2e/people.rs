//! People over real sockets: set-up, login, refresh, logout, users, and what ends a session on every core.

use serde_json::{Value, json};

use crate::harness::{Io, Place, Server, holds};
use crate::http::{Client, Response, request};
use crate::on_both;

on_both! {
    somebody_on_the_servers_machine_sets_up_once,
    a_set_up_through_a_proxy_needs_the_bootstrap_key,
    a_login_opens_with_the_right_password_and_says_nothing_otherwise,
    a_refresh_kills_the_old_token_and_its_replay_the_session,
    a_logout_counts_at_once_on_every_core,
    admins_make_change_and_delete_users_and_nobody_else_does,
    a_restart_keeps_users_and_sessions_and_no_secret_is_written,
    a_flood_of_logins_is_refused_and_holds_up_nobody,
}

const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";
const EMAIL: &str = "agent@your-company.com";
const PASSWORD: &str = "correct horse battery";

fn start(io: Io) -> Server {
    Place::new(io).start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")])
}

fn expect(answer: &Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

fn refused(answer: &Response, status: u16, error: &str) {
    assert_eq!((answer.status, answer.error().as_str()), (status, error), "{}", answer.text());
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text and not {value}")).to_owned()
}

fn post(server: &Server, path: &str, key: &str, body: &Value) -> Response {
    server.call("POST", path, key, Some(body))
}

fn set_up(server: &Server) -> Value {
    expect(&post(server, "/api/v1/auth/setup", "", &json!({ "email": EMAIL, "password": PASSWORD })), 200)
}

fn log_in(server: &Server, name: &str, password: &str) -> Response {
    post(server, "/api/v1/auth/login", "", &json!({ "email": name, "password": password }))
}

fn token(server: &Server, name: &str) -> String {
    text(&expect(&log_in(server, name, PASSWORD), 200)["token"])
}

fn refresh(server: &Server, token: &str) -> Response {
    post(server, "/api/v1/auth/refresh", "", &json!({ "token": token }))
}

fn create(server: &Server, by: &str, body: Value) -> Response {
    let mut user = json!({ "password": PASSWORD });
    user.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    post(server, "/api/v1/auth/users", by, &user)
}

fn me(client: &mut Client, token: &str) -> u16 {
    client.call("GET", "/api/v1/auth/me", token, None).status
}

fn event() -> Value {
    json!({ "event_type": "user.action", "entity_id": "e", "payload": {} })
}

/// A request with a header of its own and no credential.
fn with_header(server: &Server, path: &str, header: &str, body: &Value) -> Response {
    let bytes = String::from_utf8(request("POST", path, "", Some(body))).unwrap();
    let mut client = server.connect();
    client.send(bytes.replacen("\r\n", &format!("\r\n{header}\r\n"), 1).as_bytes());
    client.answer()
}

fn somebody_on_the_servers_machine_sets_up_once(io: Io) {
    let server = start(io);
    let status = |server: &Server| server.get("/api/v1/auth/setup/status", "")["setup_required"].clone();
    assert_eq!(status(&server), true);
    for (body, error) in [
        (json!({ "password": PASSWORD }), "invalid_email"),
        (json!({ "email": "agent", "password": PASSWORD }), "invalid_email"),
        (json!({ "email": EMAIL }), "invalid_parameter"),
        (json!({ "email": EMAIL, "password": "short" }), "invalid_parameter"),
        (json!({ "email": EMAIL, "password": EMAIL }), "invalid_parameter"),
    ] {
        refused(&post(&server, "/api/v1/auth/setup", "", &body), 400, error);
    }
    assert_eq!(log_in(&server, EMAIL, PASSWORD).status, 401);
    let made = set_up(&server);
    let user = json!({
        "id": "user_1", "username": EMAIL, "email": EMAIL, "role": "admin", "tenant_id": "default",
    });
    assert_eq!(made["user"], user);
    assert!(made["expires_at"].as_i64().unwrap() > 1_700_000_000);
    // The key is the one of the key file, and both open what they should.
    let (token, streaming) = (text(&made["token"]), text(&made["streaming_key"]));
    assert!(std::fs::read_to_string(server.path("data/apikeys.conf")).unwrap().contains(&streaming));
    server.post("/api/v1/events", &streaming, &event());
    server.post("/api/v1/events", &token, &event());
    assert_eq!(server.get("/api/v1/events/query", &token)["count"], 2);
    assert_eq!(server.get("/api/v1/teams/agent-keys", &token)["count"], 0);
    // An admin of a workspace is no operator.
    assert_eq!(server.call("GET", "/api/v1/tenants", &token, None).status, 403);

    let again = json!({ "email": "other@x.com", "password": PASSWORD });
    refused(&post(&server, "/api/v1/auth/setup", "", &again), 409, "already_exists");
    refused(&post(&server, "/api/v1/auth/setup", BOOTSTRAP, &again), 409, "already_exists");
    assert_eq!(status(&server), false);
    let server = server.stop().1.start(&["--cores=2"]);
    refused(&post(&server, "/api/v1/auth/setup", "", &again), 409, "already_exists");
    assert_eq!(status(&server), false);
}

fn a_set_up_through_a_proxy_needs_the_bootstrap_key(io: Io) {
    let server = start(io);
    let body = json!({ "email": EMAIL, "password": PASSWORD });
    let path = "/api/v1/auth/setup";
    for header in [
        "X-Forwarded-For: 127.0.0.1",
        "x-forwarded-for: 203.0.113.9",
        "Forwarded: for=127.0.0.1",
        "X-Real-IP: 127.0.0.1",
        "Via: 1.1 proxy",
        "Origin: http://localhost",
    ] {
        refused(&with_header(&server, path, header, &body), 401, "unauthorized");
    }
    refused(&post(&server, path, "nonsense", &body), 401, "unauthorized");
    refused(&post(&server, path, &server.onboard("someone"), &body), 403, "forbidden");
    let bearer = format!("X-Forwarded-For: 203.0.113.9\r\nAuthorization: Bearer {BOOTSTRAP}");
    let made = expect(&with_header(&server, path, &bearer, &body), 200);
    assert_eq!(made["user"]["role"], "admin");
    assert_eq!(server.get("/api/v1/auth/me", &text(&made["token"]))["email"], EMAIL);
}

fn a_login_opens_with_the_right_password_and_says_nothing_otherwise(io: Io) {
    let server = start(io);
    set_up(&server);
    let admin = token(&server, EMAIL);
    expect(&create(&server, &admin, json!({ "email": "al@x.com", "username": "Al", "role": "developer" })), 201);
    let by_name = json!({ "username": "al", "password": PASSWORD });
    let made = post(&server, "/api/v1/auth/login", "", &by_name);
    assert_eq!(made.header("Cache-Control"), Some("no-store"));
    let made = expect(&made, 200);
    let user = json!({
        "id": "user_2", "username": "al", "email": "al@x.com", "role": "developer", "tenant_id": "default",
    });
    assert_eq!(made["user"], user);
    assert!(made.get("streaming_key").is_none());
    // The role is honoured.
    let al = text(&made["token"]);
    server.post("/api/v1/events", &al, &event());
    assert_eq!(server.call("GET", "/api/v1/teams/agent-keys", &al, None).status, 403);
    // A token works in each place of a key.
    let mut client = server.connect();
    client.send(format!("GET /api/v1/events/query HTTP/1.1\r\nHost: h\r\nX-API-Key: {al}\r\n\r\n").as_bytes());
    assert_eq!(client.answer().status, 200);

    let answers: Vec<_> = [
        (EMAIL, "wrong horse battery"),
        ("nobody@your-company.com", PASSWORD),
        ("not a name", PASSWORD),
        ("", PASSWORD),
        (EMAIL, ""),
    ]
    .iter()
    .map(|(name, password)| {
        let body = json!({ "email": name, "password": password });
        let answer = with_header(&server, "/api/v1/auth/login", "X-Request-Id: same", &body);
        refused(&answer, 401, "invalid_credentials");
        answer.text()
    })
    .collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

fn a_refresh_kills_the_old_token_and_its_replay_the_session(io: Io) {
    let server = start(io);
    let first = text(&set_up(&server)["token"]);
    let other = token(&server, EMAIL);
    let mut clients = server.connect_everywhere();
    clients.iter_mut().for_each(|client| assert_eq!(me(client, &first), 200));
    let answer = expect(&refresh(&server, &first), 200);
    assert!(answer["expires_at"].is_i64());
    let second = text(&answer["token"]);
    for client in &mut clients {
        assert_eq!((me(client, &first), me(client, &second)), (401, 200));
    }
    refused(&refresh(&server, &first), 401, "unauthorized");
    for client in &mut clients {
        // Two hold what one was given: it is nobody's any more. The other login goes on.
        assert_eq!((me(client, &first), me(client, &second), me(client, &other)), (401, 401, 200));
    }
    let ended = server.get("/api/v1/audit/events?action=session_ended", &other);
    assert_eq!((&ended["count"], &ended["events"][0]["detail"]["why"]), (&json!(1), &json!("replayed")));
    for token in [&second, "rl_st_nonsense", BOOTSTRAP, ""] {
        refused(&refresh(&server, token), 401, "unauthorized");
    }
    refused(&post(&server, "/api/v1/auth/refresh", "", &json!({})), 400, "invalid_parameter");
}

fn a_logout_counts_at_once_on_every_core(io: Io) {
    let server = start(io);
    let stays = text(&set_up(&server)["token"]);
    let mut clients = server.connect_everywhere();
    for body in [None, Some(json!({})), Some(json!({ "revoke": true }))] {
        let token = token(&server, EMAIL);
        for client in &mut clients {
            assert_eq!(me(client, &token), 200);
            assert_eq!(client.call("POST", "/api/v1/events", &token, Some(&event())).status, 200);
        }
        let answer = server.call("POST", "/api/v1/auth/logout", &token, body.as_ref());
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{body:?}");
        for client in &mut clients {
            assert_eq!((me(client, &token), me(client, &stays)), (401, 200));
            assert_eq!(client.call("POST", "/api/v1/events", &token, Some(&event())).status, 401);
        }
        assert_eq!(server.call("POST", "/api/v1/auth/logout", &token, None).status, 401);
        assert_eq!(refresh(&server, &token).status, 401);
    }
    // A key says who it is, and is not logged out.
    let key = server.onboard("someone");
    let view = server.get("/api/v1/auth/me", &key);
    assert_eq!((&view["username"], &view["email"]), (&json!("onboard"), &Value::Null));
    assert_eq!(view["tenant_id"], "onboard-someone-at-example-com");
    refused(&server.call("POST", "/api/v1/auth/logout", &key, None), 403, "forbidden");
    assert_eq!(server.call("GET", "/api/v1/auth/me", &key, None).status, 200);
    assert_eq!(server.call("GET", "/api/v1/auth/me", "", None).status, 401);
}

fn admins_make_change_and_delete_users_and_nobody_else_does(io: Io) {
    let server = start(io);
    let admin = text(&set_up(&server)["token"]);
    let users = "/api/v1/auth/users";
    let made = expect(&create(&server, &admin, json!({ "email": "dev@x.com", "role": "developer" })), 201);
    assert_eq!(
        (&made["id"], &made["role"], &made["tenant_id"]),
        (&json!("user_2"), &json!("developer"), &json!("default"))
    );
    let dev = token(&server, "dev@x.com");
    for (method, path) in [("GET", users), ("DELETE", "/api/v1/auth/users/user_1")] {
        refused(&server.call(method, path, &dev, None), 403, "forbidden");
    }
    refused(&create(&server, &dev, json!({ "email": "x@x.com", "role": "readonly" })), 403, "forbidden");
    let role = |by: &str, user: &str, role: &str| {
        server.call("PUT", &format!("{users}/{user}"), by, Some(&json!({ "role": role })))
    };
    refused(&role(&dev, "user_2", "admin"), 403, "forbidden");
    refused(&create(&server, &admin, json!({ "email": "DEV@x.com", "role": "readonly" })), 409, "already_exists");
    for body in [
        json!({ "email": "x@x.com" }),
        json!({ "email": "x@x.com", "role": "root" }),
        json!({ "email": "x", "role": "readonly" }),
        json!({ "email": "x@x.com", "role": "readonly", "password": "short" }),
        json!({ "email": "x@x.com", "role": "readonly", "username": "a b" }),
        json!({ "email": "x@x.com", "role": "readonly", "admin": true }),
    ] {
        assert_eq!(create(&server, &admin, body.clone()).status, 400, "{body}");
    }

    // Another tenant's admin sees nothing of it, whatever it names.
    expect(&post(&server, "/api/v1/tenants", BOOTSTRAP, &json!({ "id": "acme" })), 201);
    let boss = json!({ "email": "boss@acme.com", "role": "admin", "tenant_id": "acme" });
    assert_eq!(expect(&create(&server, BOOTSTRAP, boss), 201)["tenant_id"], "acme");
    let boss = token(&server, "boss@acme.com");
    assert_eq!(server.get(users, &boss)["total"], 1);
    for user in ["user_1", "user_2", "user_99", "nobody"] {
        refused(&server.call("DELETE", &format!("{users}/{user}"), &boss, None), 404, "not_found");
        refused(&role(&boss, user, "readonly"), 404, "not_found");
    }
    let foreign = json!({ "email": "x@x.com", "role": "readonly", "tenant_id": "default" });
    refused(&create(&server, &boss, foreign), 403, "tenant_forbidden");
    refused(&server.call("DELETE", &format!("{users}/user_3"), &boss, None), 403, "forbidden");

    let listed = server.get(&format!("{users}?limit=1"), &admin);
    assert_eq!(
        (&listed["total"], &listed["has_more"], &listed["users"][0]["email"]),
        (&json!(2), &json!(true), &json!(EMAIL))
    );
    let rest = server.get(&format!("{users}?cursor={}", text(&listed["next_cursor"])), &admin);
    assert_eq!((&rest["count"], &rest["users"][0]["email"]), (&json!(1), &json!("dev@x.com")));
    assert!(!server.call("GET", users, &admin, None).text().contains("argon2"));

    let mut clients = server.connect_everywhere();
    let write = |client: &mut Client| client.call("POST", "/api/v1/events", &dev, Some(&event())).status;
    clients.iter_mut().for_each(|client| assert_eq!(write(client), 200));
    assert_eq!(expect(&role(&admin, "user_2", "readonly"), 200)["role"], "readonly");
    for client in &mut clients {
        assert_eq!((write(client), me(client, &dev)), (403, 200));
    }
    assert_eq!(server.call("DELETE", &format!("{users}/user_2"), &admin, None).status, 204);
    for client in &mut clients {
        assert_eq!((write(client), me(client, &dev), me(client, &admin)), (401, 401, 200));
    }
    assert_eq!(log_in(&server, "dev@x.com", PASSWORD).status, 401);
    assert_eq!(server.call("DELETE", &format!("{users}/user_2"), &admin, None).status, 404);
    // A tenant's end is its people's.
    assert_eq!(server.call("DELETE", "/api/v1/tenants/acme?confirm=acme", BOOTSTRAP, None).status, 202);
    clients.iter_mut().for_each(|client| assert_eq!(me(client, &boss), 401));
    assert_eq!(log_in(&server, "boss@acme.com", PASSWORD).status, 401);
}

fn a_restart_keeps_users_and_sessions_and_no_secret_is_written(io: Io) {
    let mut server = start(io);
    let first = text(&set_up(&server)["token"]);
    let ended = token(&server, EMAIL);
    assert_eq!(server.call("POST", "/api/v1/auth/logout", &ended, None).status, 204);
    let current = text(&expect(&refresh(&server, &first), 200)["token"]);
    let dev = json!({ "email": "dev@x.com", "username": "dev", "role": "developer" });
    expect(&create(&server, &current, dev), 201);
    let dev = token(&server, "dev");
    assert_eq!(log_in(&server, EMAIL, "another wrong phrase").status, 401);
    let before = server.get("/api/v1/auth/users", &current);
    let mut log = String::new();
    for life in 0..2 {
        log += &server.log();
        log += &server.stdout();
        let place = if life == 0 { server.kill() } else { server.stop().1 };
        server = place.start(&["--cores=2"]);
        for client in &mut server.connect_everywhere() {
            for (token, status) in [(&current, 200), (&dev, 200), (&first, 401), (&ended, 401)] {
                assert_eq!(me(client, token), status);
            }
        }
        assert_eq!(server.get("/api/v1/auth/users", &current), before);
    }
    let again = token(&server, EMAIL);
    // What was replaced before the restart is still known as that.
    assert_eq!(refresh(&server, &first).status, 401);
    assert_eq!(server.call("GET", "/api/v1/auth/me", &current, None).status, 401);

    let audit = server.call("GET", "/api/v1/audit/events?limit=1000", &again, None).text();
    for action in ["user_created", "session_started", "session_refreshed", "session_ended"] {
        assert!(audit.contains(action), "{action} in {audit}");
    }
    assert!(audit.contains("\"actor\":\"user:1\"") && audit.contains("\"actor_name\":\"agent@your-company.com\""));
    let catalog = server.path("data/catalog");
    log += &server.log();
    assert!(holds(&catalog, "$argon2id$"));
    assert!(!audit.contains("argon2") && !log.contains("argon2"));
    for secret in [PASSWORD, "another wrong phrase", &first, &ended, &current, &dev, &again] {
        assert!(!holds(&catalog, secret) && !log.contains(secret) && !audit.contains(secret), "{secret}");
    }
}

fn a_flood_of_logins_is_refused_and_holds_up_nobody(io: Io) {
    let server = start(io);
    let token = text(&set_up(&server)["token"]);
    let body = json!({ "email": EMAIL, "password": "wrong horse battery" });
    let one = request("POST", "/api/v1/auth/login", "", Some(&body));
    // At once: more than wait, and fewer than one connection may have under way.
    let mut flood = server.connect();
    flood.send(&one.repeat(60));
    server.post("/api/v1/events", &token, &event());
    let answers: Vec<Response> = (0..60).map(|_| flood.answer()).collect();
    let (full, checked): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 503);
    assert!(!full.is_empty() && 16 <= checked.len(), "{} {}", full.len(), checked.len());
    for answer in &full {
        refused(answer, 503, "overloaded");
        assert!(answer.header("Retry-After").is_some());
    }
    checked.iter().for_each(|answer| refused(answer, 401, "invalid_credentials"));
    assert_eq!(log_in(&server, EMAIL, PASSWORD).status, 200);
}
