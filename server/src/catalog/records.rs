//! The catalog's records: what changed, when, by whom, and the hash of the record before.
//! They are JSON, so that an auditor needs no tool of ours; a record that this program does not know stops it, because
//! what it does not know could be a revocation.
//!
//! ```text
//! {"v":1,"type":"key_revoked","at":…,"actor":"key:3","source":"::1","request_id":"…","outcome":"ok",
//!  "prev":"<SHA-256 of the previous record's bytes>","body":{"key":7}}
//! ```

use std::fmt;
use std::net::IpAddr;

use ringlog_engine::ids::Micros;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::auth::delta::CredentialKind;
use crate::auth::role::Role;
use crate::auth::secret::{Digest, from_hex, hex, sha256};

const VERSION: u16 = 1;

/// What the first record names as its previous one.
pub const CHAIN_START: Digest = [0; 32];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub at: Micros,
    pub origin: Origin,
    pub outcome: Outcome,
    pub prev: Digest,
    pub body: Body,
}

/// Who made a change, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub actor: Actor,
    pub source: Option<IpAddr>,
    pub request_id: Option<String>,
}

impl Origin {
    /// The server itself, from its own configuration and files.
    pub fn server() -> Origin {
        Origin { actor: Actor::Server, source: None, request_id: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    Server,
    /// A caller of a route that asks for no credential.
    Anonymous,
    Key(u64),
}

/// Only what happened is recorded. A record of a refusal gets its own word here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    SigningSecretCreated(SigningSecretCreated),
    TenantCreated(TenantCreated),
    KeyMinted(NewKey),
    KeyRevoked(KeyRevoked),
    /// Replaces the bootstrap key that was there before.
    BootstrapKeySet(NewKey),
    /// A record of a later version, which says of itself that it may be passed over.
    Skipped {
        kind: String,
    },
}

/// The name of a signing secret. The secret itself never comes here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningSecretCreated {
    pub kid: String,
}

/// A tenant and its first key are one record: a crash cannot leave a tenant that nobody has a key for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantCreated {
    pub number: u32,
    pub id: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    pub tier: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_quota: Option<u64>,
    pub shard: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NewKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// Of this key, from 1, never reused.
    pub key: u64,
    pub slot: u32,
    pub generation: u32,
    pub tenant: u32,
    pub kind: CredentialKind,
    pub role: Role,
    pub name: String,
    #[serde(with = "hex_digest")]
    pub proof: Digest,
    /// Microseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRevoked {
    pub key: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordError {
    /// Not a record at all.
    Malformed(String),
    /// Written by a later version.
    Version(u16),
    /// Of a kind that this version does not know, and must not pass over.
    UnknownKind(String),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Malformed(why) => write!(f, "not a catalog record: {why}"),
            RecordError::Version(version) => {
                write!(f, "a record of version {version}, which a later ringlog wrote: this one reads up to {VERSION}")
            }
            RecordError::UnknownKind(kind) => {
                write!(f, "a record of kind {kind:?}, which a later ringlog wrote and which must not be passed over")
            }
        }
    }
}

impl std::error::Error for RecordError {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    v: u16,
    #[serde(rename = "type")]
    kind: String,
    at: i64,
    actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    outcome: Outcome,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    skippable: bool,
    #[serde(with = "hex_digest")]
    prev: Digest,
    #[serde(borrow)]
    body: &'a RawValue,
}

