//! Users as their tenant's admins see them, and who the caller is.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::password::Password;
use crate::auth::session::Username;
use crate::auth::tenant_id::Email;
use crate::catalog::accounts::NewUser;
use crate::catalog::command::{What, Whose};
use crate::catalog::users::Person;
use crate::handle::accounts::{self, UserView};
use crate::handle::body::{invalid, number, object, parameters, role};
use crate::handle::control::Asking;
use crate::handle::routes::{Caller, ControlEndpoint};
use crate::handle::tenants::moment;
use crate::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use crate::wire::status::{ErrorCode, Problem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New<'a> {
    #[serde(borrow)]
    email: Cow<'a, str>,
    #[serde(borrow, default)]
    username: Option<Cow<'a, str>>,
    #[serde(borrow)]
    password: Cow<'a, str>,
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    tenant_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    tenant_id: Option<Cow<'a, str>>,
}

/// Reads `POST /api/v1/auth/users`.
pub fn read_new(body: &[u8], caller: Caller) -> Result<(NewUser, Password), Problem> {
    let new: New<'_> = object(body).map_err(shown_without_values)?;
    let email = Email::parse(&new.email).map_err(|error| Problem::new(ErrorCode::InvalidEmail, error.to_string()))?;
    let username = new.username.map(|name| Username::parse(&name)).transpose();
    let username = username.map_err(|error| invalid("username", error.to_string()))?;
    let password = Password::choose(&new.password, email.as_str()).map_err(accounts::unfit_password)?;
    let whose = Whose { tenant: caller.tenant, named: new.tenant_id.map(Cow::into_owned) };
    Ok((NewUser { whose, email, username, role: role(&new.role)? }, password))
}

/// A body with a password in it is not quoted, however wrong it is.
fn shown_without_values(problem: Problem) -> Problem {
    Problem::new(problem.code(), "the body is not a user")
        .fix("send {\"email\":\"name@example.com\",\"password\":\"...\",\"role\":\"developer\"}")
}

pub fn read(asking: &Asking<'_>) -> Result<What, Problem> {
    use ControlEndpoint as C;
    let whose = |named: Option<Cow<'_, str>>| Whose { tenant: asking.caller.tenant, named: named.map(Cow::into_owned) };
    Ok(match asking.endpoint {
        C::WhoAmI => What::WhoAmI,
        C::LogOut => {
            accounts::read_logout(asking.body)?;
            What::LogOut
        }
        C::ListUsers => {
            let [limit, cursor, tenant_id] = parameters(asking.query, ["limit", "cursor", "tenant_id"])?;
            let limit = match limit {
                Some(text) => number("limit", &text, 1, PAGE_ITEMS_MAX as u64)? as usize,
                None => PAGE_ITEMS_DEFAULT,
            };
            let after = match cursor {
                Some(text) => number("cursor", &text, 0, u64::from(u32::MAX))? as u32,
                None => 0,
            };
            What::ListUsers { whose: whose(tenant_id), after, limit }
        }
        C::SetUserRole => {
            let changed: Changed<'_> = object(asking.body)?;
            let role = role(&changed.role)?;
            What::SetUserRole { whose: whose(changed.tenant_id), user: user_number(asking.target), role }
        }
        C::DeleteUser => {
            let [tenant_id] = parameters(asking.query, ["tenant_id"])?;
            What::DeleteUser { whose: whose(tenant_id), user: user_number(asking.target) }
        }
        other => unreachable!("{other:?} is not about users"),
    })
}

/// What `user_N` names. Numbers have one spelling.
fn user_number(id: &str) -> Option<u32> {
    let digits = id.strip_prefix("user_").filter(|digits| !digits.starts_with(['0', '+']))?;
    digits.parse().ok()
}

pub fn view(person: &Person) -> UserView<'_> {
    UserView {
        id: &person.id,
        username: &person.name,
        email: person.email.as_deref(),
        role: person.role,
        tenant_id: &person.tenant_id,
    }
}

pub fn person(person: &Person) -> Value {
    let mut body = serde_json::to_value(view(person)).expect("strings have a JSON form");
    body["created_at"] = json!(moment(person.created_at));
    body
}

pub fn list(people: &[Person], total: usize, next: Option<u32>) -> Value {
    let mut body = json!({
        "users": people.iter().map(person).collect::<Vec<_>>(),
        "count": people.len(),
        "total": total,
        "has_more": next.is_some(),
    });
    if let Some(next) = next {
        body["next_cursor"] = json!(next.to_string());
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: Caller = Caller { slot: 1, generation: 1, tenant: None };

    #[test]
    fn ids_have_one_spelling() {
        assert_eq!(user_number("user_7"), Some(7));
        for other in ["7", "user_", "user_07", "user_+7", "user_-7", "User_7", "user_4294967296", "key_7", "user_7 "] {
            assert_eq!(user_number(other), None, "{other}");
        }
    }

    #[test]
    fn a_user_has_an_address_a_password_and_a_role() {
        let body = br#"{"email":"A@x.com","username":"Al","password":"correct horse","role":"readonly"}"#;
        let (new, _) = read_new(body, CALLER).unwrap();
        assert_eq!((new.email.as_str(), new.username.unwrap().as_str()), ("a@x.com", "al"));
        for (body, code) in [
            (r#"{"email":"a","password":"correct horse","role":"admin"}"#, "invalid_email"),
            (r#"{"email":"a@x.com","password":"short","role":"admin"}"#, "invalid_parameter"),
            (r#"{"email":"a@x.com","password":"correct horse","role":"root"}"#, "invalid_parameter"),
            (r#"{"email":"a@x.com","password":"correct horse"}"#, "bad_request"),
            (r#"{"email":"a@x.com","password":"correct horse","role":"admin","username":"a b"}"#, "invalid_parameter"),
            (r#"{"email":"a@x.com","password":"correct horse","role":"admin","id":7}"#, "bad_request"),
            ("{", "invalid_json"),
        ] {
            assert_eq!(read_new(body.as_bytes(), CALLER).unwrap_err().code().as_str(), code, "{body}");
        }
    }

    #[test]
    fn a_refusal_does_not_quote_a_password() {
        let body = br#"{"email":"a@x.com","password":["correct horse"],"role":"admin","correct horse":1}"#;
        let problem = read_new(body, CALLER).unwrap_err();
        let mut out = Vec::new();
        problem.push_body(&mut out, "r");
        assert!(!String::from_utf8(out).unwrap().contains("correct horse"));
    }
}
