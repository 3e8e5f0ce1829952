//! Programmatic keys over HTTP: `/api/v1/user/apikeys` and `/api/v1/admin/apikeys`.
//!
//! Owns the shape of the questions and of the answers, which is the second seed's. Must never: show a key a second time,
//! or take a member that it does not know: a misspelt `expires_at` would make a key that never ends.

use std::borrow::Cow;

use ringlog_engine::ids::Micros;
use serde::{Deserialize, Serialize, Serializer};

use crate::auth::programmatic::{KeyId, Scope, check_expiry, shown_prefix};
use crate::auth::secret::Secret;
use crate::catalog::command::{What, Whose};
use crate::catalog::programmatic_keys::{AskProgrammatic, DoneProgrammatic, ProgrammaticView, Wanted};
use crate::handle::body::parameters;
use crate::handle::control::Asking;
use crate::handle::json_body::read_object;
use crate::handle::routes::ControlEndpoint;
use crate::wire::status::{ErrorCode, Problem};
use crate::wire::time::{format_moment, parse_moment};

const NAME_CHARS_MAX: usize = 100;
const DESCRIPTION_CHARS_MAX: usize = 500;
/// The second seed's longest workspace id; ours are tenant ids, which fit.
const WORKSPACE_CHARS_MAX: usize = 64;
/// There are seven permissions; a list may repeat them.
const PERMISSIONS_MAX: usize = 64;

pub fn read(asking: &Asking<'_>, now: Micros) -> Result<What, Problem> {
    use ControlEndpoint as C;
    let tenant = asking.caller.tenant;
    let named = || -> Result<Option<String>, Problem> {
        let [workspace_id] = parameters(asking.query, ["workspace_id"])?;
        Ok(workspace_id.map(Cow::into_owned).filter(|id| !id.is_empty()))
    };
    Ok(What::Programmatic(match asking.endpoint {
        C::MakeApiKey => {
            let CreateKey { name, description, workspace_id, scope, expires_at } = read_create(asking.body, now)?;
            let wanted = Wanted { name, description, scope, expires_at };
            AskProgrammatic::Make { whose: Whose { tenant, named: workspace_id }, wanted }
        }
        C::ListApiKeys => AskProgrammatic::ListOwn { named: named()? },
        C::RevokeApiKey => AskProgrammatic::RevokeOwn { id: read_id(asking.target)? },
        C::ListWorkspaceApiKeys => AskProgrammatic::ListAll { whose: Whose { tenant, named: named()? } },
        C::RevokeWorkspaceApiKey => {
            let whose = Whose { tenant, named: named()? };
            AskProgrammatic::RevokeAny { whose, id: read_id(asking.target)? }
        }
        other => unreachable!("{other:?} is not about programmatic keys"),
    }))
}

/// Status and body.
pub fn answer(done: &DoneProgrammatic) -> (u16, Vec<u8>) {
    match done {
        DoneProgrammatic::Made { key, view } => (201, created_body(key, &Texts::of(view).view(view))),
        DoneProgrammatic::List(keys) => {
            let texts: Vec<Texts> = keys.iter().map(Texts::of).collect();
            let views: Vec<KeyView<'_>> = keys.iter().zip(&texts).map(|(key, texts)| texts.view(key)).collect();
            (200, list_body(&views))
        }
    }
}

/// What a view borrows, and the catalog has in another form.
struct Texts {
    user_id: String,
    workspace_id: String,
}

impl Texts {
    fn of(key: &ProgrammaticView) -> Texts {
        let workspace_id = key.workspace.map(|tenant| format!("ws-{}", tenant.0));
        Texts { user_id: key.owner.to_string(), workspace_id: workspace_id.unwrap_or_default() }
    }

    fn view<'a>(&'a self, key: &'a ProgrammaticView) -> KeyView<'a> {
        KeyView {
            id: key.id,
            name: &key.name,
            key_prefix: &key.prefix,
            description: key.description.as_deref(),
            user_id: &self.user_id,
            workspace_id: &self.workspace_id,
            permissions: key.scope,
            active: key.is_live,
            last_used_at: key.last_used_at,
            expires_at: key.expires_at,
            created_at: key.created_at,
        }
    }
}

