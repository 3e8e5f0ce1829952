//! The second seed's published client, unmodified: whatever it can say over TCP is found again, field by field, and what
//! its disk buffer kept while the server was away arrives, once.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tell::{HistogramParams, LogLevel, Tell, TellConfig, TellConfigBuilder, Temporality, props};

use crate::harness::{Io, Place, Server};
use crate::http_sources::{BOOTSTRAP, KEY, page};
use crate::on_both;
use crate::snippets;

on_both! {
    events_are_found_field_by_field,
    logs_are_found_field_by_field,
    metrics_are_found_field_by_field,
    registered_instruments_are_sampled_and_nothing_is_counted_twice,
    what_the_disk_buffer_kept_arrives_after_a_restart_once,
    the_documented_snippet_does_what_it_shows,
}

/// Only ends a test that would hang.
const WITHIN: Duration = Duration::from_secs(60);

/// On a port of the caller's where there is one: the client has to find a restarted server again.
fn start(place: Place, tcp: Option<u16>) -> Server {
    std::fs::write(place.path("keys.conf"), format!("{KEY}:1:sdk\n")).unwrap();
    let tcp = format!("--tcp=127.0.0.1:{}", tcp.unwrap_or(0));
    place.start(&["--cores=2", "--keys-file=keys.conf", &format!("--bootstrap-key={BOOTSTRAP}"), &tcp])
}

/// A port that no socket has, below those that the kernel gives to sockets which do not care.
fn port_to_come_back_to() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 10_000) as u16;
    loop {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The client's own settings but for where it sends to and what it is called.
fn config(endpoint: &str) -> TellConfigBuilder {
    // An error that nobody expects ends the client's thread, and so the test.
    TellConfig::builder(KEY).endpoint(endpoint).on_error(|error| panic!("{error}"))
}

fn endpoint(server: &Server) -> String {
    server.ports()["tcp"].as_str().unwrap().to_owned()
}

/// What is stored, once there is as much of it as the caller says. Nothing else tells when a frame has arrived.
fn stored(server: &Server, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let found = page(server, "/api/v1/events/query?limit=1000", "default");
        if found.len() == count {
            return found;
        }
        assert!(found.len() < count && begun.elapsed() < WITHIN, "{} of {count}: {found:?}", found.len());
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// The event's time in microseconds. The client's clock is its own: a second of difference is none.
fn check_time(event: &Value, begun_ms: i64) {
    let at: jiff::Timestamp = event["timestamp"].as_str().unwrap().parse().unwrap();
    assert!(begun_ms - 1_000 <= at.as_millisecond() && at.as_millisecond() <= now_ms() + 1_000, "{event}");
    assert_eq!(at.as_microsecond() % 1_000, 0, "the client knows milliseconds: {event}");
}

fn only<'a>(events: &'a [Value], event_type: &str, message: &str) -> &'a Value {
    let is_it = |event: &&Value| {
        event["event_type"] == event_type && (message.is_empty() || event["payload"]["message"] == message)
    };
    let found: Vec<_> = events.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{event_type} {message}: {events:?}");
    found[0]
}

fn is_id(id: &Value) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    id.as_str().is_some_and(|id| id.len() == 32 && id.bytes().all(is_digit))
}

