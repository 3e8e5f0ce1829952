//! Every route of the table over real sockets, with every kind of credential. Which of them may, `handle::routes` tests
//! say in detail; here it is that the server asks them.

use ringlog_server::auth::role::{Permission, Role};
use ringlog_server::handle::routes::{Need, ROUTES, Route};
use serde_json::json;

use crate::harness::{Io, Place, Server};
use crate::http::Response;
use crate::on_both;

on_both! {
    every_route_lets_in_exactly_those_who_may,
}

const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";

/// Who asks, and with what right.
enum Holder {
    Role(Role),
    Bootstrap,
    Streaming,
    /// An admin, of a tenant that the request does not name.
    Foreign,
    Nobody(&'static str),
}

fn expected(holder: &Holder, need: Need) -> Option<u16> {
    let permission = match need {
        Need::Nothing => return None,
        Need::OwnMachine | Need::Monitor => {
            return match holder {
                // The request comes from the server's own machine.
                Holder::Nobody("none") | Holder::Bootstrap => None,
                Holder::Nobody(_) => Some(401),
                _ => Some(403),
            };
        }
        Need::Credential => None,
        Need::Tenant(permission) | Need::Scope(permission) | Need::Operator(permission) => Some(permission),
    };
    let has = |role: &Role| permission.is_none_or(|permission| role.permissions().contains(permission));
    match holder {
        Holder::Nobody(_) => Some(401),
        Holder::Bootstrap => None,
        Holder::Foreign => Some(403),
        Holder::Streaming if permission.is_some_and(|permission| permission != Permission::Write) => Some(403),
        Holder::Role(role) if !has(role) || matches!(need, Need::Operator(_)) => Some(403),
        Holder::Role(_) | Holder::Streaming => None,
    }
}

fn mint(server: &Server, tenant: &str, role: Role, number: &mut u32) -> String {
    *number += 1;
    let body = json!({ "name": format!("key {number}"), "role": role.name(), "tenant_id": tenant });
    let made = server.call("POST", "/api/v1/teams/agent-keys", BOOTSTRAP, Some(&body));
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["key"].as_str().unwrap().to_owned()
}

/// The request in the tenant `acme`, about something that is not there.
fn ask(server: &Server, route: &Route, key: &str) -> Response {
    let path = route.path.replace("{}", "nothing");
    let auth = if key.is_empty() { String::new() } else { format!("Authorization: Bearer {key}\r\n") };
    let mut client = server.connect();
    let head = format!("{} {path} HTTP/1.1\r\nHost: h\r\n{auth}X-Tenant-ID: acme", route.method.as_str());
    client.send(format!("{head}\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes());
    client.answer()
}

fn every_route_lets_in_exactly_those_who_may(io: Io) {
    let server = Place::new(io).start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")]);
    for id in ["acme", "umbrella"] {
        let made = server.call("POST", "/api/v1/tenants", BOOTSTRAP, Some(&json!({ "id": id })));
        assert_eq!(made.status, 201, "{}", made.text());
    }
    let streaming = "cd".repeat(16);
    let file = server.path("data/apikeys.conf");
    std::fs::write(&file, format!("{streaming}:2:acme\n")).unwrap();
    let server = server.stop().1.start(&["--cores=2"]);
    let mut number = 0;
    let revoked = mint(&server, "acme", Role::Admin, &mut number);
    assert_eq!(server.call("DELETE", "/api/v1/auth/keys/self", &revoked, None).status, 204);
    let cut = mint(&server, "acme", Role::Admin, &mut number);
    let cut = &cut[..cut.len() - 3];
    for route in &ROUTES {
        let roles = Role::ALL.into_iter().map(Holder::Role);
        let others = [Holder::Bootstrap, Holder::Streaming, Holder::Foreign];
        let nobody = ["none", "revoked", "cut", "nonsense"].map(Holder::Nobody);
        for holder in roles.chain(others).chain(nobody) {
            // A new one each time: some of what is asked for ends the key that asks.
            let key = match &holder {
                Holder::Role(role) => mint(&server, "acme", *role, &mut number),
                Holder::Foreign => mint(&server, "umbrella", Role::Admin, &mut number),
                Holder::Bootstrap => BOOTSTRAP.to_owned(),
                Holder::Streaming => streaming.clone(),
                Holder::Nobody("none") => String::new(),
                Holder::Nobody("revoked") => revoked.clone(),
                Holder::Nobody("cut") => cut.to_owned(),
                Holder::Nobody(other) => (*other).to_owned(),
            };
            let answer = ask(&server, route, &key);
            let who = match &holder {
                Holder::Role(role) => role.name(),
                Holder::Bootstrap => "bootstrap",
                Holder::Streaming => "streaming",
                Holder::Foreign => "foreign",
                Holder::Nobody(what) => what,
            };
            let what = format!("{} {} by {who}: {}", route.method.as_str(), route.path, answer.text());
            match expected(&holder, route.need) {
                Some(status) => assert_eq!(answer.status, status, "{what}"),
                None if route.path == "/api/v1/auth/me" => assert_eq!(answer.status, 200, "{what}"),
                // Only a session is logged out.
                None if route.path == "/api/v1/auth/logout" => assert_eq!(answer.status, 403, "{what}"),
                // A key that was made elsewhere cannot be ended here, whoever has it.
                None if matches!((route.need, &holder), (Need::Credential, Holder::Bootstrap | Holder::Streaming)) => {
                    assert_eq!(answer.status, 403, "{what}");
                }
                None => assert!(![401, 403, 500].contains(&answer.status), "{what}"),
            }
        }
    }
    // Nothing of it reached the neighbour.
    let neighbour = mint(&server, "umbrella", Role::ReadOnly, &mut number);
    assert_eq!(server.get("/api/v1/events/query", &neighbour)["count"], 0);
}
