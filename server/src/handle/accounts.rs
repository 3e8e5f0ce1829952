//! People's accounts over HTTP: set-up, login, refresh, logout, and who one is (`/api/v1/auth/...`).
//!
//! Owns the shape of the questions and of the answers: a union of what both seeds' clients send and read. Must never:
//! tell by its answer, or by the time it takes, whether an address has an account.

use std::borrow::Cow;
use std::net::IpAddr;

use ringlog_engine::ids::Micros;
use serde::{Deserialize, Serialize};

use crate::auth::password::{Password, PasswordError};
use crate::auth::role::Role;
use crate::auth::secret::{Digest, Secret};
use crate::auth::session::{LoginName, presented_digest};
use crate::auth::tenant_id::Email;
use crate::catalog::accounts::{Account, AccountWhat, LoggedIn as Made};
use crate::catalog::command::{Answer, Done};
use crate::handle::json_body::read_object;
use crate::handle::routes::{AccountEndpoint, Who};
use crate::handle::{control, users};
use crate::wire::response::{ContentType, HeaderValue, ReplyTo, Response};
use crate::wire::status::{ErrorCode, Problem};

/// The first person, who becomes admin.
#[derive(Debug)]
pub struct SetUp {
    pub email: Email,
    pub password: Password,
}

/// Somebody who says who they are. `name` is `None` where it cannot be anybody's: check the password all the same, against
/// nobody, so that this takes as long as a wrong password.
#[derive(Debug)]
pub struct Login {
    pub name: Option<LoginName>,
    pub password: Password,
}

#[derive(Deserialize)]
struct CredentialsBody<'a> {
    #[serde(borrow, default)]
    email: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    username: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    password: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct TokenBody<'a> {
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

/// The second seed's clients send `revoke`, its documents nothing at all. A logout revokes either way.
#[derive(Deserialize)]
struct LogoutBody {
    #[serde(default)]
    #[expect(dead_code, reason = "its type is checked, its value changes nothing")]
    revoke: Option<bool>,
}

/// Reads a request that carries a password, or has no credential.
pub fn read(
    endpoint: AccountEndpoint,
    who: &Who,
    body: &[u8],
    (source, reply, at): (IpAddr, &ReplyTo, Micros),
) -> Result<Account, Problem> {
    use AccountEndpoint as A;
    let (what, password) = match (endpoint, who) {
        (A::SetUpStatus, _) => (AccountWhat::IsSetUpNeeded, None),
        (A::SetUp, _) => {
            let SetUp { email, password } = read_set_up(body)?;
            (AccountWhat::SetUp { email }, Some(password))
        }
        (A::LogIn, _) => {
            let Login { name, password } = read_login(body)?;
            (AccountWhat::LogIn { name }, Some(password))
        }
        (A::Refresh, _) => (AccountWhat::Refresh { proof: read_refresh(body)? }, None),
        (A::CreateUser, Who::Caller(caller)) => {
            let (new, password) = users::read_new(body, *caller)?;
            (AccountWhat::CreateUser(new), Some(password))
        }
        (A::CreateUser, _) => unreachable!("the table of routes says what it needs"),
    };
    let caller = match who {
        Who::Caller(caller) => Some((caller.slot, caller.generation)),
        Who::Anyone | Who::Tenant(_) => None,
    };
    Ok(Account { caller, source, request_id: reply.request_id.as_str().to_owned(), at, what, password })
}

