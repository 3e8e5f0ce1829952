//! Bytes from outside against every reader of them: golden inputs, all of their truncations, their bytes changed one by one,
//! and what a seeded mutator makes of them. Each target says what must hold of any input, not only that nothing panics.
//!
//! `cargo test -p ringlog --test fuzz` runs each target with a fixed seed for a fixed number of inputs;
//! `scripts/fuzz.sh` runs on with other seeds, and shortens what fails.

#![expect(clippy::unwrap_used, reason = "the whole crate is a test")]

mod catalog;
mod disk_format;
mod frame;
mod http;
mod inflate;
mod json;
mod lines;
mod mutate;
mod otlp;
mod run;
mod stored;
mod syslog;

/// One test for each target, by its name.
macro_rules! targets {
    ($($name:ident: $target:path,)+) => {
        const TARGETS: &[&run::Target] = &[$(&$target,)+];
        $(#[test] fn $name() { run::shortly(&$target) })+
    };
}

targets! {
    frame: frame::FRAME,
    http_head: http::HEAD,
    http_chunked: http::CHUNKED,
    json: json::JSON,
    event_lines: lines::EVENTS,
    log_lines: lines::LOGS,
    shipper: lines::SHIPPER,
    envelope: lines::ENVELOPE,
    syslog: syslog::SYSLOG,
    otlp_protobuf: otlp::PROTOBUF,
    otlp_json: otlp::JSON,
    inflate: inflate::INFLATE,
    catalog_record: catalog::RECORD,
    keys_file: catalog::KEYS_FILE,
    disk_format: disk_format::DISK_FORMAT,
}

#[test]
#[ignore = "as long as it is asked to be: scripts/fuzz.sh"]
fn as_long_as_asked_for() {
    run::as_asked(TARGETS);
}

#[test]
fn an_input_that_fails_is_found_and_shortened() {
    const FRAGILE: run::Target = run::Target {
        name: "fragile",
        corpus: || vec![b"a golden input, as good as any".to_vec()],
        words: &[b"zz"],
        mend: run::leave,
        checker: || {
            Box::new(|input| {
                assert!(!input.windows(2).any(|pair| pair == b"zz"), "two of them");
                0
            })
        },
    };
    let failure = run::Run::new(&FRAGILE, 1).random(100_000).unwrap_err();
    assert_eq!(run::shortened(&FRAGILE, &failure), b"zz");
}
