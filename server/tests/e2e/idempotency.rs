//! A request that is sent again under its key is stored once, whatever happened in between.

use serde_json::{Value, json};

use crate::harness::{Io, Server};
use crate::http::{Client, Response};
use crate::on_both;

on_both! {
    a_request_under_the_same_key_is_stored_once,
    requests_at_the_same_time_under_one_key_have_one_outcome,
    a_key_is_known_after_a_crash,
}

const ONE: &str = "/api/v1/events";
const MANY: &str = "/api/v1/events/batch";

fn event(entity: &str) -> Value {
    json!({ "event_type": "order.paid", "entity_id": entity, "payload": { "n": 1 } })
}

fn bytes(path: &str, key: &str, idempotency_key: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n");
    let head = format!("{head}Idempotency-Key: {idempotency_key}\r\nContent-Length: {}\r\n", body.len());
    format!("{head}\r\n{body}").into_bytes()
}

fn send(server: &Server, path: &str, key: &str, idempotency_key: &str, body: &Value) -> Response {
    let mut client: Client = server.connect();
    client.send(&bytes(path, key, idempotency_key, body));
    client.answer()
}

fn ids(answer: &Response) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    let events = body["events"].as_array().cloned().unwrap_or_else(|| vec![body]);
    events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

fn is_replay(answer: &Response) -> bool {
    answer.header("Idempotent-Replayed") == Some("true")
}

fn stored(server: &Server, key: &str) -> u64 {
    server.get("/api/v1/usage", key)["usage"]["events_per_month"]["used"].as_u64().unwrap()
}

fn a_request_under_the_same_key_is_stored_once(io: Io) {
    let server = Server::new(io);
    let (key, other) = (server.onboard("a"), server.onboard("b"));
    let first = send(&server, ONE, &key, "k1", &event("e"));
    let again = send(&server, ONE, &key, "k1", &event("e"));
    assert!(!is_replay(&first) && is_replay(&again));
    assert_eq!(first.json(), again.json());
    // The key is the tenant's and the route's own.
    assert!(!is_replay(&send(&server, ONE, &other, "k1", &event("e"))));
    let batch = json!({ "events": [event("e"), event("f")] });
    let first = send(&server, MANY, &key, "k1", &batch);
    let again = send(&server, MANY, &key, "k1", &batch);
    assert!(!is_replay(&first) && is_replay(&again));
    assert_eq!(ids(&first), ids(&again));
    assert_eq!(ids(&first).len(), 2);
    // A refused request is not remembered.
    let wrong = json!({ "event_type": "order.paid", "entity_id": "new", "payload": {}, "expected_version": 7 });
    assert_eq!(send(&server, ONE, &key, "k2", &wrong).status, 409);
    assert!(!is_replay(&send(&server, ONE, &key, "k2", &event("new"))));

    let reused = send(&server, ONE, &key, "k1", &event("other"));
    assert_eq!((reused.status, reused.error().as_str()), (422, "idempotency_key_reused"));
    let long = "k".repeat(256);
    for bad in ["", "a b", long.as_str()] {
        let answer = send(&server, ONE, &key, bad, &event("e"));
        assert_eq!((answer.status, answer.error().as_str()), (400, "invalid_parameter"), "{bad}");
    }
    assert_eq!((stored(&server, &key), stored(&server, &other)), (4, 1));
}

fn requests_at_the_same_time_under_one_key_have_one_outcome(io: Io) {
    let server = Server::new(io);
    let key = server.onboard("a");
    let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
    for round in 0..20 {
        let request = bytes(MANY, &key, &format!("k{round}"), &json!({ "events": [event("e"), event("f")] }));
        clients.iter_mut().for_each(|client| client.send(&request));
        let answers: Vec<Response> = clients.iter_mut().map(Client::answer).collect();
        assert_eq!(answers.iter().filter(|answer| !is_replay(answer)).count(), 1);
        let ids: Vec<_> = answers.iter().map(ids).collect();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
    }
    assert_eq!(stored(&server, &key), 40);
}

fn a_key_is_known_after_a_crash(io: Io) {
    let mut server = Server::new(io);
    let key = server.onboard("a");
    let batch = json!({ "events": [event("e"), event("f")] });
    for round in 0..3 {
        // The client does not wait for the answer: the kill falls before, between or behind append and answer.
        let mut client = server.connect();
        client.send(&bytes(MANY, &key, &format!("k{round}"), &batch));
        if round == 1 {
            client.answer();
        }
        server = server.kill().start(&[]);
        let first = send(&server, MANY, &key, &format!("k{round}"), &batch);
        let again = send(&server, MANY, &key, &format!("k{round}"), &batch);
        assert!(is_replay(&again) && (round != 1 || is_replay(&first)));
        assert_eq!(ids(&first), ids(&again));
        assert_eq!(stored(&server, &key), 2 * (round + 1));
    }
}
