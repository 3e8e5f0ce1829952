//! What a reader asks for.

use crate::ids::{Micros, Position, Tenant};

/// Which event types match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeFilter {
    Exact(String),
    Prefix(String),
}

/// Order of an answer, by position (arrival).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    Ascending,
    Descending,
}

/// A question about one tenant's events. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuerySpec {
    pub tenant: Tenant,
    pub event_type: Option<TypeFilter>,
    /// Types that start with any of these do not match.
    pub exclude_type_prefixes: Vec<String>,
    pub entity: Option<String>,
    /// Bounds on the event's timestamp, both inclusive.
    pub since: Option<Micros>,
    pub until: Option<Micros>,
    /// Only events behind this position in the chosen order: greater when ascending, smaller when descending.
    pub after: Option<Position>,
    pub order: Order,
    /// Matches to skip before the first one that is returned.
    pub offset: u64,
    pub limit: usize,
}

impl QuerySpec {
    /// Whether an event type satisfies the query.
    pub fn matches_type(&self, event_type: &str) -> bool {
        let wanted = match &self.event_type {
            None => true,
            Some(TypeFilter::Exact(text)) => event_type == text,
            Some(TypeFilter::Prefix(prefix)) => event_type.starts_with(prefix.as_str()),
        };
        wanted && !self.exclude_type_prefixes.iter().any(|prefix| event_type.starts_with(prefix.as_str()))
    }

    /// Everything of a tenant, oldest first.
    pub fn all(tenant: Tenant, limit: usize) -> QuerySpec {
        QuerySpec {
            tenant,
            event_type: None,
            exclude_type_prefixes: Vec::new(),
            entity: None,
            since: None,
            until: None,
            after: None,
            order: Order::Ascending,
            offset: 0,
            limit,
        }
    }
}
