//! Passwords: which may be chosen, what is kept instead of them, and how one is checked.
//! Owns the memory that Argon2 works in: it is made once, and wiped after every use. Never runs on a core: a check costs
//! tens of milliseconds.
//!
//! ```text
//! password ─► Argon2id (RFC 9106), 19 MiB, 2 passes, 1 lane ─► $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH
//! ```
//!
//! A password is its bytes as they were sent: what a keyboard composes in another way is another password.

use std::fmt;
use std::hint::black_box;

use argon2::password_hash::phc::{Ident, Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::{Zeroize, Zeroizing};

use crate::auth::secret::random;

/// The second seed's smallest password. NIST SP 800-63B (revision 4, 3.1.1.2) asks for 8 beside a second factor and 15
/// without one, and for no rules about digits and the like.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// NIST asks for at least 64 to be accepted. Twice that is room for any sentence, and no work worth an attack.
pub const PASSWORD_CHARS_MAX: usize = 128;
const PASSWORD_BYTES_MAX: usize = 4 * PASSWORD_CHARS_MAX;

/// A part of an address that is shorter than this may stand in a password by accident.
const OWN_NAME_CHARS_MIN: usize = 4;

/// What is tried first, in lower case and of 8 characters or more: the head of the public lists of leaked passwords.
/// Runs such as 12345678 and aaaaaaaa are found by [`is_run`].
const COMMON: [&str; 32] = [
    "1q2w3e4r",
    "1q2w3e4r5t",
    "1qaz2wsx",
    "aa123456",
    "abc12345",
    "admin123",
    "administrator",
    "asdfghjk",
    "asdfghjkl",
    "baseball",
    "changeme",
    "changeme123",
    "football",
    "iloveyou",
    "iloveyou1",
    "letmein1",
    "letmein123",
    "p@ssw0rd",
    "passw0rd",
    "password",
    "password1",
    "password12",
    "password123",
    "password!",
    "princess",
    "qwer1234",
    "qwerty12",
    "qwerty123",
    "qwertyui",
    "qwertyuiop",
    "sunshine",
    "trustno1",
];

/// The OWASP Password Storage Cheat Sheet's least for Argon2id with one lane.
const OWASP_MEMORY_KIB: u32 = 19_456;
const OWASP_PASSES: u32 = 2;

/// What a stored hash may ask for at most: a damaged catalog must not take the machine's memory.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 4;

const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// What a check costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Cost {
    /// What new hashes are made with. Raise it here: whoever logs in next has their hash made again.
    pub const CURRENT: Cost = Cost { memory_kib: OWASP_MEMORY_KIB, passes: OWASP_PASSES, lanes: 1 };

    fn params(self) -> Params {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(HASH_BYTES))
            .expect("costs are within Argon2's limits: ours by constants, stored ones by their check")
    }

    fn is_acceptable(self) -> bool {
        let memory_min = 8 * self.lanes;
        (1..=LANES_MAX).contains(&self.lanes)
            && (memory_min..=MEMORY_KIB_MAX).contains(&self.memory_kib)
            && (1..=PASSES_MAX).contains(&self.passes)
    }
}

const _: () = assert!(OWASP_MEMORY_KIB <= Cost::CURRENT.memory_kib && Cost::CURRENT.memory_kib <= MEMORY_KIB_MAX);
const _: () = assert!(OWASP_PASSES <= Cost::CURRENT.passes && Cost::CURRENT.passes <= PASSES_MAX);

/// What somebody typed. It is wiped when it goes, and never shown.
pub struct Password(Zeroizing<Box<str>>);

