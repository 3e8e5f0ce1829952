//! What a tenant may store, counted exactly whoever comes at once and whatever comes between.

use std::net::SocketAddr;
use std::sync::Barrier;

use serde_json::{Value, json};

use crate::harness::{Io, Place, Server};
use crate::http::{Client, Response, request};
use crate::on_both;

on_both! {
    eight_clients_store_exactly_what_the_quota_allows,
    a_kill_in_the_middle_gives_nothing_and_takes_nothing,
    a_batch_that_would_cross_a_quota_is_refused_whole,
    a_changed_quota_holds_at_once_on_every_core,
    stored_bytes_have_a_quota_too,
    what_is_used_is_told_to_the_tenant_and_to_operators,
}

pub const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";
const QUOTA: u64 = 10_000;
const CLIENTS: usize = 8;
/// Does not divide the quota: the last events go in one by one.
const BATCH: u64 = 7;

fn start(io: Io) -> Server {
    Place::new(io).start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")])
}

pub fn set_quotas(server: &Server, tenant: &str, quotas: &Value) -> Response {
    server.call("PUT", &format!("/api/v1/tenants/{tenant}/quotas"), BOOTSTRAP, Some(quotas))
}

/// A tenant with these quotas, and a key of it that writes and reads.
pub fn tenant(server: &Server, id: &str, quotas: &Value) -> String {
    let made = server.call("POST", "/api/v1/tenants", BOOTSTRAP, Some(&json!({ "id": id })));
    assert_eq!(made.status, 201, "{}", made.text());
    let set = set_quotas(server, id, quotas);
    assert_eq!(set.status, 200, "{}", set.text());
    let key = json!({ "name": "key", "role": "serviceaccount", "tenant_id": id });
    let made = server.call("POST", "/api/v1/teams/agent-keys", BOOTSTRAP, Some(&key));
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["key"].as_str().unwrap().to_owned()
}

fn event() -> Value {
    json!({ "event_type": "user.action", "entity_id": "e", "payload": {} })
}

fn batch(count: u64) -> Value {
    json!({ "events": (0..count).map(|_| event()).collect::<Vec<_>>() })
}

fn write(server: &Server, key: &str, count: u64) -> Response {
    server.call("POST", "/api/v1/events/batch", key, Some(&batch(count)))
}

/// A refusal of what would be too much has `used` of `quota` in it.
fn check_refusal(answer: &Response, usage_type: &str, used: u64, quota: u64) {
    assert_eq!(answer.status, 402, "{}", answer.text());
    let body = answer.json();
    assert_eq!(
        (&body["error"], &body["usage_type"], &body["used"], &body["quota"], &body["status"]),
        (&json!("quota_exceeded"), &json!(usage_type), &json!(used), &json!(quota), &json!(402)),
        "{body}"
    );
}

fn events_used(server: &Server, key: &str) -> u64 {
    server.get("/api/v1/usage", key)["usage"]["events_per_month"]["used"].as_u64().unwrap()
}

/// As many as come back, which no counter has a part in. Enough for these tests.
fn events_read(server: &Server, key: &str) -> u64 {
    let page = server.get("/api/v1/events/query?limit=10000", key);
    assert_eq!(page["has_more"], false);
    let events = page["events"].as_array().unwrap().len() as u64;
    assert_eq!(page["count"], events);
    events
}

#[derive(Debug, Default, Clone, Copy)]
struct Sent {
    stored: u64,
    /// On their way when the server went.
    unknown: u64,
}

/// Sends batches until one is refused, then single events until one is, or until the server is gone.
fn fill(address: SocketAddr, key: &str, after_each: impl Fn()) -> Sent {
    let mut client = Client::connect(address);
    let mut sent = Sent::default();
    for (path, body, count) in [("/api/v1/events/batch", batch(BATCH), BATCH), ("/api/v1/events", event(), 1)] {
        loop {
            client.send(&request("POST", path, key, Some(&body)));
            match client.try_answer() {
                Some(answer) if answer.status == 200 => sent.stored += count,
                Some(answer) => {
                    let used = answer.json()["used"].as_u64().unwrap();
                    assert!(QUOTA < used + count, "{}", answer.text());
                    check_refusal(&answer, "events_per_month", used, QUOTA);
                    break;
                }
                None => return Sent { unknown: sent.unknown + count, ..sent },
            }
            after_each();
        }
    }
    sent
}

