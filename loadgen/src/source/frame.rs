//! Binary frames in the layout of the published SDKs: a length, and a FlatBuffer whose tables stand before what they point to.
//!
//! ```text
//! length u32, big-endian | Batch: vtable, table, key | EventData: vtable, table, offsets | Event: vtable, table, device, session, ..
//! ```

use super::{Made, Maker, Place, note};

const DEVICE: &[u8; 16] = b"a device's own..";
const SESSION: &[u8; 16] = b"a session's id..";
const TRACK: u8 = 1;
const SCHEMA_EVENT: u8 = 1;
/// 1.0
const VERSION: u8 = 100;

/// Vtables: their own length, the table's, and a place in the table for each field.
const BATCH_VTABLE: [u16; 8] = [16, 32, 4, 24, 25, 16, 8, 0];
const DATA_VTABLE: [u16; 3] = [6, 8, 4];
const EVENT_VTABLE: [u16; 9] = [18, 36, 28, 20, 32, 4, 8, 12, 16];
const BATCH_ID_AT: usize = 16;
const TIMESTAMP_AT: usize = 20;

/// One event as it is written, with a payload that is made while it is written.
struct Event<'a> {
    timestamp: u64,
    service: &'a str,
    device: &'a [u8; 16],
    session: &'a [u8; 16],
    name: &'a str,
}

/// A frame with its length.
pub fn frame(key: &[u8; 16], count: usize, event_bytes: usize) -> Made {
    make(key, count, event_bytes, true)
}

/// A frame as HTTP carries it.
pub fn body(key: &[u8; 16], count: usize, event_bytes: usize) -> Made {
    make(key, count, event_bytes, false)
}

/// A streaming key as people write it.
pub fn key_bytes(hex: &str) -> Result<[u8; 16], String> {
    let is_key = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(hex, 16).ok().filter(|_| is_key);
    number.map(|number| number.swap_bytes().to_le_bytes()).ok_or_else(|| format!("{hex:?} is no key of 32 hex digits"))
}