impl Password {
    /// One that somebody wants to have from now on, for the account with this address.
    pub fn choose(text: &str, email: &str) -> Result<Password, PasswordError> {
        let chars = text.chars().count();
        if chars < PASSWORD_CHARS_MIN {
            return Err(PasswordError::TooShort);
        }
        if PASSWORD_CHARS_MAX < chars {
            return Err(PasswordError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(PasswordError::Control);
        }
        let lower = Zeroizing::new(text.to_lowercase());
        if COMMON.contains(&lower.as_str()) || is_run(&lower) {
            return Err(PasswordError::Common);
        }
        if is_own_address(&lower, email) {
            return Err(PasswordError::OwnAddress);
        }
        Ok(Password(Zeroizing::new(text.into())))
    }

    /// One to be checked. What nobody can have chosen is refused at once, whoever asks.
    pub fn presented(text: &str) -> Option<Password> {
        (!text.is_empty() && text.len() <= PASSWORD_BYTES_MAX).then(|| Password(Zeroizing::new(text.into())))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Why a password cannot be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordError {
    TooShort,
    TooLong,
    Control,
    Common,
    OwnAddress,
}

impl fmt::Display for PasswordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordError::TooShort => write!(f, "a password has at least {PASSWORD_CHARS_MIN} characters"),
            PasswordError::TooLong => write!(f, "a password has at most {PASSWORD_CHARS_MAX} characters"),
            PasswordError::Control => write!(f, "a password has no control characters"),
            PasswordError::Common => write!(f, "this password is among the first that are tried"),
            PasswordError::OwnAddress => write!(f, "a password is not the e-mail address or a part of it"),
        }
    }
}

impl std::error::Error for PasswordError {}

/// One character again and again, or each the next one up or down: aaaaaaaa, 12345678, hgfedcba.
fn is_run(lower: &str) -> bool {
    let codes: Zeroizing<Vec<u32>> = Zeroizing::new(lower.chars().map(u32::from).collect());
    [0u32, 1, u32::MAX].iter().any(|step| codes.windows(2).all(|pair| pair[0].wrapping_add(*step) == pair[1]))
}

fn is_own_address(lower: &str, email: &str) -> bool {
    let email = email.to_lowercase();
    let parts = email.split('@').chain([email.as_str()]);
    parts.filter(|part| OWN_NAME_CHARS_MIN <= part.chars().count()).any(|part| part == lower)
}

/// What is kept of a password: a PHC string, in the one spelling that we write.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredHash {
    cost: Cost,
    salt: Salt,
    hash: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAHash;

impl StoredHash {
    /// Reads what [`StoredHash::to_phc`] wrote. Anything else, and any cost that this program would not bear, is refused.
    pub fn parse(text: &str) -> Result<StoredHash, NotAHash> {
        let phc = PasswordHash::new(text).map_err(|_| NotAHash)?;
        let params = Params::try_from(&phc).map_err(|_| NotAHash)?;
        let cost = Cost { memory_kib: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost() };
        let (Some(salt), Some(hash)) = (phc.salt, phc.hash) else { return Err(NotAHash) };
        if !cost.is_acceptable() || salt.as_ref().len() < SALT_BYTES || hash.len() != HASH_BYTES {
            return Err(NotAHash);
        }
        let stored = StoredHash { cost, salt, hash };
        // Another algorithm, version, parameter or spelling does not come out as it went in.
        if stored.to_phc() == text { Ok(stored) } else { Err(NotAHash) }
    }

    pub fn to_phc(&self) -> String {
        let params = ParamsString::try_from(&self.cost.params()).expect("three numbers fit into the string");
        let phc = PasswordHash {
            algorithm: Ident::new_unwrap("argon2id"),
            version: Some(Version::V0x13.into()),
            params,
            salt: Some(self.salt),
            hash: Some(self.hash),
        };
        phc.to_string()
    }
}

/// Enough to try passwords on at leisure: not for logs.
impl fmt::Debug for StoredHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredHash({:?}, ..)", self.cost)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Wrong,
    Right {
        /// The stored hash is not of [`Cost::CURRENT`]: make it again while the password is at hand.
        is_outdated: bool,
    },
}

/// Makes and checks hashes, one at a time, in memory that it keeps: 19 MiB.
pub struct Hasher {
    cost: Cost,
    memory: Vec<Block>,
    /// Stands in for the account that does not exist, so that an unknown address costs what a wrong password costs.
    nobody: StoredHash,
}

impl Hasher {
    pub fn new() -> Hasher {
        Hasher::with_cost(Cost::CURRENT)
    }

    fn with_cost(cost: Cost) -> Hasher {
        let nobody = StoredHash {
            cost,
            salt: Salt::new(b"nobody's account").expect("16 bytes are a salt"),
            hash: Output::new(&random::<HASH_BYTES>()).expect("32 bytes are an output"),
        };
        Hasher { cost, memory: vec![Block::new(); cost.params().block_count()], nobody }
    }

