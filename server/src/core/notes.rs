//! What a core tells the audit log without being asked to, at a rate that no flood can raise.
//!
//! The first of its kind about the same thing is told at once. What repeats is counted, and told once a minute with its
//! count; failed credentials are told from a burst on. Beyond the rate, and beyond the table, notes are counted as
//! missed, and the next one that is told says how many. So a core writes at most [`NOTES_PER_SECOND_MAX`] records a
//! second, whoever asks for what.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::role::Permission;
use crate::catalog::notes::{Note, NoteKind};
use crate::handle::routes::Noticed;
use crate::limits::{AUTHENTICATION_BURST, NOTES_OPEN_MAX, NOTES_PER_SECOND_MAX, NOTES_WINDOW_US, SECOND_US};

/// What is the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Topic {
    kind: NoteKind,
    credential: Option<(u32, u32)>,
    /// Of those without a credential.
    source: Option<IpAddr>,
    tenant: Option<Tenant>,
    route: Option<&'static str>,
}

#[derive(Debug)]
struct Open {
    /// Not told yet.
    count: u64,
    permission: Option<Permission>,
    last: Last,
}

#[derive(Debug, Clone)]
struct Last {
    source: IpAddr,
    request_id: String,
    at: Micros,
}

#[derive(Debug, Default)]
pub struct Notes {
    open: HashMap<Topic, Open>,
    /// When each topic's window ends, soonest first: all windows are equally long.
    ends: VecDeque<(u64, Topic)>,
    told_second: u64,
    told_in_second: u64,
    missed: u64,
}

impl Notes {
    /// Takes what was noticed. What comes back is to be told now.
    pub fn notice(
        &mut self,
        noticed: &Noticed,
        source: IpAddr,
        request_id: &str,
        (wall, monotonic_us): (Micros, u64),
    ) -> Option<Note> {
        let is_attempt = noticed.kind == NoteKind::AuthenticationFailed;
        let topic = Topic {
            kind: noticed.kind,
            credential: noticed.credential,
            source: noticed.credential.is_none().then_some(source),
            tenant: noticed.tenant,
            // Where somebody tries keys says nothing.
            route: (!is_attempt).then_some(noticed.route),
        };
        if let Some(open) = self.open.get_mut(&topic) {
            open.count += 1;
            if !is_attempt || open.count != AUTHENTICATION_BURST {
                // Making the text of a request id for each would be a flood's work.
                open.last.at = wall;
                return None;
            }
            open.last = Last { source, request_id: request_id.to_owned(), at: wall };
            return self.tell(topic, monotonic_us);
        }
        if NOTES_OPEN_MAX <= self.open.len() {
            self.missed += 1;
            return None;
        }
        let last = Last { source, request_id: request_id.to_owned(), at: wall };
        self.open.insert(topic, Open { count: 1, permission: noticed.permission, last });
        self.ends.push_back((monotonic_us + NOTES_WINDOW_US, topic));
        if is_attempt { None } else { self.tell(topic, monotonic_us) }
    }

    /// When [`Notes::due`] may have something.
    pub fn due_at_us(&self) -> Option<u64> {
        self.ends.front().map(|(at_us, _)| *at_us)
    }

    /// Closes the next window that has ended. What comes back is to be told; `None`: no window has ended.
    pub fn due(&mut self, monotonic_us: u64) -> Option<Option<Note>> {
        let (_, topic) = self.ends.pop_front_if(|(at_us, _)| *at_us <= monotonic_us)?;
        let is_worth_it = self.open.get(&topic).is_some_and(|open| match topic.kind {
            NoteKind::AuthenticationFailed => AUTHENTICATION_BURST <= open.count,
            NoteKind::PermissionDenied | NoteKind::AdminRightUsed => 0 < open.count,
        });
        let note = if is_worth_it { self.tell(topic, monotonic_us) } else { None };
        self.open.remove(&topic);
        Some(note)
    }

    /// Nobody could be told of this one.
    pub fn lost(&mut self, note: &Note) {
        self.missed += note.count + note.missed;
    }

