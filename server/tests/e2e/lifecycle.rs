//! Starting, stopping, being killed, and what is left after each.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Io, Place, Server};
use crate::on_both;

on_both! {
    everything_survives_kill_and_stop,
    acknowledged_events_survive_a_kill_in_the_middle_of_writing,
    acknowledged_events_survive_a_stop_in_the_middle_of_writing,
    two_cores_serve_the_tenants_of_both_shards,
    the_ports_file_names_every_listener,
    events_without_a_disk_promise_still_keep_their_tenants,
}

fn event(entity: &str, payload: Value) -> Value {
    json!({ "event_type": "user.action", "entity_id": entity, "payload": payload })
}

fn everything_survives_kill_and_stop(io: Io) {
    let mut server = Server::new(io);
    let stdout = server.stdout();
    let key = server.onboard("survivor");
    let mut ids = Vec::new();
    let mut cursor: Option<String> = None;
    for life in 0..4 {
        let page = match &cursor {
            Some(cursor) => server.get(&format!("/api/v1/events/query?limit=3&cursor={cursor}"), &key),
            None => Value::Null,
        };
        // The cursor of the last life goes on behind its third event.
        if !page.is_null() {
            assert_eq!(page["events"][0]["id"], ids[3]);
        }
        for number in 0..5 {
            let stored = server.post("/api/v1/events", &key, &event("one", json!([life, number])));
            assert_eq!(stored["version"], 1 + ids.len());
            ids.push(stored["event_id"].clone());
        }
        let again = json!({ "email": "survivor@example.com" });
        assert_eq!(server.call("POST", "/api/v1/onboard/start", "", Some(&again)).status, 409);
        cursor = server.get("/api/v1/events/query?limit=3", &key)["next_cursor"].as_str().map(str::to_owned);
        let place = if life % 2 == 0 {
            server.kill()
        } else {
            let (status, place) = server.stop();
            assert!(status.success(), "{status}");
            place
        };
        server = place.start(&[]);
        let found = server.get("/api/v1/events/query", &key);
        let found: Vec<_> = found["events"].as_array().unwrap().iter().map(|event| event["id"].clone()).collect();
        assert_eq!(found, ids);
        assert_eq!(server.stdout(), "");
    }
    // What the first run showed is in force in the fifth life.
    let bootstrap = stdout.lines().find_map(|line| line.trim_start().strip_prefix("bootstrap key ")).unwrap().trim();
    assert_ne!(server.call("GET", "/api/v1/events/query", bootstrap, None).status, 401);
}

/// Writes until the server is gone, from several connections; returns what was acknowledged.
fn write_until_cut(server: Server, key: &str, cut: impl FnOnce(Server) -> Place) -> (BTreeSet<String>, Place) {
    let address = server.http;
    let enough = std::sync::Barrier::new(5);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let enough = &enough;
                scope.spawn(move || {
                    let mut client = crate::http::Client::connect(address);
                    let mut stored = Vec::new();
                    for number in 0_u32.. {
                        if number == 30 {
                            enough.wait();
                        }
                        let body = event(&format!("writer-{writer}"), json!(number));
                        client.send(&crate::http::request("POST", "/api/v1/events", key, Some(&body)));
                        match client.try_answer() {
                            Some(answer) if answer.status == 200 => {
                                let answer = answer.json();
                                assert_eq!(answer["version"], number + 1);
                                stored.push(answer["event_id"].as_str().unwrap().to_owned());
                            }
                            _ => break,
                        }
                    }
                    stored
                })
            })
            .collect();
        enough.wait();
        let place = cut(server);
        (writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect(), place)
    })
}

fn check_what_is_left(place: Place, key: &str, acknowledged: &BTreeSet<String>) {
    assert!(120 <= acknowledged.len());
    let server = place.start(&["--cores=2"]);
    let mut found = BTreeSet::new();
    for writer in 0..4 {
        let entity = server.get(&format!("/api/v1/events/query?entity_id=writer-{writer}"), key);
        for (number, event) in entity["events"].as_array().unwrap().iter().enumerate() {
            assert_eq!((&event["payload"], &event["version"]), (&json!(number), &json!(number + 1)));
            assert!(found.insert(event["id"].as_str().unwrap().to_owned()));
        }
    }
    assert!(acknowledged.is_subset(&found));
    // One per connection may have been stored without an answer.
    assert!(found.len() <= acknowledged.len() + 4);
}

fn acknowledged_events_survive_a_kill_in_the_middle_of_writing(io: Io) {
    let server = Place::new(io).start(&["--cores=2"]);
    let key = server.onboard("cut");
    let (acknowledged, place) = write_until_cut(server, &key, Server::kill);
    check_what_is_left(place, &key, &acknowledged);
}

fn acknowledged_events_survive_a_stop_in_the_middle_of_writing(io: Io) {
    let server = Place::new(io).start(&["--cores=2"]);
    let key = server.onboard("stopped");
    let (acknowledged, place) = write_until_cut(server, &key, |server| {
        let (status, place) = server.stop();
        assert!(status.success(), "{status}");
        place
    });
    check_what_is_left(place, &key, &acknowledged);
}

fn two_cores_serve_the_tenants_of_both_shards(io: Io) {
    let server = Place::new(io).start(&["--cores=2"]);
    let keys: Vec<_> = (0..4).map(|number| server.onboard(&format!("tenant-{number}"))).collect();
    // Enough connections that the kernel gives some to either core; each tenant is then spoken for on both.
    let mut clients = server.connect_everywhere();
    for (round, client) in clients.iter_mut().enumerate() {
        for (tenant, key) in keys.iter().enumerate() {
            let stored = client.call("POST", "/api/v1/events", key, Some(&event("one", json!([round, tenant]))));
            assert_eq!((stored.status, &stored.json()["version"]), (200, &json!(round + 1)), "{}", stored.text());
            let found = client.call("GET", "/api/v1/events/query", key, None).json();
            assert_eq!(found["count"], round + 1);
        }
    }
    assert!(server.path("data/shard-0001").is_dir());
    // One core serves both shards.
    let server = server.kill().start(&["--cores=1"]);
    for key in &keys {
        assert_eq!(server.get("/api/v1/events/query", key)["count"], clients.len());
        assert_eq!(server.post("/api/v1/events", key, &event("one", json!(0)))["version"], clients.len() + 1);
    }
}

