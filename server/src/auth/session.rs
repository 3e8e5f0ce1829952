//! Sessions of people: the token that a login gives, how long it lives, and what a refresh does to the old one.
//! What is kept of a token is its SHA-256. Nothing is written when a token is used: a session ends by its clock, by a
//! logout, or by the theft that a replayed refresh shows.
//!
//! ```text
//! login ─► token 1 ──refresh──► token 2 ──refresh──► token 3 ─► 30 days after the login: log in again
//!             └─ refused from that moment; presented to refresh once more, it ends the session
//! ```

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringlog_engine::ids::Micros;

use crate::auth::secret::{Digest, Secret, random, same_digest, sha256};
use crate::auth::tenant_id::{Email, EmailError};

const TOKEN_PREFIX: &str = "rl_st_";
const TOKEN_RANDOM_BYTES: usize = 32;
/// 256 bits are 43 characters of base64.
pub const TOKEN_CHARS: usize = TOKEN_PREFIX.len() + 43;

const HOUR_US: i64 = 3_600_000_000;
/// A token lives for a day, as the second seed's do. Whoever refreshes stays, so this is how long one may be idle.
pub const TOKEN_LIFETIME_US: i64 = 24 * HOUR_US;
/// However often it is refreshed: NIST SP 800-63B (2.1.3) wants the password again at least every 30 days.
pub const SESSION_LIFETIME_US: i64 = 30 * 24 * HOUR_US;

/// Of one user. The next login ends the oldest.
pub const SESSIONS_PER_USER_MAX: usize = 32;

/// A new token: 256 random bits.
pub fn random_token() -> Secret {
    Secret::new(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<TOKEN_RANDOM_BYTES>())))
}

/// The digest of a presented token, if it has exactly the form of one.
pub fn presented_digest(presented: &[u8]) -> Option<Digest> {
    let rest = presented.strip_prefix(TOKEN_PREFIX.as_bytes())?;
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (presented.len() == TOKEN_CHARS && rest.iter().all(is_base64)).then(|| sha256(&[presented]))
}

/// One session, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Of the token that is good.
    pub proof: Digest,
    /// Of the token before it, which a refresh ended.
    pub previous: Option<Digest>,
    pub started_at: Micros,
    pub expires_at: Micros,
}

/// What a presented token is to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Live,
    Expired,
    /// The token that a refresh replaced: two hold what only one was given.
    Replaced,
    Foreign,
}

/// Why there is no new token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshError {
    /// Too old, or of another session.
    Refused,
    /// End the session, and say so in the audit log: its token was used by two.
    Replayed,
}

impl Session {
    pub fn start(token: &Secret, now: Micros) -> Session {
        Session {
            proof: token.digest(),
            previous: None,
            started_at: now,
            expires_at: Micros(now.0.saturating_add(TOKEN_LIFETIME_US)),
        }
    }

    pub fn standing(&self, presented: &Digest, now: Micros) -> Standing {
        let is_current = same_digest(&self.proof, presented);
        let is_previous = self.previous.is_some_and(|previous| same_digest(&previous, presented));
        match (is_current, is_previous) {
            (true, _) if now < self.expires_at => Standing::Live,
            (true, _) => Standing::Expired,
            (false, true) => Standing::Replaced,
            (false, false) => Standing::Foreign,
        }
    }

    /// The session under a new token, which lives for a day or for what is left of the 30. The old token is no good from
    /// the moment at which this is kept.
    pub fn refresh(&self, presented: &Digest, token: &Secret, now: Micros) -> Result<Session, RefreshError> {
        match self.standing(presented, now) {
            Standing::Live => {}
            Standing::Replaced => return Err(RefreshError::Replayed),
            Standing::Expired | Standing::Foreign => return Err(RefreshError::Refused),
        }
        let ends_at = self.started_at.0.saturating_add(SESSION_LIFETIME_US);
        if ends_at <= now.0 {
            return Err(RefreshError::Refused);
        }
        let expires_at = Micros(now.0.saturating_add(TOKEN_LIFETIME_US).min(ends_at));
        Ok(Session { proof: token.digest(), previous: Some(self.proof), started_at: self.started_at, expires_at })
    }
}

/// Which of a user's live sessions end so that one more has room: the ones that began first. Gives their indexes.
pub fn sessions_to_end(live: &[Session]) -> Vec<usize> {
    let too_many = (live.len() + 1).saturating_sub(SESSIONS_PER_USER_MAX);
    let mut by_age: Vec<usize> = (0..live.len()).collect();
    by_age.sort_by_key(|index| live[*index].started_at);
    by_age.truncate(too_many);
    by_age
}

const USERNAME_CHARS_MIN: usize = 2;
const USERNAME_CHARS_MAX: usize = 63;

/// What people call themselves beside their address: lower-case ASCII, so that no two look alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Username(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsernameError;

impl fmt::Display for UsernameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a user name has {USERNAME_CHARS_MIN} to {USERNAME_CHARS_MAX} letters, digits, dots, dashes and underscores, \
             and begins with a letter or a digit"
        )
    }
}

