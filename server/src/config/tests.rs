//! Precedence, refusals and their texts.

use super::*;

fn read(flags: &[(&'static str, &str)], env: &[(&str, &str)], file: Option<&str>) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let config = file.map(|text| {
        let path = directory.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let values = flags.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
    let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    RawConfig::read(Flags { config, values }, env)?.resolve(2)
}

fn refused(flags: &[(&'static str, &str)], env: &[(&str, &str)], file: Option<&str>, expected: &str) {
    let error = read(flags, env, file).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
}

#[test]
fn defaults_serve_on_the_documented_ports() {
    let config = read(&[], &[], None).unwrap();
    assert_eq!(config.http.to_string(), "127.0.0.1:3900");
    assert_eq!(config.tcp.to_string(), "127.0.0.1:50000");
    assert_eq!((config.syslog_tcp, config.syslog_udp), (None, None));
    assert_eq!((config.cores, config.shards, config.onboard_per_hour), (2, None, 5));
    assert_eq!((config.durability, config.sync, config.io), (Durability::Commit, SyncPrimitive::Dsync, IoChoice::Auto));
    assert_eq!(config.keys_file, Path::new("./ringlog-data/apikeys.conf"));
    assert_eq!(config.jwt_secret_file, Path::new("./ringlog-data/jwt-secret"));
    assert_eq!(
        config.to_string(),
        "data_dir=./ringlog-data http=127.0.0.1:3900 tcp=127.0.0.1:50000 cores=2 shards=auto durability=commit \
         sync=dsync segment_bytes=134217728 io=auto onboard_per_hour=5 jwt_secret_file=./ringlog-data/jwt-secret \
         keys_file=./ringlog-data/apikeys.conf bootstrap_key=(kept)"
    );
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let file = "http = \"127.0.0.1:1\"\ntcp = \"127.0.0.1:2\"\ncores = 3\n";
    let config = read(
        &[("http", "127.0.0.1:7")],
        &[("RINGLOG_HTTP", "127.0.0.1:8"), ("RINGLOG_TCP", "127.0.0.1:9")],
        Some(file),
    );
    let config = config.unwrap();
    assert_eq!((config.http.port(), config.tcp.port(), config.cores), (7, 9, 3));
}

#[test]
fn every_setting_is_accepted_from_every_place() {
    let values = [
        ("bootstrap_key", "sixteen-letters!"),
        ("bootstrap_key_file", "/b"),
        ("cores", "4"),
        ("cors_origins", "https://shop.example, http://localhost:8080"),
        ("data_dir", "/d"),
        ("durability", "interval:10ms"),
        ("http", "localhost:0"),
        ("io", "fallback"),
        ("jwt_secret_file", "/s"),
        ("keys_file", "/k"),
        ("onboard_per_hour", "0"),
        ("ports_file", "/p"),
        ("segment_bytes", "64MiB"),
        ("shards", "8"),
        ("sync", "fdatasync"),
        ("syslog_tcp", "0.0.0.0:514"),
        ("syslog_udp", "[::]:514"),
        ("syslog_workspace", "ws-7"),
        ("tcp", "[::1]:0"),
        ("trusted_proxies", "10.0.0.0/8, 192.0.2.1,::1"),
    ];
    assert_eq!(values.map(|(key, _)| key), KEYS);
    refused(&values, &[], None, "bootstrap_key and bootstrap_key_file: set one of them");
    let from_file = read(&[("bootstrap_key_file", "/b")], &[], None).unwrap();
    assert_eq!(from_file.bootstrap_key_file.as_deref(), Some(Path::new("/b")));
    // One of the two that exclude each other.
    let values: Vec<_> = values.into_iter().filter(|(key, _)| *key != "bootstrap_key_file").collect();
    let by_flag = read(&values, &[], None).unwrap();
    let names: Vec<_> = values.iter().map(|(key, _)| env_name(key)).collect();
    let env: Vec<_> = names.iter().map(String::as_str).zip(values.iter().map(|(_, value)| *value)).collect();
    assert_eq!(read(&[], &env, None).unwrap(), by_flag);
    let text: String = values.iter().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
    let by_file = read(&[], &[], Some(&text)).unwrap();
    assert_eq!(Config { file: None, ..by_file }, by_flag);
    assert_eq!(by_flag.durability, Durability::Interval(Duration::from_millis(10)));
    assert_eq!((by_flag.http.to_string().as_str(), by_flag.segment_bytes), ("127.0.0.1:0", 64 << 20));
    assert_eq!((by_flag.syslog_workspace, by_flag.shards), (Some(Tenant(7)), Some(8)));
    assert!(by_flag.to_string().contains(" trusted_proxies=10.0.0.0/8,192.0.2.1/32,::1/128 "), "{by_flag}");
    assert!(by_flag.to_string().contains(" cors_origins=https://shop.example,http://localhost:8080 "), "{by_flag}");
    assert!(!by_flag.to_string().contains("sixteen"), "{by_flag}");
    assert!(!format!("{by_flag:?}").contains("sixteen"));
}

#[test]
fn unknown_settings_are_refused_with_a_hint() {
    refused(&[], &[("RINGLOG_HTPP", "x")], None, "RINGLOG_HTPP is not a setting; did you mean RINGLOG_HTTP?");
    refused(&[], &[("RINGLOG_DATADIR", "x")], None, "did you mean RINGLOG_DATA_DIR?");
    refused(&[], &[("RINGLOG_CONFG", "x")], None, "did you mean RINGLOG_CONFIG?");
    let error = read(&[], &[("RINGLOG_COMPLETELY_DIFFERENT", "x")], None).unwrap_err();
    assert_eq!(error.to_string(), "RINGLOG_COMPLETELY_DIFFERENT is not a setting");
    refused(&[], &[], Some("cores = 2\n\nhtpp = 1\n"), "c.toml:3: htpp is not a setting; did you mean http?");
    refused(&[], &[], Some("[server]\nhttp = 1\n"), "c.toml:1: server is not a setting");
    refused(&[], &[], Some("cores = 2\ncores = 3\n"), "c.toml:2: ");
    refused(&[], &[], Some("cores = true\n"), "c.toml:1: cores: a string or a number is needed, found boolean");
    refused(&[], &[], Some("http = [1]\n"), "is needed, found array");
}

#[test]
fn what_others_put_into_the_environment_is_no_setting() {
    let env = [
        ("RINGLOG_PORT", "tcp://10.0.0.1:3900"),
        ("RINGLOG_PORT_3900_TCP_ADDR", "10.0.0.1"),
        ("RINGLOG_SERVICE_HOST", "10.0.0.1"),
        ("RINGLOG_LOAD_BOOTSTRAP_KEY", "the load generator's"),
        ("RINGLOG_HTTP", ""),
        ("PATH", "/bin"),
    ];
    assert_eq!(read(&[], &env, None).unwrap(), read(&[], &[], None).unwrap());
}

#[test]
fn bad_values_name_the_place_and_what_would_be_right() {
    refused(&[("http", "3900")], &[], None, "--http: \"3900\" is not an address and a port");
    refused(&[], &[("RINGLOG_CORES", "0")], None, "RINGLOG_CORES: \"0\" is not a number from 1 to 256");
    refused(&[], &[("RINGLOG_CORES", "-1")], None, "RINGLOG_CORES");
    refused(&[], &[], Some("\ndurability = \"fast\"\n"), "c.toml:2: durability: \"fast\" is none of commit");
    for bad in ["interval:", "interval:10", "interval:0ms", "interval:11s", "interval:-1ms", "interval:1.5ms"] {
        refused(&[("durability", bad)], &[], None, "is not a time from 1ms to 10s");
    }
    for bad in ["64MB", "64M", "MiB", "", "-1", "1MiB", "257MiB", "99999999999TiB", "67108865", "64 mib"] {
        refused(&[("segment_bytes", bad)], &[], None, "--segment-bytes");
    }
    refused(&[("sync", "fsync")], &[], None, "--sync");
    refused(&[("io", "epoll")], &[], None, "--io");
    refused(&[("cors_origins", "shop.example")], &[], None, "--cors-origins: \"shop.example\" is not an origin");
    refused(&[("data_dir", "")], &[], None, "--data-dir");
    refused(&[("syslog_workspace", "0")], &[], None, "--syslog-workspace");
    refused(&[("onboard_per_hour", "many")], &[], None, "--onboard-per-hour");
    for bad in ["10.0.0.1/8", "proxy.example.com", "10.0.0.0/8 192.0.2.1", "0.0.0.0/0"] {
        refused(&[("trusted_proxies", bad)], &[], None, &format!("--trusted-proxies: \"{bad}\""));
    }
}

#[test]
fn impossible_pairs_are_refused() {
    refused(&[("syslog_tcp", "127.0.0.1:0")], &[], None, "name a workspace");
    refused(&[("http", "127.0.0.1:9"), ("tcp", "127.0.0.1:9")], &[], None, "http and tcp cannot both listen on");
    assert!(read(&[("http", "127.0.0.1:0"), ("tcp", "127.0.0.1:0")], &[], None).is_ok());
}

#[test]
fn naming_a_workspace_turns_syslog_on() {
    let config = read(&[("syslog_workspace", "1")], &[], None).unwrap();
    assert_eq!(config.syslog_tcp.unwrap().port(), SYSLOG_PORT);
    assert_eq!(config.syslog_udp.unwrap().port(), SYSLOG_PORT);
    let only_udp = read(&[("syslog_workspace", "1"), ("syslog_udp", "127.0.0.1:0")], &[], None).unwrap();
    assert!(only_udp.syslog_tcp.is_none() && only_udp.syslog_udp.is_some());
}

#[test]
fn a_secret_is_in_no_error() {
    let secret = "se cret";
    for error in [
        read(&[("bootstrap_key", secret)], &[], None),
        read(&[], &[], Some("bootstrap_key = \"se cret\"\n")),
        read(&[], &[], Some("bootstrap_key = \"se cret\n")),
        read(&[], &[], Some("bootstrap_key = se cret\n")),
    ] {
        let error = error.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("cret\""), "{error}");
        assert!(!error.to_string().contains(secret), "{error}");
    }
    let flags = Flags { config: None, values: vec![("bootstrap_key", secret.to_owned())] };
    assert!(!format!("{flags:?}").contains(secret));
}

#[test]
fn a_named_file_must_be_there() {
    let flags = Flags { config: Some("/nonexistent/ringlog.toml".into()), values: vec![] };
    assert!(RawConfig::read(flags, []).err().unwrap().to_string().starts_with("/nonexistent/ringlog.toml: "));
    let env = [(OsString::from("RINGLOG_CONFIG"), OsString::from("/nonexistent/by-env.toml"))];
    assert!(RawConfig::read(Flags::default(), env).err().unwrap().to_string().contains("by-env"));
}

#[test]
fn sizes_have_binary_units() {
    for (text, expected) in
        [("1", 1), ("1B", 1), ("2KiB", 2048), ("3 MiB", 3 << 20), ("1GiB", 1 << 30), ("1TiB", 1 << 40)]
    {
        assert_eq!(bytes(text), Ok(expected), "{text}");
    }
}

const PRICED: &str = r#"
cores = 3
[x402]
enabled = true
facilitator_url = "https://x402.org/facilitator"
pay_to = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
network = "eip155:84532"
asset = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"

[[x402.routes]]
method = "POST"
path = "/api/v1/events"
price = "100"

[[x402.routes]]
method = "GET"
path = "/api/v1/events/query"
price = "10000"
"#;

#[test]
fn prices_stand_in_a_table_of_their_own() {
    let config = read(&[], &[], Some(PRICED)).unwrap();
    assert_eq!((config.cores, config.pricing.routes().len(), config.pricing.is_enabled()), (3, 2, true));
    let shown = " x402=on(facilitator https://x402.org/facilitator, POST /api/v1/events 100 of eip155:84532, \
                 GET /api/v1/events/query 10000 of eip155:84532) ";
    assert!(config.to_string().contains(shown), "{config}");
    assert_eq!(read(&[], &[], None).unwrap().pricing, Pricing::default());
    assert_eq!(read(&[], &[], Some("[x402]\n")).unwrap().pricing, Pricing::default());
}

#[test]
fn mistakes_in_prices_name_the_line_or_the_route() {
    let check = |from: &str, to: &str, expected: &str| {
        let text = PRICED.replacen(from, to, 1);
        assert_ne!(text, PRICED, "{from}");
        refused(&[], &[], Some(&text), expected);
    };
    check("\"10000\"", "\"0\"", "c.toml:3: x402: x402.routes, number 2: price is not a whole number");
    check("/api/v1/events/query", "/api/v1/evnets", "x402.routes, number 2: the server has no such method and path");
    check("\"GET\"", "\"POST\"", "x402.routes, number 2: the server has no such method and path");
    check("/api/v1/events/query", "/api/v1/tenants/acme", "number 2: the server has no such");
    check("/api/v1/events/query", "/api/v1/tenants/{}", "number 2: the server has no such");
    check("facilitator_url", "# ", "x402.enabled needs x402.facilitator_url");
    check("network", "netwrok", "c.toml:7: x402: unknown field `netwrok`");
    check("\"100\"", "100", "c.toml:13: x402: invalid type: integer `100`, expected a string");
    refused(&[], &[], Some("x402 = \"on\"\n"), "c.toml:1: x402: invalid type");
    refused(&[], &[("RINGLOG_X402", "on")], None, "RINGLOG_X402 is not a setting");
}
