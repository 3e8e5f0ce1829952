//! What people call a tenant or a key: text for people, never a file's name, and never a line of its own in a log.

use std::fmt;

pub const NAME_CHARS_MAX: usize = 128;

/// 1 to 128 characters, none of them a control character, without white space at its ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    Empty,
    TooLong,
    Control,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => write!(f, "the name is empty"),
            NameError::TooLong => write!(f, "the name has more than {NAME_CHARS_MAX} characters"),
            NameError::Control => write!(f, "the name contains a control character"),
        }
    }
}

impl std::error::Error for NameError {}

impl Name {
    pub fn parse(text: &str) -> Result<Name, NameError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if NAME_CHARS_MAX < text.chars().count() {
            return Err(NameError::TooLong);
        }
        // The two separators end a line for some readers, and are no control characters to Unicode.
        if text.chars().any(|character| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')) {
            return Err(NameError::Control);
        }
        Ok(Name(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_stays_on_its_line() {
        let parse = |text: &str| Name::parse(text).map(|name| name.0);
        assert_eq!(parse(" My Production App ").unwrap(), "My Production App");
        assert_eq!(parse("  "), Err(NameError::Empty));
        assert_eq!(parse(&"é".repeat(128)).unwrap().chars().count(), 128);
        assert_eq!(parse(&"é".repeat(129)), Err(NameError::TooLong));
        for forged in ["a\nb", "a\rb", "a\0b", "a\u{1b}[31mb", "a\u{85}b", "a\u{2028}b"] {
            assert_eq!(parse(forged), Err(NameError::Control), "{forged:?}");
        }
    }
}
