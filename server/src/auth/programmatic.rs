//! Programmatic keys: what one looks like, what is kept of it, and what it may do.
//! A key never does more than its creator can at that moment: its scope cuts the creator's permissions, never adds.
//! What is kept is its SHA-256 and nine characters to recognise it by; the key itself is shown once.
//!
//! ```text
//! tell_a1b2c3d4e5f6a1b2c3d4e5f6a1b2c3d4      the key: 128 random bits
//! tell_a1b2                                  its prefix, for people; never looked up by
//! key_5f3a9c0e7b1d2f4a6c8e0b1d               its id: random, so that it tells nobody how many there are
//! ```

use std::fmt;

use ringlog_engine::ids::Micros;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::auth::role::{Permission, Permissions, Role};
use crate::auth::secret::{Digest, Secret, from_hex, hex, random, sha256};

const KEY_PREFIX: &str = "tell_";
const KEY_RANDOM_BYTES: usize = 16;
pub const KEY_CHARS: usize = KEY_PREFIX.len() + 2 * KEY_RANDOM_BYTES;
/// `tell_` and four digits: 16 bits are given away, 112 remain.
const SHOWN_CHARS: usize = KEY_PREFIX.len() + 4;

const ID_PREFIX: &str = "key_";
const ID_RANDOM_BYTES: usize = 12;

const DAY_US: i64 = 86_400_000_000;
/// "Max 1 year from now": the same day of the next year is 366 days away across a leap day.
pub const LIFETIME_MAX_US: i64 = 366 * DAY_US;

/// A new key, which is shown once and then forgotten.
pub fn random_key() -> Secret {
    Secret::new(format!("{KEY_PREFIX}{}", hex(&random::<KEY_RANDOM_BYTES>())))
}

/// What is kept to recognise a key by. `key` is one that [`random_key`] made.
pub fn shown_prefix(key: &Secret) -> &str {
    &key.expose()[..SHOWN_CHARS]
}

/// The digest of a presented key, if it has exactly the form of one: `tell_` and 32 lower-case hex digits. Session
/// tokens, JWTs and streaming keys do not.
pub fn presented_digest(presented: &[u8]) -> Option<Digest> {
    let digits = presented.strip_prefix(KEY_PREFIX.as_bytes())?;
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    (presented.len() == KEY_CHARS && digits.iter().all(is_digit)).then(|| sha256(&[presented]))
}

/// What a key is called in paths and in the audit log. It opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; ID_RANDOM_BYTES]);

impl KeyId {
    pub fn random() -> KeyId {
        KeyId(random())
    }

    /// Reads what [`KeyId`] displays, and nothing else.
    pub fn parse(text: &str) -> Option<KeyId> {
        text.strip_prefix(ID_PREFIX).and_then(from_hex).map(KeyId)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ID_PREFIX}{}", hex(&self.0))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyId, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        KeyId::parse(&text).ok_or_else(|| D::Error::custom("not a key's id"))
    }
}

/// What a key may do of what its creator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything, now and when the creator's role changes.
    Inherit,
    /// These, as long as the creator may do them.
    Only(Permissions),
}

/// A permission was asked for that the asker does not have, or a word that names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScopeError<'a> {
    Unknown(&'a str),
    BeyondOwn(Permission),
}

impl fmt::Display for ScopeError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The word is the client's: it comes back quoted and short.
            ScopeError::Unknown(word) => {
                let names = Permission::ALL.map(Permission::name).join(", ");
                let word: String = word.chars().take(32).collect();
                write!(f, "{word:?} is not a permission; those are {names}")
            }
            ScopeError::BeyondOwn(permission) => {
                write!(f, "a key cannot have {}, which its creator does not have", permission.name())
            }
        }
    }
}