    fn tell(&mut self, topic: Topic, monotonic_us: u64) -> Option<Note> {
        let second = monotonic_us / SECOND_US;
        if second != self.told_second {
            (self.told_second, self.told_in_second) = (second, 0);
        }
        let open = self.open.get_mut(&topic)?;
        if NOTES_PER_SECOND_MAX <= self.told_in_second {
            self.missed += std::mem::take(&mut open.count);
            return None;
        }
        self.told_in_second += 1;
        Some(Note {
            kind: topic.kind,
            credential: topic.credential,
            tenant: topic.tenant,
            route: topic.route,
            permission: open.permission,
            source: open.last.source,
            request_id: open.last.request_id.clone(),
            at: open.last.at,
            count: std::mem::take(&mut open.count),
            missed: std::mem::take(&mut self.missed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        notes: Notes,
        now_us: u64,
    }

    impl Fixture {
        fn new() -> Fixture {
            Fixture { notes: Notes::default(), now_us: 10 * SECOND_US }
        }

        fn notice(&mut self, kind: NoteKind, slot: u32, source: u8) -> Option<(u64, u64)> {
            let credential = (kind != NoteKind::AuthenticationFailed).then_some((slot, 1));
            let noticed =
                Noticed { kind, credential, tenant: None, route: "GET /x", permission: Some(Permission::Admin) };
            let now = (Micros(self.now_us as i64), self.now_us);
            let note = self.notes.notice(&noticed, IpAddr::from([10, 0, 0, source]), "r", now);
            note.map(|note| (note.count, note.missed))
        }

        fn due(&mut self) -> Vec<(u64, u64)> {
            let (notes, now_us) = (&mut self.notes, self.now_us);
            let closed = std::iter::from_fn(|| notes.due(now_us));
            closed.flatten().map(|note| (note.count, note.missed)).collect()
        }
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_once_with_their_count() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.notice(NoteKind::PermissionDenied, 1, 1), Some((1, 0)));
        for _ in 0..1000 {
            assert_eq!(fixture.notice(NoteKind::PermissionDenied, 1, 1), None);
        }
        assert_eq!(fixture.notice(NoteKind::PermissionDenied, 2, 1), Some((1, 0)));
        assert_eq!(fixture.notice(NoteKind::AdminRightUsed, 1, 1), Some((1, 0)));
        assert!(fixture.due().is_empty());
        assert_eq!(fixture.notes.due_at_us(), Some(fixture.now_us + NOTES_WINDOW_US));
        fixture.now_us += NOTES_WINDOW_US;
        assert_eq!(fixture.due(), [(1000, 0)]);
        assert_eq!((fixture.notes.open.len(), fixture.notes.due_at_us()), (0, None));
        assert_eq!(fixture.notice(NoteKind::PermissionDenied, 1, 1), Some((1, 0)));
    }

    #[test]
    fn failed_credentials_are_told_from_a_burst_on() {
        let mut fixture = Fixture::new();
        for _ in 1..AUTHENTICATION_BURST {
            assert_eq!(fixture.notice(NoteKind::AuthenticationFailed, 0, 1), None);
            assert_eq!(fixture.notice(NoteKind::AuthenticationFailed, 0, 2), None);
        }
        assert_eq!(fixture.notice(NoteKind::AuthenticationFailed, 0, 1), Some((AUTHENTICATION_BURST, 0)));
        fixture.now_us += NOTES_WINDOW_US;
        assert!(fixture.due().is_empty(), "the other address stopped in time");
    }

    #[test]
    fn a_flood_of_topics_is_counted_and_not_told() {
        let mut fixture = Fixture::new();
        let told = (0..100_000).filter(|slot| fixture.notice(NoteKind::PermissionDenied, *slot, 1).is_some()).count();
        assert_eq!(told as u64, NOTES_PER_SECOND_MAX);
        assert_eq!(fixture.notes.open.len(), NOTES_OPEN_MAX);
        fixture.now_us += NOTES_WINDOW_US;
        assert!(fixture.due().is_empty());
        assert_eq!(fixture.notice(NoteKind::PermissionDenied, 1, 1), Some((1, 100_000 - NOTES_PER_SECOND_MAX)));
    }
}
