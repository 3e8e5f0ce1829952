//! Deleted tenants: what they had stored leaves the disk by itself, whatever comes between, and nobody else notices.

use std::fs::{DirEntry, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use memchr::memmem;
use serde_json::{Value, json};

use crate::harness::{Io, Place, Server};
use crate::http::Client;
use crate::on_both;
use crate::quotas::{BOOTSTRAP, tenant};
use crate::sources::{ACME, Rig, frame, until};

on_both! {
    deleted_tenants_leave_the_disk_and_the_others_stay_as_they_were,
    a_removal_goes_on_by_itself_after_every_kill,
    a_tenant_that_filled_segments_gives_its_space_back,
    a_segment_that_cannot_be_read_is_in_the_log_and_tried_again_at_a_restart,
    whoever_still_writes_leaves_nothing_behind,
    an_id_is_free_once_its_tenant_is_gone,
}

/// In this order they get numbers from 2 on, and shards in turn.
const IDS: [&str; 5] = ["acme", "umbrella", "initech", "hooli", "globex"];
const BATCHES: usize = 12;
const BAD_LINES: usize = 6;
/// What the harness starts with.
const SEGMENT_BYTES: u64 = 64 << 20;

fn arguments() -> [String; 2] {
    ["--cores=2".to_owned(), format!("--bootstrap-key={BOOTSTRAP}")]
}

fn start(place: Place) -> Server {
    let arguments = arguments();
    place.start(&arguments.each_ref().map(String::as_str))
}

/// Stands in everything that a tenant sends, and in nothing that the server makes of it by itself.
fn mark(id: &str) -> String {
    format!("mark_of_{id}")
}

fn batch(id: &str, round: usize) -> Value {
    let mark = mark(id);
    let event = |number: usize| {
        json!({
            "event_type": format!("{mark}.type_{}", number % 3),
            "entity_id": format!("{mark}_entity_{}", (round + number) % 7),
            "payload": { "text": mark, "round": round, "number": number, "filler": "x".repeat(500) },
        })
    };
    json!({ "events": (0..10).map(event).collect::<Vec<_>>() })
}

/// A line that is no event, and so becomes a reject with a sample.
fn send_bad_line(client: &mut Client, key: &str, id: &str) {
    let body = format!("not an event but {}", mark(id));
    let head = format!("POST /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n");
    client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    assert_eq!(client.answer().status, 400);
}

/// All at once, so that blocks and segments hold events of several tenants.
fn fill(server: &Server, tenants: &[(&'static str, String)]) {
    let address = server.http;
    thread::scope(|scope| {
        for (id, key) in tenants {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for round in 0..BATCHES {
                    let stored = client.call("POST", "/api/v1/events/batch", key, Some(&batch(id, round)));
                    assert_eq!(stored.status, 200, "{}", stored.text());
                }
                (0..BAD_LINES).for_each(|_| send_bad_line(&mut client, key, id));
            });
        }
    });
    // Nobody waits for a reject to be stored.
    for (_, key) in tenants {
        until(|| rejects(server, key).as_array().unwrap().len() == BAD_LINES);
    }
}

fn events(server: &Server, key: &str) -> Value {
    let page = server.get("/api/v1/events/query?limit=10000", key);
    assert_eq!(page["has_more"], false);
    page["events"].clone()
}

fn rejects(server: &Server, key: &str) -> Value {
    server.get("/api/v1/rejects", key)["rejects"].clone()
}

/// Everything that a tenant can read of its own.
fn known(server: &Server, key: &str) -> [Value; 5] {
    let of_entity = "/api/v1/events/query?limit=10&sort=desc&entity_id=";
    let marked = server.get("/api/v1/events/query?limit=1", key)["events"][0]["entity_id"].clone();
    [
        events(server, key),
        rejects(server, key),
        server.get("/api/v1/usage", key),
        server.get("/api/v1/events/query?limit=5&sort=desc", key)["events"].clone(),
        server.get(&format!("{of_entity}{}", marked.as_str().unwrap()), key)["events"].clone(),
    ]
}

fn delete(server: &Server, id: &str) {
    let answer = server.call("DELETE", &format!("/api/v1/tenants/{id}?confirm={id}"), BOOTSTRAP, None);
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("deleting")), "{}", answer.text());
}

/// What an operator who watches a deletion sees.
fn is_gone(server: &Server, id: &str) -> bool {
    let answer = server.call("GET", &format!("/api/v1/tenants/{id}"), BOOTSTRAP, None);
    match answer.status {
        200 => assert_eq!((&answer.json()["status"], &answer.json()["active"]), (&json!("deleting"), &json!(false))),
        status => assert_eq!((status, answer.error().as_str()), (404, "not_found")),
    }
    answer.status == 404
}

