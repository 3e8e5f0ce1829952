//! The command line: verbs, flags and exit codes. It says what was asked for and does nothing.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client;
use crate::config::{Config, Flags};
pub use crate::exit::{Exit, Output};

/// A multi-tenant event store: durable before it answers.
#[derive(Parser)]
#[command(name = "ringlog", version, args_conflicts_with_subcommands = true, max_term_width = 100, after_help = EXAMPLES)]
struct Line {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  ringlog                                       serve with data in ./ringlog-data, HTTP on 127.0.0.1:3900
  ringlog serve --data-dir /var/lib/ringlog --http 0.0.0.0:3900
  ringlog serve --http 127.0.0.1:0 --ports-file ports.json
  ringlog check --config ringlog.toml           is this configuration right?
  ringlog apikeys new mobile-prod               a key for programs that send
  ringlog audit verify                          is the log of changes whole?
  ringlog login --email agent@your-company.com  from here on `ringlog tenants|keys|users|query` ask that server

Every setting can also stand in the environment (RINGLOG_DATA_DIR) or in ringlog.toml (data_dir = \"...\").
A flag goes before the environment, the environment before the file.

Exit codes: 0 ok, 1 other, 2 usage, 3 not found, 4 not allowed, 5 conflict, 6 quota or rate, 7 unavailable,
8 verification failed, 78 bad configuration, 130 interrupted.";

const SERVE_EXAMPLES: &str = "\
Examples:
  ringlog serve
  ringlog serve --data-dir /var/lib/ringlog --http 0.0.0.0:3900 --cores 4
  RINGLOG_BOOTSTRAP_KEY=$(cat key) ringlog serve --config /etc/ringlog.toml";

const CHECK_EXAMPLES: &str = "\
Examples:
  ringlog check --config /etc/ringlog.toml
  RINGLOG_CORES=4 ringlog check --json";

#[derive(Subcommand)]
enum Verb {
    /// Run the server. What happens without a verb, too
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Settings),
    /// Check the configuration and print it as it would be used
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        #[command(flatten)]
        settings: Settings,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Keys of a tenant, and the secrets that sign them
    #[command(subcommand)]
    Keys(KeysVerb),
    /// Streaming keys: list them, or make, show and delete one
    #[command(args_conflicts_with_subcommands = true, after_help = APIKEYS_EXAMPLES)]
    Apikeys {
        #[command(subcommand)]
        verb: Option<ApikeysVerb>,
        #[command(flatten)]
        place: KeysPlace,
    },
    /// Read the audit log, or prove it whole
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Print the version
    #[command(after_help = "Example:\n  ringlog version --json")]
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Client(client::Verb),
}

const AUDIT_VERIFY_EXAMPLES: &str = "\
Examples:
  ringlog audit verify --data-dir /var/lib/ringlog
  ringlog audit verify --contains 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

The server must be stopped: the data directory belongs to one process. The head that it prints is worth keeping
elsewhere: whoever asks for it later learns whether anything before it was rewritten.";

#[derive(Subcommand)]
enum AuditVerb {
    /// Recompute the chain of every change ever made, and name the first broken link
    #[command(after_help = AUDIT_VERIFY_EXAMPLES)]
    Verify {
        #[command(flatten)]
        place: Place,
        /// A head that was printed earlier: it must stand in the chain
        #[arg(long, value_name = "HEX")]
        contains: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Client(client::audit::Verb),
}

const APIKEYS_EXAMPLES: &str = "\
Examples:
  ringlog apikeys --data-dir /var/lib/ringlog
  ringlog apikeys new mobile-prod --workspace 1
  ringlog apikeys show mobile-prod
  ringlog apikeys delete mobile-prod

The keys stand in a file, one a line: HEX:WORKSPACE[:NAME]. A server that runs takes a change of it up within a second.";

#[derive(Subcommand)]
enum ApikeysVerb {
    /// Make a key, and print it
    #[command(after_help = "Example:\n  ringlog apikeys new mobile-prod --workspace 1")]
    New {
        /// What people call it
        name: String,
        /// Whose events it sends
        #[arg(long, short, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        workspace: u32,
        #[command(flatten)]
        place: KeysPlace,
    },
    /// Print a whole key
    #[command(after_help = "Example:\n  ringlog apikeys show mobile-prod")]
    Show {
        /// Its name, or the key itself
        name: String,
        /// Only one of this workspace
        #[arg(long, short, value_name = "NUMBER")]
        workspace: Option<u32>,
        #[command(flatten)]
        place: KeysPlace,
    },
    /// Take a key out: whoever sends with it is refused
    #[command(after_help = "Example:\n  ringlog apikeys delete mobile-prod --yes")]
    Delete {
        /// Its name, or the key itself
        name: String,
        /// Only one of this workspace
        #[arg(long, short, value_name = "NUMBER")]
        workspace: Option<u32>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        place: KeysPlace,
    },
}

/// What becomes of streaming keys. Names may also be keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApikeysAction {
    List,
    New { name: String, workspace: u32 },
    Show { name: String, workspace: Option<u32> },
    Delete { name: String, workspace: Option<u32>, yes: bool },
}

/// Which key file a verb works on.
#[derive(Args)]
struct KeysPlace {
    /// Configuration file [default: ./ringlog.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is stored [default: ./ringlog-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Streaming keys [default: apikeys.conf in the data directory]
    #[arg(long, value_name = "FILE")]
    keys_file: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl KeysPlace {
    fn into_command(self, action: ApikeysAction) -> Command {
        let values = [("data_dir", self.data_dir), ("keys_file", self.keys_file)];
        let values = values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let output = if self.json { Output::Json } else { Output::Text };
        Command::Apikeys { flags: Flags { config: self.config, values }, action, output }
    }
}

const ROTATE_SECRET_EXAMPLES: &str = "\
Examples:
  ringlog keys rotate-secret --data-dir /var/lib/ringlog
  kill -HUP $(pidof ringlog)                     the server signs with the new secret, and still takes the old
  ringlog keys rotate-secret --retire            later: keys under old secrets end with the next HUP or start
  ringlog keys rotate-secret --now               a leak: a new secret, and every key under an old one ends

The file of the secrets is read at a start and at SIGHUP. It holds four at most.";

#[derive(Subcommand)]
enum KeysVerb {
    /// Put a new signing secret before the old ones, which go on verifying until they are retired
    #[command(after_help = ROTATE_SECRET_EXAMPLES)]
    RotateSecret {
        #[command(flatten)]
        place: Place,
        /// Secrets that sign keys [default: jwt-secret in the data directory]
        #[arg(long, value_name = "FILE")]
        jwt_secret_file: Option<String>,
        /// Make none: take the old ones out
        #[arg(long, conflicts_with = "now")]
        retire: bool,
        /// Make one, and take the old ones out
        #[arg(long)]
        now: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Client(client::keys::Verb),
}

/// What becomes of the signing secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    Add,
    Retire,
    Replace,
}

/// Which data directory a verb works on.
#[derive(Args)]
struct Place {
    /// Configuration file [default: ./ringlog.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is stored [default: ./ringlog-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// How the kernel is asked: auto, uring or fallback [default: auto]
    #[arg(long, value_name = "CHOICE")]
    io: Option<String>,
}

impl Place {
    fn into_flags(self) -> Flags {
        let values = [("data_dir", self.data_dir), ("io", self.io)];
        let values = values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        Flags { config: self.config, values }
    }
}

/// Values are checked together with those of the environment and the file, so that an error reads the same from everywhere.
#[derive(Args)]
struct Settings {
    /// Configuration file [default: ./ringlog.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is stored [default: ./ringlog-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// HTTP API; port 0 picks a free one [default: 127.0.0.1:3900]
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Binary protocol [default: 127.0.0.1:50000]
    #[arg(long, value_name = "ADDRESS")]
    tcp: Option<String>,
    /// Syslog over TCP [default: off, or 127.0.0.1:50514 with --syslog-workspace]
    #[arg(long, value_name = "ADDRESS")]
    syslog_tcp: Option<String>,
    /// Syslog over UDP [default: off, or 127.0.0.1:50514 with --syslog-workspace]
    #[arg(long, value_name = "ADDRESS")]
    syslog_udp: Option<String>,
    /// Whose events arrive by syslog; turns syslog on
    #[arg(long, value_name = "NUMBER")]
    syslog_workspace: Option<String>,
    /// Threads that serve [default: as many as the machine has cores]
    #[arg(long, value_name = "COUNT")]
    cores: Option<String>,
    /// Logs to write; can be raised at any start, never lowered [default: one per core]
    #[arg(long, value_name = "COUNT")]
    shards: Option<String>,
    /// When a write is answered: commit, interval:10ms or memory [default: commit]
    #[arg(long, value_name = "MODE")]
    durability: Option<String>,
    /// How a write is made durable: dsync or fdatasync [default: dsync]
    #[arg(long, value_name = "PRIMITIVE")]
    sync: Option<String>,
    /// Size of a log's segments, 64MiB to 256MiB [default: 128MiB]
    #[arg(long, value_name = "SIZE")]
    segment_bytes: Option<String>,
    /// How the kernel is asked: auto, uring or fallback [default: auto]
    #[arg(long, value_name = "CHOICE")]
    io: Option<String>,
    /// Tenants that one address may onboard in an hour; 0 is without limit [default: 5]
    #[arg(long, value_name = "COUNT")]
    onboard_per_hour: Option<String>,
    /// Proxies whose X-Forwarded-For says from which address a request comes, as in 10.0.0.0/8,192.0.2.1
    /// [default: none, so that it is the socket's]
    #[arg(long, value_name = "NETWORKS")]
    trusted_proxies: Option<String>,
    /// Web pages that may read answers: *, none, or origins as in https://shop.example,http://localhost:8080
    /// [default: any page may send events, and none may read]
    #[arg(long, value_name = "ORIGINS")]
    cors_origins: Option<String>,
    /// Key that may act for every tenant; other users of this machine can see a flag, so prefer RINGLOG_BOOTSTRAP_KEY
    /// [default: made and printed once by the first run]
    #[arg(long, value_name = "KEY")]
    bootstrap_key: Option<String>,
    /// The same, in a file of mode 0600; read again at SIGHUP, which replaces the key at once
    #[arg(long, value_name = "FILE")]
    bootstrap_key_file: Option<String>,
    /// Secret that signs keys [default: jwt-secret in the data directory, made by the first run]
    #[arg(long, value_name = "FILE")]
    jwt_secret_file: Option<String>,
    /// Streaming keys [default: apikeys.conf in the data directory]
    #[arg(long, value_name = "FILE")]
    keys_file: Option<String>,
    /// Write the bound addresses here, as JSON, once the server accepts
    #[arg(long, value_name = "FILE")]
    ports_file: Option<String>,
}

impl Settings {
    fn into_flags(self) -> Flags {
        let values = [
            ("data_dir", self.data_dir),
            ("http", self.http),
            ("tcp", self.tcp),
            ("syslog_tcp", self.syslog_tcp),
            ("syslog_udp", self.syslog_udp),
            ("syslog_workspace", self.syslog_workspace),
            ("cores", self.cores),
            ("shards", self.shards),
            ("durability", self.durability),
            ("sync", self.sync),
            ("segment_bytes", self.segment_bytes),
            ("io", self.io),
            ("onboard_per_hour", self.onboard_per_hour),
            ("trusted_proxies", self.trusted_proxies),
            ("cors_origins", self.cors_origins),
            ("bootstrap_key", self.bootstrap_key),
            ("bootstrap_key_file", self.bootstrap_key_file),
            ("jwt_secret_file", self.jwt_secret_file),
            ("keys_file", self.keys_file),
            ("ports_file", self.ports_file),
        ];
        let values = values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        Flags { config: self.config, values }
    }
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Serve(Flags),
    Check { flags: Flags, output: Output },
    RotateSecret { flags: Flags, rotation: Rotation, output: Output },
    Apikeys { flags: Flags, action: ApikeysAction, output: Output },
    AuditVerify { flags: Flags, contains: Option<String>, output: Output },
    Version { output: Output },
    Client(Box<client::Ask>),
}

impl Command {
    /// Reads a command line, program name first. The error prints itself (`exit`): help and version are errors, too.
    pub fn parse<T: Into<std::ffi::OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Command, clap::Error> {
        let line = Line::try_parse_from(arguments)?;
        let output = |json| if json { Output::Json } else { Output::Text };
        Ok(match line.verb {
            None => Command::Serve(line.settings.into_flags()),
            Some(Verb::Serve(settings)) => Command::Serve(settings.into_flags()),
            Some(Verb::Check { settings, json }) => {
                Command::Check { flags: settings.into_flags(), output: output(json) }
            }
            Some(Verb::Keys(KeysVerb::RotateSecret { place, jwt_secret_file, retire, now, json })) => {
                let mut flags = place.into_flags();
                flags.values.extend(jwt_secret_file.map(|path| ("jwt_secret_file", path)));
                let rotation = match (retire, now) {
                    (true, _) => Rotation::Retire,
                    (false, true) => Rotation::Replace,
                    (false, false) => Rotation::Add,
                };
                Command::RotateSecret { flags, rotation, output: output(json) }
            }
            Some(Verb::Apikeys { verb, place: outer }) => match verb {
                None => outer.into_command(ApikeysAction::List),
                Some(ApikeysVerb::New { name, workspace, place }) => {
                    place.into_command(ApikeysAction::New { name, workspace })
                }
                Some(ApikeysVerb::Show { name, workspace, place }) => {
                    place.into_command(ApikeysAction::Show { name, workspace })
                }
                Some(ApikeysVerb::Delete { name, workspace, yes, place }) => {
                    place.into_command(ApikeysAction::Delete { name, workspace, yes })
                }
            },
            Some(Verb::Audit(AuditVerb::Verify { place, contains, json })) => {
                Command::AuditVerify { flags: place.into_flags(), contains, output: output(json) }
            }
            Some(Verb::Keys(KeysVerb::Client(verb))) => Command::Client(Box::new(client::Ask::Keys(verb))),
            Some(Verb::Audit(AuditVerb::Client(verb))) => Command::Client(Box::new(client::Ask::Audit(verb))),
            Some(Verb::Client(verb)) => Command::Client(Box::new(client::Ask::Verb(verb))),
            Some(Verb::Version { json }) => Command::Version { output: output(json) },
        })
    }
}

/// What `ringlog version` prints.
pub fn version_text(output: Output) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match output {
        Output::Text => format!("ringlog {version}\n"),
        Output::Json => format!("{}\n", serde_json::json!({ "name": "ringlog", "version": version })),
    }
}

/// What `ringlog check` prints about a right configuration.
pub fn check_text(config: &Config, output: Output) -> String {
    match output {
        Output::Text => format!("ok {config}\n"),
        Output::Json => format!("{}\n", serde_json::json!({ "ok": true, "config": config.to_string() })),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Command::parse(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn serving_needs_no_verb() {
        let bare = Command::Serve(Flags::default());
        assert_eq!(parse("ringlog").unwrap(), bare);
        assert_eq!(parse("ringlog serve").unwrap(), bare);
        let flags = Flags { config: Some("c.toml".into()), values: vec![("http", "127.0.0.1:0".into())] };
        let with = Command::Serve(flags);
        assert_eq!(parse("ringlog --http 127.0.0.1:0 --config c.toml").unwrap(), with);
        assert_eq!(parse("ringlog serve --config c.toml --http=127.0.0.1:0").unwrap(), with);
    }

    #[test]
    fn every_documented_flag_is_accepted() {
        let line = "ringlog serve --data-dir d --http h --tcp t --syslog-tcp a --syslog-udp b --syslog-workspace 1 \
                    --cores 1 --shards 1 --durability commit --io auto --onboard-per-hour 0 --bootstrap-key k \
                    --jwt-secret-file j --keys-file f --ports-file p --sync dsync --segment-bytes 64MiB \
                    --bootstrap-key-file b --trusted-proxies 10.0.0.0/8";
        match parse(line).unwrap() {
            Command::Serve(flags) => assert_eq!(flags.values.len(), 19),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_verbs_say_what_was_asked() {
        assert_eq!(parse("ringlog version --json").unwrap(), Command::Version { output: Output::Json });
        let flags = Flags { config: None, values: vec![("cores", "4".into())] };
        assert_eq!(parse("ringlog check --cores 4").unwrap(), Command::Check { flags, output: Output::Text });
        let flags = Flags { config: None, values: vec![("data_dir", "d".into())] };
        let verify = Command::AuditVerify { flags, contains: Some("ab".into()), output: Output::Json };
        assert_eq!(parse("ringlog audit verify --data-dir d --contains ab --json").unwrap(), verify);
        let apikeys =
            |values, action| Command::Apikeys { flags: Flags { config: None, values }, action, output: Output::Text };
        assert_eq!(parse("ringlog apikeys").unwrap(), apikeys(Vec::new(), ApikeysAction::List));
        let at = vec![("data_dir", "d".to_owned()), ("keys_file", "f".to_owned())];
        assert_eq!(
            parse("ringlog apikeys --data-dir d --keys-file f").unwrap(),
            apikeys(at.clone(), ApikeysAction::List)
        );
        let new = ApikeysAction::New { name: "mobile-prod".into(), workspace: 7 };
        let line = "ringlog apikeys new mobile-prod --workspace 7 --data-dir d --keys-file f";
        assert_eq!(parse(line).unwrap(), apikeys(at, new));
        let delete = ApikeysAction::Delete { name: "x".into(), workspace: None, yes: true };
        assert_eq!(parse("ringlog apikeys delete x --yes").unwrap(), apikeys(Vec::new(), delete));
        assert_eq!(parse("ringlog apikeys new x --workspace 0").unwrap_err().exit_code(), Exit::Usage as i32);
        for wrong in ["ringlog --nonsense", "ringlog nonsense", "ringlog --http", "ringlog serve --http a --http b"] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), Exit::Usage as i32, "{wrong}");
        }
        for help in ["ringlog --help", "ringlog --version", "ringlog serve --help"] {
            assert_eq!(parse(help).unwrap_err().exit_code(), Exit::Ok as i32, "{help}");
        }
    }

    #[test]
    fn every_verb_has_help_with_an_example() {
        let verbs = ["", "serve", "check", "audit verify", "keys rotate-secret", "version"];
        let keys = ["apikeys", "apikeys new", "apikeys show", "apikeys delete"];
        for verb in verbs.into_iter().chain(keys) {
            let help = parse(&format!("ringlog {verb} --help")).unwrap_err().to_string();
            assert!(help.contains("Example"), "{help}");
        }
    }

    #[test]
    fn every_verb_that_asks_a_server_has_help_with_an_example() {
        fn check(command: &clap::Command, path: &str) -> usize {
            let path = format!("{path} {}", command.get_name());
            let below: usize = command.get_subcommands().map(|verb| check(verb, &path)).sum();
            let asks = command.get_arguments().any(|argument| argument.get_id() == "credentials_file");
            if asks {
                let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(examples.contains("Example"), "{path}");
                assert!(command.get_arguments().any(|argument| argument.get_id() == "json"), "{path}");
            }
            below + usize::from(asks)
        }
        assert_eq!(check(&Line::command(), ""), 30);
    }

    #[test]
    fn no_secret_is_taken_from_the_command_line() {
        let ask = |line: &str| parse(line).map(|_| ()).map_err(|error| error.exit_code());
        for line in ["login --email a@x.com", "login --key", "keys rotate k --grace 5", "audit list --limit 5", "query"]
        {
            assert_eq!(ask(&format!("ringlog {line} --json")), Ok(()), "{line}");
        }
        for line in
            ["login --password p", "login --key k", "login --token t", "users create a@x.com --role admin --password p"]
        {
            assert_eq!(ask(&format!("ringlog {line}")), Err(Exit::Usage as i32), "{line}");
        }
        assert_eq!(ask("ringlog tenants update t"), Err(Exit::Usage as i32));
        assert_eq!(ask("ringlog tenants quotas t --stored-bytes much"), Err(Exit::Usage as i32));
    }

    #[test]
    fn the_texts_of_version_and_check_are_for_people_or_programs() {
        assert!(version_text(Output::Text).starts_with("ringlog "));
        let json: serde_json::Value = serde_json::from_str(&version_text(Output::Json)).unwrap();
        assert_eq!(json["name"], "ringlog");
        let config = crate::config::RawConfig::default().resolve(2).unwrap();
        assert!(check_text(&config, Output::Text).starts_with("ok data_dir="));
        let json: serde_json::Value = serde_json::from_str(&check_text(&config, Output::Json)).unwrap();
        assert_eq!(json["ok"], true);
    }
}
