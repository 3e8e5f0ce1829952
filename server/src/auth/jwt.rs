//! Signed keys: HS256 tokens that point at a row. Minted and verified here, by nobody else.
//! Never parses what is not authentic, and never takes authority from a claim.
//!
//! ```text
//! eyJhbGciOiJIUzI1NiIs… . payload . mac
//! │ compared with the      │ parsed  └ checked first, in constant time
//! └ live headers, bytes    └ last, typed, each name once, 1 KiB
//! ```
//!
//! Comparing the header instead of reading it ends `alg`, `kid`, `jku`, `crit` and their kin in one place.
//! `jsonwebtoken` signs here (over `ring`, through [`PROVIDER`]) and is the tests' oracle. It does not verify: its
//! `decode` parses the header first, copies key and signature, and takes a second parse for the claims.

use std::sync::Once;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::hmac;
use ringlog_engine::ids::Micros;
use serde::{Deserialize, Deserializer, Serialize};

use crate::auth::role::Role;
use crate::auth::secret::{Digest, random, sha256};

const ISSUER: &str = "ringlog";
/// Current, next, and two that only verify.
pub const SIGNING_KEYS_MAX: usize = 4;
const PAYLOAD_BYTES_MAX: usize = 1024;
const PAYLOAD_CHARS_MAX: usize = (PAYLOAD_BYTES_MAX * 4).div_ceil(3);
const MAC_BYTES: usize = 32;
const MAC_CHARS: usize = 43;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// In the order in which they are written. Borrowed: a claim that needs an escape is not one of ours.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    tenant: &'a str,
    role: &'a str,
    jti: &'a str,
    iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    exp: Option<u64>,
    row: u32,
    #[serde(rename = "gen")]
    generation: u32,
}

/// `"exp": null` is not the same as no `exp`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    u64::deserialize(deserializer).map(Some)
}

/// A credential that is about to get its token.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// `key:7`: whose token this is, for people who look into it.
    pub name: &'a str,
    pub tenant_id: &'a str,
    pub role: Role,
    pub slot: u32,
    pub generation: u32,
    pub issued_at: Micros,
    pub expires_at: Option<Micros>,
}

/// 128 random bits that make a token the one that its row means: who stole only the signing secret cannot guess them.
#[derive(Clone, Copy)]
pub struct TokenId([u8; 16]);

impl TokenId {
    pub fn random() -> TokenId {
        TokenId(random())
    }

    /// What the row keeps.
    pub fn proof(&self) -> Digest {
        sha256(&[b"jti\0", &self.0])
    }
}

/// What an authentic token says. Whether it is still good, its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    pub slot: u32,
    pub generation: u32,
    pub proof: Digest,
    pub expires_at: Option<Micros>,
}

/// Makes tokens under one key. Lives with the control plane only.
pub struct TokenSigner {
    header: Box<str>,
    key: EncodingKey,
}

impl TokenSigner {
    pub fn new(kid: &str, secret: &[u8]) -> TokenSigner {
        install_provider();
        TokenSigner { header: header_segment(kid), key: EncodingKey::from_secret(secret) }
    }

    pub fn mint(&self, subject: &Subject<'_>, id: &TokenId) -> String {
        let claims = Claims {
            iss: ISSUER,
            sub: subject.name,
            tenant: subject.tenant_id,
            role: subject.role.name(),
            jti: &URL_SAFE_NO_PAD.encode(id.0),
            iat: seconds(subject.issued_at),
            exp: subject.expires_at.map(seconds),
            row: subject.slot,
            generation: subject.generation,
        };
        let payload = serde_json::to_vec(&claims).expect("numbers and strings have a JSON form");
        assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        let message = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(payload));
        let mac = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, Algorithm::HS256)
            .expect("HMAC takes any message under any key");
        format!("{message}.{mac}")
    }
}

/// The keys under which tokens are accepted, with their MAC states computed. One copy a core.
#[derive(Clone, Default)]
pub struct VerifyingKeys(Vec<VerifyingKey>);

#[derive(Clone)]
struct VerifyingKey {
    /// The whole first segment and its dot.
    start: Box<[u8]>,
    key: hmac::Key,
}

impl std::fmt::Debug for VerifyingKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifyingKeys({})", self.0.len())
    }
}