/// Of whose marks something stands in a file below the data directory, the catalog's aside.
fn stored<'a>(data: &Path, ids: &[&'a str]) -> Vec<&'a str> {
    let folder = |entry: DirEntry| (entry.path().is_dir() && entry.file_name() != "catalog").then(|| entry.path());
    let folders: Vec<_> = std::fs::read_dir(data).unwrap().filter_map(|entry| folder(entry.unwrap())).collect();
    assert!(2 <= folders.len(), "{folders:?}");
    // A server that runs renames files meanwhile.
    loop {
        match holding(&folders, ids) {
            Ok(found) => return found,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
    }
}

fn holding<'a>(folders: &[PathBuf], ids: &[&'a str]) -> io::Result<Vec<&'a str>> {
    let mut left = ids.to_vec();
    for folder in folders {
        for entry in std::fs::read_dir(folder)? {
            let bytes = std::fs::read(entry?.path())?;
            left.retain(|id| memmem::find(&bytes, mark(id).as_bytes()).is_none());
        }
    }
    Ok(ids.iter().copied().filter(|id| !left.contains(id)).collect())
}

/// That a tenant is gone is in the audit log once, by the server.
fn check_audit(server: &Server, gone: &[(u32, &str)]) {
    let page = server.get("/api/v1/audit/events?action=tenant_erased&limit=1000", BOOTSTRAP);
    let mut found: Vec<_> = page["events"].as_array().unwrap().clone();
    found.sort_by_key(|event| event["detail"]["tenant"].as_u64());
    let found: Vec<_> =
        found.iter().map(|event| [&event["actor"], &event["detail"]["tenant"], &event["tenant_id"]]).collect();
    let expected: Vec<_> = gone.iter().map(|(number, id)| [json!("server"), json!(number), json!(id)]).collect();
    assert!(found.iter().copied().flatten().eq(expected.iter().flatten()), "{page}");
}

