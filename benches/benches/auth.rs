//! What it costs to know who asks, with few keys and with many.
//!
//! `cargo bench -p ringlog-benches --bench auth` (about a minute). A line's cost should not depend on the number of keys but
//! through the caches of the machine: the table of a million keys does not fit into them.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringlog_benches::credentials::{NOW, Table, mixed, streaming_key, unknown_key};
use ringlog_server::auth::credentials::Presented;

const KEY_COUNTS: [u32; 3] = [10, 10_000, 1_000_000];
/// Tokens in use at once, of one core's clients.
const TOKENS: u32 = 16;
/// Keys that are used in turn: more than this many the token cache does not hold.
const SPREAD_MAX: u32 = 100_000;

fn auth(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("auth");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    for key_count in KEY_COUNTS {
        let mut table = Table::new(key_count, TOKENS);
        let mut check = |secret: &str, is_good: bool| {
            let presented = Presented::none().api_key(secret.as_bytes());
            assert_eq!(table.credentials.authenticate(presented, NOW).is_ok(), is_good);
        };
        let id = |what| BenchmarkId::new(what, key_count);

        let one = streaming_key(3);
        group.bench_function(id("streaming_key_again"), |bencher| bencher.iter(|| check(&one, true)));

        let number = |at: u64| mixed(at) % u64::from(key_count);
        let spread: Vec<String> =
            (0..u64::from(key_count.min(SPREAD_MAX))).map(|at| streaming_key(number(at))).collect();
        let mut keys = spread.iter().cycle();
        group.bench_function(id("streaming_key_spread"), |bencher| {
            bencher.iter(|| check(keys.next().expect("it goes round"), true));
        });

        let unknown: Vec<String> = (0..1024).map(unknown_key).collect();
        let mut keys = unknown.iter().cycle();
        group.bench_function(id("unknown_key"), |bencher| {
            bencher.iter(|| check(keys.next().expect("it goes round"), false));
        });

        let tokens = std::mem::take(&mut table.tokens);
        let mut check = |secret: &str| {
            let presented = Presented::none().api_key(secret.as_bytes());
            assert!(table.credentials.authenticate(presented, NOW).is_ok());
        };
        let mut keys = tokens.iter().cycle();
        group.bench_function(id("jwt_cached"), |bencher| {
            bencher.iter(|| check(keys.next().expect("it goes round")));
        });
    }
    group.finish();
}

criterion_group!(benches, auth);
criterion_main!(benches);
