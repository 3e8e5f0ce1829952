//! From an e-mail address to a tenant id that no other address has, without asking anyone.
//! An id is the plain slug of the address only if the slug can be read back to exactly that address; every other
//! address gets `--` and a hash. Never looks anything up: the same address has the same id on every server.
//!
//! ```text
//! agent@your-company.com ─► onboard-agent-at-your-company-com
//! agent@your.company.com ─► onboard-agent-at-your-company-com--eoztfkyr5rzax
//! ```
//!
//! The argument, and what an e-mail address is here, stand in `docs/decisions/0003-injective-tenant-ids.md`.

use std::fmt;

use crate::auth::delta::SYSTEM_TENANT_ID;
use crate::auth::secret::sha256;

/// RFC 5321: 64 octets before the `@`, 254 in all, 63 in a label.
const LOCAL_BYTES_MAX: usize = 64;
const EMAIL_BYTES_MAX: usize = 254;
const LABEL_BYTES_MAX: usize = 63;

/// What the first seed's clients accept as a tenant id.
pub const TENANT_ID_BYTES_MAX: usize = 64;

const PREFIX: &str = "onboard-";
const AT: &str = "-at-";
const MARK: &str = "--";
/// 13 base32 characters carry 65 bits.
const HASH_CHARS: usize = 13;
const SLUG_BYTES_BEFORE_HASH: usize = TENANT_ID_BYTES_MAX - PREFIX.len() - MARK.len() - HASH_CHARS;

/// A valid address in its one spelling: ASCII, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Email(String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmailError {
    Empty,
    TooLong { bytes: usize },
    NotAscii,
    Whitespace,
    Control,
    NoAt,
    TwoAts,
    EmptyLocal,
    LocalTooLong { bytes: usize },
    LocalCharacter(char),
    LocalDots,
    EmptyDomain,
    DomainLabel(String),
}

impl fmt::Display for EmailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EmailError::Empty => write!(f, "the address is empty"),
            EmailError::TooLong { bytes } => write!(f, "the address has {bytes} bytes, at most {EMAIL_BYTES_MAX} fit"),
            EmailError::NotAscii => {
                write!(f, "the address is not ASCII: write an international domain in its xn-- form")
            }
            EmailError::Whitespace => write!(f, "the address contains white space"),
            EmailError::Control => write!(f, "the address contains a control character"),
            EmailError::NoAt => write!(f, "the address has no @"),
            EmailError::TwoAts => write!(f, "the address has more than one @"),
            EmailError::EmptyLocal => write!(f, "nothing stands before the @"),
            EmailError::LocalTooLong { bytes } => {
                write!(f, "{bytes} bytes stand before the @, at most {LOCAL_BYTES_MAX} fit")
            }
            EmailError::LocalCharacter(character) => write!(f, "{character:?} may not stand before the @"),
            EmailError::LocalDots => write!(f, "a dot before the @ must stand between other characters"),
            EmailError::EmptyDomain => write!(f, "nothing stands after the @"),
            EmailError::DomainLabel(label) => write!(
                f,
                "{label:?} is not a domain label: 1 to {LABEL_BYTES_MAX} letters, digits and inner dashes between dots"
            ),
        }
    }
}

impl std::error::Error for EmailError {}

