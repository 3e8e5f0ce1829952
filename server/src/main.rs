//! The `ringlog` binary: reads the command line and leaves with the exit code that the verb earned.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;

use ringlog_server::cli::{Command, Exit, check_text, version_text};
use ringlog_server::config::{Config, ConfigError, Flags, RawConfig};
use ringlog_server::{apikeys, client, logging, offline, start};

fn main() -> ExitCode {
    let command = match Command::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            // Help and version are errors to the parser; a reader that has gone needs neither.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    let exit = match command {
        Command::Serve(flags) => serve(flags),
        Command::Check { flags, output } => match configuration(flags) {
            Ok(config) => show(&check_text(&config, output)),
            Err(error) => refuse(&error, Exit::BadConfiguration),
        },
        Command::RotateSecret { flags, rotation, output } => match configuration(flags) {
            Ok(config) => match offline::rotate_secret(&config, rotation, output) {
                Ok(text) => show(&text),
                Err(error) => refuse(&error, error.exit),
            },
            Err(error) => refuse(&error, Exit::BadConfiguration),
        },
        Command::AuditVerify { flags, contains, output } => match configuration(flags) {
            Ok(config) => match offline::verify_audit(&config, contains.as_deref(), output) {
                Ok(text) => show(&text),
                Err(error) => refuse(&error, error.exit),
            },
            Err(error) => refuse(&error, Exit::BadConfiguration),
        },
        Command::Apikeys { flags, action, output } => match configuration(flags) {
            Ok(config) => {
                let (mut answers, mut out) = (io::stdin().lock(), io::stderr());
                match apikeys::apikeys(&config, &action, output, &mut answers, &mut out) {
                    Ok(text) => show(&text),
                    Err(error) => refuse(&error, error.exit),
                }
            }
            Err(error) => refuse(&error, Exit::BadConfiguration),
        },
        Command::Client(ask) => client::run(&ask),
        Command::Version { output } => show(&version_text(output)),
    };
    exit.into()
}

fn serve(flags: Flags) -> Exit {
    let config = match configuration(flags) {
        Ok(config) => config,
        Err(error) => return refuse(&error, Exit::BadConfiguration),
    };
    logging::start();
    match start::serve(&config) {
        Ok(()) => Exit::Ok,
        Err(error) => refuse(&error, error.exit),
    }
}

fn configuration(flags: Flags) -> Result<Config, ConfigError> {
    let core_count = thread::available_parallelism().map_or(1, usize::from);
    RawConfig::read(flags, std::env::vars_os())?.resolve(core_count)
}

fn show(text: &str) -> Exit {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Other,
    }
}

fn refuse(error: &dyn std::error::Error, exit: Exit) -> Exit {
    // Where standard error is closed, the exit code has to say it alone.
    let _ = writeln!(io::stderr(), "ringlog: {error}");
    exit
}