impl Scope {
    /// Reads a list of permissions' names; an empty one inherits. Names may repeat.
    pub fn parse<'a>(names: &[&'a str]) -> Result<Scope, ScopeError<'a>> {
        if names.is_empty() {
            return Ok(Scope::Inherit);
        }
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let permission = Permission::ALL.into_iter().find(|permission| permission.name() == *name);
            found.push(permission.ok_or(ScopeError::Unknown(name))?);
        }
        Ok(Scope::Only(Permissions::of(&found)))
    }

    /// The names, in the order of the table; none where everything is inherited.
    pub fn names(self) -> Vec<&'static str> {
        match self {
            Scope::Inherit => Vec::new(),
            Scope::Only(permissions) => {
                let contained = Permission::ALL.into_iter().filter(|permission| permissions.contains(*permission));
                contained.map(Permission::name).collect()
            }
        }
    }

    /// What the key may do at most, whatever its creator may.
    pub fn ceiling(self) -> Permissions {
        match self {
            Scope::Inherit => Permissions::ALL,
            Scope::Only(permissions) => permissions,
        }
    }

    /// What the key may do while its creator has `role`.
    pub fn effective(self, role: Role) -> Permissions {
        role.permissions().intersection(self.ceiling())
    }

    /// The scope of a key that is asked for by somebody with this role who came with a credential of this scope. A key
    /// that was cut down makes no key that is whole: what it inherits is what it has.
    pub fn grant<'a>(self, asker_role: Role, asker_scope: Scope) -> Result<Scope, ScopeError<'a>> {
        let own = asker_scope.effective(asker_role);
        match self {
            Scope::Inherit => Ok(asker_scope),
            Scope::Only(asked) => {
                let beyond = |permission: &Permission| asked.contains(*permission) && !own.contains(*permission);
                match Permission::ALL.into_iter().find(beyond) {
                    Some(permission) => Err(ScopeError::BeyondOwn(permission)),
                    None => Ok(self),
                }
            }
        }
    }
}

/// Why a key cannot end when it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryError {
    Past,
    TooFar,
}

impl fmt::Display for ExpiryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExpiryError::Past => write!(f, "expires_at is not in the future"),
            ExpiryError::TooFar => write!(f, "expires_at is more than a year away"),
        }
    }
}