/// What a key is asked to be. Whether its workspace exists, and is the asker's, is for whoever knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateKey {
    pub name: String,
    pub description: Option<String>,
    /// `None` is a key of the user's own, in each of their workspaces.
    pub workspace_id: Option<String>,
    /// As it was asked for; [`Scope::grant`] says what the asker can give.
    pub scope: Scope,
    pub expires_at: Option<Micros>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    workspace_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    permissions: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    expires_at: Option<Cow<'a, str>>,
}

/// Reads the body of `POST /api/v1/user/apikeys`. 400 for what is not of this shape, 422 with `param` for a value that
/// does not do.
pub fn read_create(body: &[u8], now: Micros) -> Result<CreateKey, Problem> {
    let body: Body<'_> = read_object(body, "send {\"name\":\"CI pipeline\"}")?;
    let name = body.name.ok_or_else(|| unfit("name", "name is missing"))?;
    check_text("name", &name, NAME_CHARS_MAX)?;
    if name.trim().is_empty() {
        return Err(unfit("name", "name is empty"));
    }
    if let Some(description) = &body.description {
        check_text("description", description, DESCRIPTION_CHARS_MAX)?;
    }
    // An empty one means a key of the user's own.
    let workspace_id = body.workspace_id.filter(|id| !id.is_empty());
    if let Some(id) = &workspace_id {
        check_text("workspace_id", id, WORKSPACE_CHARS_MAX)?;
    }
    let expires_at = match &body.expires_at {
        None => None,
        Some(text) => Some(parse_moment(text).map_err(|error| unfit("expires_at", format!("expires_at: {error}")))?),
    };
    check_expiry(expires_at, now).map_err(|error| unfit("expires_at", error.to_string()))?;
    Ok(CreateKey {
        name: name.into_owned(),
        description: body.description.map(Cow::into_owned).filter(|text| !text.is_empty()),
        workspace_id: workspace_id.map(Cow::into_owned),
        scope: read_scope(&body.permissions.unwrap_or_default())?,
        expires_at,
    })
}

fn read_scope(names: &[Cow<'_, str>]) -> Result<Scope, Problem> {
    if PERMISSIONS_MAX < names.len() {
        return Err(unfit("permissions", format!("permissions has more than {PERMISSIONS_MAX} members")));
    }
    let names: Vec<&str> = names.iter().map(Cow::as_ref).collect();
    Scope::parse(&names).map_err(|error| unfit("permissions", error.to_string()))
}

fn check_text(param: &'static str, text: &str, chars_max: usize) -> Result<(), Problem> {
    if chars_max < text.chars().count() {
        return Err(unfit(param, format!("{param} has more than {chars_max} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(unfit(param, format!("{param} has control characters")));
    }
    Ok(())
}

fn unfit(param: &'static str, message: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(ErrorCode::Unprocessable, message).text("param", param)
}

/// The id at the end of a path. What cannot be an id is a key that does not exist.
pub fn read_id(segment: &str) -> Result<KeyId, Problem> {
    KeyId::parse(segment).ok_or_else(|| Problem::new(ErrorCode::NotFound, "there is no such key"))
}

/// A key as its owner and the workspace's admins see it. The first members are the seed's example, in its order.
#[derive(Debug, Clone, Serialize)]
pub struct KeyView<'a> {
    #[serde(serialize_with = "as_text")]
    pub id: KeyId,
    pub name: &'a str,
    pub key_prefix: &'a str,
    pub description: Option<&'a str>,
    pub user_id: &'a str,
    /// Empty for a key of the user's own.
    pub workspace_id: &'a str,
    /// Empty where the role's permissions are inherited.
    #[serde(serialize_with = "as_names")]
    pub permissions: Scope,
    pub active: bool,
    #[serde(serialize_with = "as_moment_or_null")]
    pub last_used_at: Option<Micros>,
    #[serde(serialize_with = "as_moment_or_null")]
    pub expires_at: Option<Micros>,
    #[serde(serialize_with = "as_moment")]
    pub created_at: Micros,
}

#[derive(Serialize)]
struct Created<'a> {
    key: &'a str,
    #[serde(flatten)]
    view: &'a KeyView<'a>,
}

#[derive(Serialize)]
struct Listed<'a> {
    api_keys: &'a [KeyView<'a>],
    count: usize,
}

