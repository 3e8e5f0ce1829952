//! Why a verb did not do what it is for: the sentence, what to do about it, and the exit code.
//! Must never: put what a server said on a terminal as it came.

use std::io::{self, Write};

use serde::Deserialize;
use serde_json::json;

use crate::client::output::{shown, shown_json};
use crate::exit::{Exit, Output};

#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// Of the closed list of the server's error codes, or `client_error`.
    error: String,
    message: String,
    fix: Option<String>,
    /// The server's own words, which go to programs as they came.
    body: Option<String>,
}

/// What is read of the one error body. Proxies answer with other things.
#[derive(Default, Deserialize)]
struct ErrorBody {
    error: Option<String>,
    message: Option<String>,
    fix: Option<String>,
}

const OWN_ERROR: &str = "client_error";

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, error: OWN_ERROR.to_owned(), message: message.into(), fix: None, body: None }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// Ended by the person at the terminal, who needs not be told.
    pub fn interrupted() -> Failure {
        Failure::new(Exit::Interrupted, "")
    }

    pub fn fix(mut self, fix: impl Into<String>) -> Failure {
        self.fix = Some(fix.into());
        self
    }

    /// Reads an answer that is no success.
    pub fn from_answer(status: u16, body: &str) -> Failure {
        let read: ErrorBody = serde_json::from_str(body).unwrap_or_default();
        let is_ours = read.error.is_some();
        let message = match (read.message, status) {
            (Some(message), _) => message,
            (None, 300..=399) => format!("the server sent us elsewhere (status {status}), which is not followed"),
            (None, _) => format!("status {status}, without a reason"),
        };
        let fix = match status {
            300..=399 => Some("name the server itself with --url".to_owned()),
            _ => read.fix,
        };
        let error = read.error.unwrap_or_else(|| format!("http_{status}"));
        Failure { exit: exit_of(status), error, message, fix, body: is_ours.then(|| body.to_owned()) }
    }

    /// One line, and one more for what to do about it; or one JSON document.
    pub fn print(&self, to: &mut dyn Write, output: Output) -> io::Result<()> {
        if self.message.is_empty() {
            return Ok(());
        }
        if output == Output::Json {
            let own = || json!({ "error": self.error, "message": self.message, "fix": self.fix }).to_string();
            return writeln!(to, "{}", shown_json(&self.body.clone().unwrap_or_else(own)));
        }
        match self.error.as_str() {
            OWN_ERROR => writeln!(to, "ringlog: {}", shown(&self.message))?,
            error => writeln!(to, "ringlog: {}: {}", shown(error), shown(&self.message))?,
        }
        match &self.fix {
            Some(fix) => writeln!(to, "  fix: {}", shown(fix)),
            None => Ok(()),
        }
    }
}

impl From<io::Error> for Failure {
    /// Of standard output. A reader that has gone needs no words.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Exit::Other, ""),
            _ => Failure::new(Exit::Other, format!("standard output: {error}")),
        }
    }
}

/// The exit code that a status earns.
fn exit_of(status: u16) -> Exit {
    match status {
        400 | 422 => Exit::Usage,
        401 | 403 => Exit::NotAllowed,
        402 | 429 => Exit::QuotaOrRate,
        404 | 410 => Exit::NotFound,
        409 | 412 => Exit::Conflict,
        502..=504 | 507 => Exit::Unavailable,
        _ => Exit::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::status::ErrorCode;

    fn printed(failure: &Failure, output: Output) -> String {
        let mut out = Vec::new();
        failure.print(&mut out, output).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_code_of_the_server_has_the_exit_code_of_its_kind() {
        let exit = |code: ErrorCode| exit_of(code.status());
        for (code, expected) in [
            (ErrorCode::InvalidParameter, Exit::Usage),
            (ErrorCode::NotFound, Exit::NotFound),
            (ErrorCode::Unauthorized, Exit::NotAllowed),
            (ErrorCode::TenantSuspended, Exit::NotAllowed),
            (ErrorCode::AlreadyExists, Exit::Conflict),
            (ErrorCode::QuotaExceeded, Exit::QuotaOrRate),
            (ErrorCode::RateLimited, Exit::QuotaOrRate),
            (ErrorCode::Overloaded, Exit::Unavailable),
            (ErrorCode::StorageFull, Exit::Unavailable),
            (ErrorCode::Internal, Exit::Other),
        ] {
            assert_eq!(exit(code), expected, "{code:?}");
        }
        for code in ErrorCode::ALL {
            assert_ne!(exit(code), Exit::Ok, "{code:?}");
        }
    }

    #[test]
    fn people_get_the_code_the_sentence_and_the_fix() {
        let body = r#"{"error":"not_found","message":"no \u001b[2Jtenant","fix":"name another","status":404}"#;
        let failure = Failure::from_answer(404, body);
        assert_eq!(printed(&failure, Output::Text), "ringlog: not_found: no \\u{1b}[2Jtenant\n  fix: name another\n");
        assert_eq!(printed(&failure, Output::Json), format!("{body}\n"));
    }

    #[test]
    fn programs_get_one_document_whatever_went_wrong() {
        for failure in [
            Failure::usage("no").fix("yes"),
            Failure::from_answer(502, "<html>\u{9b}2J"),
            Failure::from_answer(302, ""),
            Failure::from_answer(500, "[1]"),
        ] {
            let text = printed(&failure, Output::Json);
            let body: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(body["error"].is_string() && body["message"].is_string(), "{text}");
        }
    }

    #[test]
    fn whoever_went_away_is_told_nothing() {
        assert_eq!(printed(&Failure::interrupted(), Output::Text), "");
        let gone = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((printed(&gone, Output::Json).as_str(), gone.exit), ("", Exit::Other));
    }
}