    /// Hashes a password under a new random salt.
    pub fn hash(&mut self, password: &Password) -> StoredHash {
        let salt = Salt::new(&random::<SALT_BYTES>()).expect("16 bytes are a salt");
        let hash = self.compute(self.cost, &salt, password);
        StoredHash { cost: self.cost, salt, hash }
    }

    /// Checks a password; `None` is an account that does not exist, or has no password. Both take one hash's time.
    pub fn verify(&mut self, stored: Option<&StoredHash>, password: &Password) -> Verdict {
        let exists = stored.is_some();
        let against = stored.unwrap_or(&self.nobody).clone();
        let found = self.compute(against.cost, &against.salt, password);
        // `Output` compares in constant time.
        let is_right = black_box(found == against.hash);
        if exists && is_right { Verdict::Right { is_outdated: against.cost != self.cost } } else { Verdict::Wrong }
    }

    fn compute(&mut self, cost: Cost, salt: &Salt, password: &Password) -> Output {
        let params = cost.params();
        let kept = self.memory.len();
        if kept < params.block_count() {
            self.memory.resize(params.block_count(), Block::new());
        }
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut hash = Zeroizing::new([0; HASH_BYTES]);
        argon2
            .hash_password_into_with_memory(password.0.as_bytes(), salt.as_ref(), hash.as_mut_slice(), &mut self.memory)
            .expect("password, salt, output and memory are of lengths that Argon2 takes");
        self.memory.iter_mut().for_each(Block::zeroize);
        // What an outdated hash needed beyond ours is not kept.
        self.memory.truncate(kept);
        self.memory.shrink_to(kept);
        Output::new(hash.as_slice()).expect("32 bytes are an output")
    }
}

