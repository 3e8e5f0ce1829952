//! The credential that a request carries, taken from its headers without judging it.
//! Accepted: `Authorization: Bearer X`, `Authorization: X`, `X-API-Key: X`. Two that differ are a conflict, never a
//! choice: a proxy and we could choose differently. Only the routes of the second seed, `by_precedence`, take the first that
//! is there, as its clients were promised, and a `?token=X` where a browser can set no header.
//! Must never: show a credential, be it in its `Debug`.

use std::fmt;

/// Longer values are refused before anything is computed from them. Our longest token has about 800 bytes.
pub const CREDENTIAL_BYTES_MAX: usize = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthError {
    /// Nothing was presented.
    Missing,
    /// Two different credentials were presented.
    Conflicting,
    /// Unknown, revoked, expired, suspended or malformed: one answer for all, which tells a guesser nothing.
    Refused,
}

#[derive(Clone, Copy, Default)]
pub struct Presented<'a> {
    found: Found<'a>,
}

/// Without the secret.
impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.found {
            Found::Nothing => "Nothing",
            Found::Secret(_) => "Secret",
            Found::Malformed => "Malformed",
            Found::Conflict => "Conflict",
        })
    }
}

#[derive(Clone, Copy, Default)]
enum Found<'a> {
    #[default]
    Nothing,
    Secret(&'a [u8]),
    Malformed,
    Conflict,
}

