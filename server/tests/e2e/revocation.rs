//! What was taken back opens nothing: clients on every core hammer a credential while it ends, and once the answer to
//! its end is here not one more of their requests succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use crate::harness::{Io, Place, Server};
use crate::http::{Client, Response};
use crate::on_both;

on_both! {
    not_one_request_succeeds_once_its_credential_has_ended,
    what_had_ended_before_a_crash_has_ended_after_it,
}

const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";
const PASSWORD: &str = "correct horse battery";
const PEOPLE: [&str; 4] = ["agent@your-company.com", "b@x.com", "c@x.com", "d@x.com"];
const ROUNDS: usize = 200;
/// A login costs a whole password hash: other rounds end their session by a refresh, which ends the old token as well.
const ROUNDS_PER_LOGIN: usize = 20;
/// Connections are spread over the cores by the kernel: of four new ones each round, both cores have some in most.
const HAMMERS: usize = 4;
/// How often each hammer strikes again once the end was answered.
const STRIKES_AFTER: usize = 3;

fn start(io: Io) -> Server {
    Place::new(io).start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")])
}

fn expect(answer: &Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text and not {value}")).to_owned()
}

/// What a hammer asks for, over and over.
#[derive(Debug, Clone, Copy)]
enum Strike {
    Write,
    Read,
}

impl Strike {
    fn answer(self, client: &mut Client, key: &str) -> Response {
        match self {
            Strike::Write => {
                let event = json!({ "event_type": "user.action", "entity_id": "e", "payload": {} });
                client.call("POST", "/api/v1/events", key, Some(&event))
            }
            Strike::Read => client.call("GET", "/api/v1/events/query?limit=1", key, None),
        }
    }
}

/// Clients that use one credential until it has ended.
struct Hammers {
    is_over: Arc<AtomicBool>,
    struck: Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

impl Hammers {
    /// Comes back once each of them has had a success.
    fn on(server: &Server, key: &str, strike: Strike) -> Hammers {
        let is_over = Arc::new(AtomicBool::new(false));
        let (strikes, struck) = channel();
        let threads = (0..HAMMERS).map(|_| {
            let (mut client, address, key) = (server.connect(), server.http, key.to_owned());
            let (is_over, strikes) = (Arc::clone(&is_over), strikes.clone());
            thread::spawn(move || {
                assert_eq!(strike.answer(&mut client, &key).status, 200);
                strikes.send(()).unwrap();
                let mut left = STRIKES_AFTER;
                while 0 < left {
                    let was_over = is_over.load(Ordering::SeqCst);
                    let answer = strike.answer(&mut client, &key);
                    match answer.status {
                        200 => assert!(!was_over, "a request that was sent after the end was answered has succeeded"),
                        401 | 403 => {}
                        other => panic!("an answer with {other}"),
                    }
                    left -= usize::from(was_over);
                    // A connection serves so many requests and no more: a hammer gets there while a login is slow.
                    if answer.header("Connection") == Some("close") {
                        client = Client::connect(address);
                    }
                }
            })
        });
        let threads = threads.collect();
        let hammers = Hammers { is_over, struck, threads };
        for _ in 0..HAMMERS {
            hammers.struck.recv().unwrap();
        }
        hammers
    }