impl Username {
    /// Checks `text` and brings it into its one spelling. White space is refused, never trimmed.
    pub fn parse(text: &str) -> Result<Username, UsernameError> {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let fits = (USERNAME_CHARS_MIN..=USERNAME_CHARS_MAX).contains(&text.len());
        let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !fits || !starts_well || !text.bytes().all(is_inner) {
            return Err(UsernameError);
        }
        Ok(Username(text.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who logs in: one field takes either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginName {
    Email(Email),
    Username(Username),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginNameError {
    Email(EmailError),
    Username(UsernameError),
}

impl LoginName {
    /// A user name has no `@`, an address has one.
    pub fn parse(text: &str) -> Result<LoginName, LoginNameError> {
        if text.contains('@') {
            Email::parse(text).map(LoginName::Email).map_err(LoginNameError::Email)
        } else {
            Username::parse(text).map(LoginName::Username).map_err(LoginNameError::Username)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Micros = Micros(1_790_000_000_000_000);

    fn later(hours: i64) -> Micros {
        Micros(START.0 + hours * HOUR_US)
    }

    #[test]
    fn only_the_exact_form_is_a_token() {
        let token = random_token();
        let text = token.expose();
        assert_eq!(text.len(), TOKEN_CHARS);
        assert_eq!(presented_digest(text.as_bytes()), Some(token.digest()));
        assert_ne!(token, random_token());
        for other in [
            "",
            TOKEN_PREFIX,
            &text[..TOKEN_CHARS - 1],
            &format!("{text}A"),
            &text.replace("rl_st_", "rl_bk_"),
            &format!("rl_st_{}", "=".repeat(43)),
            &format!("rl_st_{}", "+".repeat(43)),
        ] {
            assert_eq!(presented_digest(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_token_lives_for_a_day() {
        let token = random_token();
        let session = Session::start(&token, START);
        assert_eq!(session.standing(&token.digest(), START), Standing::Live);
        assert_eq!(session.standing(&token.digest(), Micros(later(24).0 - 1)), Standing::Live);
        assert_eq!(session.standing(&token.digest(), later(24)), Standing::Expired);
        assert_eq!(session.standing(&random_token().digest(), START), Standing::Foreign);
        assert_eq!(session.refresh(&token.digest(), &random_token(), later(24)), Err(RefreshError::Refused));
        assert_eq!(session.refresh(&random_token().digest(), &random_token(), later(1)), Err(RefreshError::Refused));
    }

    #[test]
    fn a_refresh_ends_the_old_token_and_its_replay_is_seen() {
        let (first, second, third) = (random_token(), random_token(), random_token());
        let session = Session::start(&first, START);
        let session = session.refresh(&first.digest(), &second, later(5)).unwrap();
        assert_eq!(session.expires_at, later(29));
        assert_eq!(session.standing(&second.digest(), later(5)), Standing::Live);
        assert_eq!(session.standing(&first.digest(), later(5)), Standing::Replaced);
        assert_eq!(session.refresh(&first.digest(), &third, later(6)), Err(RefreshError::Replayed));
        let session = session.refresh(&second.digest(), &third, later(7)).unwrap();
        assert_eq!(session.standing(&second.digest(), later(7)), Standing::Replaced);
        assert_eq!(session.standing(&first.digest(), later(7)), Standing::Foreign);
    }

    #[test]
    fn no_refresh_makes_a_session_longer_than_thirty_days() {
        let mut token = random_token();
        let mut session = Session::start(&token, START);
        let mut hour = 0;
        loop {
            hour += 23;
            let next = random_token();
            match session.refresh(&token.digest(), &next, later(hour)) {
                Ok(refreshed) => (session, token) = (refreshed, next),
                Err(error) => {
                    assert_eq!((error, hour), (RefreshError::Refused, 736));
                    break;
                }
            }
            assert!(session.expires_at <= later(720));
        }
        assert_eq!(session.expires_at, later(720));
        assert_eq!(session.standing(&token.digest(), later(720)), Standing::Expired);
    }

    #[test]
    fn one_session_too_many_ends_the_oldest() {
        let at = |hour| Session::start(&Secret::new("token"), later(hour));
        let mut live: Vec<Session> = (0..SESSIONS_PER_USER_MAX as i64 - 1).map(|hour| at(40 - hour)).collect();
        assert!(sessions_to_end(&live).is_empty());
        live.insert(3, at(-1));
        assert_eq!(sessions_to_end(&live), [3]);
        live.insert(0, at(-2));
        assert_eq!(sessions_to_end(&live), [0, 4]);
        assert!(sessions_to_end(&[]).is_empty());
    }

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(Username::parse("Agent.Smith-7_x").unwrap().as_str(), "agent.smith-7_x");
        assert_eq!(LoginName::parse("Agent"), Ok(LoginName::Username(Username("agent".into()))));
        let email = LoginName::Email(Email::parse("agent@x.com").unwrap());
        assert_eq!(LoginName::parse("AGENT@X.com"), Ok(email));
        for bad in ["", "a", "-ab", ".ab", "_ab", "a b", " ab", "ab\n", "äb", "a/b", "a:b", &"a".repeat(64)] {
            assert_eq!(Username::parse(bad), Err(UsernameError), "{bad:?}");
        }
        assert!(Username::parse(&"a".repeat(63)).is_ok());
        assert!(matches!(LoginName::parse("a@"), Err(LoginNameError::Email(EmailError::EmptyDomain))));
        assert!(matches!(LoginName::parse(""), Err(LoginNameError::Username(_))));
    }
}
