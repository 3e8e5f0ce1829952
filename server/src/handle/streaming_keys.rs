//! Streaming keys as a workspace's admins see them over the API. A key itself stands in one answer, once.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::catalog::command::{What, Whose};
use crate::catalog::streaming_keys::{AskStreaming, DoneStreaming, StreamingView};
use crate::handle::body::{invalid, name, object, parameters};
use crate::handle::control::Asking;
use crate::handle::routes::ControlEndpoint;
use crate::handle::tenants::moment;
use crate::wire::status::Problem;

/// The key file's.
const NAME_CHARS_MAX: usize = 100;
const SHOWN_CHARS: usize = 8;
const ID_PREFIX: &str = "key_";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    workspace_id: Option<Cow<'a, str>>,
}

pub fn read(asking: &Asking<'_>) -> Result<What, Problem> {
    use ControlEndpoint as C;
    let whose = |named: Option<Cow<'_, str>>| Whose { tenant: asking.caller.tenant, named: named.map(Cow::into_owned) };
    let by_parameter = || -> Result<Whose, Problem> {
        let [workspace_id] = parameters(asking.query, ["workspace_id"])?;
        Ok(whose(workspace_id))
    };
    Ok(What::Streaming(match asking.endpoint {
        C::MakeStreamingKey => {
            let new: New<'_> = object(asking.body)?;
            AskStreaming::Make { name: key_name(&new.name)?, whose: whose(new.workspace_id) }
        }
        C::ListStreamingKeys => AskStreaming::List { whose: by_parameter()? },
        C::DeleteStreamingKey => {
            let number = asking.target.strip_prefix(ID_PREFIX).and_then(|digits| digits.parse().ok());
            AskStreaming::Delete { whose: by_parameter()?, number, name: asking.target.to_owned() }
        }
        other => unreachable!("{other:?} is not about streaming keys"),
    }))
}

fn key_name(text: &str) -> Result<String, Problem> {
    let name = name(text)?.as_str().to_owned();
    if NAME_CHARS_MAX < name.chars().count() {
        return Err(invalid("name", format!("name has more than {NAME_CHARS_MAX} characters")));
    }
    Ok(name)
}

pub fn body(done: &DoneStreaming) -> Value {
    match done {
        DoneStreaming::Made { key, view: made } => {
            let mut body = view(made);
            body["key"] = json!(key.expose());
            body["key_prefix"] = json!(&key.expose()[..SHOWN_CHARS]);
            body
        }
        DoneStreaming::List(keys) => {
            json!({ "streaming_keys": keys.iter().map(view).collect::<Vec<_>>(), "count": keys.len() })
        }
    }
}

fn view(key: &StreamingView) -> Value {
    json!({
        "id": format!("{ID_PREFIX}{}", key.number),
        "name": key.name,
        "workspace_id": format!("ws-{}", key.workspace.0),
        "created_at": moment(key.created_at),
    })
}