    /// The end of the credential has just been answered.
    fn end(self) {
        self.is_over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// A workspace with an admin who has logged in and a user whose role changes, and a tenant that comes and goes.
struct Scene {
    server: Server,
    /// By turns, as nobody may refresh as often as there are rounds.
    sessions: [String; PEOPLE.len()],
    user: String,
    /// Made by the user: it does what they may.
    users_key: String,
    guest_key: String,
}

impl Scene {
    fn set(io: Io) -> Scene {
        let server = start(io);
        let first = json!({ "email": PEOPLE[0], "password": PASSWORD });
        let made = expect(&server.call("POST", "/api/v1/auth/setup", "", Some(&first)), 200);
        let admin = text(&made["token"]);
        let create = |email: &str| {
            let body = json!({ "email": email, "password": PASSWORD, "role": "developer" });
            text(&expect(&server.call("POST", "/api/v1/auth/users", &admin, Some(&body)), 201)["id"])
        };
        PEOPLE[1..].iter().for_each(|email| drop(create(email)));
        let user = create("u@x.com");
        let users_session = log_in(&server, "u@x.com");
        let body = json!({ "name": "theirs" });
        let users_key = expect(&server.call("POST", "/api/v1/user/apikeys", &users_session, Some(&body)), 201);
        expect(&server.call("POST", "/api/v1/tenants", BOOTSTRAP, Some(&json!({ "id": "guest" }))), 201);
        let body = json!({ "name": "k", "role": "developer", "tenant_id": "guest" });
        let guest_key = expect(&server.call("POST", "/api/v1/teams/agent-keys", BOOTSTRAP, Some(&body)), 201);
        let sessions = PEOPLE.map(|email| log_in(&server, email));
        let (users_key, guest_key) = (text(&users_key["key"]), text(&guest_key["key"]));
        Scene { server, sessions, user, users_key, guest_key }
    }

    fn call(&self, method: &str, path: &str, key: &str, body: Option<&Value>, status: u16) -> Value {
        expect(&self.server.call(method, path, key, body), status)
    }

    fn mint(&self, role: &str) -> String {
        let body = json!({ "name": "hammered", "role": role, "tenant_id": "default" });
        text(&self.call("POST", "/api/v1/teams/agent-keys", BOOTSTRAP, Some(&body), 201)["key"])
    }

    fn revoke(&self) {
        self.call("DELETE", "/api/v1/teams/agent-keys/hammered?tenant_id=default", BOOTSTRAP, None, 204);
    }

    fn make_streaming_key(&self) -> String {
        let body = json!({ "name": "hammered", "workspace_id": "ws-1" });
        text(&self.call("POST", "/api/v1/admin/streaming-keys", BOOTSTRAP, Some(&body), 201)["key"])
    }

    fn delete_streaming_key(&self) {
        self.call("DELETE", "/api/v1/admin/streaming-keys/hammered?workspace_id=ws-1", BOOTSTRAP, None, 204);
    }

    /// Ends the session's token, and begins what comes after it.
    fn end_session(&self, person: usize, by_logout: bool) -> String {
        let token = &self.sessions[person];
        if by_logout {
            self.call("POST", "/api/v1/auth/logout", token, None, 204);
            return log_in(&self.server, PEOPLE[person]);
        }
        let body = json!({ "token": token });
        text(&self.call("POST", "/api/v1/auth/refresh", "", Some(&body), 200)["token"])
    }

    fn set_role(&self, role: &str) {
        let path = format!("/api/v1/auth/users/{}", self.user);
        self.call("PUT", &path, BOOTSTRAP, Some(&json!({ "role": role, "tenant_id": "default" })), 200);
    }

    fn set_guest(&self, state: &str) {
        self.call("POST", &format!("/api/v1/tenants/guest/{state}"), BOOTSTRAP, None, 200);
    }
}

fn log_in(server: &Server, email: &str) -> String {
    let body = json!({ "email": email, "password": PASSWORD });
    text(&expect(&server.call("POST", "/api/v1/auth/login", "", Some(&body)), 200)["token"])
}

fn not_one_request_succeeds_once_its_credential_has_ended(io: Io) {
    let mut scene = Scene::set(io);
    for round in 0..ROUNDS {
        let strike = if round % 2 == 0 { Strike::Write } else { Strike::Read };

        let key = scene.mint("developer");
        let hammers = Hammers::on(&scene.server, &key, strike);
        scene.revoke();
        hammers.end();

        let person = round % PEOPLE.len();
        let hammers = Hammers::on(&scene.server, &scene.sessions[person], strike);
        let next = scene.end_session(person, round % ROUNDS_PER_LOGIN == 0);
        hammers.end();
        scene.sessions[person] = next;

        let hammers = Hammers::on(&scene.server, &scene.guest_key, strike);
        scene.set_guest("deactivate");
        hammers.end();
        scene.set_guest("activate");

        let hammers = Hammers::on(&scene.server, &scene.users_key, Strike::Write);
        scene.set_role("readonly");
        hammers.end();
        scene.set_role("developer");

        let key = scene.make_streaming_key();
        let hammers = Hammers::on(&scene.server, &key, Strike::Write);
        scene.delete_streaming_key();
        hammers.end();
    }
}

fn what_had_ended_before_a_crash_has_ended_after_it(io: Io) {
    let mut scene = Scene::set(io);
    let (key, streaming, session) = (scene.mint("developer"), scene.make_streaming_key(), scene.sessions[0].clone());
    for (key, strike) in [(&key, Strike::Read), (&streaming, Strike::Write), (&session, Strike::Read)] {
        assert_eq!(strike.answer(&mut scene.server.connect(), key).status, 200);
    }
    scene.revoke();
    scene.delete_streaming_key();
    scene.call("POST", "/api/v1/auth/logout", &session, None, 204);
    scene.set_role("readonly");
    scene.set_guest("deactivate");
    scene.server = scene.server.kill().start(&["--cores=2"]);
    for (what, key, strike, status) in [
        ("a revoked key", &key, Strike::Read, 401),
        ("a deleted streaming key", &streaming, Strike::Write, 401),
        ("a session that was logged out", &session, Strike::Read, 401),
        ("a key whose maker lost a role", &scene.users_key, Strike::Write, 403),
        ("a key of a suspended tenant", &scene.guest_key, Strike::Read, 401),
    ] {
        assert_eq!(strike.answer(&mut scene.server.connect(), key).status, status, "{what}");
    }
}
