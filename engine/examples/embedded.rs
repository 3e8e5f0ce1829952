//! The engine inside another program: append, conflict, query, reopen.
//!
//! Runs in the folder that is given, or in a fresh temporary one:
//! `cargo run -p ringlog-engine --example embedded [folder]`

use std::error::Error;
use std::path::Path;

use ringlog_engine::engine::{Engine, EngineOptions};
use ringlog_engine::event::EventInput;
use ringlog_engine::ids::{Tenant, Version};
use ringlog_engine::query::{Order, QuerySpec};
use ringlog_engine::shard::AppendError;

/// Tenants are numbers. What they are called is the program's own business.
const SHOP: Tenant = Tenant(1);

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        Some(folder) => tour(Path::new(&folder)),
        None => tour(tempfile::tempdir()?.path()),
    }
}

fn tour(folder: &Path) -> Result<(), Box<dyn Error>> {
    // Small segments, since this is a small log. The default keeps 256 MiB of the disk free; here all of it may be used.
    let options = EngineOptions { segment_bytes: 4 << 20, reserve_bytes: 0, ..EngineOptions::default() };
    let mut engine = Engine::open(folder, &options)?;
    println!("data in {}, {}", folder.display(), engine.io_notice());
    for report in engine.recovery_reports() {
        println!("recovered {} events in {} blocks, damage: {}", report.events, report.blocks, report.damage.len());
    }

    // A batch is stored as a whole or not at all. When `append` returns, it survives a power cut.
    let mut batch = engine.batch(SHOP);
    batch.push(EventInput::new("order.placed", "order-7", br#"{"amount":12}"#))?;
    batch.push(EventInput::new("order.paid", "order-7", br#"{"by":"card"}"#))?;
    let (appended, batch) = engine.append(batch).map_err(|(_, error)| format!("{error:?}"))?;
    let version = batch.keys()[1].version;
    println!("stored from position {}, order-7 is at version {version}", appended.first_position.0);

    // Who expects a version that is no longer current is told which one is, and nothing is stored.
    let mut late = engine.batch(SHOP);
    late.push(EventInput {
        expected_version: Some(Version(version - 1)),
        ..EventInput::new("order.cancelled", "order-7", b"{}")
    })?;
    match engine.append(late) {
        Err((_, AppendError::VersionConflict { expected, current, .. })) => {
            println!("conflict: expected version {}, but order-7 is at {}", expected.0, current.0);
        }
        Ok(_) => return Err("a stale expectation was accepted".into()),
        Err((_, error)) => return Err(format!("{error:?}").into()),
    }

    // The newest events of one entity. Rows are verified against their checksums before they are shown.
    let newest = QuerySpec { entity: Some("order-7".to_owned()), order: Order::Descending, ..QuerySpec::all(SHOP, 10) };
    let summary = engine.query(newest, |row| {
        let payload = String::from_utf8_lossy(row.record.payload);
        println!("  {} v{} {} {payload}", row.position.0, row.version.0, row.record.event_type);
    })?;
    println!("{:?} in all", summary.total);

    // A clean end spares the next start from asking whether the last write was torn.
    engine.close();
    Ok(())
}
