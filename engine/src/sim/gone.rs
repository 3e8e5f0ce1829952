//! Whether tenants are gone from the disk: from the bytes that readers see and from those that a power cut leaves.
//!
//! Must never: ask the shard. A tenant's events say whose they are in every part, and that is looked for in every file.

use std::collections::BTreeMap;

use crate::format::index::IndexResident;
use crate::format::key_run::KeyRunView;
use crate::format::run::RunView;
use crate::ids::Tenant;
use crate::io::Map;
use crate::shard::names::{ShardEntry, parse_name};
use crate::sim::SimDisk;
use crate::sim::inode::SECTOR_BYTES;
use crate::sim::model::Violation;

/// In every complaint about what an erased tenant left behind, and in no other.
pub(super) const LEFT: &str = "is erased and left something";

const MARK_FROM: &[u8] = b"<<";
const MARK_TO: &[u8] = b">>";
const MARK_DIGITS: usize = 4;

/// What stands in the payload and entity of each of a tenant's events, and in types of its own.
pub(super) fn mark(tenant: Tenant) -> String {
    format!("<<{:04}>>", tenant.0)
}

/// Looks for tenants in every file of a shard's folder, as it is seen and as it is durable.
pub(super) fn check_gone<'a>(
    disk: &SimDisk,
    dir: &str,
    erased: impl IntoIterator<Item = &'a Tenant>,
) -> Result<(), Violation> {
    let mut erased = erased.into_iter().peekable();
    if erased.peek().is_none() {
        return Ok(());
    }
    let mut found = BTreeMap::new();
    for (path, bytes) in disk.durable_files(dir) {
        look(&path, &bytes, "durable", &mut found);
    }
    for name in disk.peek_names(dir) {
        let path = format!("{dir}/{name}");
        look(&path, &disk.peek(&path).unwrap_or_default(), "seen", &mut found);
    }
    match erased.find_map(|tenant| Some((tenant, found.get(tenant)?))) {
        Some((tenant, place)) => Err(format!("tenant {} {LEFT}: {place}", tenant.0)),
        None => Ok(()),
    }
}

/// Notes of every tenant that a file has something of what that is.
fn look(path: &str, bytes: &[u8], image: &str, found: &mut BTreeMap<Tenant, String>) {
    let mut note = |number: u32, what: &str| {
        found.entry(Tenant(number)).or_insert_with(|| format!("{what} in {path}, {image}"));
    };
    marks(bytes, |number| note(number, "a mark"));
    let map = || Map::owned(bytes.to_vec());
    match parse_name(path.rsplit('/').next().unwrap_or(path)) {
        ShardEntry::Run { .. } => {
            if let Ok(run) = RunView::open(map()) {
                run.entries().iter().for_each(|entry| note(entry.tenant.get(), "an entity"));
            }
        }
        ShardEntry::KeyRun { .. } => {
            if let Ok(run) = KeyRunView::open(map()) {
                run.entries().iter().for_each(|entry| note(entry.tenant.get(), "an idempotency key"));
            }
        }
        ShardEntry::Index(_) => {
            if let Some(resident) = resident(bytes) {
                resident.tenants().iter().for_each(|entry| note(entry.tenant.get(), "an index row"));
            }
        }
        ShardEntry::Log(_) | ShardEntry::Free(_) | ShardEntry::Aside | ShardEntry::Unknown => {}
    }
}

/// Calls `each` with the number in every mark. Most of a segment is zeros, and passed over.
fn marks(bytes: &[u8], mut each: impl FnMut(u32)) {
    const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];
    let mark_bytes = MARK_FROM.len() + MARK_DIGITS + MARK_TO.len();
    let mut at = 0;
    while at + mark_bytes <= bytes.len() {
        if bytes[at..].starts_with(&ZEROS) {
            at += SECTOR_BYTES;
            continue;
        }
        let step_to = (at + SECTOR_BYTES).min(bytes.len() + 1 - mark_bytes);
        for start in at..step_to {
            if bytes[start] == MARK_FROM[0]
                && let Some(rest) = bytes[start..start + mark_bytes].strip_prefix(MARK_FROM)
                && let Some(digits) = rest.strip_suffix(MARK_TO)
                && let Some(number) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok())
            {
                each(number);
            }
        }
        at = step_to;
    }
}

fn resident(bytes: &[u8]) -> Option<IndexResident> {
    let resident_bytes = IndexResident::resident_bytes(bytes).ok()?;
    let resident = bytes.get(..resident_bytes as usize)?;
    IndexResident::open(Map::owned(resident.to_vec()), bytes.len() as u64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_wherever_it_stands() {
        for place in [0, 1, 505, 508, 512, 1000, 2040] {
            let mut bytes = vec![0; 2048];
            bytes[place..place + 8].copy_from_slice(mark(Tenant(7)).as_bytes());
            let mut found = Vec::new();
            marks(&bytes, |number| found.push(number));
            assert_eq!(found, [7], "at {place}");
        }
    }
}
