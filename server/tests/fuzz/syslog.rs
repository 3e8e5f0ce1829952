//! Syslog: the same messages however the stream is cut, and an event of each.

use ringlog_engine::event::{EventBatch, FingerprintKey, Source};
use ringlog_engine::ids::{Micros, Tenant};
use ringlog_server::limits::SYSLOG_MESSAGE_BYTES_MAX;
use ringlog_server::wire::syslog::framing::{Frame, Framer, datagram};
use ringlog_server::wire::syslog::key::{find_key, refused_text};
use ringlog_server::wire::syslog::map::{EVENT_TYPE, Writer};
use ringlog_server::wire::syslog::parse::Reader;

use crate::mutate::cuts;
use crate::run::{Check, Target, leave, mark, size};
use crate::stored::{self, Payloads};

pub const SYSLOG: Target = Target {
    name: "syslog",
    corpus,
    words: &[
        b"\n",
        b"\r\n\0",
        b"29 <34>1 - host app - - - hello!",
        b"999999999 <1>",
        b"70 <1>",
        b"<191>",
        b"<192>",
        b"1 - - - - - - ",
        b"2026-11-21T09:30:01.123456+01:00",
        b"Nov 21 09:30:01 ",
        b"[ringlog@32473 key=\"00112233445566778899aabbccddeeff\"]",
        b"[a b=\"c\\\"d\\]\" b=\"\"]",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\\",
        b"]",
        b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ],
    mend: leave,
    checker,
};

fn corpus() -> Vec<Vec<u8>> {
    let messages = std::fs::read(format!("{}/tests/data/syslog/messages.log", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let lines: Vec<&[u8]> = messages.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
    let mut corpus: Vec<_> = lines.iter().map(|line| line.to_vec()).collect();
    // Both framings on one connection.
    let counted = |line: &[u8]| [line.len().to_string().as_bytes(), b" ", line].concat();
    let mixed = lines.iter().take(6).enumerate();
    corpus.push(
        mixed
            .flat_map(|(index, line)| if index % 2 == 0 { counted(line) } else { [line, &b"\n"[..]].concat() })
            .collect(),
    );
    corpus.push(
        b"<13>1 2026-11-21T09:30:01Z h app - - [ringlog@32473 key=\"00112233445566778899aabbccddeeff\"][a b=\"c\"] text\n".to_vec(),
    );
    corpus
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Message(Vec<u8>),
    Truncated(Vec<u8>),
}

/// All of a stream's messages, which arrives in pieces that end at `cuts` and then ends itself.
fn messages(mut framer: Framer, input: &[u8], cuts: &[usize]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut take = |frame: Frame, pending: &[u8]| match frame {
        Frame::Message(place) => {
            assert!(!place.is_empty());
            found.push(Found::Message(pending[place].to_vec()));
        }
        Frame::Truncated(place) => found.push(Found::Truncated(pending[place].to_vec())),
        Frame::Need => {}
    };
    let (mut pending, mut from) = (Vec::new(), 0);
    for &cut in cuts {
        pending.extend_from_slice(&input[from..cut]);
        from = cut;
        loop {
            let step = framer.step(&pending);
            assert!(step.consumed <= pending.len());
            assert!(step.frame == Frame::Need || step.consumed > 0);
            let is_last = step.frame == Frame::Need;
            take(step.frame, &pending);
            pending.drain(..step.consumed);
            if is_last {
                break;
            }
        }
        assert!(pending.len() <= framer.pending_bytes_max());
    }
    if let Some(frame) = framer.finish(&pending) {
        take(frame, &pending);
    }
    found
}

fn checker() -> Check {
    let (mut reader, mut writer) = (Reader::default(), Writer::default());
    let mut batch = EventBatch::new(Tenant(1), Source::Syslog, FingerprintKey(7));
    Box::new(move |input| {
        let cuts = cuts(input);
        // Limits that inputs of a few hundred bytes reach.
        let small = || Framer::new(64, 16);
        assert_eq!(messages(small(), input, &[input.len()]), messages(small(), input, &cuts));
        let whole = messages(Framer::default(), input, &[input.len()]);
        assert_eq!(whole, messages(Framer::default(), input, &cuts));

        batch.reset(Tenant(1), Source::Syslog);
        let mut other = batch.clone();
        let datagram = datagram(input).filter(|message| message.len() <= SYSLOG_MESSAGE_BYTES_MAX);
        let mut marks = Vec::new();
        let mut count = 0;
        for message in whole
            .iter()
            .filter_map(|found| match found {
                Found::Message(message) => Some(&message[..]),
                Found::Truncated(message) => {
                    refused_text(message);
                    None
                }
            })
            .chain(datagram)
            .take(1000)
        {
            assert!(message.len() <= SYSLOG_MESSAGE_BYTES_MAX);
            count += 1;
            let parsed = reader.read(message, Micros(1_795_281_149_302_000));
            marks.push(mark((
                parsed.form as u8,
                parsed.priority.is_some(),
                (parsed.time.is_some(), parsed.host.is_some(), parsed.app.is_some(), parsed.procid.is_some()),
                (parsed.msgid.is_some(), parsed.prefix.is_some(), parsed.is_lossy),
                size(parsed.structured.elements.len()),
                find_key(&parsed).map(|key| key.is_some()).map_err(|_| ()),
            )));
            writer.push(&parsed, "192.0.2.7", &mut batch).unwrap();
            let mut fresh = Reader::default();
            let parsed = fresh.read(message, Micros(1_795_281_149_302_000));
            Writer::default().push(&parsed, "192.0.2.7", &mut other).unwrap();
        }
        assert_eq!(batch.records(), other.records());
        let records = stored::check(&batch, Payloads::Objects);
        assert_eq!(records.len(), count);
        assert!(records.iter().all(|record| record.event_type == EVENT_TYPE));
        marks.truncate(3);
        mark((marks, size(count)))
    })
}
