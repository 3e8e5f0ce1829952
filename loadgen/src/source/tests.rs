use super::*;

const KEY: [u8; 16] = [7; 16];
const NOW: Duration = Duration::from_millis(1_700_000_000_123);
const FIRST: Seq = Seq(0x0010_0040_0000_0007);

fn appended(made: &Made) -> Vec<u8> {
    let mut out = b"before".to_vec();
    let mut entity = 40;
    made.append(&mut out, 5, FIRST, NOW, || {
        entity += 1;
        entity
    });
    assert_eq!(out.len(), made.len() + 6);
    out.split_off(6)
}

#[test]
fn each_line_is_json_with_its_own_number_entity_and_time() {
    for (made, path, entity) in [(events(3, 220), "/properties/seq", "user_id"), (shipper(3, 220), "/seq", "host")] {
        assert_eq!(made.event_count(), 3);
        let text = String::from_utf8(appended(&made)).unwrap();
        for (index, line) in text.lines().enumerate() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value.pointer(path).unwrap().as_str().unwrap(), FIRST.plus(index as u64).to_string());
            assert_eq!(value[entity], format!("e-{:08x}", 41 + index));
            assert_eq!(value["timestamp"], 1_700_000_000_123_u64);
            assert!((220..240).contains(&line.len()), "{line}");
        }
        assert_eq!(text.lines().count(), 3);
    }
}

#[test]
fn a_message_of_syslog_says_how_long_it_is() {
    let key = "07".repeat(16);
    let line = String::from_utf8(appended(&syslog(&key, 0, 200, false))).unwrap();
    assert!(line.starts_with("<134>1 ") && line.contains(" seq=0010004000000007 ") && line.contains(" e-00000029 "));
    let framed = String::from_utf8(appended(&syslog(&key, 0, 200, true))).unwrap();
    let (length, rest) = framed.split_once(' ').unwrap();
    assert_eq!((length.parse(), rest), (Ok(line.len()), &line[..]));
}

#[test]
fn a_frame_says_its_length_and_holds_what_was_patched() {
    for count in [1, 3, 500] {
        let bytes = appended(&frame::frame(&KEY, count, 120));
        let length = bytes[..4].iter().fold(0, |length, byte| length * 256 + usize::from(*byte));
        assert_eq!(length + 4, bytes.len());
        assert_eq!(bytes[4 + 0x24..4 + 0x2c], [5, 0, 0, 0, 0, 0, 0, 0]);
        let text = String::from_utf8_lossy(&bytes);
        for index in 0..count as u64 {
            assert!(text.contains(&format!(r#""seq":"{}""#, FIRST.plus(index))), "{index} of {count}");
        }
    }
}

/// Fields of a message, by number: those with a length.
fn fields(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = bytes;
    let varint = |rest: &mut &[u8]| {
        let mut value = 0_usize;
        for shift in (0..).step_by(7) {
            let (&byte, after) = rest.split_first().unwrap();
            *rest = after;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        unreachable!()
    };
    let mut found = Vec::new();
    while let Some((&tag, after)) = rest.split_first() {
        rest = after;
        let bytes = match tag & 7 {
            0 => {
                varint(&mut rest);
                continue;
            }
            1 => 8,
            2 => varint(&mut rest),
            other => panic!("wire type {other}"),
        };
        let (value, after) = rest.split_at(bytes);
        rest = after;
        found.push((tag >> 3, value));
    }
    found
}

#[test]
fn a_request_of_otlp_is_protobuf_with_a_record_for_each_event() {
    let bytes = appended(&BodyKind::Otlp.make(&KEY, 300, 300));
    let resource_logs = fields(&bytes);
    assert_eq!(resource_logs.len(), 1);
    let scope_logs = fields(resource_logs[0].1);
    assert_eq!(scope_logs.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2]);
    let records: Vec<_> = fields(scope_logs[1].1).into_iter().filter(|(number, _)| *number == 2).collect();
    assert_eq!(records.len(), 300);
    for (index, (_, record)) in records.iter().enumerate() {
        let record = fields(record);
        assert_eq!(record[0], (1, &(NOW.as_nanos() as u64).to_le_bytes()[..]));
        let attributes: Vec<_> =
            record.iter().filter(|(number, _)| *number == 6).map(|(_, pair)| fields(pair)).collect();
        assert_eq!(attributes[0][0], (1, &b"seq"[..]));
        assert_eq!(fields(attributes[0][1].1)[0].1, FIRST.plus(index as u64).to_string().as_bytes());
        assert_eq!(fields(attributes[1][1].1)[0].1, format!("e-{:08x}", 41 + index).as_bytes());
    }
}