impl Email {
    /// Checks `text` and brings it into its one spelling. White space is refused, never trimmed.
    pub fn parse(text: &str) -> Result<Email, EmailError> {
        if text.is_empty() {
            return Err(EmailError::Empty);
        }
        if EMAIL_BYTES_MAX < text.len() {
            return Err(EmailError::TooLong { bytes: text.len() });
        }
        if text.chars().any(char::is_whitespace) {
            return Err(EmailError::Whitespace);
        }
        if text.chars().any(char::is_control) {
            return Err(EmailError::Control);
        }
        if !text.is_ascii() {
            return Err(EmailError::NotAscii);
        }
        let (local, domain) = text.split_once('@').ok_or(EmailError::NoAt)?;
        if domain.contains('@') {
            return Err(EmailError::TwoAts);
        }
        check_local(local)?;
        check_domain(domain)?;
        Ok(Email(text.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the `@`.
    pub fn local(&self) -> &str {
        self.parts().0
    }

    /// The id of the tenant that this address onboards.
    pub fn tenant_id(&self) -> String {
        let slug = self.slug();
        let plain_fits = PREFIX.len() + slug.len() <= TENANT_ID_BYTES_MAX;
        if plain_fits && address_of(&slug).as_deref() == Some(self.as_str()) {
            return format!("{PREFIX}{slug}");
        }
        // A cut may end on a dash, which would make three in a row: they are taken off.
        let start = slug[..slug.len().min(SLUG_BYTES_BEFORE_HASH)].trim_end_matches('-');
        let digest = sha256(&[b"tenant-id-v1\0", self.0.as_bytes()]);
        format!("{PREFIX}{start}{MARK}{}", base32(&digest, HASH_CHARS))
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once('@').expect("an address was parsed with its @")
    }

    /// Runs of anything but letters and digits become one dash; none stands at an end.
    fn slug(&self) -> String {
        let (local, domain) = self.parts();
        let mut slug = String::with_capacity(self.0.len() + AT.len());
        for byte in local.bytes().chain(AT.bytes()).chain(domain.bytes()) {
            if byte.is_ascii_lowercase() || byte.is_ascii_digit() {
                slug.push(char::from(byte));
            } else if !slug.is_empty() && !slug.ends_with('-') {
                slug.push('-');
            }
        }
        slug.truncate(slug.trim_end_matches('-').len());
        slug
    }
}

/// The one address that a slug stands for: the last `-at-` is the `@`, and the last dash behind it the only dot.
fn address_of(slug: &str) -> Option<String> {
    let (local, domain) = slug.rsplit_once(AT)?;
    match domain.rsplit_once('-') {
        Some((before, top)) => Some(format!("{local}@{before}.{top}")),
        None => Some(format!("{local}@{domain}")),
    }
}

/// Why an operator cannot give a tenant this id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenIdError {
    Length,
    Character,
    /// It begins like an id that comes from an address, or could be one.
    Onboards,
    /// It means something already.
    Reserved,
}

impl fmt::Display for ChosenIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChosenIdError::Length => write!(f, "a tenant id has 1 to {TENANT_ID_BYTES_MAX} characters"),
            ChosenIdError::Character => {
                write!(f, "a tenant id is lower-case letters and digits, with dashes and underscores between them")
            }
            ChosenIdError::Onboards => {
                write!(f, "ids with {PREFIX} before or {MARK} in them come from e-mail addresses")
            }
            ChosenIdError::Reserved => write!(f, "the id is reserved"),
        }
    }
}

impl std::error::Error for ChosenIdError {}

/// Checks the id that an operator gives a tenant. No such id is one that an address onboards, a workspace's number, or
/// the system's.
pub fn check_chosen(id: &str) -> Result<(), ChosenIdError> {
    if id.is_empty() || TENANT_ID_BYTES_MAX < id.len() {
        return Err(ChosenIdError::Length);
    }
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_inner = |byte: u8| is_plain(byte) || byte == b'-' || byte == b'_';
    let ends_plain = id.bytes().next().is_some_and(is_plain) && id.bytes().next_back().is_some_and(is_plain);
    if !ends_plain || !id.bytes().all(is_inner) {
        return Err(ChosenIdError::Character);
    }
    if id.starts_with(PREFIX) || id.contains(MARK) {
        return Err(ChosenIdError::Onboards);
    }
    let is_workspace = id.strip_prefix("ws-").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    if is_workspace || id == SYSTEM_TENANT_ID { Err(ChosenIdError::Reserved) } else { Ok(()) }
}

