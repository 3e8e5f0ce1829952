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
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::value::RawValue;

use crate::auth::secret::{Digest, from_hex, hex, sha256};
pub use crate::catalog::body::{
    Body, KeyRevoked, KeyRotated, KeysUsed, NewKey, Noted, ProgrammaticKeyMinted, SigningSecretCreated,
    SigningSecretRetired, TenantChanged, TenantCreated, TenantDeleted, TenantErased, TenantQuotasSet, TenantStateSet,
};
pub use crate::catalog::people_records::{
    SessionEnd, SessionEnded, SessionRefreshed, SessionStarted, UserCreated, UserDeleted, UserRoleSet,
};

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    Server,
    /// A caller of a route that asks for no credential.
    Anonymous,
    Key(u64),
    /// A person, whichever of their sessions it was.
    User(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    /// Someone may not, and was told so.
    Denied,
    /// Someone could not.
    Failed,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Denied => "denied",
            Outcome::Failed => "failed",
        }
    }
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
        let json = self.body.to_json();
        let envelope = Envelope {
            v: VERSION,
            kind: self.body.kind().to_owned(),
            at: self.at.0,
            actor: self.origin.actor.to_string(),
            source: self.origin.source,
            request_id: self.origin.request_id.clone(),
            outcome: self.outcome,
            skippable: self.body.is_skippable(),
            prev: self.prev,
            body: &json,
        };
        serde_json::to_vec(&envelope).expect("numbers and strings have a JSON form")
    }

    /// The digest that a record of any version names as its previous one.
    pub fn read_prev(bytes: &[u8]) -> Result<Digest, RecordError> {
        #[derive(Deserialize)]
        struct Link {
            #[serde(with = "hex_digest")]
            prev: Digest,
        }
        let link: Link = serde_json::from_slice(bytes).map_err(|error| RecordError::Malformed(error.to_string()))?;
        Ok(link.prev)
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
        let body = Body::from_json(envelope.kind, envelope.body.get(), envelope.skippable)?;
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
            Actor::User(user) => write!(f, "user:{user}"),
        }
    }
}

impl Actor {
    pub fn parse(text: &str) -> Option<Actor> {
        match text {
            "server" => Some(Actor::Server),
            "anonymous" => Some(Actor::Anonymous),
            _ => match text.split_once(':')? {
                ("key", key) => key.parse().ok().map(Actor::Key),
                ("user", user) => user.parse().ok().map(Actor::User),
                _ => None,
            },
        }
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Actor, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        Actor::parse(&text).ok_or_else(|| D::Error::custom("not an actor"))
    }
}

pub(super) mod hex_digest {
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
    use crate::auth::delta::{CredentialKind, TenantState};
    use crate::auth::programmatic::KeyId;
    use crate::auth::role::{Permission, Role};
    use crate::catalog::tiers::{Ceiling, Overrides, Tier};