/// Appends the whole answer.
pub fn answer(out: &mut Vec<u8>, reply: &ReplyTo, endpoint: AccountEndpoint, answer: &Answer) {
    let body = match answer {
        Err(refused) => return control::problem(refused).respond(out, reply),
        Ok(Done::SetUpNeeded(is_required)) => set_up_status_body(*is_required),
        Ok(Done::Refreshed { token, expires_at }) => refresh_body(token, *expires_at),
        Ok(Done::Person(person)) => json(&users::person(person)),
        Ok(Done::LoggedIn(made)) => {
            let Made { token, person, expires_at, streaming_key } = &**made;
            match endpoint {
                AccountEndpoint::SetUp => set_up_body(token, users::view(person), *expires_at, streaming_key.as_ref()),
                _ => login_body(token, users::view(person), *expires_at),
            }
        }
        Ok(other) => unreachable!("an account is not answered by {other:?}"),
    };
    let status = if endpoint == AccountEndpoint::CreateUser { 201 } else { 200 };
    let mut response = Response::begin(out, status, reply);
    response.content_type(ContentType::Json).header("Cache-Control", &HeaderValue::from_static("no-store"));
    response.with_body(&body);
}

const CREDENTIALS_FIX: &str = "send {\"email\":\"name@example.com\",\"password\":\"...\"}";

/// Reads `POST /api/v1/auth/setup`. Here the address and the password may be judged aloud: there is no account yet.
pub fn read_set_up(body: &[u8]) -> Result<SetUp, Problem> {
    let body: CredentialsBody<'_> = read_object(body, CREDENTIALS_FIX)?;
    let email = body.email.ok_or_else(|| Problem::new(ErrorCode::InvalidEmail, "email is missing"))?;
    let email = Email::parse(&email).map_err(|error| Problem::new(ErrorCode::InvalidEmail, error.to_string()))?;
    let password = body.password.ok_or_else(|| missing("password"))?;
    let password = Password::choose(&password, email.as_str()).map_err(unfit_password)?;
    Ok(SetUp { email, password })
}

/// Reads `POST /api/v1/auth/login`: an `email` or a `username`, which may be either, and a password.
pub fn read_login(body: &[u8]) -> Result<Login, Problem> {
    let body: CredentialsBody<'_> = read_object(body, CREDENTIALS_FIX)?;
    let name = match (body.email, body.username) {
        (Some(name), None) | (None, Some(name)) => name,
        (Some(email), Some(username)) if email == username => email,
        (Some(_), Some(_)) => {
            return Err(Problem::new(ErrorCode::InvalidParameter, "email and username differ")
                .text("param", "username")
                .fix("send one of them"));
        }
        (None, None) => return Err(missing("email")),
    };
    let password = body.password.ok_or_else(|| missing("password"))?;
    // The same for everybody: it says nothing about accounts.
    let password = Password::presented(&password).ok_or_else(invalid_credentials)?;
    Ok(Login { name: LoginName::parse(&name).ok(), password })
}

/// Reads `POST /api/v1/auth/refresh`, which carries its token in the body. Nothing but a session's token is one.
pub fn read_refresh(body: &[u8]) -> Result<Digest, Problem> {
    let body: TokenBody<'_> = read_object(body, "send {\"token\":\"...\"}")?;
    let token = body.token.ok_or_else(|| missing("token"))?;
    presented_digest(token.as_bytes()).ok_or_else(refused_token)
}

/// Reads `POST /api/v1/auth/logout`, whose body may be missing.
pub fn read_logout(body: &[u8]) -> Result<(), Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    read_object::<LogoutBody>(body, "send no body, or {}").map(|_| ())
}

/// Unknown address, wrong password, account without a password: one answer.
pub fn invalid_credentials() -> Problem {
    Problem::new(ErrorCode::InvalidCredentials, "the name or the password is wrong")
}

/// Unknown, expired, replaced, ended: one answer.
pub fn refused_token() -> Problem {
    Problem::new(ErrorCode::Unauthorized, "the token is not good").fix("log in again")
}

fn missing(param: &'static str) -> Problem {
    Problem::new(ErrorCode::InvalidParameter, format!("{param} is missing")).text("param", param).fix(CREDENTIALS_FIX)
}

pub(super) fn unfit_password(error: PasswordError) -> Problem {
    Problem::new(ErrorCode::InvalidParameter, error.to_string())
        .text("param", "password")
        .fix("choose a longer phrase that others would not try")
}