fn events_are_found_field_by_field(io: Io) {
    let server = start(Place::new(io), None);
    let begun = now_ms();
    let tell = Tell::new(config(&endpoint(&server)).service("shop").enable_session().build().unwrap()).unwrap();
    tell.track(
        "user_1",
        "Page Viewed",
        props! { "url" => "/home", "n" => 3, "text" => "ünïcode \u{1f980} \"quoted\"" },
    );
    tell.track_with_session(
        &[0x5e; 16],
        "user_1",
        "Button Clicked",
        Some(json!({ "deep": { "list": [1, null, 2.5] } })),
    );
    tell.identify("user_1", props! { "name" => "Jane" });
    tell.register(props! { "campaign" => "x" });
    tell.group("user_1", "org_1", props! { "plan" => "pro" });
    tell.alias("anon_1", "user_1");
    tell.revenue("user_2", 9.99, "USD", "ord_1", props! { "sku" => "s" });
    tell.unregister("campaign");
    tell.reset_session();
    tell.track_static("user_3", "User Signed Up", ());
    tell.close_blocking().unwrap();

    let events = stored(&server, 7);
    let device = events[0]["metadata"]["device_id"].clone();
    assert!(is_id(&device), "{device}");
    let session = only(&events, "Page Viewed", "")["metadata"]["session_id"].clone();
    let next_session = only(&events, "User Signed Up", "")["metadata"]["session_id"].clone();
    assert!(is_id(&session) && is_id(&next_session) && session != next_session);
    let given = json!("5e".repeat(16));
    for (event_type, user, session, payload) in [
        (
            "Page Viewed",
            "user_1",
            Some(&session),
            json!({ "user_id": "user_1", "url": "/home", "n": 3, "text": "ünïcode \u{1f980} \"quoted\"" }),
        ),
        ("Button Clicked", "user_1", Some(&given), json!({ "user_id": "user_1", "deep": { "list": [1, null, 2.5] } })),
        ("identify", "user_1", None, json!({ "user_id": "user_1", "name": "Jane" })),
        ("group", "user_1", None, json!({ "group_id": "org_1", "user_id": "user_1", "campaign": "x", "plan": "pro" })),
        ("alias", "user_1", None, json!({ "previous_id": "anon_1", "user_id": "user_1" })),
        (
            "Order Completed",
            "user_2",
            Some(&session),
            json!({ "user_id": "user_2", "amount": 9.99, "currency": "USD", "order_id": "ord_1", "campaign": "x", "sku": "s" }),
        ),
        ("User Signed Up", "user_3", Some(&next_session), json!({ "user_id": "user_3" })),
    ] {
        let event = only(&events, event_type, "");
        let mut metadata =
            json!({ "service": "shop", "device_id": device, "source_ip": "127.0.0.1", "source_kind": "tcp" });
        if let Some(session) = session {
            metadata["session_id"] = session.clone();
        }
        assert_eq!((&event["entity_id"], &event["payload"]), (&json!(user), &payload));
        assert_eq!(event["metadata"], metadata, "{event_type}");
        check_time(event, begun);
    }
    // One frame is one batch: what the client said first has the first version.
    let of_one: Vec<_> = events.iter().filter(|event| event["entity_id"] == "user_1").collect();
    let names: Vec<_> = of_one.iter().map(|event| event["event_type"].as_str().unwrap()).collect();
    assert_eq!(names, ["Page Viewed", "Button Clicked", "identify", "group", "alias"]);
    assert!(of_one.iter().zip(1..).all(|(event, version)| event["version"] == version), "{of_one:?}");
}

fn logs_are_found_field_by_field(io: Io) {
    let server = start(Place::new(io), None);
    let begun = now_ms();
    let tell = Tell::new(config(&endpoint(&server)).service("api").source("host-1").build().unwrap()).unwrap();
    tell.log_emergency("m0", Some("kernel"), ());
    tell.log_alert("m1", Some("raid"), ());
    tell.log_critical("m2", Some("db"), ());
    tell.log_error("m3", Some("http"), props! { "status" => 500 });
    tell.log_warning("m4", None, ());
    tell.log_notice("m5", None, ());
    tell.log_info("m6", None, Some(json!({ "took_ms": 1.5 })));
    tell.log_debug("m7", None, ());
    tell.log_trace("m8", None, ());
    tell.log_with_service(LogLevel::Info, "m9", None, Some("billing"), ());
    assert!(tell.log_with_session(&[0x5e; 16], LogLevel::Error, "m10", Some("http"), ()));
    tell.close_blocking().unwrap();

    let events = stored(&server, 11);
    let levels =
        ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug", "trace", "info", "error"];
    let sources = ["kernel", "raid", "db", "http"];
    for (number, level) in levels.into_iter().enumerate() {
        let event = only(&events, "log", &format!("m{number}"));
        let service = if number == 9 { "billing" } else { "api" };
        let source = if number == 10 { "http" } else { sources.get(number).unwrap_or(&"host-1") };
        let mut payload = json!({ "message": format!("m{number}") });
        match number {
            3 => payload["status"] = json!(500),
            6 => payload["took_ms"] = json!(1.5),
            _ => {}
        }
        let mut metadata = json!({ "service": service, "level": level, "source": source, "source_ip": "127.0.0.1", "source_kind": "tcp" });
        if number == 10 {
            metadata["session_id"] = json!("5e".repeat(16));
        }
        assert_eq!((&event["entity_id"], &event["payload"]), (&json!(service), &payload));
        assert_eq!(event["metadata"], metadata, "m{number}");
        check_time(event, begun);
    }
}