fn the_ports_file_names_every_listener(io: Io) {
    let syslog = ["--syslog-tcp=127.0.0.1:0", "--syslog-udp=127.0.0.1:0", "--syslog-workspace=ws-1"];
    let server = Place::new(io).start(&syslog);
    let ports = server.ports();
    let names: Vec<_> = ports.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, ["http", "syslog_tcp", "syslog_udp", "tcp"]);
    for name in ["tcp", "syslog_tcp"] {
        let address: SocketAddr = ports[name].as_str().unwrap().parse().unwrap();
        assert_ne!(address.port(), 0);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // Whoever says nothing is told nothing, and let go.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap_or(0), 0, "{name}");
    }
    drop(server);
    let server = Server::new(io);
    let names: Vec<_> = server.ports().as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, ["http", "tcp"]);
}

fn events_without_a_disk_promise_still_keep_their_tenants(io: Io) {
    for durability in ["--durability=memory", "--durability=interval:10ms"] {
        let server = Place::new(io).start(&[durability]);
        assert!(server.log().contains("a crash loses some"));
        let key = server.onboard("careless");
        server.post("/api/v1/events", &key, &event("one", json!(1)));
        let server = server.kill().start(&[durability]);
        assert_eq!(server.call("GET", "/api/v1/events/query", &key, None).status, 200);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_taken_port_is_named_and_leaves_no_key_behind() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for flag in ["--http", "--tcp"] {
        let place = Place::new(Io::Fallback);
        let refused = place.refused(&[&format!("{flag}={address}")]);
        assert_eq!(refused.status.code(), Some(7));
        assert!(text(&refused).contains(&format!("{address} is taken")), "{}", text(&refused));
        assert!(refused.stdout.is_empty());
        // The next start is the first run.
        assert!(place.start(&[]).stdout().contains("bootstrap key"));
    }
}

#[test]
fn a_data_directory_belongs_to_one_server() {
    let server = Server::new(Io::Fallback);
    let place = Place::new(Io::Fallback);
    let data = format!("--data-dir={}", server.path("data").display());
    let refused = place.refused(&[&data]);
    assert_eq!(refused.status.code(), Some(7));
    assert!(text(&refused).contains("in use by another process"), "{}", text(&refused));
    assert_eq!(server.call("GET", "/health", "", None).status, 200);
}

#[test]
fn bad_configurations_are_refused_with_78() {
    let place = Place::new(Io::Fallback);
    for bad in [
        &["--http=nonsense"][..],
        &["--durability=never"],
        &["--cores=0"],
        &["--shards=65"],
        &["--syslog-tcp=127.0.0.1:0"],
        &["--syslog-tcp=127.0.0.1:0", "--syslog-workspace=99"],
        &["--http=192.0.2.1:0"],
        &["--config=absent.toml"],
    ] {
        let refused = place.refused(bad);
        assert_eq!(refused.status.code(), Some(78), "{bad:?}: {}", text(&refused));
        assert!(text(&refused).contains("ringlog: "), "{bad:?}");
    }
    std::fs::write(place.path("ringlog.toml"), "htpp = \"127.0.0.1:0\"\n").unwrap();
    let refused = place.refused(&[]);
    assert_eq!(refused.status.code(), Some(78));
    assert!(text(&refused).contains("ringlog.toml:1: htpp is not a setting; did you mean http?"), "{}", text(&refused));
    std::fs::remove_file(place.path("ringlog.toml")).unwrap();
    let refused = place.command(&["serve"]).env("RINGLOG_HTPP", "x").output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
    assert!(text(&refused).contains("RINGLOG_HTPP is not a setting"), "{}", text(&refused));
}

#[test]
fn shards_can_be_raised_and_never_lowered() {
    let server = Place::new(Io::Fallback).start(&["--shards=2"]);
    let key = server.onboard("shards");
    server.post("/api/v1/events", &key, &event("one", json!(1)));
    let (_, place) = server.stop();
    let refused = place.refused(&["--shards=1"]);
    assert_eq!(refused.status.code(), Some(78));
    assert!(text(&refused).contains("can only be raised"), "{}", text(&refused));
    let server = place.start(&["--shards=3"]);
    assert_eq!(server.get("/api/v1/events/query", &key)["count"], 1);
}

#[test]
fn verbs_and_mistakes_have_their_exit_codes() {
    let place = Place::new(Io::Fallback);
    let run = |arguments: &[&str]| place.command(arguments).output().unwrap();
    let code = |arguments: &[&str]| run(arguments).status.code().unwrap();
    assert_eq!(code(&["--nonsense"]), 2);
    assert_eq!(code(&["nonsense"]), 2);
    assert_eq!(code(&["--help"]), 0);
    assert_eq!(code(&["check", "--cores=nonsense"]), 78);
    let check = run(&["check"]);
    assert!(check.status.success() && check.stdout.starts_with(b"ok data_dir="));
    let version: Value = serde_json::from_slice(&run(&["version", "--json"]).stdout).unwrap();
    assert_eq!(version["name"], "ringlog");
    // Asking makes nothing.
    assert_eq!(std::fs::read_dir(place.path(".")).unwrap().count(), 0);
}