fn check_local(local: &str) -> Result<(), EmailError> {
    if local.is_empty() {
        return Err(EmailError::EmptyLocal);
    }
    if LOCAL_BYTES_MAX < local.len() {
        return Err(EmailError::LocalTooLong { bytes: local.len() });
    }
    let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    if let Some(byte) = local.bytes().find(|byte| !is_atom(*byte) && *byte != b'.') {
        return Err(EmailError::LocalCharacter(char::from(byte)));
    }
    if local.split('.').any(str::is_empty) {
        return Err(EmailError::LocalDots);
    }
    Ok(())
}

fn check_domain(domain: &str) -> Result<(), EmailError> {
    if domain.is_empty() {
        return Err(EmailError::EmptyDomain);
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match domain.split('.').find(|label| !is_label(label)) {
        Some(label) => Err(EmailError::DomainLabel(label.to_owned())),
        None => Ok(()),
    }
}

/// RFC 4648 base32 in lower case, the first `chars` characters.
fn base32(bytes: &[u8], chars: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    assert!(chars * 5 <= bytes.len() * 8);
    let bit = |index: usize| usize::from(bytes[index / 8] >> (7 - index % 8) & 1);
    (0..chars)
        .map(|at| char::from(ALPHABET[(0..5).fold(0, |value, offset| value << 1 | bit(at * 5 + offset))]))
        .collect()
}

/// Why an id that a person chose cannot be a tenant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedIdError {
    /// Not 1 to 64 lower-case letters, digits and inner dashes.
    Shape,
    /// Of the form that onboarding makes, or that means a tenant's number.
    Reserved,
}

impl fmt::Display for NamedIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamedIdError::Shape => {
                write!(f, "a tenant id is 1 to {TENANT_ID_BYTES_MAX} lower-case letters, digits and inner dashes")
            }
            NamedIdError::Reserved => {
                write!(f, "ids that start with onboard-, contain --, read ws-N, or are system, are reserved")
            }
        }
    }
}

impl std::error::Error for NamedIdError {}