fn metrics_are_found_field_by_field(io: Io) {
    let server = start(Place::new(io), None);
    let begun = now_ms();
    let tell = Tell::new(config(&endpoint(&server)).service("api").source("host-1").build().unwrap()).unwrap();
    tell.gauge("cpu", 0.5, &[("core", "0"), ("mode", "user")]);
    tell.counter("requests", 3.0, &[]);
    tell.counter_with_temporality("bytes", 1e15, &[("route", "/a")], Temporality::Cumulative);
    tell.gauge_dyn("depth", -2.0, &[("queue", &String::from("q-1"))]);
    tell.counter_dyn("hits", 1.0, &[("user", &String::from("ü"))]);
    let buckets = vec![(0.25, 2), (f64::INFINITY, 3)];
    tell.histogram(
        "latency",
        HistogramParams { count: 3, sum: 0.75, min: 0.125, max: 0.5, buckets },
        &[("route", "/a")],
    );
    tell.close_blocking().unwrap();

    let events = stored(&server, 6);
    let histogram = json!({
        "count": 3, "sum": 0.75, "min": 0.125, "max": 0.5,
        "buckets": [{ "upper_bound": 0.25, "count": 2 }, { "upper_bound": "Infinity", "count": 3 }],
    });
    for payload in [
        json!({ "name": "cpu", "type": "gauge", "value": 0.5, "labels": { "core": "0", "mode": "user" } }),
        json!({ "name": "requests", "type": "counter", "value": 3.0, "temporality": "delta" }),
        json!({ "name": "bytes", "type": "counter", "value": 1e15, "temporality": "cumulative", "labels": { "route": "/a" } }),
        json!({ "name": "depth", "type": "gauge", "value": -2.0, "labels": { "queue": "q-1" } }),
        json!({ "name": "hits", "type": "counter", "value": 1.0, "temporality": "delta", "labels": { "user": "ü" } }),
        json!({ "name": "latency", "type": "histogram", "value": 0.0, "temporality": "cumulative", "labels": { "route": "/a" }, "histogram": histogram }),
    ] {
        let found: Vec<_> = events.iter().filter(|event| event["payload"] == payload).collect();
        assert_eq!(found.len(), 1, "{payload}: {events:?}");
        let event = found[0];
        assert_eq!((&event["event_type"], &event["entity_id"]), (&json!("metric"), &json!("api")));
        let metadata = json!({ "service": "api", "source": "host-1", "source_ip": "127.0.0.1", "source_kind": "tcp" });
        assert_eq!(event["metadata"], metadata);
        check_time(event, begun);
    }
}

fn registered_instruments_are_sampled_and_nothing_is_counted_twice(io: Io) {
    let server = start(Place::new(io), None);
    let often = Duration::from_millis(20);
    let settings = config(&endpoint(&server)).service("api").metrics_interval(often).flush_interval(often);
    let tell = Tell::new(settings.build().unwrap()).unwrap();
    let uploads = tell.metrics().counter("uploads").by("source", &["web", "api"]).register();
    let sizes = tell.metrics().histogram("sizes", &[1.0, 10.0]).register();
    tell.metrics().gauge("depth", || 7.0);
    uploads.add("web", 3);
    uploads.add("api", 1);
    [0.5, 5.0, 50.0].into_iter().for_each(|size| sizes.record(size));

    let newest = "/api/v1/events/query?limit=1000&sort=desc";
    let is = |event: &Value, name: &str, label: &str| {
        event["payload"]["name"] == name && (label.is_empty() || event["payload"]["labels"]["source"] == label)
    };
    let sum = |events: &[Value], label: &str| -> f64 {
        let of_label = events.iter().filter(|event| is(event, "uploads", label));
        of_label.map(|event| event["payload"]["value"].as_f64().unwrap()).sum()
    };
    let begun = Instant::now();
    let events = loop {
        let events = page(&server, newest, "default");
        let has_all = ["uploads", "sizes", "depth"].iter().all(|name| events.iter().any(|event| is(event, name, "")));
        if has_all && sum(&events, "") >= 4.0 {
            break events;
        }
        assert!(begun.elapsed() < WITHIN, "{events:?}");
    };
    tell.close_blocking().unwrap();
    assert_eq!((sum(&events, "web"), sum(&events, "api")), (3.0, 1.0));
    let sampled = events.iter().find(|event| is(event, "sizes", "")).unwrap();
    let buckets = json!([
        { "upper_bound": 1.0, "count": 1 }, { "upper_bound": 10.0, "count": 2 }, { "upper_bound": "Infinity", "count": 3 },
    ]);
    let histogram = json!({ "count": 3, "sum": 55.5, "min": 0.5, "max": 50.0, "buckets": buckets });
    assert_eq!(sampled["payload"]["histogram"], histogram);
    let depth = events.iter().find(|event| is(event, "depth", "")).unwrap();
    assert_eq!(depth["payload"], json!({ "name": "depth", "type": "gauge", "value": 7.0 }));
}

