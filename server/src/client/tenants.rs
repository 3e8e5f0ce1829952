//! Tenants, as operators manage them.

use std::str::FromStr;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::client::Reach;
use crate::client::api::{Api, Target};
use crate::client::credentials::Environment;
use crate::client::failure::Failure;
use crate::client::output::{Column, Out};
use crate::client::pages::{self, Pages};
use crate::client::prompt::confirm;

const COLUMNS: [Column; 6] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("WORKSPACE", "workspace_id"),
    ("TIER", "tier"),
    ("STATUS", "status"),
    ("CREATED", "created_at"),
];

const DELETE_EXAMPLE: &str = "\
Its keys, users and sessions end at once. Its events are removed in the background; until that is done it is shown as
deleting, and then it is not found any more and its id can be another's.

Example:
  ringlog tenants delete my-company-test --yes
  ringlog tenants show my-company-test";

const QUOTAS_EXAMPLES: &str = "\
Examples:
  ringlog tenants quotas my-company-prod                                  what is in force, and what is used
  ringlog tenants quotas my-company-prod --events-per-month 5000000
  ringlog tenants quotas my-company-prod --events-per-month tier --stored-bytes unlimited";

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// List tenants, by workspace number
    #[command(after_help = "Example:\n  ringlog tenants list --follow-pages --json")]
    List {
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        reach: Reach,
    },
    /// Make a tenant
    #[command(after_help = "Example:\n  ringlog tenants create my-company-prod --name 'My company' --tier studio")]
    Create {
        /// 1 to 64 lower-case letters, digits and inner dashes
        id: String,
        /// What people call it [default: the id]
        #[arg(long)]
        name: Option<String>,
        /// free, indie, studio, scale, enterprise or unlimited [default: unlimited]
        #[arg(long)]
        tier: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Show a tenant
    #[command(after_help = "Example:\n  ringlog tenants show my-company-prod")]
    Show(One),
    /// Change a tenant's name or tier
    #[command(after_help = "Example:\n  ringlog tenants update my-company-prod --tier scale")]
    Update {
        /// The tenant's id, or ws-N
        id: String,
        /// What people call it
        #[arg(long, required_unless_present = "tier")]
        name: Option<String>,
        /// free, indie, studio, scale, enterprise or unlimited
        #[arg(long)]
        tier: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Delete a tenant with its events and keys, for ever
    #[command(after_help = DELETE_EXAMPLE)]
    Delete {
        /// The tenant's id
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Show what a tenant holds and has used
    #[command(after_help = "Example:\n  ringlog tenants stats my-company-prod --json")]
    Stats(One),
    /// Show a tenant's quotas, or set some for it alone
    #[command(after_help = QUOTAS_EXAMPLES)]
    Quotas {
        /// The tenant's id, or ws-N
        id: String,
        #[command(flatten)]
        quotas: Overrides,
        #[command(flatten)]
        reach: Reach,
    },
    /// Let a deactivated tenant in again
    #[command(after_help = "Example:\n  ringlog tenants activate my-company-prod")]
    Activate(One),
    /// Refuse all of a tenant's keys, until it is activated
    #[command(after_help = "Example:\n  ringlog tenants deactivate my-company-prod")]
    Deactivate(One),
}

#[derive(Debug, PartialEq, Eq, Args)]
pub struct One {
    /// The tenant's id, or ws-N
    id: String,
    #[command(flatten)]
    reach: Reach,
}

/// What is not named stays as it is.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct Overrides {
    /// A number, unlimited, or tier for that of its tier
    #[arg(long, value_name = "COUNT")]
    events_per_month: Option<Quota>,
    /// A number, unlimited, or tier for that of its tier
    #[arg(long, value_name = "BYTES")]
    stored_bytes: Option<Quota>,
    /// A number, unlimited, or tier for that of its tier
    #[arg(long, value_name = "COUNT")]
    requests_per_second: Option<Quota>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quota {
    OfTier,
    Unlimited,
    At(u64),
}

impl FromStr for Quota {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Quota, &'static str> {
        match text {
            "tier" => Ok(Quota::OfTier),
            "unlimited" => Ok(Quota::Unlimited),
            _ => text.parse().map(Quota::At).map_err(|_| "send a whole number, unlimited, or tier"),
        }
    }
}

impl Overrides {
    /// What is to be set, over what was set for the tenant before; or `None` where nothing is to change.
    fn over(&self, before: &Value) -> Option<Value> {
        let mut overrides = before.as_object().cloned().unwrap_or_else(Map::new);
        let named = [
            ("events_per_month", self.events_per_month),
            ("stored_bytes", self.stored_bytes),
            ("requests_per_second", self.requests_per_second),
        ];
        for (name, quota) in named {
            match quota {
                None => {}
                Some(Quota::OfTier) => {
                    overrides.remove(name);
                }
                Some(Quota::Unlimited) => {
                    overrides.insert(name.to_owned(), json!("unlimited"));
                }
                Some(Quota::At(number)) => {
                    overrides.insert(name.to_owned(), json!(number));
                }
            }
        }
        (*self != Overrides::default()).then_some(Value::Object(overrides))
    }
}

impl Verb {
    pub fn reach(&self) -> &Reach {
        match self {
            Verb::List { reach, .. }
            | Verb::Create { reach, .. }
            | Verb::Update { reach, .. }
            | Verb::Delete { reach, .. }
            | Verb::Quotas { reach, .. } => reach,
            Verb::Show(one) | Verb::Stats(one) | Verb::Activate(one) | Verb::Deactivate(one) => &one.reach,
        }
    }
}

const TENANTS: &str = "/api/v1/tenants";

pub fn run(verb: &Verb, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
    let open = || Api::open(verb.reach(), environment);
    let tenant = |id: &str| Target::new(TENANTS).part(id);
    let nothing = json!({});
    match verb {
        Verb::List { pages, .. } => pages::list(&open()?, &Target::new(TENANTS), pages, ("tenants", &COLUMNS), out),
        Verb::Create { id, name, tier, .. } => {
            let mut body = changes(name.as_deref(), tier.as_deref());
            body["id"] = json!(id);
            out.members(&open()?.post(&Target::new(TENANTS), &body)?)
        }
        Verb::Show(one) => out.members(&open()?.get(&tenant(&one.id))?),
        Verb::Update { id, name, tier, .. } => {
            out.members(&open()?.put(&tenant(id), &changes(name.as_deref(), tier.as_deref()))?)
        }
        Verb::Delete { id, yes, .. } => {
            let api = open()?;
            confirm(&format!("Tenant {id} goes for ever, with its events and keys."), id, *yes)?;
            let answer = api.delete(&tenant(id).query("confirm", Some(id)))?;
            let until = format!("`ringlog tenants show {id}` finds it until that is done");
            out.done(&answer, &format!("tenant {id} is gone for everyone; its events are being removed: {until}"))
        }
        Verb::Stats(one) => out.members(&open()?.get(&tenant(&one.id).then("/stats"))?),
        Verb::Quotas { id, quotas, .. } => {
            let (api, target) = (open()?, tenant(id).then("/quotas"));
            let answer = api.get(&target)?;
            match quotas.over(&answer.value()["overrides"]) {
                None => out.members(&answer),
                Some(overrides) => out.members(&api.put(&target, &overrides)?),
            }
        }
        Verb::Activate(one) => {
            let answer = open()?.post(&tenant(&one.id).then("/activate"), &nothing)?;
            out.done(&answer, &format!("tenant {} is active", one.id))
        }
        Verb::Deactivate(one) => {
            let answer = open()?.post(&tenant(&one.id).then("/deactivate"), &nothing)?;
            out.done(&answer, &format!("tenant {} is refused everywhere", one.id))
        }
    }
}

/// A body with what was named.
fn changes(name: Option<&str>, tier: Option<&str>) -> Value {
    let named = [("name", name), ("tier", tier)];
    named
        .into_iter()
        .filter_map(|(member, value)| Some((member.to_owned(), json!(value?))))
        .collect::<Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_that_are_not_named_stay_as_they_are() {
        let before = json!({ "events_per_month": 5, "stored_bytes": "unlimited" });
        assert_eq!(Overrides::default().over(&before), None);
        let quotas = Overrides {
            events_per_month: Some(Quota::OfTier),
            requests_per_second: Some(Quota::At(7)),
            ..Overrides::default()
        };
        assert_eq!(quotas.over(&before).unwrap(), json!({ "stored_bytes": "unlimited", "requests_per_second": 7 }));
        let quotas = Overrides { events_per_month: Some(Quota::Unlimited), ..Overrides::default() };
        assert_eq!(quotas.over(&Value::Null).unwrap(), json!({ "events_per_month": "unlimited" }));
    }

    #[test]
    fn a_quota_is_a_number_or_one_of_two_words() {
        assert_eq!("0".parse(), Ok(Quota::At(0)));
        assert_eq!("tier".parse(), Ok(Quota::OfTier));
        for wrong in ["", "-1", "1.5", "Unlimited", "1k"] {
            assert!(wrong.parse::<Quota>().is_err(), "{wrong}");
        }
    }
}
