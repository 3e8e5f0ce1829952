//! What a server believes at its start: the catalog's records, and the file of streaming keys.

use ringlog_server::catalog::keys_file;
use ringlog_server::catalog::records::{Body, Record, chain_digest};

use crate::json::WORDS;
use crate::run::{Check, Target, leave, mark, size};

pub const RECORD: Target =
    Target { name: "catalog_record", corpus: records, words: WORDS, mend: leave, checker: record_checker };

pub const KEYS_FILE: Target = Target {
    name: "keys_file",
    corpus: || {
        vec![
            b"# keys\n\n  000102030405060708090a0b0c0d0e0f:1:web app: main \nFF0102030405060708090A0B0C0D0E0F:7\r\n"
                .to_vec(),
            b"feed1e11feed1e11feed1e11feed1e11:4294967295:\xc3\xa9".to_vec(),
        ]
    },
    words: &[b"\n", b":", b"#", b"000102030405060708090a0b0c0d0e0f:2:x\n", b":0:", b":-1:", b"\x7f", b"\xe2\x80\xa8"],
    mend: leave,
    checker: keys_checker,
};

fn records() -> Vec<Vec<u8>> {
    let prev = "ab".repeat(32);
    let key = format!(
        r#"{{"key":7,"slot":4,"generation":2,"tenant":9,"kind":"jwt","role":"developer","name":"k","proof":"{}","expires_at":5}}"#,
        "01".repeat(32)
    );
    [
        ("key_revoked", r#"{"key":7}"#.to_owned()),
        ("tenant_created", format!(r#"{{"number":9,"id":"acme","name":"Acme","email":"a@b.c","tier":"free","events_quota":100000,"shard":1,"key":{key}}}"#)),
        ("tenant_changed", r#"{"tenant":9,"name":"n","tier":"scale"}"#.to_owned()),
        ("tenant_state_set", r#"{"tenant":9,"state":"suspended"}"#.to_owned()),
        ("tenant_quotas_set", r#"{"tenant":9,"overrides":{"events_per_month":5}}"#.to_owned()),
        ("key_rotated", format!(r#"{{"old":3,"old_expires_at":5,"new":{key}}}"#)),
        ("user_created", r#"{"user":4,"tenant":9,"email":"a@b.c","username":"al","role":"admin","password_hash":"$argon2id$"}"#.to_owned()),
        ("session_started", format!(r#"{{"user":4,"key":{},"ends":[3],"password_hash":"$x"}}"#, key.replace("jwt", "session"))),
        ("session_ended", r#"{"user":4,"tenant":9,"session":7,"why":"logged_out"}"#.to_owned()),
        ("programmatic_key_minted", format!(r#"{{"key":{},"id":"key_000102030405060708090a0b","prefix":"tell_a1b2","permissions":["read","manage_schemas"],"creator":"key:3"}}"#, key.replace("jwt", "programmatic"))),
    ]
    .map(|(kind, body)| {
        let record = format!(
            r#"{{"v":1,"type":"{kind}","at":1700000000000000,"actor":"key:3","source":"2001:db8::1","request_id":"r-1","outcome":"ok","prev":"{prev}","body":{body}}}"#
        );
        let decoded = Record::decode(record.as_bytes());
        assert!(decoded.is_ok(), "{decoded:?}");
        record.into_bytes()
    })
    .to_vec()
}

fn record_checker() -> Check {
    Box::new(|input| match Record::decode(input) {
        Ok(record) => {
            assert_eq!(Record::read_prev(input), Ok(record.prev));
            let kind = record.body.kind().to_owned();
            // What may be passed over is not known, and so not written again.
            if !matches!(record.body, Body::Skipped { .. }) {
                let written = record.encode();
                assert_eq!(Record::decode(&written).as_ref(), Ok(&record));
                assert_eq!(chain_digest(&written) == chain_digest(input), written == input);
            }
            let kind = if matches!(record.body, Body::Skipped { .. }) { "" } else { &kind };
            mark((kind, record.origin.source.is_some(), record.outcome.name()))
        }
        Err(error) => {
            let told = error.to_string();
            mark(told.split(|c: char| c.is_ascii_digit() || "`\"".contains(c)).next().unwrap())
        }
    })
}

fn keys_checker() -> Check {
    Box::new(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return 0 };
        match keys_file::parse(text) {
            Ok(keys) => {
                let written: String = keys.iter().map(keys_file::line).collect();
                let again = keys_file::parse(&written).unwrap();
                assert_eq!(again, keys);
                for key in &keys {
                    assert!(key.tenant.0 != 0 && key.secret.expose().len() == 32);
                }
                mark((keys.len(), size(keys.first().map_or(0, |key| key.name.len()))))
            }
            Err(error) => mark(error.to_string()),
        }
    })
}
