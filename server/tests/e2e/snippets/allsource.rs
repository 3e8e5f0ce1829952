use allsource::{CoreClient, Error, IngestEventInput, QueryClient, QueryEventsParams};
use serde_json::json;

/// `url` is `http://127.0.0.1:3900`; the key has a role that reads and writes.
pub async fn send(url: &str, key: &str) -> Result<usize, Error> {
    let core = CoreClient::new(url, key)?;
    core.ingest_event(IngestEventInput::new("order.placed", "order-1", json!({ "total": 9.99 }))).await?;
    let more = (1..=2).map(|n| IngestEventInput::new("order.paid", "order-1", json!({ "n": n }))).collect();
    core.ingest_batch(more).await?;
    let found = QueryClient::new(url, key)?.query_events(QueryEventsParams::new().entity_id("order-1")).await?;
    Ok(found.count as usize)
}