/// A client that keeps what it cannot send, as one does in a process of its own.
fn buffering(endpoint: &str, buffer: &Path) -> Tell {
    // Refused connections are what this is about.
    let settings = TellConfig::builder(KEY).endpoint(endpoint).service("shop").buffer_path(buffer);
    Tell::new(settings.build().unwrap()).unwrap()
}

fn copy_of(buffer: &Path, name: &str) -> PathBuf {
    let copy = buffer.with_file_name(name);
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(buffer).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    copy
}

fn what_the_disk_buffer_kept_arrives_after_a_restart_once(io: Io) {
    let port = port_to_come_back_to();
    let address = format!("127.0.0.1:{port}");
    let server = start(Place::new(io), Some(port));
    let buffer = server.path("buffer");
    let tell = buffering(&address, &buffer);
    tell.track("u", "Before", props! { "n" => 0 });
    tell.close_blocking().unwrap();
    stored(&server, 1);

    let (status, place) = server.stop();
    assert!(status.success(), "{status}");
    let tell = buffering(&address, &buffer);
    for number in 0..3 {
        tell.track("u", "Meanwhile", props! { "n" => number });
        tell.log_error("away", Some("net"), props! { "n" => number });
        tell.gauge("tries", f64::from(number), &[]);
        tell.flush_blocking().unwrap();
    }
    tell.close_blocking().unwrap();
    assert!(std::fs::metadata(buffer.join("buffer.wal")).unwrap().len() > 0, "nothing was kept");
    let copies = ["again", "after a kill"].map(|name| copy_of(&buffer, name));

    let mut server = start(place, Some(port));
    let mut expected = 1 + 9;
    for (round, buffer) in [&buffer, &copies[0], &copies[1]].into_iter().enumerate() {
        if round == 2 {
            server = start(server.kill(), Some(port));
        }
        let tell = buffering(&address, buffer);
        // Behind what is replayed, on the same connection: with it, the replay has been read.
        tell.track("u", "Back", props! { "n" => round });
        tell.close_blocking().unwrap();
        expected += 1;
        let events = stored(&server, expected);
        let of_type =
            |event_type: &str| events.iter().filter(|event| event["event_type"] == event_type).collect::<Vec<_>>();
        let sorted = |event_type: &str, name: &str| -> Vec<f64> {
            let values = of_type(event_type).into_iter().map(|event| event["payload"][name].as_f64().unwrap());
            // The client puts a frame that it cannot send behind those that it has kept since.
            let mut values: Vec<_> = values.collect();
            values.sort_unstable_by(f64::total_cmp);
            values
        };
        assert_eq!(sorted("Meanwhile", "n"), [0.0, 1.0, 2.0]);
        assert_eq!(sorted("log", "n"), [0.0, 1.0, 2.0]);
        assert_eq!(sorted("metric", "value"), [0.0, 1.0, 2.0]);
        assert_eq!((sorted("Before", "n"), sorted("Back", "n").len()), (vec![0.0], round + 1));
    }
}

fn the_documented_snippet_does_what_it_shows(io: Io) {
    snippets::assert_documented(include_str!("snippets/tell.rs"));
    let server = start(Place::new(io), None);
    snippets::tell::send(&endpoint(&server), KEY, &server.path("buffer")).unwrap();
    let events = stored(&server, 5);
    for (event_type, entity, payload) in [
        ("Page Viewed", "user_1", json!({ "user_id": "user_1", "url": "/home" })),
        ("identify", "user_1", json!({ "user_id": "user_1", "name": "Jane" })),
        (
            "Order Completed",
            "user_1",
            json!({ "user_id": "user_1", "amount": 9.99, "currency": "USD", "order_id": "ord_1", "sku": "s" }),
        ),
        ("log", "shop", json!({ "message": "request failed", "status": 500 })),
        (
            "metric",
            "shop",
            json!({ "name": "requests", "type": "counter", "value": 1.0, "temporality": "delta", "labels": { "route": "/home" } }),
        ),
    ] {
        let event = only(&events, event_type, "");
        assert_eq!((&event["entity_id"], &event["payload"]), (&json!(entity), &payload));
        assert_eq!(event["metadata"]["service"], "shop");
    }
}