/// Whether a key that is made `now` may end at `expires_at`. One that names no end has none.
pub fn check_expiry(expires_at: Option<Micros>, now: Micros) -> Result<(), ExpiryError> {
    match expires_at {
        Some(at) if at <= now => Err(ExpiryError::Past),
        Some(at) if now.0.saturating_add(LIFETIME_MAX_US) < at.0 => Err(ExpiryError::TooFar),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "tell_a1b2c3d4e5f6a1b2c3d4e5f6a1b2c3d4";

    #[test]
    fn new_keys_and_ids_have_the_documented_form() {
        let key = random_key();
        assert_eq!(key.expose().len(), 37);
        assert_eq!(presented_digest(key.expose().as_bytes()), Some(key.digest()));
        assert_ne!(key, random_key());
        let id = KeyId::random();
        assert_eq!(KeyId::parse(&id.to_string()), Some(id));
        assert_ne!(id, KeyId::random());
    }

    #[test]
    fn the_prefix_is_the_one_that_the_seed_shows() {
        assert_eq!(shown_prefix(&Secret::new(KEY)), "tell_a1b2");
    }

    #[test]
    fn only_the_exact_form_is_a_presented_key() {
        // sha256sum of the key's text.
        let digest = presented_digest(KEY.as_bytes()).unwrap();
        assert_eq!(digest, sha256(&[KEY.as_bytes()]));
        for other in [
            "",
            "tell_",
            &KEY[5..],
            &KEY[..36],
            &format!("{KEY}0"),
            &format!(" {KEY}"),
            &KEY.to_uppercase(),
            &KEY.replace("tell_", "TELL_"),
            &KEY.replace("tell_", "tell-"),
            &KEY.replace('a', "A"),
            &KEY.replace('a', "g"),
            "tell_eyJhbGciOiJIUzI1NiIsInR5cCI6Ikp",
        ] {
            assert_eq!(presented_digest(other.as_bytes()), None, "{other}");
        }
        assert_eq!(presented_digest(&[0xff; KEY_CHARS]), None);
    }

    #[test]
    fn only_the_exact_form_is_an_id() {
        let text = "key_000102030405060708090a0b";
        assert_eq!(KeyId::parse(text).unwrap().to_string(), text);
        for other in ["", "key_", "000102030405060708090a0b", &text[..27], &format!("{text}0"), &text.to_uppercase()] {
            assert_eq!(KeyId::parse(other), None, "{other}");
        }
        assert_eq!(KeyId::parse("key_../../../../etc/pass"), None);
    }

    #[test]
    fn scopes_are_read_by_the_names_of_the_one_table() {
        assert_eq!(Scope::parse(&[]), Ok(Scope::Inherit));
        let all = Permission::ALL.map(Permission::name);
        assert_eq!(Scope::parse(&all), Ok(Scope::Only(Permissions::of(&Permission::ALL))));
        let scope = Scope::parse(&["write", "read", "write"]).unwrap();
        assert_eq!(scope.names(), ["read", "write"]);
        assert!(Scope::Inherit.names().is_empty());
        for unknown in ["", "Read", "read ", "root", "*", "manage-schemas"] {
            assert_eq!(Scope::parse(&["read", unknown]), Err(ScopeError::Unknown(unknown)), "{unknown}");
        }
    }

    #[test]
    fn a_key_never_does_more_than_its_creator_can_now() {
        let wide = Scope::Only(Permissions::of(&Permission::ALL));
        for role in Role::ALL {
            for scope in [Scope::Inherit, wide, Scope::Only(Permissions::of(&[Permission::Admin, Permission::Read]))] {
                assert!(scope.effective(role).is_subset_of(role.permissions()), "{role:?} {scope:?}");
            }
            assert_eq!(wide.effective(role), role.permissions());
        }
    }

    /// All roles, all scopes of the asker, all scopes asked for: 4 × 129 × 129 cases.
    #[test]
    fn nobody_grants_more_than_they_have() {
        let subsets = (0u8..128).map(|bits| {
            let list: Vec<Permission> =
                Permission::ALL.into_iter().filter(|permission| bits & (1 << *permission as u8) != 0).collect();
            Scope::Only(Permissions::of(&list))
        });
        let scopes: Vec<Scope> = subsets.chain([Scope::Inherit]).collect();
        for role in Role::ALL {
            for asker in &scopes {
                let own = asker.effective(role);
                for asked in &scopes {
                    match asked.grant(role, *asker) {
                        Ok(granted) => {
                            assert!(granted.effective(role).is_subset_of(own), "{role:?} {asker:?} {asked:?}")
                        }
                        Err(ScopeError::BeyondOwn(permission)) => assert!(!own.contains(permission)),
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
        }
        assert_eq!(Scope::Inherit.grant(Role::Developer, Scope::Inherit), Ok(Scope::Inherit));
    }

    #[test]
    fn a_key_ends_within_a_year_or_never() {
        let now = Micros(1_790_000_000_000_000);
        let after = |us: i64| check_expiry(Some(Micros(now.0 + us)), now);
        assert_eq!(check_expiry(None, now), Ok(()));
        assert_eq!(after(1), Ok(()));
        assert_eq!(after(366 * DAY_US), Ok(()));
        assert_eq!(after(366 * DAY_US + 1), Err(ExpiryError::TooFar));
        assert_eq!(after(0), Err(ExpiryError::Past));
        assert_eq!(after(-1), Err(ExpiryError::Past));
        assert_eq!(check_expiry(Some(Micros(i64::MAX)), Micros(i64::MAX - 1)), Ok(()));
    }
}
