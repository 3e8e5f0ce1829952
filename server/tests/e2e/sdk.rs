//! The first seed's published client, unmodified.

use std::future::Future;

use allsource::{CoreClient, Error, Event, EventFolder, EventsQuery, IngestEventInput, QueryClient, QueryEventsParams};
use serde_json::json;

use crate::harness::{Io, Place, Server};
use crate::on_both;
use crate::snippets;

on_both! {
    the_client_writes_and_reads,
    the_client_reads_its_own_writes_at_once,
    the_client_understands_conflicts_and_refusals,
    the_client_walks_pages,
    a_batch_is_found_field_by_field,
    the_client_narrows_what_it_asks_for,
    the_client_folds_and_asks_again_only_for_what_changed,
    the_documented_snippet_does_what_it_shows,
}

struct Sdk {
    server: Server,
    core: CoreClient,
    query: QueryClient,
}

fn run<F: Future<Output = ()>>(io: Io, name: &str, test: impl FnOnce(Sdk) -> F) {
    let server = Place::new(io).start(&["--cores=2"]);
    let key = server.onboard(name);
    let url = format!("http://{}/", server.http);
    let sdk = Sdk { core: CoreClient::new(&url, &key).unwrap(), query: QueryClient::new(&url, &key).unwrap(), server };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test(sdk));
}

fn by_entity(entity: &str) -> QueryEventsParams {
    QueryEventsParams::new().entity_id(entity)
}

fn the_client_writes_and_reads(io: Io) {
    run(io, "sdk", |sdk| async move {
        assert_eq!(sdk.core.health().await.unwrap().status, "healthy");
        assert_eq!(sdk.query.health().await.unwrap().status, "healthy");

        // The client turns names into its own convention before they leave.
        let payload = json!({ "text": "ünïcode \u{1f980}", "nested": { "null": null, "list": [1, 2.5, "x"] } });
        let input = IngestEventInput::new("OrderPlaced", "order-1", payload.clone())
            .with_metadata(json!({ "correlation_id": "c-1" }));
        let stored = sdk.core.ingest_event(input).await.unwrap();
        assert_eq!(stored.version, Some(1));
        let found = sdk.query.query_events(by_entity("order-1")).await.unwrap();
        assert_eq!((found.count, found.entity_version), (1, Some(1)));
        let event = &found.events[0];
        assert_eq!((event.id.as_str(), event.event_type.as_str()), (stored.event_id.as_str(), "order.placed"));
        assert_eq!((&event.payload, &event.metadata), (&payload, &json!({ "correlation_id": "c-1" })));
        assert_eq!((event.timestamp.as_str(), event.version), (stored.timestamp.as_str(), Some(1)));
        assert_eq!(event.tenant_id.as_deref(), Some("onboard-sdk-at-example-com"));

        let batch = (0..5).map(|n| IngestEventInput::new("order.paid", format!("order-{n}"), json!({ "n": n })));
        let stored = sdk.core.ingest_batch(batch.collect()).await.unwrap();
        assert_eq!((stored.total, stored.ingested, stored.events.len()), (5, 5, 5));

        let found = sdk.query.get_events_by_type("order.paid").await.unwrap();
        assert_eq!(found.count, 5);
        assert!(found.events.is_sorted_by(|left, right| left.timestamp <= right.timestamp));
        assert_eq!(sdk.query.get_entity_events("order-1").await.unwrap().count, 2);
        let prefix = QueryEventsParams::new().event_type_prefix("order.").limit(2).order_desc();
        let newest = sdk.query.query_events(prefix).await.unwrap();
        assert_eq!((newest.count, newest.total_count, newest.has_more), (2, Some(6), Some(true)));
        assert_eq!(newest.events[0].payload, json!({ "n": 4 }));
        let filtered = QueryEventsParams::new().event_type("order.paid").since(&stored.events[0].timestamp);
        assert_eq!(sdk.query.query_events(filtered).await.unwrap().count, 5);

        let nobody = sdk.query.query_events(by_entity("nobody")).await.unwrap();
        assert_eq!((nobody.count, nobody.events.len()), (0, 0));
        drop(sdk.server);
    });
}

