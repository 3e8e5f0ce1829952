//! Nobody mints above their role, and nobody reads, revokes or names what is another tenant's: each attempt is refused,
//! changes nothing, and is in the audit log.

use serde_json::{Value, json};

use crate::harness::{Io, Place, Server};
use crate::http::Response;
use crate::on_both;

on_both! {
    nobody_reaches_beyond_their_own_and_every_attempt_is_known,
}

const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";
const PASSWORD: &str = "correct horse battery";
/// A core tells the audit log of eight things at once, and of the rest a minute later: looks at what only an admin may see
/// are among them, this test's own and those that are refused further on.
const NOTES_AT_ONCE: usize = 4;

fn expect(answer: &Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text and not {value}")).to_owned()
}

/// Two tenants, and what each has that the other could want.
struct Scene {
    server: Server,
    admin: String,
    developer: String,
    readonly: String,
    /// Of an admin, cut down to `admin` and `read`.
    cut: String,
    /// Of an admin that ends in a month, and what was made with it.
    month: String,
    month_programmatic: String,
    streaming: String,
    others: Others,
}

struct Others {
    developer: String,
    programmatic: String,
    streaming: String,
    user: String,
}

impl Scene {
    fn set(io: Io) -> Scene {
        let server = Place::new(io).start(&[&format!("--bootstrap-key={BOOTSTRAP}")]);
        let call = |method: &str, path: &str, key: &str, body: Value, status: u16| {
            expect(&server.call(method, path, key, Some(&body)), status)
        };
        let mint = |tenant: &str, role: &str| {
            let body = json!({ "name": role, "role": role, "tenant_id": tenant });
            text(&call("POST", "/api/v1/teams/agent-keys", BOOTSTRAP, body, 201)["key"])
        };
        for tenant in ["acme", "umbrella"] {
            call("POST", "/api/v1/tenants", BOOTSTRAP, json!({ "id": tenant }), 201);
        }
        let (admin, other) = (mint("acme", "admin"), mint("umbrella", "admin"));
        let cut = json!({ "name": "cut", "permissions": ["admin", "read"] });
        let cut = text(&call("POST", "/api/v1/user/apikeys", &admin, cut, 201)["key"]);
        let month = json!({ "name": "month", "role": "admin", "expires_in_days": 30 });
        let month = text(&call("POST", "/api/v1/teams/agent-keys", &admin, month, 201)["key"]);
        let name = json!({ "name": "k" });
        let month_programmatic = text(&call("POST", "/api/v1/user/apikeys", &month, name.clone(), 201)["key"]);
        let streaming = text(&call("POST", "/api/v1/admin/streaming-keys", &admin, name.clone(), 201)["key"]);
        let user = json!({ "email": "u@x.com", "password": PASSWORD, "role": "readonly" });
        let others = Others {
            developer: mint("umbrella", "developer"),
            programmatic: text(&call("POST", "/api/v1/user/apikeys", &other, name.clone(), 201)["id"]),
            streaming: text(&call("POST", "/api/v1/admin/streaming-keys", &other, name, 201)["id"]),
            user: text(&call("POST", "/api/v1/auth/users", &other, user, 201)["id"]),
        };
        let (developer, readonly) = (mint("acme", "developer"), mint("acme", "readonly"));
        Scene { server, admin, developer, readonly, cut, month, month_programmatic, streaming, others }
    }