impl<'a> Presented<'a> {
    pub fn none() -> Presented<'a> {
        Presented::default()
    }

    /// For `/v1/*`: the first of `Authorization`, `X-API-Key` and the query's `token` that is there. One that is bad is not
    /// passed over for another.
    pub fn by_precedence(
        authorization: Option<&'a [u8]>,
        api_key: Option<&'a [u8]>,
        query: Option<&'a str>,
    ) -> Presented<'a> {
        let none = Presented::none();
        match (authorization, api_key) {
            (Some(value), _) => none.authorization(value),
            (None, Some(value)) => none.api_key(value),
            (None, None) => none.tokens(query.unwrap_or_default()),
        }
    }

    /// Takes each `token` of a query string as it stands: no key of ours has a character that a query encodes.
    fn tokens(self, query: &'a str) -> Presented<'a> {
        let values = query.split('&').filter_map(|pair| pair.strip_prefix("token="));
        values.fold(self, |presented, value| presented.add(value.as_bytes()))
    }

    /// Takes the value of an `Authorization` header. Call it for each one that the request has.
    pub fn authorization(self, value: &'a [u8]) -> Presented<'a> {
        let value = value.trim_ascii();
        match value.iter().position(|byte| *byte == b' ' || *byte == b'\t') {
            None => self.add(value),
            Some(end) if value[..end].eq_ignore_ascii_case(b"Bearer") => self.add(value[end..].trim_ascii()),
            // Another scheme: present, and not ours.
            Some(_) => self.add(b""),
        }
    }

    /// Takes the value of an `X-API-Key` header.
    pub fn api_key(self, value: &'a [u8]) -> Presented<'a> {
        self.add(value.trim_ascii())
    }

    pub fn secret(self) -> Result<&'a [u8], AuthError> {
        match self.found {
            Found::Nothing => Err(AuthError::Missing),
            Found::Secret(secret) => Ok(secret),
            Found::Malformed => Err(AuthError::Refused),
            Found::Conflict => Err(AuthError::Conflicting),
        }
    }

    fn add(self, secret: &'a [u8]) -> Presented<'a> {
        // Without an early exit the loop is vectors: a whole cached check takes 40 ns instead of 105 (262-byte token).
        let is_visible = secret.iter().fold(true, |visible, byte| visible & byte.is_ascii_graphic());
        let well_formed = is_visible && !secret.is_empty() && secret.len() <= CREDENTIAL_BYTES_MAX;
        let found = match self.found {
            Found::Nothing if well_formed => Found::Secret(secret),
            Found::Nothing => Found::Malformed,
            // Both sides of this comparison came from the client: it may take as long as it takes.
            Found::Secret(first) if first == secret => Found::Secret(first),
            Found::Secret(_) | Found::Malformed | Found::Conflict => Found::Conflict,
        };
        Presented { found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(authorization: &[&str], api_key: &[&str], expected: Result<&str, AuthError>) {
        let mut presented = Presented::none();
        for value in authorization {
            presented = presented.authorization(value.as_bytes());
        }
        for value in api_key {
            presented = presented.api_key(value.as_bytes());
        }
        assert_eq!(presented.secret(), expected.map(str::as_bytes), "{authorization:?} {api_key:?}");
    }

    #[test]
    fn a_credential_is_found_in_each_accepted_place() {
        check(&["Bearer abc"], &[], Ok("abc"));
        check(&["bearer   abc "], &[], Ok("abc"));
        check(&["BEARER\tabc"], &[], Ok("abc"));
        check(&["abc"], &[], Ok("abc"));
        check(&[], &["abc"], Ok("abc"));
        check(&["Bearer abc"], &["abc"], Ok("abc"));
        check(&["Bearer abc", "abc"], &["abc"], Ok("abc"));
    }

    #[test]
    fn the_second_seeds_routes_take_the_first_that_is_there() {
        let check = |authorization: Option<&str>, api_key: Option<&str>, query: Option<&str>, expected| {
            let presented =
                Presented::by_precedence(authorization.map(str::as_bytes), api_key.map(str::as_bytes), query);
            let expected: Result<&str, AuthError> = expected;
            assert_eq!(presented.secret(), expected.map(str::as_bytes), "{authorization:?} {api_key:?} {query:?}");
        };
        check(Some("Bearer a"), Some("b"), Some("token=c"), Ok("a"));
        check(Some("a"), Some("b"), Some("token=c"), Ok("a"));
        check(None, Some("b"), Some("token=c"), Ok("b"));
        check(None, None, Some("token=c"), Ok("c"));
        check(None, None, Some("x=1&token=c&y"), Ok("c"));
        check(None, None, Some("token=c&token=c"), Ok("c"));
        check(Some("Basic dXNlcjpwYXNz"), Some("b"), Some("token=c"), Err(AuthError::Refused));
        check(Some(""), Some("b"), None, Err(AuthError::Refused));
        check(None, Some(""), Some("token=c"), Err(AuthError::Refused));
        check(None, None, Some("token=c&token=d"), Err(AuthError::Conflicting));
        check(None, None, Some("token="), Err(AuthError::Refused));
        check(None, None, Some("token=a%20b"), Ok("a%20b"));
        check(None, None, Some("Token=c&xtoken=c"), Err(AuthError::Missing));
        check(None, None, None, Err(AuthError::Missing));
    }

    #[test]
    fn a_credential_is_never_shown() {
        let presented = Presented::by_precedence(None, None, Some("token=feed1e11"));
        assert!(presented.secret().is_ok() && !format!("{presented:?}").contains("feed"));
    }

    #[test]
    fn what_is_not_one_credential_is_refused() {
        check(&[], &[], Err(AuthError::Missing));
        check(&["Bearer a"], &["b"], Err(AuthError::Conflicting));
        check(&["Bearer a", "Bearer b"], &[], Err(AuthError::Conflicting));
        check(&["Bearer a", "Bearer b"], &["a"], Err(AuthError::Conflicting));
        check(&["Basic dXNlcjpwYXNz"], &["a"], Err(AuthError::Conflicting));
        check(&["Basic dXNlcjpwYXNz"], &[], Err(AuthError::Refused));
        check(&[""], &[], Err(AuthError::Refused));
        check(&["Bearer"], &[], Ok("Bearer"));
        check(&["Bearer a b"], &[], Err(AuthError::Refused));
        check(&["Bearer a\0b"], &[], Err(AuthError::Refused));
        check(&["Bearer ä"], &[], Err(AuthError::Refused));
        check(&[], &[&"x".repeat(CREDENTIAL_BYTES_MAX + 1)], Err(AuthError::Refused));
    }
}