impl VerifyingKeys {
    pub fn new<'a>(keys: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> VerifyingKeys {
        let keys: Vec<_> = keys
            .into_iter()
            .map(|(kid, secret)| VerifyingKey {
                start: format!("{}.", header_segment(kid)).into_bytes().into(),
                key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            })
            .collect();
        assert!(keys.len() <= SIGNING_KEYS_MAX);
        VerifyingKeys(keys)
    }

    /// Whether `text` begins like a token of ours: everything else is a key of another kind.
    pub fn is_token(&self, text: &[u8]) -> bool {
        self.key_of(text).is_some()
    }

    /// The pointer that an authentic token holds, or nothing. It says nothing about why.
    pub fn verify(&self, token: &[u8]) -> Option<Pointer> {
        let key = self.key_of(token)?;
        let mac_dot = token.iter().rposition(|byte| *byte == b'.')?;
        let payload = token.get(key.start.len()..mac_dot)?;
        let mac = &token[mac_dot + 1..];
        if PAYLOAD_CHARS_MAX < payload.len() || mac.len() != MAC_CHARS {
            return None;
        }
        // Room for what the decoder estimates: whole groups of three.
        let mut bytes = [0; MAC_BYTES + 1];
        let length = URL_SAFE_NO_PAD.decode_slice(mac, &mut bytes).ok()?;
        hmac::verify(&key.key, &token[..mac_dot], &bytes[..length]).ok()?;
        read_payload(payload)
    }

    fn key_of(&self, token: &[u8]) -> Option<&VerifyingKey> {
        self.0.iter().find(|key| token.starts_with(&key.start))
    }
}

/// Called on authentic bytes only. They are ours, and still are read as if they were not.
fn read_payload(payload: &[u8]) -> Option<Pointer> {
    let mut bytes = [0; PAYLOAD_BYTES_MAX + 2];
    let length = URL_SAFE_NO_PAD.decode_slice(payload, &mut bytes).ok()?;
    // A list would also fill the struct, member by member.
    if PAYLOAD_BYTES_MAX < length || bytes[0] != b'{' {
        return None;
    }
    let claims: Claims<'_> = serde_json::from_slice(&bytes[..length]).ok()?;
    if claims.iss != ISSUER || Role::parse(claims.role).is_none() {
        return None;
    }
    let mut jti = [0; 18];
    if URL_SAFE_NO_PAD.decode_slice(claims.jti, &mut jti).ok()? != 16 {
        return None;
    }
    let jti = jti.first_chunk().expect("18 bytes begin with 16");
    let expires_at = match claims.exp {
        Some(at) => Some(Micros(i64::try_from(at).ok()?.checked_mul(MICROS_PER_SECOND)?)),
        None => None,
    };
    Some(Pointer { slot: claims.row, generation: claims.generation, proof: TokenId(*jti).proof(), expires_at })
}

/// The order of these members is what clients of the first seed see as `eyJhbGciOiJIUzI1NiIs`.
fn header_segment(kid: &str) -> Box<str> {
    assert!(kid.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","typ":"JWT","kid":"{kid}"}}"#)).into()
}

fn seconds(at: Micros) -> u64 {
    u64::try_from(at.0 / MICROS_PER_SECOND).unwrap_or(0)
}

/// `jsonwebtoken` over `ring`: HS256 and nothing else, so that no other algorithm is even in the program.
pub static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| {
        only_hs256(*algorithm)?;
        Ok(Box::new(RingHmac(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()))))
    },
    verifier_factory: |algorithm, key: &DecodingKey| {
        only_hs256(*algorithm)?;
        Ok(Box::new(RingHmac(hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?))))
    },
    // They would panic, and are for JWK sets, which we neither read nor write.
    key_utils: KeyUtils::new_unimplemented(),
};

fn install_provider() {
    static INSTALLED: Once = Once::new();
    // A program that embeds us may have installed one first. HS256 of any provider is HS256.
    INSTALLED.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

fn only_hs256(algorithm: Algorithm) -> jsonwebtoken::errors::Result<()> {
    match algorithm {
        Algorithm::HS256 => Ok(()),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

struct RingHmac(hmac::Key);

impl Signer<Vec<u8>> for RingHmac {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl Verifier<Vec<u8>> for RingHmac {
    fn verify(&self, message: &[u8], mac: &Vec<u8>) -> Result<(), signature::Error> {
        hmac::verify(&self.0, message, mac).map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for RingHmac {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for RingHmac {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests;