/// Checks an id that a person chose. The other half of the proof: no such id can be one that an address yields.
pub fn check_named_id(id: &str) -> Result<(), NamedIdError> {
    let shaped = !id.is_empty()
        && id.len() <= TENANT_ID_BYTES_MAX
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !id.starts_with('-')
        && !id.ends_with('-');
    if !shaped {
        return Err(NamedIdError::Shape);
    }
    let is_number = id.strip_prefix("ws-").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    if id.starts_with(PREFIX) || id.contains(MARK) || is_number || id == crate::auth::delta::SYSTEM_TENANT_ID {
        return Err(NamedIdError::Reserved);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn id(address: &str) -> String {
        Email::parse(address).unwrap().tenant_id()
    }

    /// What the first seed does: what these tests must be able to tell from ours.
    fn naive_id(address: &str) -> String {
        format!("onboard-{}", address.to_ascii_lowercase().replace('@', "-at-").replace(['.', ' '], "-"))
    }

    #[test]
    fn ordinary_addresses_get_the_plain_id() {
        for (address, expected) in [
            ("agent@your-company.com", "onboard-agent-at-your-company-com"),
            ("a@x.io", "onboard-a-at-x-io"),
            ("first-last@example.com", "onboard-first-last-at-example-com"),
            ("a-at-b@c.com", "onboard-a-at-b-at-c-com"),
            ("dev@localhost", "onboard-dev-at-localhost"),
            ("AGENT@Your-Company.COM", "onboard-agent-at-your-company-com"),
            ("0@1.2", "onboard-0-at-1-2"),
        ] {
            assert_eq!(id(address), expected, "{address}");
        }
    }

    #[test]
    fn addresses_that_a_slug_cannot_hold_get_a_hash() {
        assert_eq!(id("agent@your.company.com"), "onboard-agent-at-your-company-com--eoztfkyr5rzax");
        for address in [
            "a.b@x.com",
            "a+b@x.com",
            "a_b@x.com",
            "a@b-at-c.com",
            "at@at.at",
            "a--b@x.com",
            "-a@x.com",
            "a-@x.com",
            "a@x--y.com",
            "+@x.com",
            "a@x.co-m",
            "a@x.y.z",
            "a@loc-host",
        ] {
            let id = id(address);
            assert_eq!(id.as_bytes()[id.len() - HASH_CHARS - 2..][..2], *b"--", "{address} {id}");
            assert_eq!(id.matches("--").count(), 1, "{address} {id}");
        }
    }

    #[test]
    fn the_longest_address_fits_sixty_four_bytes() {
        let long = format!("{}@{}.com", "l".repeat(64), "d".repeat(63));
        assert_eq!(id(&long).len(), TENANT_ID_BYTES_MAX);
        // A cut right behind a dash leaves no third dash.
        let cut = format!("{}-b@example.com", "a".repeat(40));
        assert!(!id(&cut).contains("---"), "{}", id(&cut));
        // 64 bytes still fit plain, 65 do not.
        let plain = format!("{}@b.com", "a".repeat(64 - "onboard--at-b-com".len()));
        assert_eq!((id(&plain).len(), id(&plain).contains("--")), (64, false));
        assert!(id(&format!("a{plain}")).contains("--"));
    }

    #[test]
    fn a_wrong_address_is_told_what_is_wrong() {
        let check = |address: &str, expected: EmailError| {
            assert_eq!(Email::parse(address), Err(expected.clone()), "{address:?}");
            assert!(!expected.to_string().is_empty());
        };
        check("", EmailError::Empty);
        check("no-at.example.com", EmailError::NoAt);
        check("a@b@c.com", EmailError::TwoAts);
        check("@x.com", EmailError::EmptyLocal);
        check("a@", EmailError::EmptyDomain);
        check("@", EmailError::EmptyLocal);
        check(" a@x.com", EmailError::Whitespace);
        check("a@x.com\n", EmailError::Whitespace);
        check("a b@x.com", EmailError::Whitespace);
        check("a\u{a0}b@x.com", EmailError::Whitespace);
        check("a\0b@x.com", EmailError::Control);
        check("a\u{7f}@x.com", EmailError::Control);
        check("ä@x.com", EmailError::NotAscii);
        check("a@bücher.example", EmailError::NotAscii);
        // The Kelvin sign lower-cases to k: it must not become another's address.
        check("\u{212a}@x.com", EmailError::NotAscii);
        check(".a@x.com", EmailError::LocalDots);
        check("a.@x.com", EmailError::LocalDots);
        check("a..b@x.com", EmailError::LocalDots);
        check("\"a\"@x.com", EmailError::LocalCharacter('"'));
        check("a,b@x.com", EmailError::LocalCharacter(','));
        check("a:b@x.com", EmailError::LocalCharacter(':'));
        check("a@x..com", EmailError::DomainLabel(String::new()));
        check("a@.com", EmailError::DomainLabel(String::new()));
        check("a@x.com.", EmailError::DomainLabel(String::new()));
        check("a@-x.com", EmailError::DomainLabel("-x".into()));
        check("a@x-.com", EmailError::DomainLabel("x-".into()));
        check("a@x_y.com", EmailError::DomainLabel("x_y".into()));
        check("a@[127.0.0.1]", EmailError::DomainLabel("[127".into()));
        check("a@x.com/../y", EmailError::DomainLabel("com/".into()));
        check(&format!("a@{}.com", "d".repeat(64)), EmailError::DomainLabel("d".repeat(64)));
        check(&format!("{}@x.com", "l".repeat(65)), EmailError::LocalTooLong { bytes: 65 });
        check(&format!("a@{}com", "d.".repeat(130)), EmailError::TooLong { bytes: 265 });
    }

    #[test]
    fn case_does_not_make_another_tenant() {
        assert_eq!(Email::parse("A@X.com"), Email::parse("a@x.COM"));
    }

    /// Every way to put up to five pieces before the `@` and four behind it: the pieces are what the slug confuses.
    #[test]
    fn no_two_of_all_small_confusable_addresses_share_an_id() {
        let locals = strings_of(&["a", "at", "-", ".", "+", "-at-"], 5);
        let domains = strings_of(&["a", "at", "-", ".", "com"], 4);
        let mut seen: HashMap<String, String> = HashMap::new();
        let mut naive: HashSet<String> = HashSet::new();
        let mut count = 0;
        for local in &locals {
            for domain in domains.iter().step_by(3) {
                let Ok(email) = Email::parse(&format!("{local}@{domain}")) else { continue };
                // Pieces make the same address in more than one way.
                let id = email.tenant_id();
                let first = seen.entry(id).or_insert_with(|| {
                    count += 1;
                    naive.insert(naive_id(email.as_str()));
                    email.as_str().to_owned()
                });
                assert_eq!(first, email.as_str());
            }
        }
        assert!(100_000 < count, "{count}");
        assert!(naive.len() < count, "the generator must be able to find collisions");
    }

    #[test]
    fn no_two_of_many_random_addresses_share_an_id() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |bound: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % bound as u64) as usize
        };
        let alphabet = b"aabbtt01--..++__AT";
        let mut seen: HashMap<String, String> = HashMap::new();
        let mut accepted = 0;
        while accepted < 120_000 {
            let mut address = String::new();
            for part in 0..2 {
                if part == 1 {
                    address.push('@');
                }
                let length_max = if next(8) == 0 { 60 } else { 7 };
                for _ in 0..1 + next(length_max) {
                    match next(6) {
                        0 => address.push_str("-at-"),
                        _ => address.push(char::from(alphabet[next(alphabet.len())])),
                    }
                }
            }
            let Ok(email) = Email::parse(&address) else { continue };
            accepted += 1;
            let id = email.tenant_id();
            assert!(id.len() <= TENANT_ID_BYTES_MAX && id.starts_with("onboard-") && !id.ends_with('-'));
            assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
            assert_eq!(check_named_id(&id), Err(NamedIdError::Reserved));
            let first = seen.entry(id).or_insert_with(|| email.as_str().to_owned());
            assert_eq!(first, email.as_str());
        }
    }

    #[test]
    fn chosen_ids_stay_out_of_the_reserved_ranges() {
        for good in ["a", "my-company-prod", "default", "ws-x", "ws-7a", &"x".repeat(64)] {
            assert_eq!(check_named_id(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a/b", "..", &"x".repeat(65)] {
            assert_eq!(check_named_id(bad), Err(NamedIdError::Shape), "{bad}");
        }
        for bad in ["onboard-x", "a--b", "ws-7", "ws-", "system"] {
            assert!(check_named_id(bad).is_err(), "{bad}");
        }
    }

    fn strings_of(pieces: &[&str], length_max: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut from = 0;
        for _ in 0..length_max {
            let until = all.len();
            for index in from..until {
                for piece in pieces {
                    all.push(format!("{}{piece}", all[index]));
                }
            }
            from = until;
        }
        all
    }

    #[test]
    fn ids_that_operators_choose_are_nobody_elses() {
        for good in ["a", "my-company-prod", "a_b", "7", "ws-a", "x".repeat(64).as_str(), "onboard", "on-board-x"] {
            assert_eq!(check_chosen(good), Ok(()), "{good}");
        }
        for (wrong, error) in [
            ("", ChosenIdError::Length),
            (&"x".repeat(65), ChosenIdError::Length),
            ("Acme", ChosenIdError::Character),
            ("a b", ChosenIdError::Character),
            ("../etc", ChosenIdError::Character),
            ("a/b", ChosenIdError::Character),
            ("\u{430}", ChosenIdError::Character),
            ("-a", ChosenIdError::Character),
            ("a-", ChosenIdError::Character),
            ("_a", ChosenIdError::Character),
            ("onboard-me-at-x-com", ChosenIdError::Onboards),
            ("a--b", ChosenIdError::Onboards),
            ("ws-7", ChosenIdError::Reserved),
            ("system", ChosenIdError::Reserved),
        ] {
            assert_eq!(check_chosen(wrong), Err(error), "{wrong}");
        }
    }
}