impl Default for Hasher {
    fn default() -> Hasher {
        Hasher::new()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// As little as Argon2 takes: these tests are about what is around it.
    const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

    pub(crate) fn cheap_hasher() -> Hasher {
        Hasher::with_cost(CHEAP)
    }

    /// Of another cost than the cheap one.
    pub(crate) fn dearer_hasher() -> Hasher {
        Hasher::with_cost(Cost { memory_kib: 16, passes: 1, lanes: 1 })
    }

    fn typed(text: &str) -> Password {
        Password::presented(text).unwrap()
    }

    fn chosen(text: &str) -> Result<(), PasswordError> {
        Password::choose(text, "Agent.Smith@your-company.com").map(|_| ())
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // The reference implementation's own vector for Argon2id of version 19 (src/test.c of P-H-C/phc-winner-argon2).
        let stored = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let phc = PasswordHash::new(stored).unwrap();
        let cost = Cost { memory_kib: 65536, passes: 2, lanes: 1 };
        let mut hasher = Hasher::with_cost(CHEAP);
        assert_eq!(hasher.compute(cost, &phc.salt.unwrap(), &typed("password")), phc.hash.unwrap());
        assert_eq!(hasher.memory.len(), 8);
    }

    #[test]
    fn a_password_is_right_for_its_own_hash_only() {
        let mut hasher = Hasher::with_cost(CHEAP);
        let stored = hasher.hash(&typed("correct horse"));
        let right = Verdict::Right { is_outdated: false };
        assert_eq!(hasher.verify(Some(&stored), &typed("correct horse")), right);
        for wrong in ["correct hors", "correct horse ", "Correct horse", "x"] {
            assert_eq!(hasher.verify(Some(&stored), &typed(wrong)), Verdict::Wrong, "{wrong}");
        }
        assert_ne!(hasher.hash(&typed("correct horse")), stored);
    }

    #[test]
    fn nobody_has_no_password_even_if_it_is_guessed() {
        let mut hasher = Hasher::with_cost(CHEAP);
        assert_eq!(hasher.verify(None, &typed("correct horse")), Verdict::Wrong);
        hasher.nobody = hasher.hash(&typed("correct horse"));
        assert_eq!(hasher.verify(None, &typed("correct horse")), Verdict::Wrong);
    }

    #[test]
    fn nobody_costs_what_somebody_costs() {
        let hasher = Hasher::new();
        assert_eq!(hasher.nobody.cost, Cost::CURRENT);
        assert_eq!(hasher.nobody.salt.as_ref().len(), SALT_BYTES);
        assert_eq!(hasher.memory.len(), 19_456);
    }

    #[test]
    fn memory_is_wiped_after_each_use() {
        let mut hasher = Hasher::with_cost(CHEAP);
        let is_wiped = |hasher: &Hasher| hasher.memory.iter().all(|block| block.as_ref().iter().all(|word| *word == 0));
        let stored = hasher.hash(&typed("correct horse"));
        assert!(is_wiped(&hasher));
        hasher.verify(Some(&stored), &typed("correct horse"));
        assert!(is_wiped(&hasher));
    }

    #[test]
    fn a_hash_of_another_cost_is_right_and_outdated() {
        let stored = Hasher::with_cost(Cost { memory_kib: 16, passes: 2, lanes: 2 }).hash(&typed("correct horse"));
        let mut hasher = Hasher::with_cost(CHEAP);
        assert_eq!(hasher.verify(Some(&stored), &typed("correct horse")), Verdict::Right { is_outdated: true });
        assert_eq!(hasher.verify(Some(&stored), &typed("wrong horse")), Verdict::Wrong);
        assert_eq!((hasher.memory.len(), hasher.memory.capacity()), (8, 8));
    }

    #[test]
    fn stored_hashes_read_back_and_nothing_else_does() {
        let stored = Hasher::with_cost(CHEAP).hash(&typed("correct horse"));
        let text = stored.to_phc();
        assert!(text.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{text}");
        assert_eq!(StoredHash::parse(&text), Ok(stored));
        for (from, to) in [
            ("argon2id", "argon2i"),
            ("argon2id", "argon2d"),
            ("argon2id", "scrypt"),
            ("$v=19", "$v=16"),
            ("$v=19", ""),
            ("m=8", "m=262145"),
            ("m=8", "m=7"),
            ("t=1", "t=17"),
            ("t=1", "t=0"),
            ("p=1", "p=5"),
            ("p=1", "p=0"),
            ("p=1", "p=1,keyid=AAAA"),
            ("m=8,t=1", "t=1,m=8"),
            ("m=8", "m=08"),
            ("$argon2id", "argon2id"),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(other, text);
            assert_eq!(StoredHash::parse(&other), Err(NotAHash), "{other}");
        }
        let last = text.rfind('$').unwrap();
        for cut in [&text[..last], &text[..last + 1], &text[..text.len() - 1], "", "$", &format!("{text}$")] {
            assert_eq!(StoredHash::parse(cut), Err(NotAHash), "{cut}");
        }
    }

    #[test]
    fn weak_passwords_cannot_be_chosen() {
        assert_eq!(chosen("seven77"), Err(PasswordError::TooShort));
        assert_eq!(chosen("äöüäöüä"), Err(PasswordError::TooShort));
        assert_eq!(chosen(&"long pass".repeat(15)), Err(PasswordError::TooLong));
        assert_eq!(chosen("new\nline in it"), Err(PasswordError::Control));
        assert_eq!(chosen("nul\0 in it"), Err(PasswordError::Control));
        for common in ["password", "Password123", "QWERTYUIOP", "aaaaaaaa", "12345678", "hgfedcba", "ÄÄÄÄÄÄÄÄ"]
        {
            assert_eq!(chosen(common), Err(PasswordError::Common), "{common}");
        }
        for own in ["agent.smith@your-company.com", "AGENT.SMITH", "your-company.com"] {
            assert_eq!(chosen(own), Err(PasswordError::OwnAddress), "{own}");
        }
    }

    #[test]
    fn any_other_password_can_be_chosen() {
        let longest = "ab".repeat(PASSWORD_CHARS_MAX / 2);
        let many_bytes = "🔑🚪".repeat(PASSWORD_CHARS_MAX / 2);
        for good in [
            "eight ch",
            "        x",
            "correct horse battery staple",
            "пароль-не-пароль",
            "12345679",
            &longest,
            &many_bytes,
        ] {
            assert_eq!(chosen(good), Ok(()), "{good}");
            assert!(Password::presented(good).is_some(), "{good}");
        }
        assert!(Password::presented(&"x".repeat(PASSWORD_BYTES_MAX + 1)).is_none());
        assert!(Password::presented("").is_none());
    }

    #[test]
    fn nothing_of_a_password_shows() {
        assert_eq!(format!("{:?}", typed("do not show")), "Password(..)");
        let stored = Hasher::with_cost(CHEAP).hash(&typed("do not show"));
        let shown = format!("{stored:?}");
        assert!(!shown.contains(&stored.to_phc()[30..40]) && !shown.contains('$'), "{shown}");
    }
}