fn the_client_reads_its_own_writes_at_once(io: Io) {
    run(io, "own-writes", |sdk| async move {
        for number in 0..50 {
            let entity = format!("e-{number}");
            sdk.core.ingest_event(IngestEventInput::new("a.b", &entity, json!(number))).await.unwrap();
            assert_eq!(sdk.query.query_events(by_entity(&entity)).await.unwrap().count, 1);
        }
        drop(sdk.server);
    });
}

fn the_client_understands_conflicts_and_refusals(io: Io) {
    run(io, "conflicts", |sdk| async move {
        let guarded = |version| IngestEventInput::new("a.b", "one", json!(0)).with_expected_version(version);
        sdk.core.ingest_event(guarded(0)).await.unwrap();
        let error = sdk.core.ingest_event(guarded(7)).await.unwrap_err();
        assert!(matches!(error, Error::VersionConflict { expected: 7, current: 1 }), "{error:?}");
        let error = sdk.core.ingest_batch(vec![guarded(1), guarded(1)]).await.unwrap_err();
        assert!(matches!(error, Error::VersionConflict { expected: 1, current: 2 }), "{error:?}");
        assert_eq!(sdk.query.get_entity_events("one").await.unwrap().count, 1);

        let error = sdk.core.ingest_event(IngestEventInput::new("a.b", "", json!(0))).await.unwrap_err();
        assert!(matches!(error, Error::Api { status: 400, .. }), "{error:?}");
        let url = format!("http://{}", sdk.server.http);
        let stranger = CoreClient::new(&url, "nonsense").unwrap();
        let error = stranger.ingest_event(guarded(0)).await.unwrap_err();
        assert!(matches!(error, Error::Api { status: 401, .. }), "{error:?}");
        drop(sdk.server);
    });
}

fn the_client_walks_pages(io: Io) {
    run(io, "pages", |sdk| async move {
        let batch: Vec<_> =
            (0..250).map(|n| IngestEventInput::new("a.page", format!("e-{}", n % 7), json!(n))).collect();
        sdk.core.ingest_batch(batch).await.unwrap();
        for limit in [None, Some(50), Some(99), Some(250)] {
            let mut params = QueryEventsParams::new().event_type_prefix("a.");
            params.limit = limit;
            let mut pages = sdk.query.query_events_paged(params);
            let mut seen = Vec::new();
            while let Some(events) = pages.next_page().await.unwrap() {
                seen.extend(events.into_iter().map(|event| event.payload));
            }
            assert_eq!(seen, (0..250).map(|n| json!(n)).collect::<Vec<_>>(), "{limit:?}");
        }
        drop(sdk.server);
    });
}

fn a_batch_is_found_field_by_field(io: Io) {
    run(io, "fields", |sdk| async move {
        let payloads = [
            json!({ "total": 9.99 }),
            json!([1, { "deep": [null] }]),
            json!("text \u{1f980}"),
            json!(null),
            json!(1e300),
        ];
        let inputs = payloads.iter().enumerate().map(|(n, payload)| {
            let input = IngestEventInput::new("order_item-Added", format!("order-{}", n % 2), payload.clone());
            if n % 2 == 0 { input.with_metadata(json!({ "n": n })) } else { input }
        });
        let stored = sdk.core.ingest_batch(inputs.collect()).await.unwrap();
        let found = sdk.query.get_events_by_type("order.item.added").await.unwrap();
        assert_eq!((stored.events.len(), found.events.len()), (5, 5));
        for (n, (event, told)) in found.events.iter().zip(&stored.events).enumerate() {
            let metadata = if n % 2 == 0 { json!({ "n": n }) } else { json!(null) };
            let version = event.version.map(|version| version as u64);
            assert_eq!((&event.id, &event.timestamp, version), (&told.event_id, &told.timestamp, told.version));
            assert_eq!(
                (event.entity_id.as_str(), event.version),
                (["order-0", "order-1"][n % 2], Some(n as i64 / 2 + 1))
            );
            assert_eq!((&event.payload, &event.metadata), (&payloads[n], &metadata));
        }
        // Nothing of a batch with a bad event is stored.
        let bad = vec![IngestEventInput::new("a.b", "fine", json!(0)), IngestEventInput::new("a.b", "", json!(0))];
        let error = sdk.core.ingest_batch(bad).await.unwrap_err();
        assert!(matches!(error, Error::Api { status: 400, .. }), "{error:?}");
        assert_eq!(sdk.query.get_entity_events("fine").await.unwrap().count, 0);
        drop(sdk.server);
    });
}

