//! OpenTelemetry requests in both encodings.

use std::net::{IpAddr, Ipv4Addr};

use ringlog_server::wire::otlp::{Encoding, Scratch, parse_logs};

use crate::json::WORDS;
use crate::run::{Check, Target, leave, mark, size};
use crate::stored::{self, Payloads, new_batch};

pub const PROTOBUF: Target = Target {
    name: "otlp_protobuf",
    corpus: || corpus("pb"),
    words: &[
        b"\x0a\x00",
        b"\x12\x02\x0a\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x09\0\0\0\0\0\0\0\0",
        b"\x2a\x04\x0a\x02hi",
        b"service.name",
        b"_system.",
        b"\x0b\x0c",
    ],
    mend: leave,
    checker: || checker(Encoding::Protobuf),
};

pub const JSON: Target = Target {
    name: "otlp_json",
    corpus: || corpus("json"),
    words: WORDS,
    mend: leave,
    checker: || checker(Encoding::Json),
};

fn corpus(extension: &str) -> Vec<Vec<u8>> {
    let name = |name: &str| format!("{}/tests/data/otlp/{name}.{extension}", env!("CARGO_MANIFEST_DIR"));
    ["every_field", "python_sdk"].map(|of| std::fs::read(name(of)).unwrap()).to_vec()
}

fn checker(encoding: Encoding) -> Check {
    let (mut scratch, mut batch) = (Scratch::default(), new_batch());
    Box::new(move |input| {
        let source_ip = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)));
        batch.reset(batch.tenant(), batch.source());
        let outcome = parse_logs(encoding, input, source_ip, &mut scratch, &mut batch);
        let mut other = new_batch();
        assert_eq!(parse_logs(encoding, input, source_ip, &mut Scratch::default(), &mut other), outcome);
        assert_eq!(batch.records(), other.records());
        match outcome {
            Ok(outcome) => {
                assert_eq!(outcome.record_count, outcome.rejected_count + batch.event_count());
                let reasons: Vec<_> = outcome.rejected_by_reason().collect();
                assert_eq!(reasons.iter().map(|(_, count)| count).sum::<usize>(), outcome.rejected_count);
                if let Some(rejection) = &outcome.first_rejection {
                    assert!(rejection.record_index < outcome.record_count);
                    assert!(rejection.span.start <= rejection.span.end && rejection.span.end <= input.len());
                }
                if encoding == Encoding::Json {
                    serde_json::from_slice::<serde::de::IgnoredAny>(input).unwrap();
                }
                let lengths: Vec<_> = stored::check(&batch, Payloads::Objects)
                    .iter()
                    .take(3)
                    .map(|record| (size(record.payload.len()), record.timestamp.is_some()))
                    .collect();
                mark((size(outcome.record_count), reasons, lengths))
            }
            Err(error) => {
                assert!(batch.is_empty() && batch.records().is_empty());
                assert!(error.at() <= input.len());
                let told = error.to_string();
                mark((told.split(|c: char| c.is_ascii_digit()).next().unwrap(), size(error.at())))
            }
        }
    })
}