/// What several clients sent at once, together.
fn fill_together(address: SocketAddr, key: &str, after_each: impl Fn(usize) + Sync, meanwhile: impl FnOnce()) -> Sent {
    let after_each = &after_each;
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|client| scope.spawn(move || fill(address, key, || after_each(client)))).collect();
        meanwhile();
        clients.into_iter().map(|client| client.join().unwrap()).fold(Sent::default(), |all, sent| Sent {
            stored: all.stored + sent.stored,
            unknown: all.unknown + sent.unknown,
        })
    })
}

fn eight_clients_store_exactly_what_the_quota_allows(io: Io) {
    let server = start(io);
    let key = tenant(&server, "acme", &json!({ "events_per_month": QUOTA }));
    let neighbour = tenant(&server, "umbrella", &json!({}));
    let sent = fill_together(server.http, &key, |_| {}, || {});
    assert_eq!(sent.stored, QUOTA);
    assert_eq!((events_used(&server, &key), events_read(&server, &key)), (QUOTA, QUOTA));
    assert_eq!(write(&server, &neighbour, 1).status, 200);

    // A restart forgets nothing of it, in order or not.
    let (status, place) = server.stop();
    assert!(status.success());
    let server = place.start(&["--cores=2"]);
    check_refusal(&write(&server, &key, 1), "events_per_month", QUOTA, QUOTA);
    let server = server.kill().start(&["--cores=1"]);
    check_refusal(&write(&server, &key, 1), "events_per_month", QUOTA, QUOTA);
    assert_eq!((events_used(&server, &key), events_read(&server, &key)), (QUOTA, QUOTA));
    assert_eq!(set_quotas(&server, "acme", &json!({ "events_per_month": QUOTA + 1 })).status, 200);
    assert_eq!(write(&server, &key, 1).status, 200);
    check_refusal(&write(&server, &key, 1), "events_per_month", QUOTA + 1, QUOTA + 1);
}

fn a_kill_in_the_middle_gives_nothing_and_takes_nothing(io: Io) {
    let server = start(io);
    let key = tenant(&server, "acme", &json!({ "events_per_month": QUOTA }));
    // All of them together are far from the quota when the server is killed.
    let enough = Barrier::new(CLIENTS + 1);
    let requests: [std::sync::atomic::AtomicU32; CLIENTS] = Default::default();
    let after_each = |client: usize| {
        if requests[client].fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 30 {
            enough.wait();
        }
    };
    let (address, mut place) = (server.http, None);
    let before = fill_together(address, &key, after_each, || {
        enough.wait();
        place = Some(server.kill());
    });
    let server = place.unwrap().start(&["--cores=2"]);
    let used = events_used(&server, &key);
    assert_eq!(used, events_read(&server, &key));
    assert!(before.stored <= used && used <= before.stored + before.unknown, "{used} {before:?}");
    let after = fill_together(server.http, &key, |_| {}, || {});
    assert_eq!(used + after.stored, QUOTA);
    assert_eq!((events_used(&server, &key), events_read(&server, &key)), (QUOTA, QUOTA));
}

fn a_batch_that_would_cross_a_quota_is_refused_whole(io: Io) {
    let server = start(io);
    let key = tenant(&server, "acme", &json!({ "events_per_month": 10 }));
    assert_eq!(write(&server, &key, 8).status, 200);
    let refused = write(&server, &key, 3);
    check_refusal(&refused, "events_per_month", 8, 10);
    // The first instant of a month, which is not over.
    let reset_at = refused.json()["reset_at"].as_str().unwrap().to_owned();
    assert!(reset_at.ends_with("-01T00:00:00.000000Z"), "{reset_at}");
    let stored = server.get("/api/v1/events/query?limit=1", &key)["events"][0]["timestamp"].clone();
    assert!(stored.as_str().unwrap() < reset_at.as_str(), "{stored} {reset_at}");
    assert_eq!(events_read(&server, &key), 8);

    assert_eq!(write(&server, &key, 2).status, 200);
    let single = server.call("POST", "/api/v1/events", &key, Some(&event()));
    check_refusal(&single, "events_per_month", 10, 10);
    assert_eq!(single.header("Content-Type"), Some("application/problem+json"));
    assert_eq!(single.json()["retryable"], false);
    // What is wrong for another reason is not counted, and reading costs nothing.
    assert_eq!(server.call("POST", "/api/v1/events", &key, Some(&json!({}))).status, 400);
    assert_eq!((events_used(&server, &key), events_read(&server, &key)), (10, 10));
}

