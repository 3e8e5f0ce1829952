//! Whether a server lives and takes requests. Asked without a credential.

use serde_json::Value;

use crate::client::Reach;
use crate::client::api::{Api, Target};
use crate::client::credentials::{CredentialsFile, Environment};
use crate::client::failure::Failure;
use crate::client::output::{Out, members, shown_json};

pub fn run(reach: &Reach, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
    // Without one there is still the default.
    let stored = CredentialsFile::find(reach, environment).and_then(|file| file.read()).ok().flatten();
    let api = Api::open_with(reach, environment, None, stored.as_ref().map(|stored| stored.url.as_str()))?;
    let health = api.get(&Target::new("/health"))?;
    let ready = api.get(&Target::new("/ready"))?;
    let url = Value::from(api.base().url());
    let document = format!("{{\"url\":{url},\"health\":{},\"ready\":{}}}", health.json(), ready.json());
    if out.is_json() {
        return out.raw(&format!("{}\n", shown_json(&document)));
    }
    out.raw(&members(&serde_json::from_str(&document).unwrap_or_default()))
}
