//! Whether an answer is a good one, and what it acknowledges.

use super::Scrutiny;
use crate::ledger::{Ack, id_hash};
use crate::protocol::http::find;
use serde::Deserialize;
use std::borrow::Cow;

/// What a good answer speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// As many events as were sent.
    Events(u32),
    /// A page of events.
    Page,
    /// Nothing in particular.
    Anything,
}

/// Whether an answer is good; with [`Scrutiny::Everything`] fills `acks`. The error is its kind, for counting.
pub fn judge(
    scrutiny: Scrutiny,
    expected: Expected,
    status: u16,
    body: &[u8],
    acks: &mut Vec<Ack>,
) -> Result<(), String> {
    if !(200..300).contains(&status) {
        return Err(status_kind(status, body));
    }
    match (scrutiny, expected) {
        (Scrutiny::Status, _) | (_, Expected::Anything) => Ok(()),
        (_, Expected::Page) => match find(body, br#""events""#) {
            Some(_) => Ok(()),
            None => Err("answer without events".to_owned()),
        },
        (Scrutiny::Counts, Expected::Events(count)) if speaks_of(body, count) => Ok(()),
        (_, Expected::Events(count)) => read_acks(body, count, acks),
    }
}

#[derive(Deserialize)]
struct EventAck<'a> {
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    version: u64,
}

#[derive(Deserialize)]
struct BatchAck<'a> {
    ingested: u32,
    #[serde(borrow)]
    events: Vec<EventAck<'a>>,
}

/// The quick look: the usual fields, found without parsing. Saying no is safe, the slow look follows.
fn speaks_of(body: &[u8], event_count: u32) -> bool {
    let Some(at) = find(body, br#""ingested":"#) else {
        return event_count == 1 && find(body, br#""event_id":""#).is_some();
    };
    let digits = body[at + br#""ingested":"#.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u64, |sum, digit| (sum * 10 + u64::from(digit - b'0')).min(1 << 40)) == u64::from(event_count)
}

fn read_acks(body: &[u8], event_count: u32, acks: &mut Vec<Ack>) -> Result<(), String> {
    let mut push = |event: &EventAck<'_>| acks.push(Ack { id_hash: id_hash(&event.event_id), version: event.version });
    if let Ok(batch) = serde_json::from_slice::<BatchAck<'_>>(body) {
        if batch.ingested != event_count || batch.events.len() != event_count as usize {
            return Err("answer with another count of events".to_owned());
        }
        batch.events.iter().for_each(push);
        return Ok(());
    }
    match serde_json::from_slice::<EventAck<'_>>(body) {
        Ok(event) if event_count == 1 => {
            push(&event);
            Ok(())
        }
        _ => Err("answer that is no acknowledgement".to_owned()),
    }
}

/// `status 429 rate_limited`: the status and the error code that the body gives, if it gives one.
fn status_kind(status: u16, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct ErrorBody<'a> {
        #[serde(borrow)]
        error: Cow<'a, str>,
    }
    match serde_json::from_slice::<ErrorBody<'_>>(body) {
        // Codes are counted, sentences would fill the table.
        Ok(body) if body.error.len() <= 40 && !body.error.contains(' ') => format!("status {status} {}", body.error),
        _ => format!("status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged() {
        let check = |count: u32, status: u16, body: &str, expected: Result<(), &str>| {
            for scrutiny in [Scrutiny::Counts, Scrutiny::Everything] {
                let judged = judge(scrutiny, Expected::Events(count), status, body.as_bytes(), &mut Vec::new());
                assert_eq!(judged, expected.map_err(str::to_owned));
            }
        };
        check(1, 200, r#"{"event_id":"a","timestamp":"t","version":1}"#, Ok(()));
        check(1, 200, r#"{"total":1,"ingested":1,"events":[{"event_id":"a","version":1}]}"#, Ok(()));
        check(
            2,
            200,
            r#"{"ingested":1,"events":[{"event_id":"a","version":1}]}"#,
            Err("answer with another count of events"),
        );
        check(1, 200, "thanks", Err("answer that is no acknowledgement"));
        check(2, 200, r#"{"event_id":"a","version":1}"#, Err("answer that is no acknowledgement"));
        check(1, 429, r#"{"error":"rate_limited","message":"slow down"}"#, Err("status 429 rate_limited"));
        check(1, 500, r#"{"error":"Storage error: it broke"}"#, Err("status 500"));
        check(1, 503, "", Err("status 503"));
    }

    #[test]
    fn a_page_has_events() {
        let check = |body: &[u8]| judge(Scrutiny::Counts, Expected::Page, 200, body, &mut Vec::new());
        assert_eq!(check(br#"{"events":[],"count":0}"#), Ok(()));
        assert_eq!(check(b"{}"), Err("answer without events".to_owned()));
    }

    #[test]
    fn acknowledgements_keep_ids_and_versions() {
        let mut acks = Vec::new();
        let body = br#"{"ingested":2,"events":[{"event_id":"a","version":7},{"event_id":"b","version":9}]}"#;
        judge(Scrutiny::Everything, Expected::Events(2), 200, body, &mut acks).unwrap();
        assert_eq!(acks, [Ack { id_hash: id_hash("a"), version: 7 }, Ack { id_hash: id_hash("b"), version: 9 }]);
    }
}