fn check_chain(place: &Place) {
    let data = place.path("data");
    let verify = ["audit", "verify", "--io=fallback", "--data-dir", data.to_str().unwrap()];
    let output = place.command(&verify).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

fn deleted_tenants_leave_the_disk_and_the_others_stay_as_they_were(io: Io) {
    let server = start(Place::new(io));
    let tenants = IDS.map(|id| (id, tenant(&server, id, &json!({}))));
    fill(&server, &tenants);
    let data = server.path("data");
    let before: Vec<_> = tenants.iter().map(|(_, key)| known(&server, key)).collect();
    assert_eq!(stored(&data, &IDS), IDS);

    // One on each shard.
    let (gone, kept) = (&tenants[..2], &tenants[2..]);
    for (id, key) in gone {
        delete(&server, id);
        assert_eq!(server.call("GET", "/api/v1/events/query", key, None).status, 401);
    }
    // The others read and write meanwhile as ever.
    for (id, key) in kept {
        server.post("/api/v1/events/batch", key, &batch(id, BATCHES));
    }
    until(|| gone.iter().all(|(id, _)| is_gone(&server, id)));
    for ((id, key), before) in kept.iter().zip(&before[2..]) {
        let [events, rejects, ..] = known(&server, key);
        let (events, before_events) = (events.as_array().unwrap(), before[0].as_array().unwrap());
        assert_eq!((&events[..before_events.len()], events.len()), (&before_events[..], before_events.len() + 10));
        assert_eq!(rejects, before[1], "{id}");
    }
    assert_eq!(stored(&data, &IDS), IDS[2..]);
    check_audit(&server, &[(2, "acme"), (3, "umbrella")]);

    let after: Vec<_> = kept.iter().map(|(_, key)| known(&server, key)).collect();
    let (status, place) = server.stop();
    assert!(status.success());
    assert_eq!(stored(&data, &IDS), IDS[2..]);
    check_chain(&place);
    let server = start(place);
    assert_eq!(kept.iter().map(|(_, key)| known(&server, key)).collect::<Vec<_>>(), after);
    assert!(gone.iter().all(|(id, _)| is_gone(&server, id)));
    check_audit(&server, &[(2, "acme"), (3, "umbrella")]);
}

fn a_removal_goes_on_by_itself_after_every_kill(io: Io) {
    let server = start(Place::new(io));
    let tenants = IDS.map(|id| (id, tenant(&server, id, &json!({}))));
    fill(&server, &tenants);
    let data = server.path("data");
    let before: Vec<_> = tenants.iter().map(|(_, key)| known(&server, key)).collect();
    let (gone, kept) = (&tenants[..2], &tenants[2..]);
    gone.iter().for_each(|(id, _)| delete(&server, id));
    let mut server = server;
    for looks in 0..6 {
        // Each life is a little longer than the one before it.
        let _ = (0..looks).filter(|_| is_gone(&server, gone[0].0)).count();
        server = start(server.kill());
        assert!(gone.iter().all(|(_, key)| server.call("GET", "/api/v1/events/query", key, None).status == 401));
    }
    until(|| gone.iter().all(|(id, _)| is_gone(&server, id)));
    assert_eq!(stored(&data, &IDS), IDS[2..]);
    let check = |server: &Server| {
        for ((_, key), before) in kept.iter().zip(&before[2..]) {
            assert_eq!(known(server, key), *before);
        }
        check_audit(server, &[(2, "acme"), (3, "umbrella")]);
    };
    check(&server);
    // Nothing comes back.
    let server = start(server.kill());
    check(&server);
    assert!(gone.iter().all(|(id, _)| is_gone(&server, id)));
    assert_eq!(stored(&data, &IDS), IDS[2..]);
    check_chain(&server.stop().1);
}

/// Of all shards.
fn sealed_segments(data: &Path) -> Vec<PathBuf> {
    let folders = ["shard-0000", "shard-0001"].map(|shard| std::fs::read_dir(data.join(shard)).unwrap());
    let paths = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    let indexes = paths.filter(|path| path.extension().is_some_and(|extension| extension == "idx"));
    indexes.map(|index| index.with_extension("seg")).collect()
}

/// What they take of the disk.
fn sealed_bytes(data: &Path) -> u64 {
    sealed_segments(data).iter().map(|path| std::fs::metadata(path).unwrap().blocks() * 512).sum()
}

/// And goes beyond it, so that it is sealed.
fn fill_a_segment(server: &Server, key: &str, id: &str) {
    let filler = "y".repeat(500_000);
    let event = json!({ "event_type": "fill", "entity_id": mark(id), "payload": { "text": filler } });
    let body = json!({ "events": vec![event; 24] });
    let mut client = server.connect();
    for _ in 0..6 {
        let stored = client.call("POST", "/api/v1/events/batch", key, Some(&body));
        assert_eq!(stored.status, 200, "{}", stored.text());
    }
    until(|| SEGMENT_BYTES <= sealed_bytes(&server.path("data")));
}

fn a_tenant_that_filled_segments_gives_its_space_back(io: Io) {
    let server = start(Place::new(io));
    let (acme, small) = (tenant(&server, "acme", &json!({})), tenant(&server, "umbrella", &json!({})));
    // On the same shard as the first.
    let kept = tenant(&server, "initech", &json!({}));
    for (id, key) in [("umbrella", &small), ("initech", &kept)] {
        server.post("/api/v1/events/batch", key, &batch(id, 0));
    }
    fill_a_segment(&server, &acme, "acme");
    let before = events(&server, &kept);
    let data = server.path("data");
    delete(&server, "acme");
    until(|| is_gone(&server, "acme"));
    // The full one and the one behind it, which was not.
    let left = sealed_bytes(&data);
    assert!((1..1 << 20).contains(&left), "{left} bytes");
    assert_eq!(stored(&data, &["acme", "initech"]), ["initech"]);
    assert_eq!(events(&server, &kept), before);
    let server = start(server.kill());
    assert_eq!(events(&server, &kept), before);
    assert_eq!((stored(&data, &["acme", "initech"]), sealed_bytes(&data)), (vec!["initech"], left));
}

/// Turns the bits of one byte in the middle of a file.
fn turn_a_byte(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let (middle, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[!byte[0]], middle).unwrap();
}

fn a_segment_that_cannot_be_read_is_in_the_log_and_tried_again_at_a_restart(io: Io) {
    let server = start(Place::new(io));
    let acme = tenant(&server, "acme", &json!({}));
    fill_a_segment(&server, &acme, "acme");
    let sealed = sealed_segments(&server.path("data"));
    let [path] = &sealed[..] else { panic!("{sealed:?}") };
    turn_a_byte(path);
    delete(&server, "acme");
    let warnings = || server.log().matches("sealed segments cannot be read").count();
    until(|| 0 < warnings());
    // The other segments have gone by then, and further looks with them.
    until(|| sealed_segments(&server.path("data")).len() == 2);
    assert_eq!((warnings(), is_gone(&server, "acme")), (1, false));
    turn_a_byte(path);
    let server = start(server.kill());
    until(|| is_gone(&server, "acme"));
    assert!(stored(&server.path("data"), &["acme"]).is_empty());
}

/// Ends those who write, also where a check fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn whoever_still_writes_leaves_nothing_behind(io: Io) {
    let rig = Rig::new(io, &[]);
    let entity = mark("acme");
    rig.server.post("/api/v1/events", &rig.umbrella, &json!({ "event_type": "e", "entity_id": "e", "payload": {} }));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = Over(&is_over);
        // Enough connections that both cores have some, and one that talks of what nobody can read.
        for number in 0..6 {
            let (mut sender, address) = (rig.connect("tcp"), rig.server.http);
            let (entity, is_over, acme) = (&entity, &is_over, &rig.acme);
            scope.spawn(move || {
                let bytes = frame(ACME, entity, 0..2, 10);
                let mut connected = None;
                while !is_over.load(Ordering::Relaxed) {
                    sender.send(&bytes);
                    // Once there is something to say: a server does not wait for ever for the first request.
                    let client = connected.get_or_insert_with(|| Client::connect(address));
                    let body = format!("no event but {entity} {number}");
                    let head = format!("POST /v1/events HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {acme}\r\n");
                    client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
                    let answer = client.answer();
                    assert!(matches!(answer.status, 400 | 401));
                    if answer.header("Connection") == Some("close") {
                        connected = None;
                    }
                }
                // Everything that was sent has been read.
                sender.finish();
            });
        }
        until(|| 10 < rejects(&rig.server, &rig.acme).as_array().unwrap().len());
        assert!(!stored(&rig.server.path("data"), &["acme"]).is_empty());
        delete(&rig.server, "acme");
        until(|| is_gone(&rig.server, "acme"));
        drop(over);
    });
    let data = rig.server.path("data");
    assert!(stored(&data, &["acme"]).is_empty());
    let (status, place) = rig.server.stop();
    assert!(status.success());
    assert!(stored(&data, &["acme"]).is_empty());
    let server = start(place);
    assert!(is_gone(&server, "acme") && stored(&data, &["acme"]).is_empty());
    assert_eq!(server.get("/api/v1/events/query", &rig.umbrella)["count"], 1);
}

