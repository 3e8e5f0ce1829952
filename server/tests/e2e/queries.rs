//! Reading: filters, order, pages, and what is refused.

use serde_json::{Value, json};

use crate::harness::{Io, Server};
use crate::on_both;

on_both! {
    filters_find_what_they_name,
    pages_cover_everything_once_by_offset_and_by_cursor,
    wrong_parameters_are_refused_and_unknown_ones_ignored,
}

/// Thirty events: `n` counts from 0, three types, four entities.
fn filled(server: &Server, name: &str) -> (String, Vec<Value>) {
    let key = server.onboard(name);
    let events: Vec<_> = (0..30)
        .map(|n| {
            let event_type = ["order.placed", "order.paid", "user.signed_up"][n % 3];
            json!({ "event_type": event_type, "entity_id": format!("e-{}", n % 4), "payload": { "n": n, "odd": n % 2 } })
        })
        .collect();
    // In three batches, so that they have three received times.
    let mut stored = Vec::new();
    for part in events.chunks(10) {
        let answer = server.post("/api/v1/events/batch", &key, &json!({ "events": part }));
        stored.extend(answer["events"].as_array().unwrap().clone());
    }
    (key, stored)
}

fn numbers(answer: &Value) -> Vec<u64> {
    answer["events"].as_array().unwrap().iter().map(|event| event["payload"]["n"].as_u64().unwrap()).collect()
}

fn filters_find_what_they_name(io: Io) {
    let server = Server::new(io);
    let (key, stored) = filled(&server, "filters");
    let found = |query: &str| numbers(&server.get(&format!("/api/v1/events/query?{query}"), &key));
    let expected = |matches: &dyn Fn(u64) -> bool| (0..30).filter(|n| matches(*n)).collect::<Vec<_>>();

    assert_eq!(found(""), expected(&|_| true));
    assert_eq!(found("entity_id=e-1"), expected(&|n| n % 4 == 1));
    assert_eq!(found("event_type=order.paid"), expected(&|n| n % 3 == 1));
    assert_eq!(found("event_type_prefix=order."), expected(&|n| n % 3 != 2));
    assert_eq!(found("event_type=order.paid&entity_id=e-2"), expected(&|n| n % 12 == 10));
    assert_eq!(found("exclude_event_type_prefix=order.,nothing"), expected(&|n| n % 3 == 2));
    assert_eq!(found("payload_filter=%7B%22odd%22%3A1%7D"), expected(&|n| n % 2 == 1));
    assert_eq!(found("entity_id=nobody"), expected(&|_| false));
    let reversed = |mut numbers: Vec<u64>| {
        numbers.reverse();
        numbers
    };
    for descending in ["order=desc", "sort=desc", "order=DESC"] {
        assert_eq!(found(descending), reversed(expected(&|_| true)));
    }
    assert_eq!(found("order=desc&limit=3&offset=2"), [27, 26, 25]);
    assert_eq!(found("limit=2&event_type=user.signed_up"), [2, 5]);

    // Bounds are inclusive; the batches may share a microsecond, so what is expected is computed.
    let moment = |n: usize| stored[n]["timestamp"].as_str().unwrap().to_owned();
    let second = moment(10);
    assert_eq!(found(&format!("since={second}")), expected(&|n| moment(n as usize) >= second));
    assert_eq!(found(&format!("until={second}")), expected(&|n| moment(n as usize) <= second));
    assert_eq!(found(&format!("since={second}&until={second}")), expected(&|n| moment(n as usize) == second));

    let answer = server.get("/api/v1/events/query?entity_id=e-1&limit=3", &key);
    assert_eq!(answer["count"], 3);
    assert_eq!(answer["total_count"], 8);
    assert_eq!(answer["has_more"], true);
    assert_eq!(answer["entity_version"], 8);
    let all = server.get("/api/v1/events/query?entity_id=e-1", &key);
    assert_eq!((&all["count"], &all["has_more"]), (&json!(8), &json!(false)));
    let nothing = server.get("/api/v1/events/query?entity_id=nobody", &key);
    assert_eq!((&nothing["count"], &nothing["events"], &nothing["has_more"]), (&json!(0), &json!([]), &json!(false)));
}

fn pages_cover_everything_once_by_offset_and_by_cursor(io: Io) {
    let server = Server::new(io);
    let (key, _) = filled(&server, "pages");
    for (order, filter) in [("asc", ""), ("desc", ""), ("asc", "&event_type_prefix=order."), ("desc", "&entity_id=e-3")]
    {
        let question = format!("/api/v1/events/query?order={order}{filter}");
        let whole = numbers(&server.get(&question, &key));
        for limit in [1, 7, 10, 30] {
            let mut by_offset = Vec::new();
            let mut by_cursor = Vec::new();
            let mut cursor = String::new();
            loop {
                let offset = by_offset.len();
                let page = server.get(&format!("{question}&limit={limit}&offset={offset}"), &key);
                by_offset.extend(numbers(&page));
                let page = server.get(&format!("{question}&limit={limit}{cursor}"), &key);
                by_cursor.extend(numbers(&page));
                assert_eq!(by_offset, by_cursor);
                assert_eq!(page["has_more"], json!(by_cursor.len() < whole.len()));
                if page["has_more"] == false {
                    break;
                }
                cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap());
            }
            assert_eq!(by_cursor, whole, "{question} by {limit}");
        }
    }
    let page = server.get("/api/v1/events/query?limit=1", &key);
    let cursor = page["next_cursor"].as_str().unwrap().to_owned();
    let other = server.call("GET", &format!("/api/v1/events/query?entity_id=e-1&cursor={cursor}"), &key, None);
    assert_eq!((other.status, other.error().as_str()), (400, "cursor_mismatch"));
    let stranger = server.onboard("stranger");
    let foreign = server.call("GET", &format!("/api/v1/events/query?cursor={cursor}"), &stranger, None);
    assert_eq!(foreign.status, 400);
}

fn wrong_parameters_are_refused_and_unknown_ones_ignored(io: Io) {
    let server = Server::new(io);
    let (key, _) = filled(&server, "parameters");
    let path = |query: &str| format!("/api/v1/events/query?{query}");
    for wrong in [
        "order=up",
        "limit=x",
        "limit=-1",
        "offset=1.5",
        "since=yesterday",
        "payload_filter=nonsense",
        "cursor=nonsense",
        "entity_id=%zz",
        "limit=1&limit=2",
        "strict=1&nonsense=1",
    ] {
        let refused = server.call("GET", &path(wrong), &key, None);
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.text());
        assert!(refused.json()["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    let answer = server.get(&path("nonsense=1&limit=1"), &key);
    assert_eq!(answer["count"], 1);
    assert_eq!(server.get(&path("limit=0"), &key)["events"], json!([]));
    assert_eq!(server.get(&path("limit=99999999999999999999"), &key)["count"], 30);
}