/// Who somebody is: the union of both seeds' users.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct UserView<'a> {
    pub id: &'a str,
    pub username: &'a str,
    /// `null` for a key that asks who it is.
    pub email: Option<&'a str>,
    pub role: Role,
    pub tenant_id: &'a str,
}

#[derive(Serialize)]
struct LoggedIn<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    token: &'a str,
    user: UserView<'a>,
    /// Seconds since the epoch.
    expires_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    streaming_key: Option<&'a str>,
}

#[derive(Serialize)]
struct Refreshed<'a> {
    token: &'a str,
    expires_at: i64,
}

#[derive(Serialize)]
struct SetUpStatus {
    setup_required: bool,
    local_auth_enabled: bool,
}

/// The body of a login's 200.
pub fn login_body(token: &Secret, user: UserView<'_>, expires_at: Micros) -> Vec<u8> {
    let answer = LoggedIn {
        message: None,
        token: token.expose(),
        user,
        expires_at: seconds_until(expires_at),
        streaming_key: None,
    };
    json(&answer)
}

/// The body of the set-up's answer: the first person is logged in, and has the first streaming key.
pub fn set_up_body(token: &Secret, user: UserView<'_>, expires_at: Micros, streaming_key: Option<&Secret>) -> Vec<u8> {
    let answer = LoggedIn {
        message: Some("setup complete"),
        token: token.expose(),
        user,
        expires_at: seconds_until(expires_at),
        streaming_key: streaming_key.map(Secret::expose),
    };
    json(&answer)
}

/// The body of a refresh's 200.
pub fn refresh_body(token: &Secret, expires_at: Micros) -> Vec<u8> {
    json(&Refreshed { token: token.expose(), expires_at: seconds_until(expires_at) })
}

/// The body of `GET /api/v1/auth/setup/status`. Logging in with a password is always there.
pub fn set_up_status_body(is_required: bool) -> Vec<u8> {
    json(&SetUpStatus { setup_required: is_required, local_auth_enabled: true })
}