fn an_id_is_free_once_its_tenant_is_gone(io: Io) {
    let server = start(Place::new(io));
    let first = tenant(&server, "acme", &json!({ "requests_per_second": 1000 }));
    let onboarded = server.onboard("me");
    let onboard_id = "onboard-me-at-example-com";
    let event = json!({ "event_type": "e", "entity_id": "e", "payload": {} });
    assert_eq!(server.post("/api/v1/events", &first, &event)["version"], 1);
    send_bad_line(&mut server.connect(), &first, "acme");
    // One of them has never stored anything.
    for id in ["acme", onboard_id] {
        delete(&server, id);
        until(|| is_gone(&server, id));
    }
    assert_eq!(server.get("/api/v1/tenants", BOOTSTRAP)["count"], 1);

    let streaming = "cd".repeat(16);
    let file = server.path("data/apikeys.conf");
    let second = tenant(&server, "acme", &json!({}));
    let again = server.onboard("me");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}{streaming}:2:gone\n")).unwrap();
    let mut server = server;
    for _ in 0..2 {
        let made = server.get("/api/v1/tenants/acme", BOOTSTRAP);
        assert_eq!((&made["workspace"], &made["quotas"]["requests_per_second"]), (&json!(4), &json!(null)));
        assert_eq!(server.get(&format!("/api/v1/tenants/{onboard_id}"), BOOTSTRAP)["workspace"], 5);
        for number in [2, 3] {
            assert_eq!(server.call("GET", &format!("/api/v1/tenants/ws-{number}"), BOOTSTRAP, None).status, 404);
        }
        for client in &mut server.connect_everywhere() {
            for old in [&first, &onboarded, &streaming] {
                assert_eq!(client.call("POST", "/api/v1/events", old, Some(&event)).status, 401);
                assert_eq!(client.call("GET", "/api/v1/events/query", old, None).status, 401);
            }
            assert_eq!(client.call("GET", "/api/v1/events/query", &again, None).json()["count"], 0);
        }
        assert_eq!(rejects(&server, &second), json!([]));
        // A kill, and a line of the key file about somebody who is gone.
        server = start(server.kill());
    }
    assert_eq!(server.post("/api/v1/events", &second, &event)["version"], 1);
    check_audit(&server, &[(2, "acme"), (3, onboard_id)]);
    // The same of a flag that is about nobody any more.
    let bootstrap = format!("--bootstrap-key={BOOTSTRAP}");
    let flags = ["--cores=2", &bootstrap, "--syslog-tcp=127.0.0.1:0", "--syslog-workspace=2"];
    let server = server.kill().start(&flags);
    assert!(server.log().contains("--syslog-workspace: workspace 2 is deleted"), "{}", server.log());
    let syslog: SocketAddr = server.ports()["syslog_tcp"].as_str().unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(syslog).unwrap();
    stream.write_all(b"<34>1 2026-01-02T03:04:05Z h app - - - text\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
    assert_eq!(events(&server, &second).as_array().unwrap().len(), 1);
}
