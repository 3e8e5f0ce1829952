//! What a tenant may use: by its tier, and by what an operator has set for it alone.
//! Owns the one table of tiers. It counts nothing: whoever admits events does.

use serde::{Deserialize, Serialize};

use crate::auth::delta::Quotas;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    Free,
    Indie,
    Studio,
    Scale,
    Enterprise,
    Unlimited,
}

impl Tier {
    pub const ALL: [Tier; 6] = [Tier::Free, Tier::Indie, Tier::Studio, Tier::Scale, Tier::Enterprise, Tier::Unlimited];

    /// The first seed's months; no tier has a ceiling of bytes. Requests a second are a guess: far above what an honest
    /// client of the tier sends, far below what would keep a core from others.
    pub const fn quotas(self) -> Quotas {
        let (events_per_month, requests_per_second) = match self {
            Tier::Free => (Some(100_000), Some(2_000)),
            Tier::Indie => (Some(500_000), Some(5_000)),
            Tier::Studio => (Some(5_000_000), Some(10_000)),
            Tier::Scale => (Some(50_000_000), Some(50_000)),
            Tier::Enterprise | Tier::Unlimited => (None, None),
        };
        Quotas { events_per_month, stored_bytes: None, requests_per_second }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Tier::Free => "free",
            Tier::Indie => "indie",
            Tier::Studio => "studio",
            Tier::Scale => "scale",
            Tier::Enterprise => "enterprise",
            Tier::Unlimited => "unlimited",
        }
    }

    pub fn parse(text: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.name() == text)
    }
}

/// A number, or the word `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ceiling {
    At(u64),
    None(Unlimited),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unlimited {
    #[serde(rename = "unlimited")]
    Unlimited,
}

/// What an operator has set for one tenant. What is absent is the tier's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_per_month: Option<Ceiling>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<Ceiling>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<Ceiling>,
}

impl Overrides {
    /// What is in force for a tenant of this tier.
    pub fn over(&self, tier: Tier) -> Quotas {
        let of_tier = tier.quotas();
        let either = |own: Option<Ceiling>, tiers: Option<u64>| match own {
            None => tiers,
            Some(Ceiling::At(number)) => Some(number),
            Some(Ceiling::None(Unlimited::Unlimited)) => None,
        };
        Quotas {
            events_per_month: either(self.events_per_month, of_tier.events_per_month),
            stored_bytes: either(self.stored_bytes, of_tier.stored_bytes),
            requests_per_second: either(self.requests_per_second, of_tier.requests_per_second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tiers_read_back_and_nothing_else_does() {
        for tier in Tier::ALL {
            assert_eq!(Tier::parse(tier.name()), Some(tier));
            assert_eq!(serde_json::to_string(&tier).unwrap(), format!("\"{}\"", tier.name()));
        }
        for wrong in ["", "Free", "trial", "free "] {
            assert_eq!(Tier::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Tier::Free.quotas().events_per_month, Some(100_000));
    }

    #[test]
    fn what_is_set_goes_before_the_tier_and_what_is_absent_does_not() {
        let read = |text: &str| serde_json::from_str::<Overrides>(text);
        let quotas = read(r#"{"events_per_month":"unlimited","stored_bytes":7}"#).unwrap().over(Tier::Free);
        assert_eq!(quotas, Quotas { events_per_month: None, stored_bytes: Some(7), requests_per_second: Some(2_000) });
        assert_eq!(read(r#"{"events_per_month":null}"#).unwrap().over(Tier::Free), Tier::Free.quotas());
        assert_eq!(read(r#"{"events_per_month":0}"#).unwrap().over(Tier::Scale).events_per_month, Some(0));
        for wrong in [r#"{"events_per_month":-1}"#, r#"{"events_per_month":"none"}"#, r#"{"events":1}"#, "7"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let set = Overrides { events_per_month: Some(Ceiling::None(Unlimited::Unlimited)), ..Overrides::default() };
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"{"events_per_month":"unlimited"}"#);
    }
}
