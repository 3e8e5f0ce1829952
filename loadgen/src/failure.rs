//! Why a command ended without doing its work, and the exit code that says so.

use std::fmt;

#[derive(Debug)]
pub enum Failure {
    Usage(String),
    Unavailable(String),
    Refused { status: u16, message: String },
    Other(String),
}

/// Something was lost, changed or made up.
pub const EXIT_VERIFICATION_FAILED: u8 = 8;
/// The work was done, and some requests failed.
pub const EXIT_OTHER: u8 = 1;
pub const EXIT_UNAVAILABLE: u8 = 7;

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Unavailable(_) => EXIT_UNAVAILABLE,
            Self::Refused { status, .. } => match status {
                401 | 403 => 4,
                404 => 3,
                409 => 5,
                402 | 429 => 6,
                500..=599 => EXIT_UNAVAILABLE,
                _ => EXIT_OTHER,
            },
            Self::Other(_) => EXIT_OTHER,
        }
    }

    /// For `map_err`: an operating-system error with what was being done.
    pub fn io(what: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Other(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Unavailable(text) | Self::Other(text) => f.write_str(text),
            Self::Refused { status, message } => write!(f, "the server answered {status}: {message}"),
        }
    }
}