fn the_client_narrows_what_it_asks_for(io: Io) {
    run(io, "narrow", |sdk| async move {
        for n in 0..6 {
            let payload = json!({ "status": if n % 2 == 0 { "open" } else { "closed" }, "n": n });
            sdk.core.ingest_event(IngestEventInput::new("a.b", "e", payload)).await.unwrap();
        }
        let all = sdk.query.get_entity_events("e").await.unwrap().events;
        let numbers =
            |events: &[Event]| events.iter().map(|event| event.payload["n"].as_u64().unwrap()).collect::<Vec<_>>();
        let asks = [
            (QueryEventsParams::new().payload_filter("status", "open"), vec![0, 2, 4]),
            (QueryEventsParams::new().entity_id("e").until(&all[2].timestamp), vec![0, 1, 2]),
            (QueryEventsParams::new().since(&all[4].timestamp).order_desc(), vec![5, 4]),
            (QueryEventsParams::new().event_type("a.b").offset(2).limit(3).order_asc(), vec![2, 3, 4]),
            (QueryEventsParams::new().event_type_prefix("a.").offset(1).limit(2).order_desc(), vec![4, 3]),
            (QueryEventsParams::new().event_type("a"), vec![]),
        ];
        for (params, expected) in asks {
            let found = sdk.query.query_events(params.clone()).await.unwrap();
            assert_eq!(numbers(&found.events), expected, "{params:?}");
        }
        drop(sdk.server);
    });
}

/// The sum of an account.
#[derive(Default)]
struct Balance(Option<i64>);

impl EventFolder for Balance {
    type State = i64;

    fn apply(&mut self, event: &Event) -> bool {
        let amount = event.payload["amount"].as_i64();
        self.0 = amount.map(|amount| self.0.unwrap_or(0) + amount).or(self.0);
        amount.is_some()
    }

    fn finalize(self) -> Option<i64> {
        self.0
    }
}

fn the_client_folds_and_asks_again_only_for_what_changed(io: Io) {
    run(io, "fold", |sdk| async move {
        for amount in [100, -30, 5] {
            let payload = json!({ "amount": amount });
            sdk.core.ingest_event(IngestEventInput::new("account.moved", "account-1", payload)).await.unwrap();
        }
        assert_eq!(sdk.query.query_and_fold::<Balance>(by_entity("account-1")).await.unwrap(), Some(75));
        assert_eq!(sdk.query.query_and_fold::<Balance>(by_entity("account-2")).await.unwrap(), None);

        let first = sdk.query.query_events(by_entity("account-1")).await.unwrap();
        let etag = first.meta.etag.unwrap();
        let again = by_entity("account-1").if_none_match(&etag);
        let unchanged = sdk.query.query_events_conditional(again.clone()).await.unwrap();
        assert!(matches!(unchanged, EventsQuery::NotModified(_)), "{unchanged:?}");
        sdk.core
            .ingest_event(IngestEventInput::new("account.moved", "account-1", json!({ "amount": 1 })))
            .await
            .unwrap();
        let changed = sdk.query.query_events_conditional(again).await.unwrap();
        assert!(matches!(&changed, EventsQuery::Modified(found) if found.count == 4), "{changed:?}");
        drop(sdk.server);
    });
}

fn the_documented_snippet_does_what_it_shows(io: Io) {
    snippets::assert_documented(include_str!("snippets/allsource.rs"));
    run(io, "snippet", |sdk| async move {
        let key = sdk.server.onboard("snippet-reader");
        assert_eq!(snippets::allsource::send(&format!("http://{}", sdk.server.http), &key).await.unwrap(), 3);
        let found = sdk.server.get("/api/v1/events/query?entity_id=order-1", &key);
        let found: Vec<_> = found["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| json!([event["event_type"], event["payload"]]))
            .collect();
        let expected = [
            json!(["order.placed", { "total": 9.99 }]),
            json!(["order.paid", { "n": 1 }]),
            json!(["order.paid", { "n": 2 }]),
        ];
        assert_eq!(found, expected);
    });
}
