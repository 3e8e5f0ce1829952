//! A request of the user's own: text with placeholders, taken apart once and rendered from its pieces.

use crate::corpus::{Corpus, Rng, Seq, entity_name};
use crate::failure::Failure;
use std::time::{SystemTime, UNIX_EPOCH};

const NAMES: [(&str, Slot); 5] = [
    ("seq", Slot::Seq),
    ("entity", Slot::Entity),
    ("event", Slot::Event),
    ("uuid", Slot::Uuid),
    ("now_ms", Slot::NowMs),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Seq,
    Entity,
    Event,
    Uuid,
    NowMs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Slot(Slot),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Nothing in it is a placeholder.
    pub fn verbatim(text: &[u8]) -> Self {
        if text.is_empty() { Self::default() } else { Self { pieces: vec![Piece::Literal(text.to_vec())] } }
    }

    /// `where_from` is named in the error.
    pub fn parse(where_from: &str, text: &[u8]) -> Result<Self, Failure> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some((&first, after)) = rest.split_first() {
            if first == b'{'
                && let Some(end) = after.iter().position(|byte| !(byte.is_ascii_lowercase() || *byte == b'_'))
                && 0 < end
                && after[end] == b'}'
            {
                let name = std::str::from_utf8(&after[..end]).unwrap_or_default();
                let Some((_, slot)) = NAMES.iter().find(|(known, _)| *known == name) else {
                    let known = NAMES.map(|(name, _)| format!("{{{name}}}")).join(", ");
                    return Err(Failure::Usage(format!(
                        "{where_from}: {{{name}}} is no placeholder; known are {known}; --verbatim sends it as it stands"
                    )));
                };
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Slot(*slot));
                rest = &after[end + 1..];
                continue;
            }
            literal.push(first);
            rest = after;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { pieces })
    }

    pub fn is_constant(&self) -> bool {
        self.pieces.iter().all(|piece| matches!(piece, Piece::Literal(_)))
    }

    pub fn needs_events(&self) -> bool {
        self.pieces.contains(&Piece::Slot(Slot::Event)) || self.pieces.contains(&Piece::Slot(Slot::Entity))
    }

    /// Appends the text with `seq` and fresh values; the same `rng` gives the same bytes, but for the time.
    /// The corpus is needed where [`Template::needs_events`] says so.
    pub fn render(&self, out: &mut Vec<u8>, seq: Seq, corpus: Option<&Corpus>, rng: &mut Rng) {
        for piece in &self.pieces {
            match (piece, corpus) {
                (Piece::Literal(bytes), _) => out.extend_from_slice(bytes),
                (Piece::Slot(Slot::Seq), _) => out.extend_from_slice(seq.to_string().as_bytes()),
                (Piece::Slot(Slot::Entity), Some(corpus)) => {
                    out.extend_from_slice(entity_name(corpus.draw_entity(rng)).as_bytes());
                }
                (Piece::Slot(Slot::Event), Some(corpus)) => {
                    let chosen = corpus.choose(rng, 1);
                    corpus.append(out, chosen, 1, seq, rng, None);
                }
                (Piece::Slot(Slot::Entity | Slot::Event), None) => {}
                (Piece::Slot(Slot::Uuid), _) => out.extend_from_slice(uuid(rng).as_bytes()),
                (Piece::Slot(Slot::NowMs), _) => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    out.extend_from_slice(now.as_millis().to_string().as_bytes());
                }
            }
        }
    }
}

/// A random one (version 4).
fn uuid(rng: &mut Rng) -> String {
    let (high, low) = (rng.next(), rng.next());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::distribution::{Choice, Sizes};

    fn render(text: &str) -> String {
        let corpus = Corpus::new(1, &Sizes::Uniform(200, 200), Choice::Uniform(5), 1);
        let template = Template::parse("test", text.as_bytes()).unwrap();
        let mut out = Vec::new();
        template.render(&mut out, Seq(0x2a), Some(&corpus), &mut Rng::new(4));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn placeholders_are_filled_and_everything_else_stays() {
        assert_eq!(render(r#"{"a":{"b":[{}]},"s":"{seq}"}"#), r#"{"a":{"b":[{}]},"s":"000000000000002a"}"#);
        assert_eq!(render("{ seq } {Seq} {} {"), "{ seq } {Seq} {} {");
        assert!(render("{entity}").starts_with("e-0000000"));
        let event: serde_json::Value = serde_json::from_str(&render("{event}")).unwrap();
        assert_eq!(event["payload"]["seq"], "000000000000002a");
        let id = render("{uuid}");
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'));
        assert!(b"89ab".contains(&id.as_bytes()[19]), "{id}");
        assert!(1_600_000_000_000 < render("{now_ms}").parse::<u64>().unwrap());
    }

    #[test]
    fn a_misspelt_placeholder_is_refused() {
        let error = Template::parse("--body", b"x {sequence} y").unwrap_err().to_string();
        assert!(error.contains("{sequence}") && error.contains("{now_ms}") && error.contains("--verbatim"), "{error}");
        assert!(Template::verbatim(b"x {sequence} y").is_constant());
    }
}
