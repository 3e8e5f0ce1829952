//! Bodies and query strings of the control plane's routes: small, strict, and each mistake named.

use std::borrow::Cow;

use serde::Deserialize;

use crate::auth::role::Role;
use crate::catalog::name::Name;
use crate::wire::params;
use crate::wire::status::{ErrorCode, Problem};

/// Reads an object.
pub fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    // A list would be taken for the fields in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::new(ErrorCode::BadRequest, "the body is not an object"));
    }
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { ErrorCode::BadRequest } else { ErrorCode::InvalidJson };
        Problem::new(code, error.to_string())
    })
}

/// As `object`, where everything may be left out, and so may the body.
pub fn object_or_nothing<'a, T: Deserialize<'a> + Default>(body: &'a [u8]) -> Result<T, Problem> {
    if body.trim_ascii().is_empty() { Ok(T::default()) } else { object(body) }
}

pub fn invalid(param: &'static str, message: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(ErrorCode::InvalidParameter, message).text("param", param)
}

pub fn name(text: &str) -> Result<Name, Problem> {
    Name::parse(text)
        .map_err(|error| invalid("name", error.to_string()).fix("send 1 to 128 characters without control characters"))
}

pub fn role(text: &str) -> Result<Role, Problem> {
    Role::parse(text).ok_or_else(|| {
        let known: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
        invalid("role", "there is no such role").fix(format!("send one of {}", known.join(", ")))
    })
}

/// The parameters of a query string by their names, each once, and none that is not in `known`.
pub fn parameters<'a, const N: usize>(
    query: Option<&'a str>,
    known: [&'static str; N],
) -> Result<[Option<Cow<'a, str>>; N], Problem> {
    let mut values = [const { None }; N];
    for pair in params::pairs(query.unwrap_or_default().as_bytes()) {
        let (name, value) = pair.map_err(|error| Problem::new(ErrorCode::InvalidParameter, error.to_string()))?;
        let Some(place) = known.iter().position(|known| *known == name) else {
            let message = format!("a parameter is not known; this route takes {}", known.join(", "));
            return Err(Problem::new(ErrorCode::InvalidParameter, message));
        };
        if values[place].replace(value).is_some() {
            return Err(invalid(known[place], "the parameter is given twice"));
        }
    }
    Ok(values)
}

/// A whole number between two bounds.
pub fn number(param: &'static str, text: &str, least: u64, most: u64) -> Result<u64, Problem> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_plain);
    bounded(param, number, least, most)
}

pub fn bounded(param: &'static str, number: Option<u64>, least: u64, most: u64) -> Result<u64, Problem> {
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| invalid(param, format!("{param} is a whole number from {least} to {most}")))
}
