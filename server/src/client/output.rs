//! What verbs print: a table or a list of members for people, the server's own JSON for programs.
//! Must never: write a control character of the server's raw, in either form: a terminal would obey it.

use std::fmt::Write as _;
use std::io::Write;

use serde_json::Value;

use crate::client::api::Answer;
use crate::client::failure::Failure;
use crate::exit::Output;

/// What a cell shows of an object or a list, in characters. A guess at what still reads as a line.
const CELL_CHARS_MAX: usize = 100;

/// A column's title, and the member that stands in it.
pub type Column = (&'static str, &'static str);

/// Standard output, for people or for programs.
pub struct Out<'a> {
    to: &'a mut dyn Write,
    output: Output,
}

impl Out<'_> {
    pub fn new(to: &mut dyn Write, output: Output) -> Out<'_> {
        Out { to, output }
    }

    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    pub fn raw(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.to.write_all(text.as_bytes())?)
    }

    /// The server's document, or what `text` makes of it.
    pub fn answer(&mut self, answer: &Answer, text: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        match self.output {
            Output::Json => self.raw(&format!("{}\n", shown_json(answer.json()))),
            Output::Text => self.raw(&text(&answer.value())),
        }
    }

    /// The members of the server's document.
    pub fn members(&mut self, answer: &Answer) -> Result<(), Failure> {
        self.answer(answer, members)
    }

    /// That it is done: a sentence, or the server's document.
    pub fn done(&mut self, answer: &Answer, sentence: &str) -> Result<(), Failure> {
        self.answer(answer, |_| format!("{}\n", shown(sentence)))
    }

    /// A secret, alone on its line so that it can be piped, with `note` for the person beside it.
    pub fn secret(&mut self, answer: &Answer, member: &str, note: &str) -> Result<(), Failure> {
        self.answer(answer, |value| format!("{}\n", cell(&value[member])))?;
        if !self.is_json() {
            self.note(note);
        }
        Ok(())
    }

    /// For the person, who may not be there.
    pub fn note(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{}", shown(text));
    }
}

/// Columns as wide as what stands in them, two spaces apart.
pub fn table<'a>(columns: &[Column], rows: impl IntoIterator<Item = &'a Value>) -> String {
    let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let rows = rows.into_iter().map(|row| columns.iter().map(|(_, member)| cell(&row[*member])).collect());
    aligned(&std::iter::once(titles).chain(rows).collect::<Vec<Vec<String>>>())
}

/// One line for each member, those of objects as `object.member`.
pub fn members(value: &Value) -> String {
    let mut rows = Vec::new();
    put_members("", value, &mut rows);
    aligned(&rows)
}

fn put_members(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let Some(object) = value.as_object().filter(|object| !object.is_empty()) else {
        rows.push(vec![shown(path), cell(value)]);
        return;
    };
    for (name, value) in object {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        put_members(&path, value, rows);
    }
}

fn aligned(rows: &[Vec<String>]) -> String {
    let column_count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..column_count).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => shown(text),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().map(cell).collect::<Vec<_>>().join(",")
        }
        Value::Array(_) | Value::Object(_) => {
            let text = shown(&value.to_string());
            match text.char_indices().nth(CELL_CHARS_MAX) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}

/// Characters that a terminal obeys, or that make a text look like another.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A text in which such characters are spelled out.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    out
}

/// The same JSON document without such characters: inside a string each has another spelling, outside only white space is one.
pub fn shown_json(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for character in document.trim().chars() {
        match character {
            '\n' => out.push('\n'),
            '\t' | '\r' => out.push(' '),
            hidden if is_hidden(hidden) => {
                let _ = write!(out, "\\u{:04x}", u32::from(hidden));
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_aligned_by_characters() {
        let rows = [json!({ "id": "é", "n": 12, "at": null }), json!({ "id": "abc", "n": 3, "at": "now" })];
        let text = table(&[("ID", "id"), ("N", "n"), ("AT", "at"), ("NONE", "none")], &rows);
        assert_eq!(text, "ID   N   AT   NONE\né    12  -    -\nabc  3   now  -\n");
        assert_eq!(table(&[("ID", "id")], []), "ID\n");
    }

    #[test]
    fn members_of_members_have_a_path() {
        let value = json!({ "id": "a", "quotas": { "stored_bytes": null }, "empty": {}, "list": ["x", "y"] });
        assert_eq!(
            members(&value),
            "empty                {}\nid                   a\nlist                 x,y\nquotas.stored_bytes  -\n"
        );
    }

    #[test]
    fn a_terminal_gets_no_order_from_a_server() {
        assert_eq!(shown("a\u{1b}[2J\n\u{9b}\u{202e}\u{7f}é"), "a\\u{1b}[2J\\u{a}\\u{9b}\\u{202e}\\u{7f}é");
        let hostile = "{\"name\":\"\u{9b}2J\u{202e}\u{7f}\",\r\n\t\"n\":1}";
        let safe = shown_json(hostile);
        assert!(!safe.chars().any(|character| is_hidden(character) && character != '\n'), "{safe:?}");
        let (before, after): (Value, Value) =
            (serde_json::from_str(hostile).unwrap(), serde_json::from_str(&safe).unwrap());
        assert_eq!(before, after);
        let table = table(&[("\u{49}D", "id")], &[json!({ "id": { "\u{1b}": "\u{9b}" } })]);
        assert!(!table.contains(['\u{1b}', '\u{9b}']), "{table:?}");
    }

    #[test]
    fn a_long_object_is_cut_between_characters() {
        let text = cell(&json!({ "text": "é".repeat(200) }));
        assert_eq!(text.chars().count(), CELL_CHARS_MAX + 1);
    }
}