    fn attempts(&self) -> Vec<Attempt<'_>> {
        let Scene { admin, developer, readonly, cut, month, month_programmatic, streaming, others, .. } = self;
        let in_days = |days: i64| {
            let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
            json!({ "name": "later", "expires_at": at.to_string() })
        };
        let month_more = json!({ "name": "more", "role": "admin", "expires_in_days": 31 });
        let by = |key, method, path: &str, status| Attempt { key, method, path: path.to_owned(), status, ..NOTHING };
        let key = |role: &str| json!({ "name": "mine", "role": role });
        let event = json!({ "event_type": "a.b", "entity_id": "e", "payload": {} });
        let foreign = json!({ "event_type": "a.b", "entity_id": "e", "payload": {}, "tenant_id": "umbrella" });
        vec![
            // Above one's role.
            by(developer, "POST", "/api/v1/teams/agent-keys", 403).with(key("readonly")),
            by(cut, "POST", "/api/v1/teams/agent-keys", 403).with(key("developer")),
            by(readonly, "POST", "/api/v1/user/apikeys", 403).with(json!({ "name": "w", "permissions": ["write"] })),
            by(cut, "POST", "/api/v1/user/apikeys", 403).with(json!({ "name": "w", "permissions": ["write"] })),
            by(cut, "POST", "/api/v1/auth/users", 403)
                .with(json!({ "email": "v@x.com", "password": PASSWORD, "role": "admin" })),
            by(readonly, "POST", "/api/v1/events", 403).with(event),
            by(streaming, "GET", "/api/v1/events/query", 403),
            by(admin, "POST", "/api/v1/tenants", 403).with(json!({ "id": "mine" })),
            by(admin, "PUT", "/api/v1/tenants/{}/quotas", 403).at("acme").with(json!({})),
            // Longer than one lasts.
            by(month, "POST", "/api/v1/teams/agent-keys", 403).with(month_more.clone()),
            by(month, "POST", "/api/v1/user/apikeys", 403).with(in_days(31)),
            by(month, "POST", "/api/v1/teams/agent-keys/{}/rotate", 403).at("admin"),
            by(month_programmatic, "POST", "/api/v1/teams/agent-keys", 403).with(month_more),
            by(month_programmatic, "POST", "/api/v1/user/apikeys", 403).with(in_days(31)),
            by(month_programmatic, "POST", "/api/v1/teams/agent-keys/{}/rotate", 403).at("developer"),
            // Another tenant's, by its name.
            by(admin, "GET", "/api/v1/tenants/{}", 403).at("umbrella"),
            by(admin, "DELETE", "/api/v1/tenants/{}", 403).at("umbrella"),
            by(admin, "POST", "/api/v1/tenants/{}/deactivate", 403).at("umbrella"),
            by(admin, "POST", "/api/v1/teams/agent-keys", 403)
                .with(json!({ "name": "mine", "role": "admin", "tenant_id": "umbrella" })),
            by(admin, "GET", "/api/v1/teams/agent-keys", 403).asking("tenant_id=umbrella"),
            by(admin, "DELETE", "/api/v1/teams/agent-keys/{}", 403).at("admin").asking("tenant_id=umbrella"),
            by(admin, "POST", "/api/v1/admin/streaming-keys", 403)
                .with(json!({ "name": "mine", "workspace_id": "umbrella" })),
            by(admin, "GET", "/api/v1/auth/users", 403).asking("tenant_id=umbrella"),
            by(developer, "POST", "/api/v1/events", 403).with(foreign.clone()),
            by(developer, "POST", "/api/v1/events/batch", 403).with(json!({ "events": [foreign] })),
            by(developer, "GET", "/api/v1/events/query", 403).asking("tenant_id=umbrella"),
            // Another tenant's, by a number that could be guessed: told as one that is not there.
            by(admin, "DELETE", "/api/v1/user/apikeys/{}", 404).at(&others.programmatic),
            by(admin, "DELETE", "/api/v1/admin/apikeys/{}", 404).at(&others.programmatic),
            by(admin, "DELETE", "/api/v1/admin/streaming-keys/{}", 404).at(&others.streaming),
            by(admin, "PUT", "/api/v1/auth/users/{}", 404).at(&others.user).with(json!({ "role": "admin" })),
            by(admin, "DELETE", "/api/v1/auth/users/{}", 404).at(&others.user),
        ]
    }

    /// Everything that an attempt could have changed: each change is a record, and each event is there to be read.
    fn changes(&self) -> Value {
        let log = self.server.get("/api/v1/audit/events?limit=1000", BOOTSTRAP);
        let is_note = |event: &Value| event["action"] == "permission_denied" || event["action"] == "admin_right_used";
        let changes: Vec<&Value> = log["events"].as_array().unwrap().iter().filter(|event| !is_note(event)).collect();
        let stored = [&self.developer, &self.others.developer].map(|key| self.server.get("/api/v1/events/query", key));
        json!({ "changes": changes, "stored": stored })
    }
}

#[derive(Debug)]
struct Attempt<'a> {
    key: &'a str,
    method: &'a str,
    /// `{}` stands for the target.
    path: String,
    target: String,
    query: &'a str,
    body: Option<Value>,
    status: u16,
}

const NOTHING: Attempt<'static> =
    Attempt { key: "", method: "", path: String::new(), target: String::new(), query: "", body: None, status: 0 };

impl<'a> Attempt<'a> {
    fn with(self, body: Value) -> Attempt<'a> {
        Attempt { body: Some(body), ..self }
    }

    fn at(self, target: &str) -> Attempt<'a> {
        Attempt { target: target.to_owned(), ..self }
    }

    fn asking(self, query: &'a str) -> Attempt<'a> {
        Attempt { query, ..self }
    }

    fn route(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn make(&self, server: &Server) -> Response {
        let path = format!("{}?{}", self.path.replace("{}", &self.target), self.query);
        server.call(self.method, path.trim_end_matches('?'), self.key, self.body.as_ref())
    }
}

fn nobody_reaches_beyond_their_own_and_every_attempt_is_known(io: Io) {
    let mut from = 0;
    loop {
        let scene = Scene::set(io);
        let attempts = scene.attempts();
        let Some(attempts) = attempts.get(from..).filter(|left| !left.is_empty()) else { break };
        let attempts = &attempts[..NOTES_AT_ONCE.min(attempts.len())];
        let before = scene.changes();
        for attempt in attempts {
            let answer = attempt.make(&scene.server);
            assert_eq!(answer.status, attempt.status, "{attempt:?}: {}", answer.text());
            assert!(!answer.text().contains("umbrella"), "{attempt:?}: {}", answer.text());
        }
        assert_eq!(scene.changes(), before);
        let log = scene.server.get("/api/v1/audit/events?action=permission_denied&limit=1000", &scene.admin);
        let denied: Vec<String> =
            log["events"].as_array().unwrap().iter().rev().map(|event| text(&event["detail"]["route"])).collect();
        let expected: Vec<String> = attempts.iter().map(Attempt::route).collect();
        assert_eq!(denied, expected);
        from += attempts.len();
    }
    assert!(20 < from);
}