/// The body of the 201: the only place where the key stands.
pub fn created_body(key: &Secret, view: &KeyView<'_>) -> Vec<u8> {
    assert_eq!(view.key_prefix, shown_prefix(key));
    serde_json::to_vec(&Created { key: key.expose(), view }).expect("strings and numbers are JSON")
}

/// The body of both lists.
pub fn list_body(views: &[KeyView<'_>]) -> Vec<u8> {
    serde_json::to_vec(&Listed { api_keys: views, count: views.len() }).expect("strings and numbers are JSON")
}

fn as_text<S: Serializer>(id: &KeyId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn as_names<S: Serializer>(scope: &Scope, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(scope.names())
}

fn as_moment<S: Serializer>(moment: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(std::str::from_utf8(&format_moment(*moment)).expect("a moment is ASCII"))
}

fn as_moment_or_null<S: Serializer>(moment: &Option<Micros>, serializer: S) -> Result<S::Ok, S::Error> {
    match moment {
        Some(moment) => as_moment(moment, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::role::{Permission, Permissions};

    /// 2026-11-21T12:00:00Z
    const NOW: Micros = Micros(1_795_262_400_000_000);

    fn refused(body: &str) -> (u16, String) {
        let problem = read_create(body.as_bytes(), NOW).unwrap_err();
        (problem.code().status(), problem.message().to_owned())
    }

    fn with(member: &str) -> String {
        format!("{{\"name\":\"CI\",{member}}}")
    }

    fn view() -> KeyView<'static> {
        KeyView {
            id: KeyId::parse("key_000102030405060708090a0b").unwrap(),
            name: "CI Pipeline",
            key_prefix: "tell_a1b2",
            description: None,
            user_id: "user_1",
            workspace_id: "ws-1",
            permissions: Scope::Only(Permissions::of(&[Permission::Metrics, Permission::Read])),
            active: true,
            last_used_at: None,
            expires_at: Some(Micros(1_798_761_599_000_000)),
            created_at: NOW,
        }
    }

    #[test]
    fn the_seeds_request_is_read() {
        let body = r#"{"name":"CI Pipeline","workspace_id":"ws-1","expires_at":"2026-12-31T23:59:59Z"}"#;
        let expected = CreateKey {
            name: "CI Pipeline".into(),
            description: None,
            workspace_id: Some("ws-1".into()),
            scope: Scope::Inherit,
            expires_at: Some(Micros(1_798_761_599_000_000)),
        };
        assert_eq!(read_create(body.as_bytes(), NOW).unwrap(), expected);
    }

    #[test]
    fn every_member_but_the_name_can_be_left_out_or_empty() {
        let least = read_create(br#"{"name":"x"}"#, NOW).unwrap();
        assert_eq!((least.workspace_id.clone(), least.scope, least.expires_at), (None, Scope::Inherit, None));
        for same in [
            r#"{"name":"x","description":null,"workspace_id":null,"permissions":null,"expires_at":null}"#,
            r#"{"name":"x","description":"","workspace_id":"","permissions":[]}"#,
        ] {
            assert_eq!(read_create(same.as_bytes(), NOW).unwrap(), least, "{same}");
        }
    }

    #[test]
    fn the_seeds_limits_hold_at_both_sides() {
        let name = |count: usize| format!("{{\"name\":\"{}\"}}", "ä".repeat(count));
        assert!(read_create(name(1).as_bytes(), NOW).is_ok());
        assert!(read_create(name(100).as_bytes(), NOW).is_ok());
        assert_eq!(refused(&name(101)), (422, "name has more than 100 characters".into()));
        assert_eq!(refused(&name(0)), (422, "name is empty".into()));
        let description = |count: usize| with(&format!("\"description\":\"{}\"", "ä".repeat(count)));
        assert!(read_create(description(500).as_bytes(), NOW).is_ok());
        assert_eq!(refused(&description(501)).0, 422);
        assert!(read_create(with(r#""expires_at":"2027-11-22T12:00:00Z""#).as_bytes(), NOW).is_ok());
        let too_far = with(r#""expires_at":"2027-11-22T12:00:00.000001Z""#);
        assert_eq!(refused(&too_far), (422, "expires_at is more than a year away".into()));
    }

    #[test]
    fn values_that_do_not_do_are_named() {
        for (body, message) in [
            ("{}".to_owned(), "name is missing"),
            (r#"{"name":"   "}"#.to_owned(), "name is empty"),
            (r#"{"name":"a\nb"}"#.to_owned(), "name has control characters"),
            (with(r#""description":"a\u0000""#), "description has control characters"),
            (with(r#""workspace_id":"a\tb""#), "workspace_id has control characters"),
            (with(r#""expires_at":"2026-11-21T12:00:00Z""#), "expires_at is not in the future"),
            (with(r#""expires_at":"1970-01-01T00:00:00Z""#), "expires_at is not in the future"),
            (with(r#""expires_at":"tomorrow""#), "expires_at: expected a time"),
            (with(r#""expires_at":"2026-12-31""#), "expires_at: "),
            (with(r#""permissions":["read","root"]"#), "\"root\" is not a permission; those are read, write"),
            (with(&format!("\"permissions\":[{}\"read\"]", "\"read\",".repeat(64))), "permissions has more than 64"),
        ] {
            let (status, found) = refused(&body);
            assert!(status == 422 && found.starts_with(message), "{body}: {status} {found}");
        }
    }

    #[test]
    fn bodies_of_another_shape_are_refused() {
        for body in [
            "",
            "null",
            "[]",
            r#"["CI",null,null,null,null]"#,
            r#"{"name":1}"#,
            r#"{"name":"x","permissions":"read"}"#,
            r#"{"name":"x","expires_at":1798761599}"#,
            r#"{"name":"x","expire_at":"2026-12-31T23:59:59Z"}"#,
            r#"{"name":"x","name":"y"}"#,
            r#"{"name":"x"} {}"#,
            "{\"name\":\"\u{1}\"}",
        ] {
            assert_eq!(refused(body).0, 400, "{body}");
        }
        assert!(read_create(b"{\"name\":\"\xff\"}", NOW).is_err());
    }

    #[test]
    fn the_answer_begins_with_the_seeds_example() {
        let key = Secret::new("tell_a1b2c3d4e5f6a1b2c3d4e5f6a1b2c3d4");
        let expected = concat!(
            r#"{"key":"tell_a1b2c3d4e5f6a1b2c3d4e5f6a1b2c3d4","id":"key_000102030405060708090a0b","#,
            r#""name":"CI Pipeline","key_prefix":"tell_a1b2","description":null,"user_id":"user_1","#,
            r#""workspace_id":"ws-1","permissions":["read","metrics"],"active":true,"last_used_at":null,"#,
            r#""expires_at":"2026-12-31T23:59:59.000000Z","created_at":"2026-11-21T12:00:00.000000Z"}"#,
        );
        assert_eq!(String::from_utf8(created_body(&key, &view())).unwrap(), expected);
    }

    #[test]
    fn a_list_shows_everything_but_the_key() {
        assert_eq!(list_body(&[]), br#"{"api_keys":[],"count":0}"#);
        let own = KeyView { workspace_id: "", permissions: Scope::Inherit, last_used_at: Some(NOW), ..view() };
        let expected = concat!(
            r#"{"api_keys":[{"id":"key_000102030405060708090a0b","name":"CI Pipeline","key_prefix":"tell_a1b2","#,
            r#""description":null,"user_id":"user_1","workspace_id":"","permissions":[],"active":true,"#,
            r#""last_used_at":"2026-11-21T12:00:00.000000Z","expires_at":"2026-12-31T23:59:59.000000Z","#,
            r#""created_at":"2026-11-21T12:00:00.000000Z"}],"count":1}"#,
        );
        assert_eq!(String::from_utf8(list_body(&[own])).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_an_id_is_not_found() {
        assert!(read_id("key_000102030405060708090a0b").is_ok());
        for segment in ["", "key_", "key_...", "7", "key_000102030405060708090A0B"] {
            assert_eq!(read_id(segment).unwrap_err().code().status(), 404, "{segment}");
        }
    }
}