fn make(key: &[u8; 16], count: usize, event_bytes: usize, with_length: bool) -> Made {
    let mut maker = Maker::default();
    if with_length {
        maker.put([0; 4]);
    }
    let event = Event { timestamp: 0, service: "web", device: DEVICE, session: SESSION, name: "Page Viewed" };
    write(&mut maker, key, 1, count, |maker, index| {
        write_event(maker, &event, |maker| {
            let begins_at = maker.bytes.len();
            maker.put(r#"{"user_id":""#).entity().put(r#"","seq":""#).seq().put(r#"","note":""#);
            let left = (event_bytes + begins_at).saturating_sub(maker.bytes.len() + 2);
            maker.put(note(index, left)).put(r#""}"#);
        });
    });
    if with_length {
        let bytes = (maker.bytes.len() - 4) as u32;
        // The one number that has its highest byte first.
        maker.bytes[..4].copy_from_slice(&bytes.swap_bytes().to_le_bytes());
    }
    maker.made()
}

/// The body of a frame; `event` writes one, from its own offset on.
fn write(maker: &mut Maker, key: &[u8; 16], batch_id: u64, count: usize, event: impl Fn(&mut Maker, usize)) {
    let root = vtable_behind_root(maker, &BATCH_VTABLE);
    let key_at = offset(maker);
    let data_at = offset(maker);
    maker.put([0; 4]);
    maker.batch_id = Some(maker.bytes.len());
    assert!(maker.bytes.len() == root + BATCH_ID_AT);
    maker.put(batch_id.to_le_bytes()).put([SCHEMA_EVENT, VERSION, 0, 0]);
    points_here(maker, key_at);
    bytes(maker, key);
    points_here(maker, data_at);
    let length_at = maker.bytes.len();
    maker.put([0; 4]);
    vtable_behind_root(maker, &DATA_VTABLE);
    let events_at = offset(maker);
    points_here(maker, events_at);
    maker.put((count as u32).to_le_bytes());
    let offsets: Vec<usize> = (0..count).map(|_| offset(maker)).collect();
    for (index, offset_at) in offsets.into_iter().enumerate() {
        while !(maker.bytes.len() - length_at).is_multiple_of(4) {
            maker.put([0]);
        }
        maker.begin_event();
        // Its own root, and its vtable with what fills it up.
        let table_at = maker.bytes.len() + 4 + 20;
        put_u32(maker, offset_at, table_at - offset_at);
        event(maker, index);
    }
    let data_bytes = maker.bytes.len() - length_at - 4;
    put_u32(maker, length_at, data_bytes);
}

fn write_event(maker: &mut Maker, event: &Event<'_>, payload: impl FnOnce(&mut Maker)) {
    let table = vtable_behind_root(maker, &EVENT_VTABLE);
    let [device_at, session_at, name_at, payload_at] = [(); 4].map(|()| offset(maker));
    assert!(maker.bytes.len() == table + TIMESTAMP_AT);
    let at = maker.bytes.len();
    maker.places.last_mut().expect("an event has begun").push(Place::Millis(at));
    maker.put(event.timestamp.to_le_bytes()).put([TRACK, 0, 0, 0]);
    let service_at = offset(maker);
    points_here(maker, device_at);
    bytes(maker, event.device);
    points_here(maker, session_at);
    bytes(maker, event.session);
    points_here(maker, service_at);
    string(maker, event.service);
    points_here(maker, name_at);
    string(maker, event.name);
    points_here(maker, payload_at);
    let length_at = offset(maker);
    payload(maker);
    let payload_bytes = maker.bytes.len() - length_at - 4;
    put_u32(maker, length_at, payload_bytes);
}

/// An offset to the table, its vtable filled up to four bytes, and the table's way back to it. Says where the table begins.
fn vtable_behind_root(maker: &mut Maker, fields: &[u16]) -> usize {
    let vtable_bytes = (fields.len() * 2).next_multiple_of(4) as u32;
    maker.put((4 + vtable_bytes).to_le_bytes());
    for field in fields {
        maker.put(field.to_le_bytes());
    }
    if fields.len() % 2 == 1 {
        maker.put([0; 2]);
    }
    maker.put(vtable_bytes.to_le_bytes());
    maker.bytes.len() - 4
}

/// An offset that `points_here` fills in. Says where it stands.
fn offset(maker: &mut Maker) -> usize {
    maker.put([0; 4]);
    maker.bytes.len() - 4
}

fn points_here(maker: &mut Maker, offset_at: usize) {
    let distance = maker.bytes.len() - offset_at;
    put_u32(maker, offset_at, distance);
}

fn put_u32(maker: &mut Maker, at: usize, value: usize) {
    maker.bytes[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
}

fn bytes(maker: &mut Maker, bytes: &[u8]) {
    maker.put((bytes.len() as u32).to_le_bytes()).put(bytes);
}

fn string(maker: &mut Maker, text: &str) {
    bytes(maker, text.as_bytes());
    let filled = (text.len() + 1).next_multiple_of(4);
    maker.put(&[0; 4][..filled - text.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of docs/wire-protocol.md's layout, as the published encoder writes it.
    #[test]
    fn a_frame_has_the_bytes_of_the_published_sdk() {
        let expected = "\
            000000fd14000000100020000400180019001000080000001000000018000000\
            2800000000000000010000000000000001640000100000000001020304050607\
            08090a0b0c0d0e0fb50000000c00000006000800040000000800000004000000\
            010000001c00000018000000120024001c001400200004000800\
            0c001000000014000000200000003000000048000000\
            500000000068e5cf8b010000010000002c00000010000000d0d1d2d3d4d5d6d7\
            d8d9dadbdcdddedf10000000505152535455565758595a5b5c5d5e5f03000000\
            77656200070000005369676e205570001d0000007b22757365725f6964223a22\
            7531222c22706c616e223a2270726f227d";
        let ascending = |from: u8| std::array::from_fn(|index| from + index as u8);
        let event = Event {
            timestamp: 1_700_000_000_000,
            service: "web",
            device: &ascending(0xd0),
            session: &ascending(0x50),
            name: "Sign Up",
        };
        let mut maker = Maker::default();
        maker.put([0, 0, 0, 0xfd]);
        write(&mut maker, &ascending(0), 1, 1, |maker, _| {
            write_event(maker, &event, |maker| {
                maker.put(r#"{"user_id":"u1","plan":"pro"}"#);
            });
        });
        let hex: String = maker.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    #[test]
    fn a_key_has_32_hex_digits() {
        assert_eq!(key_bytes("000102030405060708090a0b0c0d0e0f").unwrap(), std::array::from_fn(|index| index as u8));
        for text in ["", "00", "0g0102030405060708090a0b0c0d0e0f", "+0010203040506070809a0b0c0d0e0f0"] {
            assert!(key_bytes(text).is_err(), "{text}");
        }
    }
}
