//! Reads a tenant's events back, oldest first, page by page.

use crate::client::Client;
use crate::failure::Failure;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

#[derive(Debug, Deserialize)]
pub struct Event<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub event_type: Cow<'a, str>,
    #[serde(borrow)]
    pub entity_id: Cow<'a, str>,
    #[serde(borrow)]
    pub payload: &'a RawValue,
    #[serde(borrow, default)]
    pub metadata: Option<&'a RawValue>,
    pub version: u64,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    events: Vec<Event<'a>>,
    has_more: Option<bool>,
    next_cursor: Option<serde_json::Value>,
}

/// Calls `see` for every event, in the order that the server gives them.
pub async fn for_each_event(
    client: &mut Client,
    key: &str,
    page_events: u32,
    mut see: impl FnMut(&Event<'_>),
) -> Result<u64, Failure> {
    let mut seen = 0;
    let mut place = String::new();
    loop {
        let path = format!("/api/v1/events/query?order=asc&limit={page_events}{place}");
        let body = client.get(&path, key).await?.into_good()?;
        let page: Page<'_> = serde_json::from_slice(&body)
            .map_err(|error| Failure::Other(format!("GET {path}: this is no page of events: {error}")))?;
        page.events.iter().for_each(&mut see);
        seen += page.events.len() as u64;
        let has_more = page.has_more.unwrap_or(page.events.len() == page_events as usize);
        if !has_more {
            return Ok(seen);
        }
        let next = match page.next_cursor {
            None | Some(serde_json::Value::Null) => format!("&offset={seen}"),
            Some(serde_json::Value::String(text)) => format!("&cursor={}", percent_encode(&text)),
            Some(number) => format!("&cursor={number}"),
        };
        if page.events.is_empty() || next == place {
            return Err(Failure::Other(format!("GET {path}: there is said to be more, but the pages do not advance")));
        }
        place = next;
    }
}

fn percent_encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::percent_encode;

    #[test]
    fn cursors_are_encoded() {
        assert_eq!(percent_encode("a+b/c=.é"), "a%2Bb%2Fc%3D.%C3%A9");
    }
}