impl Record {
    pub fn encode(&self) -> Vec<u8> {
        let json = match &self.body {
            Body::SigningSecretCreated(body) => serde_json::value::to_raw_value(body),
            Body::TenantCreated(body) => serde_json::value::to_raw_value(body),
            Body::KeyMinted(body) | Body::BootstrapKeySet(body) => serde_json::value::to_raw_value(body),
            Body::KeyRevoked(body) => serde_json::value::to_raw_value(body),
            Body::Skipped { kind } => unreachable!("a {kind} record is read, never written"),
        };
        let envelope = Envelope {
            v: VERSION,
            kind: self.body.kind().to_owned(),
            at: self.at.0,
            actor: self.origin.actor.to_string(),
            source: self.origin.source,
            request_id: self.origin.request_id.clone(),
            outcome: self.outcome,
            skippable: false,
            prev: self.prev,
            body: &json.expect("numbers and strings have a JSON form"),
        };
        serde_json::to_vec(&envelope).expect("numbers and strings have a JSON form")
    }

    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        // The version first: the rest of a later one may look like anything.
        #[derive(Deserialize)]
        struct Version {
            v: u16,
        }
        let malformed = |error: serde_json::Error| RecordError::Malformed(error.to_string());
        let version: Version = serde_json::from_slice(bytes).map_err(malformed)?;
        if version.v != VERSION {
            return Err(RecordError::Version(version.v));
        }
        let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(malformed)?;
        let json = envelope.body.get();
        let body = match envelope.kind.as_str() {
            "signing_secret_created" => Body::SigningSecretCreated(serde_json::from_str(json).map_err(malformed)?),
            "tenant_created" => Body::TenantCreated(serde_json::from_str(json).map_err(malformed)?),
            "key_minted" => Body::KeyMinted(serde_json::from_str(json).map_err(malformed)?),
            "key_revoked" => Body::KeyRevoked(serde_json::from_str(json).map_err(malformed)?),
            "bootstrap_key_set" => Body::BootstrapKeySet(serde_json::from_str(json).map_err(malformed)?),
            _ if envelope.skippable => Body::Skipped { kind: envelope.kind },
            _ => return Err(RecordError::UnknownKind(envelope.kind)),
        };
        let actor = Actor::parse(&envelope.actor)
            .ok_or_else(|| RecordError::Malformed(format!("actor {:?}", envelope.actor)))?;
        Ok(Record {
            at: Micros(envelope.at),
            origin: Origin { actor, source: envelope.source, request_id: envelope.request_id },
            outcome: envelope.outcome,
            prev: envelope.prev,
            body,
        })
    }
}

impl Body {
    pub fn kind(&self) -> &str {
        match self {
            Body::SigningSecretCreated(_) => "signing_secret_created",
            Body::TenantCreated(_) => "tenant_created",
            Body::KeyMinted(_) => "key_minted",
            Body::KeyRevoked(_) => "key_revoked",
            Body::BootstrapKeySet(_) => "bootstrap_key_set",
            Body::Skipped { kind } => kind,
        }
    }

    /// What the record is about, as an entity of the log.
    pub fn entity(&self) -> String {
        match self {
            Body::SigningSecretCreated(body) => format!("signing-secret:{}", body.kid),
            Body::TenantCreated(body) => format!("tenant:{}", body.number),
            Body::KeyMinted(body) | Body::BootstrapKeySet(body) => format!("key:{}", body.key),
            Body::KeyRevoked(body) => format!("key:{}", body.key),
            Body::Skipped { kind } => kind.clone(),
        }
    }
}

/// The link of the chain: what the next record names as its previous one.
pub fn chain_digest(record: &[u8]) -> Digest {
    sha256(&[record])
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Server => f.write_str("server"),
            Actor::Anonymous => f.write_str("anonymous"),
            Actor::Key(key) => write!(f, "key:{key}"),
        }
    }
}

impl Actor {
    fn parse(text: &str) -> Option<Actor> {
        match text {
            "server" => Some(Actor::Server),
            "anonymous" => Some(Actor::Anonymous),
            _ => text.strip_prefix("key:")?.parse().ok().map(Actor::Key),
        }
    }
}