/// Whole seconds: a client that believes it to the second never comes late.
fn seconds_until(moment: Micros) -> i64 {
    moment.0.div_euclid(1_000_000)
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("strings and numbers are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::session::{Username, random_token};

    const USER: UserView<'static> = UserView {
        id: "user_1",
        username: "agent",
        email: Some("agent@your-company.com"),
        role: Role::Admin,
        tenant_id: "default",
    };

    fn status<T: std::fmt::Debug>(result: Result<T, Problem>) -> (u16, &'static str) {
        let problem = result.unwrap_err();
        (problem.code().status(), problem.code().as_str())
    }

    fn text(body: Vec<u8>) -> String {
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn the_first_person_sets_up_with_an_address_and_a_password() {
        let set_up = read_set_up(br#"{"email":"Agent@X.com","password":"correct horse"}"#).unwrap();
        assert_eq!(set_up.email.as_str(), "agent@x.com");
        for (body, expected) in [
            (r#"{"password":"correct horse"}"#, (400, "invalid_email")),
            (r#"{"email":"agent","password":"correct horse"}"#, (400, "invalid_email")),
            (r#"{"email":"a@x.com"}"#, (400, "invalid_parameter")),
            (r#"{"email":"a@x.com","password":"short"}"#, (400, "invalid_parameter")),
            (r#"{"email":"agent@x.com","password":"agent@x.com"}"#, (400, "invalid_parameter")),
            (r#"{"email":"a@x.com","password":12345678}"#, (400, "bad_request")),
            ("[]", (400, "bad_request")),
            ("{", (400, "invalid_json")),
        ] {
            assert_eq!(status(read_set_up(body.as_bytes())), expected, "{body}");
        }
    }

    #[test]
    fn a_login_takes_the_names_of_both_seeds() {
        let name = |body: &str| read_login(body.as_bytes()).unwrap().name;
        let email = Some(LoginName::Email(Email::parse("agent@x.com").unwrap()));
        let username = Some(LoginName::Username(Username::parse("agent").unwrap()));
        assert_eq!(name(r#"{"email":"Agent@x.com","password":"x"}"#), email);
        assert_eq!(name(r#"{"username":"agent@x.com","password":"x"}"#), email);
        assert_eq!(name(r#"{"username":"Agent","password":"x","remember":true}"#), username);
        assert_eq!(name(r#"{"email":"agent","username":"agent","password":"x"}"#), username);
    }

    #[test]
    fn a_login_does_not_say_what_is_wrong_with_a_name() {
        for name in ["", "@", "a b", "nobody@", "x@x@x"] {
            let body = format!(r#"{{"email":"{name}","password":"x"}}"#);
            assert_eq!(read_login(body.as_bytes()).unwrap().name, None, "{name}");
        }
    }

    #[test]
    fn a_login_without_its_parts_is_refused() {
        let check = |body: &str, expected| assert_eq!(status(read_login(body.as_bytes())), expected, "{body}");
        check("{}", (400, "invalid_parameter"));
        check(r#"{"email":"a@x.com"}"#, (400, "invalid_parameter"));
        check(r#"{"password":"x"}"#, (400, "invalid_parameter"));
        check(r#"{"email":"a@x.com","username":"b","password":"x"}"#, (400, "invalid_parameter"));
        check(r#"{"email":"a@x.com","password":""}"#, (401, "invalid_credentials"));
        check(&format!(r#"{{"email":"a@x.com","password":"{}"}}"#, "x".repeat(513)), (401, "invalid_credentials"));
    }

    #[test]
    fn only_a_sessions_token_is_refreshed() {
        let token = random_token();
        let body = format!(r#"{{"token":"{}"}}"#, token.expose());
        assert_eq!(read_refresh(body.as_bytes()).unwrap(), token.digest());
        assert_eq!(status(read_refresh(b"{}")), (400, "invalid_parameter"));
        let key = br#"{"token":"tell_a1b2c3d4e5f6a1b2c3d4e5f6a1b2c3d4"}"#;
        assert_eq!(status(read_refresh(key)), (401, "unauthorized"));
    }

    #[test]
    fn a_logout_needs_no_body() {
        for body in ["", " \n", "{}", r#"{"revoke":true}"#, r#"{"revoke":false}"#] {
            assert!(read_logout(body.as_bytes()).is_ok(), "{body}");
        }
        for body in ["null", "[]", "revoke", r#"{"revoke":1}"#] {
            assert!(read_logout(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn answers_have_the_members_of_both_seeds() {
        let token = Secret::new("rl_st_x");
        let key = Secret::new("a1b2c3d4e5f60718293a4b5c6d7e8f90");
        let at = Micros(1_795_262_400_999_999);
        let user = concat!(
            r#"{"id":"user_1","username":"agent","email":"agent@your-company.com","role":"admin","#,
            r#""tenant_id":"default"}"#,
        );
        let login = format!(r#"{{"token":"rl_st_x","user":{user},"expires_at":1795262400}}"#);
        assert_eq!(text(login_body(&token, USER, at)), login);
        let set_up = format!(
            r#"{{"message":"setup complete","token":"rl_st_x","user":{user},"expires_at":1795262400,"streaming_key":"{}"}}"#,
            key.expose()
        );
        assert_eq!(text(set_up_body(&token, USER, at, Some(&key))), set_up);
        assert_eq!(text(refresh_body(&token, at)), r#"{"token":"rl_st_x","expires_at":1795262400}"#);
        assert_eq!(text(json(&USER)), user);
        let status = r#"{"setup_required":true,"local_auth_enabled":true}"#;
        assert_eq!(text(set_up_status_body(true)), status);
    }

    #[test]
    fn a_password_does_not_show_in_debug_output() {
        let login = read_login(br#"{"email":"a@x.com","password":"do not show"}"#).unwrap();
        assert!(!format!("{login:?}").contains("do not show"));
    }
}
