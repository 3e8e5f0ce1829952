//! What it costs to know who asks, with few keys and with many.
//!
//! `cargo bench -p ringlog-benches --bench auth` (about a minute). A line's cost should not depend on the number of keys but
//! through the caches of the machine: the table of a million keys does not fit into them.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringlog_benches::credentials::{Counts, NOW, Table, mixed, programmatic_key, streaming_key, unknown_key};
use ringlog_server::auth::credentials::Presented;

const KEY_COUNTS: [u32; 3] = [10, 10_000, 1_000_000];
/// Tokens that a few clients of one core use all the time.
const TOKENS: usize = 16;
/// Keys of one kind that are used in turn: their rows and texts do not fit into a core's own caches.
const SPREAD_MAX: u32 = 100_000;

fn auth(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("auth");
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    for key_count in KEY_COUNTS {
        let spread_count = key_count.min(SPREAD_MAX);
        let counts = Counts { first: 0, streaming: key_count, programmatic: spread_count, tokens: spread_count };
        let mut table = Table::new(counts);
        let mut check = |secret: &str, is_good: bool| {
            let presented = Presented::none().api_key(secret.as_bytes());
            assert_eq!(table.credentials.authenticate(presented, NOW).is_ok(), is_good);
        };
        let mut bench = |what, secrets: &[String], is_good| {
            // A core learns a key when it first sees it.
            secrets.iter().for_each(|secret| check(secret, is_good));
            let mut secrets = secrets.iter().cycle();
            group.bench_function(BenchmarkId::new(what, key_count), |bencher| {
                bencher.iter(|| check(secrets.next().expect("it goes round"), is_good));
            });
        };
        bench("streaming_key_again", &[streaming_key(3)], true);
        let number = |at: u64| mixed(at) % u64::from(key_count);
        let spread: Vec<String> = (0..u64::from(spread_count)).map(|at| streaming_key(number(at))).collect();
        bench("streaming_key_spread", &spread, true);
        let unknown: Vec<String> = (0..1024).map(unknown_key).collect();
        bench("unknown_key", &unknown, false);
        let unknown: Vec<String> = (0..u64::from(spread_count)).map(unknown_key).collect();
        bench("unknown_key_spread", &unknown, false);
        let programmatic: Vec<String> = (0..u64::from(spread_count)).map(programmatic_key).collect();
        bench("programmatic_key_spread", &programmatic, true);
        bench("jwt_again", &table.tokens[..TOKENS.min(table.tokens.len())], true);
        bench("jwt_spread", &table.tokens, true);
    }
    group.finish();
}

criterion_group!(benches, auth);
criterion_main!(benches);
