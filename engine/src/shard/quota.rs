//! What a tenant may store, and what it has stored: counted by the owner of its shard, batch by batch.
//!
//! A batch counts when it is admitted, in the UTC month of its `received_at`; counters of the past are in the log's
//! checkpoints and batches and nowhere else, so that what a crash takes from the log it takes from them.
//! Must never: admit a part of a batch, or let anybody but the owner decide.

use crate::ids::{Micros, Tenant};
use crate::month::Month;
use crate::shard::tenants::TenantState;
use crate::shard::{AppendError, Shard};

/// What a tenant may store. `None`: as much as there is room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Events received in one UTC month.
    pub events_per_month: Option<u64>,
    /// Encoded record bytes, ever.
    pub stored_bytes: Option<u64>,
}

/// Which limit a batch would have crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaKind {
    EventsPerMonth,
    StoredBytes,
}

/// What a tenant has stored. Bytes are those of encoded records: headers of batches and blocks, and padding, are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The month that a batch would be counted in now.
    pub month: Month,
    pub events_this_month: u64,
    pub bytes_this_month: u64,
    /// When `events_this_month` begins again.
    pub resets_at: Micros,
    /// Events ever, those in retired segments included.
    pub stored_events: u64,
    /// Record bytes ever, those in retired segments included.
    pub stored_bytes: u64,
    /// `received_at` of the last batch.
    pub last_received_at: Option<Micros>,
}

impl Limits {
    /// Whether a batch that comes at `wall` keeps within the limits; the refusal, if it does not.
    pub(super) fn check(
        &self,
        state: &TenantState,
        wall: Micros,
        event_count: u64,
        records_bytes: u64,
    ) -> Result<(), AppendError> {
        if let Some(quota) = self.events_per_month {
            let month = state.month_at(state.received_at(wall));
            let used = month.events;
            if quota < used.saturating_add(event_count) {
                let (kind, resets_at) = (QuotaKind::EventsPerMonth, Some(month.ends_at));
                return Err(AppendError::QuotaExceeded { kind, used, quota, resets_at });
            }
        }
        if let Some(quota) = self.stored_bytes {
            let used = state.stored_bytes;
            if quota < used.saturating_add(records_bytes) {
                let kind = QuotaKind::StoredBytes;
                return Err(AppendError::QuotaExceeded { kind, used, quota, resets_at: None });
            }
        }
        Ok(())
    }
}

impl Shard {
    /// Sets what a tenant may store, for every batch that is admitted from here on, waiting ones included. A shard that
    /// was just opened limits nobody: its host sets the limits before the first append.
    /// Costs one small entry for each tenant that was ever given limits.
    pub fn set_limits(&mut self, tenant: Tenant, limits: Limits) {
        if limits != self.limits(tenant) {
            self.limits.set(tenant, limits);
        }
    }

    pub fn limits(&self, tenant: Tenant) -> Limits {
        self.limits.get(tenant).copied().unwrap_or_default()
    }

    /// What a tenant has stored, as admission counts it at `wall`. It includes what is appended and not yet durable:
    /// an answer that tells of it waits until `is_written(appended_sequence())`, as a query's does.
    pub fn usage(&self, tenant: Tenant, wall: Micros) -> Usage {
        let known = self.tenants.get(tenant);
        let state = known.copied().unwrap_or(TenantState::EMPTY);
        let received_at = state.received_at(wall);
        let month = state.month_at(received_at);
        Usage {
            month: Month::of(received_at),
            events_this_month: month.events,
            bytes_this_month: month.bytes,
            resets_at: month.ends_at,
            stored_events: state.next_position.0 - 1,
            stored_bytes: state.stored_bytes,
            last_received_at: known.map(|state| state.last_received_at),
        }
    }
}