fn a_changed_quota_holds_at_once_on_every_core(io: Io) {
    let server = start(io);
    let key = tenant(&server, "acme", &json!({ "events_per_month": 0 }));
    let mut everywhere: Vec<_> = (0..16).map(|_| server.connect()).collect();
    let mut used = 0;
    for quota in 1..=20 {
        for client in &mut everywhere {
            let refused = client.call("POST", "/api/v1/events", &key, Some(&event()));
            check_refusal(&refused, "events_per_month", used, used);
        }
        assert_eq!(set_quotas(&server, "acme", &json!({ "events_per_month": quota })).status, 200);
        let client = &mut everywhere[quota as usize % 16];
        assert_eq!(client.call("POST", "/api/v1/events", &key, Some(&event())).status, 200);
        used = quota;
    }
    // One below what is used, the tier's own, and none.
    assert_eq!(set_quotas(&server, "acme", &json!({ "events_per_month": 5 })).status, 200);
    check_refusal(&write(&server, &key, 1), "events_per_month", 20, 5);
    assert_eq!(set_quotas(&server, "acme", &json!({ "events_per_month": "unlimited" })).status, 200);
    assert_eq!(write(&server, &key, 1).status, 200);
    let changed = server.call("PUT", "/api/v1/tenants/acme", BOOTSTRAP, Some(&json!({ "tier": "free" })));
    assert_eq!(changed.status, 200);
    assert_eq!(set_quotas(&server, "acme", &json!({})).json()["quotas"]["events_per_month"], 100_000);
    assert_eq!(write(&server, &key, 1).status, 200);
    assert_eq!(events_used(&server, &key), 22);
}

fn stored_bytes_have_a_quota_too(io: Io) {
    let server = start(io);
    let key = tenant(&server, "acme", &json!({ "stored_bytes": 1_000 }));
    let mut stored = 0;
    let refused = loop {
        let answer = server.call("POST", "/api/v1/events", &key, Some(&event()));
        if answer.status != 200 {
            break answer;
        }
        stored += 1;
        assert!(stored < 100, "an event has some bytes");
    };
    let usage = server.get("/api/v1/usage", &key)["usage"]["stored_bytes"].clone();
    let used = usage["used"].as_u64().unwrap();
    assert!(0 < stored && 0 < used && used <= 1_000, "{used}");
    assert_eq!(usage, json!({ "used": used, "quota": 1_000, "reset_at": null }));
    check_refusal(&refused, "stored_bytes", used, 1_000);
    assert_eq!(refused.json()["reset_at"], Value::Null);
    assert_eq!(events_read(&server, &key), stored);
    assert_eq!(set_quotas(&server, "acme", &json!({ "stored_bytes": used + used / stored })).status, 200);
    assert_eq!(write(&server, &key, 1).status, 200);
}

fn what_is_used_is_told_to_the_tenant_and_to_operators(io: Io) {
    let server = start(io);
    let key = tenant(&server, "acme", &json!({ "events_per_month": 50, "requests_per_second": 1_000 }));
    assert_eq!(write(&server, &key, 3).status, 200);
    let own = server.get("/api/v1/usage", &key);
    let events = &own["usage"]["events_per_month"];
    assert_eq!((&own["tenant_id"], &events["used"], &events["quota"]), (&json!("acme"), &json!(3), &json!(50)));
    assert!(events["reset_at"].as_str().unwrap().ends_with("-01T00:00:00.000000Z"), "{own}");
    assert!(0 < own["usage"]["stored_bytes"]["used"].as_u64().unwrap(), "{own}");
    assert_eq!(own["quotas"], json!({ "events_per_month": 50, "stored_bytes": null, "requests_per_second": 1_000 }));
    // Whichever core is asked, and whichever has the tenant's shard.
    for _ in 0..16 {
        let mut client = server.connect();
        assert_eq!(client.call("GET", "/api/v1/usage", &key, None).json(), own);
        for path in ["/api/v1/tenants/acme/quotas", "/api/v1/tenants/acme/stats"] {
            let told = client.call("GET", path, BOOTSTRAP, None).json();
            assert_eq!((&told["usage"], &told["quotas"]), (&own["usage"], &own["quotas"]), "{path}");
        }
    }
    let stats = server.get("/api/v1/tenants/acme/stats", BOOTSTRAP);
    assert_eq!((&stats["events_total"], &stats["events_stored"]), (&json!(3), &json!(3)));
    // Who onboards has the tier's, and is told so.
    let own = server.get("/api/v1/usage", &server.onboard("someone"));
    assert_eq!(
        (&own["usage"]["events_per_month"]["used"], &own["quotas"]["requests_per_second"]),
        (&json!(0), &json!(2_000))
    );
}