mod hex_digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Digest, from_hex, hex};

    pub fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(digest))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        from_hex(&text).ok_or_else(|| D::Error::custom("not 64 lower-case hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: Body) -> Record {
        Record {
            at: Micros(1_700_000_000_000_000),
            origin: Origin {
                actor: Actor::Key(3),
                source: Some("2001:db8::1".parse().unwrap()),
                request_id: Some("r-1".into()),
            },
            outcome: Outcome::Ok,
            prev: [0xab; 32],
            body,
        }
    }

    fn new_key() -> NewKey {
        NewKey {
            key: 7,
            slot: 4,
            generation: 2,
            tenant: 9,
            kind: CredentialKind::Jwt,
            role: Role::Developer,
            name: "first \"key\"\n".into(),
            proof: [1; 32],
            expires_at: Some(5),
        }
    }

    #[test]
    fn every_record_reads_back() {
        let tenant = TenantCreated {
            number: 9,
            id: "acme".into(),
            name: "Ünïcode".into(),
            email: Some("a@b.c".into()),
            tier: "free".into(),
            events_quota: Some(100_000),
            shard: 1,
            key: Some(new_key()),
        };
        let bare = TenantCreated { email: None, events_quota: None, key: None, number: 1, ..tenant.clone() };
        for body in [
            Body::SigningSecretCreated(SigningSecretCreated { kid: "k1".into() }),
            Body::TenantCreated(tenant),
            Body::TenantCreated(bare),
            Body::KeyMinted(new_key()),
            Body::KeyRevoked(KeyRevoked { key: 7 }),
            Body::BootstrapKeySet(NewKey { expires_at: None, ..new_key() }),
        ] {
            let record = record(body);
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
        let server = Record { origin: Origin::server(), ..record(Body::KeyRevoked(KeyRevoked { key: 1 })) };
        assert_eq!(Record::decode(&server.encode()), Ok(server));
    }

    /// Bytes that are on disks: today's encoder still writes them, and today's decoder still reads them.
    #[test]
    fn the_first_version_of_a_record_is_pinned() {
        let expected = concat!(
            r#"{"v":1,"type":"key_revoked","at":1700000000000000,"actor":"key:3","source":"2001:db8::1","#,
            r#""request_id":"r-1","outcome":"ok","prev":"abababababababababababababababababababababababababababababababab","#,
            r#""body":{"key":7}}"#
        );
        let record = record(Body::KeyRevoked(KeyRevoked { key: 7 }));
        assert_eq!(String::from_utf8(record.encode()).unwrap(), expected);
    }

    #[test]
    fn what_is_not_known_is_refused_unless_it_may_be_passed_over() {
        let good = String::from_utf8(record(Body::KeyRevoked(KeyRevoked { key: 7 })).encode()).unwrap();
        let decode = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            Record::decode(good.replacen(from, to, 1).as_bytes())
        };
        assert_eq!(decode(r#""v":1"#, r#""v":2"#), Err(RecordError::Version(2)));
        let unknown = decode("key_revoked", "key_frozen");
        assert_eq!(unknown, Err(RecordError::UnknownKind("key_frozen".into())));
        let skipped = decode(r#""type":"key_revoked""#, r#""type":"remark","skippable":true"#).unwrap();
        assert_eq!(skipped.body, Body::Skipped { kind: "remark".into() });
        // Known kinds are never passed over.
        assert!(matches!(
            decode(r#""type":"key_revoked""#, r#""type":"key_revoked","skippable":true"#).unwrap().body,
            Body::KeyRevoked(_)
        ));
        for (from, to) in [
            (r#"{"key":7}"#, r#"{"key":7,"why":"x"}"#),
            (r#"{"key":7}"#, r#"{"key":7,"key":8}"#),
            (r#"{"key":7}"#, r#"{"key":"7"}"#),
            (r#"{"key":7}"#, "{}"),
            (r#""outcome":"ok""#, r#""outcome":"maybe""#),
            (r#""actor":"key:3""#, r#""actor":"somebody""#),
            (r#""prev":"ab"#, r#""prev":"AB"#),
            (r#""prev":"ab"#, r#""prev":""#),
            (r#""at":1700000000000000"#, r#""at":"yesterday""#),
            (r#"{"v":1"#, r#"{"v":1,"extra":1"#),
        ] {
            assert!(matches!(decode(from, to), Err(RecordError::Malformed(_))), "{to}");
        }
        assert!(matches!(Record::decode(b""), Err(RecordError::Malformed(_))));
        assert!(matches!(Record::decode(b"null"), Err(RecordError::Malformed(_))));
    }
}