    fn record(body: Body) -> Record {
        Record {
            at: Micros(1_700_000_000_000_000),
            origin: Origin {
                actor: Actor::Key(3),
                source: Some("2001:db8::1".parse().unwrap()),
                request_id: Some("r-1".into()),
            },
            outcome: body.outcome(),
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

    fn user() -> UserCreated {
        UserCreated {
            user: 4,
            tenant: 9,
            email: "a@b.c".into(),
            username: Some("al".into()),
            role: Role::Admin,
            password_hash: "$argon2id$".into(),
        }
    }

    fn session() -> NewKey {
        NewKey { kind: CredentialKind::Session, ..new_key() }
    }

    fn programmatic() -> ProgrammaticKeyMinted {
        ProgrammaticKeyMinted {
            key: NewKey { kind: CredentialKind::Programmatic, name: "k".into(), expires_at: None, ..new_key() },
            id: KeyId::parse("key_000102030405060708090a0b").unwrap(),
            prefix: "tell_a1b2".into(),
            description: Some("d".into()),
            has_workspace: true,
            permissions: Some(vec![Permission::Read, Permission::ManageSchemas]),
            creator: Actor::Key(3),
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
        let overrides = Overrides { stored_bytes: Some(Ceiling::At(5)), ..Overrides::default() };
        let noted = Noted {
            tenant: Some(9),
            route: Some("GET /api/v1/tenants".into()),
            permission: Some("admin".into()),
            count: 3,
            missed: 2,
        };
        let bare = TenantCreated { email: None, events_quota: None, key: None, number: 1, ..tenant.clone() };
        for body in [
            Body::SigningSecretCreated(SigningSecretCreated { kid: "k1".into() }),
            Body::TenantCreated(tenant),
            Body::TenantCreated(bare),
            Body::KeyMinted(new_key()),
            Body::KeyRevoked(KeyRevoked { key: 7 }),
            Body::BootstrapKeySet(NewKey { expires_at: None, ..new_key() }),
            Body::SigningSecretRetired(SigningSecretRetired { kid: "k1".into() }),
            Body::TenantChanged(TenantChanged { tenant: 9, name: Some("New".into()), tier: Some(Tier::Scale) }),
            Body::TenantChanged(TenantChanged { tenant: 9, name: None, tier: None }),
            Body::TenantStateSet(TenantStateSet { tenant: 9, state: TenantState::Suspended }),
            Body::TenantQuotasSet(TenantQuotasSet { tenant: 9, overrides }),
            Body::TenantDeleted(TenantDeleted { tenant: 9 }),
            Body::TenantErased(TenantErased { tenant: 9 }),
            Body::KeyRotated(KeyRotated { old: 7, old_expires_at: None, new: new_key() }),
            Body::KeyRotated(KeyRotated { old: 7, old_expires_at: Some(3), new: new_key() }),
            Body::UserCreated(user()),
            Body::UserCreated(UserCreated { username: None, ..user() }),
            Body::UserRoleSet(UserRoleSet { user: 4, tenant: 9, role: Role::ReadOnly }),
            Body::UserDeleted(UserDeleted { user: 4, tenant: 9 }),
            Body::SessionStarted(SessionStarted { user: 4, key: session(), ends: vec![3, 5], password_hash: None }),
            Body::SessionStarted(SessionStarted {
                user: 4,
                key: session(),
                ends: vec![],
                password_hash: Some("$x".into()),
            }),
            Body::SessionRefreshed(SessionRefreshed { user: 4, old: 6, new: session() }),
            Body::SessionEnded(SessionEnded { user: 4, tenant: 9, session: 7, why: SessionEnd::Replayed }),
            Body::ProgrammaticKeyMinted(programmatic()),
            Body::KeysUsed(KeysUsed { used: vec![(7, 5), (9, 6)] }),
            Body::PermissionDenied(noted.clone()),
            Body::AuthenticationFailed(Noted { tenant: None, permission: None, missed: 0, ..noted.clone() }),
            Body::AdminRightUsed(noted),
        ] {
            let record = record(body);
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
        let server = Record { origin: Origin::server(), ..record(Body::KeyRevoked(KeyRevoked { key: 1 })) };
        assert_eq!(Record::decode(&server.encode()), Ok(server));
        let by_user = Origin { actor: Actor::User(4), ..Origin::server() };
        let user = Record { origin: by_user, ..record(Body::UserDeleted(UserDeleted { user: 1, tenant: 2 })) };
        assert!(String::from_utf8(user.encode()).unwrap().contains(r#""actor":"user:4""#));
        assert_eq!(Record::decode(&user.encode()), Ok(user));
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

    /// The same for every kind: its name, its members, and whether an older version may pass over it.
    #[test]
    fn the_bodies_of_all_kinds_are_pinned() {
        let key = r#"{"key":7,"slot":4,"generation":2,"tenant":9,"kind":"jwt","role":"developer","name":"k","proof":"#;
        let proof = "01".repeat(32);
        let plain = NewKey { name: "k".into(), expires_at: None, ..new_key() };
        let noted = Noted { tenant: None, route: None, permission: None, count: 3, missed: 0 };
        let overrides = Overrides { events_per_month: Some(Ceiling::At(5)), ..Overrides::default() };
        let tenant = TenantCreated {
            number: 9,
            id: "acme".into(),
            name: "Acme".into(),
            email: None,
            tier: "free".into(),
            events_quota: Some(100_000),
            shard: 1,
            key: None,
        };
        for (body, kind, expected) in [
            (
                Body::SigningSecretCreated(SigningSecretCreated { kid: "k1".into() }),
                "signing_secret_created",
                r#"{"kid":"k1"}"#.into(),
            ),
            (
                Body::SigningSecretRetired(SigningSecretRetired { kid: "k1".into() }),
                "signing_secret_retired",
                r#"{"kid":"k1"}"#.into(),
            ),
            (
                Body::TenantCreated(tenant),
                "tenant_created",
                r#"{"number":9,"id":"acme","name":"Acme","tier":"free","events_quota":100000,"shard":1}"#.to_owned(),
            ),
            (
                Body::TenantChanged(TenantChanged { tenant: 9, name: Some("n".into()), tier: Some(Tier::Scale) }),
                "tenant_changed",
                r#"{"tenant":9,"name":"n","tier":"scale"}"#.into(),
            ),
            (
                Body::TenantStateSet(TenantStateSet { tenant: 9, state: TenantState::Suspended }),
                "tenant_state_set",
                r#"{"tenant":9,"state":"suspended"}"#.into(),
            ),
            (
                Body::TenantQuotasSet(TenantQuotasSet { tenant: 9, overrides }),
                "tenant_quotas_set",
                r#"{"tenant":9,"overrides":{"events_per_month":5}}"#.into(),
            ),
            (Body::TenantDeleted(TenantDeleted { tenant: 9 }), "tenant_deleted", r#"{"tenant":9}"#.into()),
            (Body::TenantErased(TenantErased { tenant: 9 }), "tenant_erased", r#"{"tenant":9}"#.into()),
            (Body::KeyMinted(plain.clone()), "key_minted", format!("{key}\"{proof}\"}}")),
            (Body::BootstrapKeySet(plain.clone()), "bootstrap_key_set", format!("{key}\"{proof}\"}}")),
            (
                Body::KeyRotated(KeyRotated { old: 3, old_expires_at: Some(5), new: plain.clone() }),
                "key_rotated",
                format!(r#"{{"old":3,"old_expires_at":5,"new":{key}"{proof}"}}}}"#),
            ),
            (
                Body::UserCreated(user()),
                "user_created",
                concat!(
                    r#"{"user":4,"tenant":9,"email":"a@b.c","username":"al","role":"admin","#,
                    r#""password_hash":"$argon2id$"}"#
                )
                .into(),
            ),
            (
                Body::UserRoleSet(UserRoleSet { user: 4, tenant: 9, role: Role::ReadOnly }),
                "user_role_set",
                r#"{"user":4,"tenant":9,"role":"readonly"}"#.into(),
            ),
            (Body::UserDeleted(UserDeleted { user: 4, tenant: 9 }), "user_deleted", r#"{"user":4,"tenant":9}"#.into()),
            (
                Body::SessionStarted(SessionStarted {
                    user: 4,
                    key: NewKey { kind: CredentialKind::Session, ..plain.clone() },
                    ends: vec![3],
                    password_hash: Some("$x".into()),
                }),
                "session_started",
                format!(
                    r#"{{"user":4,"key":{}"{proof}"}},"ends":[3],"password_hash":"$x"}}"#,
                    key.replace("jwt", "session")
                ),
            ),
            (
                Body::SessionRefreshed(SessionRefreshed { user: 4, old: 6, new: plain.clone() }),
                "session_refreshed",
                format!(r#"{{"user":4,"old":6,"new":{key}"{proof}"}}}}"#),
            ),
            (
                Body::SessionEnded(SessionEnded { user: 4, tenant: 9, session: 7, why: SessionEnd::LoggedOut }),
                "session_ended",
                r#"{"user":4,"tenant":9,"session":7,"why":"logged_out"}"#.into(),
            ),
            (
                Body::ProgrammaticKeyMinted(programmatic()),
                "programmatic_key_minted",
                format!(
                    r#"{{"key":{}"{proof}"}},"id":"key_000102030405060708090a0b","prefix":"tell_a1b2","description":"d","has_workspace":true,"permissions":["read","manage_schemas"],"creator":"key:3"}}"#,
                    key.replace("jwt", "programmatic")
                ),
            ),
            (
                Body::ProgrammaticKeyMinted(ProgrammaticKeyMinted {
                    description: None,
                    has_workspace: false,
                    permissions: None,
                    ..programmatic()
                }),
                "programmatic_key_minted",
                format!(
                    r#"{{"key":{}"{proof}"}},"id":"key_000102030405060708090a0b","prefix":"tell_a1b2","creator":"key:3"}}"#,
                    key.replace("jwt", "programmatic")
                ),
            ),
            (Body::KeysUsed(KeysUsed { used: vec![(7, 5)] }), "keys_used", r#"{"used":[[7,5]]}"#.into()),
            (Body::PermissionDenied(noted.clone()), "permission_denied", r#"{"count":3}"#.into()),
            (Body::AuthenticationFailed(noted.clone()), "authentication_failed", r#"{"count":3}"#.into()),
            (Body::AdminRightUsed(noted), "admin_right_used", r#"{"count":3}"#.into()),
        ] {
            let text = String::from_utf8(record(body.clone()).encode()).unwrap();
            assert!(text.contains(&format!("\"type\":\"{kind}\"")), "{text}");
            assert!(text.ends_with(&format!("\"body\":{expected}}}")), "{text}");
            assert_eq!(text.contains("\"skippable\":true"), body.is_skippable(), "{text}");
        }
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
