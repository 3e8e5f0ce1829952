//! The verbs that ask a server, as somebody types them: the real binary against a real server, and against one that lies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Io, Place, Server};
use crate::sources::until;

const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";
const EMAIL: &str = "agent@your-company.com";
const PASSWORD: &str = "correct horse battery";

/// The verbs say nothing of how the server asks the kernel.
fn start() -> Server {
    Place::new(Io::Fallback).start(&[&format!("--bootstrap-key={BOOTSTRAP}")])
}

/// Somebody at a shell, with a home of their own.
struct Shell {
    home: TempDir,
    variables: Vec<(&'static str, String)>,
}

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Shell {
    fn at(address: SocketAddr) -> Shell {
        let url = format!("http://{address}");
        Shell { home: tempfile::tempdir().unwrap(), variables: vec![("RINGLOG_URL", url)] }
    }

    fn with(mut self, name: &'static str, value: &str) -> Shell {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn credentials(&self) -> PathBuf {
        self.home.path().join(".config/ringlog/credentials.json")
    }

    fn token(&self) -> String {
        let stored: Value = serde_json::from_slice(&std::fs::read(self.credentials()).unwrap()).unwrap();
        stored["token"].as_str().unwrap().to_owned()
    }

    /// A line of words, with `input` as standard input.
    fn ringlog(&self, line: &str, input: &str) -> Ended {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringlog"))
            .env_clear()
            .env("HOME", self.home.path())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .args(line.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A verb that asks for nothing may have ended by now.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ended {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn ok(&self, line: &str) -> String {
        let ended = self.ringlog(line, "");
        assert_eq!(ended.code, 0, "{line}: {}", ended.stderr);
        ended.stdout
    }

    fn json(&self, line: &str) -> Value {
        let text = self.ok(&format!("{line} --json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    }

    fn fails(&self, line: &str, code: i32) -> String {
        let ended = self.ringlog(line, "");
        assert_eq!((ended.code, ended.stdout.as_str()), (code, ""), "{line}: {}", ended.stderr);
        ended.stderr
    }

    fn set_up(&self) -> Ended {
        let ended = self.ringlog(&format!("users setup --email {EMAIL}"), &format!("{PASSWORD}\n"));
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        ended
    }

    fn keep(&self, stored: &Value) {
        let path = self.credentials();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, stored.to_string()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn opens(server: &Server, token: &str) -> bool {
    server.call("GET", "/api/v1/auth/me", token, None).status == 200
}

/// A server that gives the answers that it is told to, and keeps what it was asked.
struct Told {
    address: SocketAddr,
    asked: JoinHandle<Vec<String>>,
}

impl Told {
    fn new(answers: Vec<String>) -> Told {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let request = read_request(&mut stream);
                if request.is_empty() {
                    break;
                }
                asked.push(request);
                stream.write_all(answer.as_bytes()).unwrap();
            }
            asked
        });
        Told { address, asked }
    }

    /// What it was asked, when nobody asks any more.
    fn asked(self) -> Vec<String> {
        // Ends the wait for a request that never came.
        drop(TcpStream::connect(self.address));
        self.asked.join().unwrap()
    }
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if length.unwrap_or(0) <= body.len() {
                return text.into_owned();
            }
        }
        match stream.read(&mut chunk).unwrap() {
            0 => return String::new(),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

#[test]
fn somebody_sets_up_and_a_logout_ends_what_a_login_began() {
    let server = start();
    let shell = Shell::at(server.http);
    let made = shell.set_up();
    let token = shell.token();
    assert!(made.stdout.contains("streaming_key") && !made.stdout.contains(&token), "{}", made.stdout);
    assert_eq!(std::fs::metadata(shell.credentials()).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(shell.json("whoami")["email"], EMAIL);
    assert!(shell.ok("whoami").contains(EMAIL));
    assert!(shell.ok("logout").contains("logged out"));
    assert!(!shell.credentials().exists() && !opens(&server, &token));
    assert_eq!(shell.json("logout"), json!({ "logged_out": false }));
    assert!(shell.fails("whoami", 4).contains("ringlog login"));

    let wrong = shell.ringlog(&format!("login --email {EMAIL}"), "wrong password\n");
    assert_eq!(wrong.code, 4, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("invalid_credentials") && !wrong.stderr.contains("wrong password"));
    assert!(!shell.credentials().exists());
    let ended = shell.ringlog(&format!("login --email {EMAIL} --json"), PASSWORD);
    let answer: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&answer["user"]["email"], answer["token"].is_null()), (&json!(EMAIL), true));
    // A session that ended elsewhere is forgotten all the same.
    assert_eq!(server.call("POST", "/api/v1/auth/logout", &shell.token(), None).status, 204);
    assert!(shell.fails("whoami", 4).contains("ringlog login"));
    shell.ok("logout");
    assert!(!shell.credentials().exists());
}

#[test]
fn credentials_that_others_read_are_refused() {
    let server = start();
    let shell = Shell::at(server.http);
    shell.set_up();
    std::fs::set_permissions(shell.credentials(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = shell.fails("whoami", 4);
    assert!(said.contains("chmod 600") && !said.contains("rl_st_"), "{said}");
}

#[test]
fn an_operator_takes_a_tenant_through_its_life() {
    let server = start();
    let shell = Shell::at(server.http).with("RINGLOG_BOOTSTRAP_KEY", BOOTSTRAP);
    shell.ok("tenants create acme --name Acme --tier free");
    assert!(shell.fails("tenants create acme", 5).contains("already_exists"));
    assert!(shell.fails("tenants create Acme!", 2).contains("fix: "));
    let table = shell.ok("tenants list");
    assert!(table.lines().next().unwrap().starts_with("ID ") && table.contains("acme"), "{table}");
    assert_eq!(shell.json("tenants show acme")["name"], "Acme");
    shell.ok("tenants update acme --tier studio");
    assert_eq!(shell.json("tenants stats acme")["tier"], "studio");

    shell.ok("tenants quotas acme --events-per-month 7 --stored-bytes unlimited");
    let quotas = shell.json("tenants quotas acme --events-per-month tier --requests-per-second 9");
    assert_eq!(quotas["overrides"], json!({ "stored_bytes": "unlimited", "requests_per_second": 9 }));
    assert_eq!(shell.json("tenants quotas acme")["overrides"], quotas["overrides"]);

    shell.ok("tenants deactivate acme");
    assert_eq!(shell.json("tenants show acme")["active"], false);
    shell.ok("tenants activate acme");
    assert_eq!(shell.json("tenants show acme")["active"], true);
    assert!(shell.fails("tenants delete acme", 2).contains("--yes"));
    assert_eq!(shell.json("tenants show acme")["active"], true);
    let told = shell.ok("tenants delete acme --yes");
    assert!(told.contains("`ringlog tenants show acme`"), "{told}");
    // It can be watched on its way out.
    until(|| {
        let shown = shell.ringlog("tenants show acme --json", "");
        assert!(shown.code == 3 || serde_json::from_str::<Value>(&shown.stdout).unwrap()["status"] == "deleting");
        shown.code == 3
    });
    let gone = shell.fails("tenants show acme --json", 3);
    assert_eq!(serde_json::from_str::<Value>(&gone).unwrap()["error"], "not_found");
    // It stays one part of the path, and no id has a slash.
    shell.fails("tenants show a/../default", 2);
}

#[test]
fn a_list_in_pages_is_one_document() {
    let server = start();
    let shell = Shell::at(server.http).with("RINGLOG_BOOTSTRAP_KEY", BOOTSTRAP);
    for number in 0..5 {
        shell.ok(&format!("tenants create t{number}"));
    }
    let whole = shell.json("tenants list");
    let followed = shell.json("tenants list --limit 2 --follow-pages");
    assert_eq!((&followed["tenants"], &followed["count"]), (&whole["tenants"], &whole["count"]));
    let first = shell.ringlog("tenants list --limit 2", "");
    assert!(first.stderr.contains("--cursor"), "{}", first.stderr);
    let table = shell.ok("tenants list --limit 2 --follow-pages");
    assert!((0..5).all(|number| table.contains(&format!("t{number} "))), "{table}");
}

#[test]
fn keys_are_shown_once_rotated_and_revoked() {
    let server = start();
    let shell = Shell::at(server.http);
    shell.set_up();
    let made = shell.ringlog("keys create ci --role readonly --expires-in-days 9", "");
    let key = made.stdout.trim().to_owned();
    assert!(opens(&server, &key) && made.stderr.contains("not shown again"), "{}", made.stderr);
    assert!(!shell.ok("keys list").contains(&key));
    let listed = shell.json("keys list");
    assert_eq!(
        (&listed["agent_keys"][0]["name"], &listed["agent_keys"][0]["role"]),
        (&json!("ci"), &json!("readonly"))
    );
    let new = shell.json("keys rotate ci")["key"].as_str().unwrap().to_owned();
    assert!(opens(&server, &new) && !opens(&server, &key));
    let newest = shell.ok("keys rotate ci --grace 600").trim().to_owned();
    assert!(opens(&server, &new) && opens(&server, &newest));
    assert!(shell.fails("keys revoke ci", 2).contains("--yes"));
    shell.ok("keys revoke ci --yes");
    assert!(!opens(&server, &new) && !opens(&server, &newest));
    shell.fails("keys revoke ci --yes", 3);
    shell.fails("keys create k --role root", 2);
}

#[test]
fn a_kept_key_is_replaced_where_it_is_kept() {
    let server = start();
    let admin = Shell::at(server.http);
    admin.set_up();
    let key = admin.ok("keys create ci --role readonly");
    let shell = Shell::at(server.http);
    assert_eq!(shell.ringlog("login --key", "no-key-at-all\n").code, 4);
    let ended = shell.ringlog("login --key", &key);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(!ended.stdout.contains(key.trim()));
    assert!(shell.fails("keys create other --role readonly", 4).contains("forbidden"));
    let new = shell.ok("keys rotate-self").trim().to_owned();
    assert_eq!(shell.token(), new);
    assert!(opens(&server, &new) && !opens(&server, key.trim()));
    shell.ok("keys revoke-self --yes");
    assert!(!shell.credentials().exists() && !opens(&server, &new));

    // The file of one's own goes before everything else, and everything else before the login.
    std::fs::write(shell.home.path().join("k"), BOOTSTRAP).unwrap();
    assert!(shell.fails("tenants list --key-file k", 4).contains("chmod 600"));
    std::fs::set_permissions(shell.home.path().join("k"), std::fs::Permissions::from_mode(0o600)).unwrap();
    shell.ok("tenants list --key-file k");
    let table = shell.ok("keys list --key-file k --tenant default");
    assert!(table.starts_with("NAME"), "{table}");
}

#[test]
fn an_admin_makes_changes_and_deletes_users() {
    let server = start();
    let shell = Shell::at(server.http);
    shell.set_up();
    let made = shell.ringlog("users create dev@x.com --role developer --username dev --json", "another long phrase");
    assert_eq!(made.code, 0, "{}", made.stderr);
    let id = serde_json::from_str::<Value>(&made.stdout).unwrap()["id"].as_str().unwrap().to_owned();
    assert!(shell.ok("users list").contains("dev@x.com"));
    let dev = Shell::at(server.http);
    assert_eq!(dev.ringlog("login --email dev", "another long phrase\n").code, 0);
    dev.fails("users list", 4);
    assert_eq!(shell.json(&format!("users set-role {id} readonly"))["role"], "readonly");
    shell.ok(&format!("users delete {id} --yes"));
    dev.fails("whoami", 4);
    shell.fails(&format!("users delete {id} --yes"), 3);
    let again = shell.ringlog("users setup --email other@x.com", "another long phrase");
    assert_eq!(again.code, 5, "{}", again.stderr);
}

#[test]
fn the_audit_log_and_events_are_read() {
    let server = start();
    let shell = Shell::at(server.http);
    shell.set_up();
    for name in ["a", "b", "c"] {
        shell.ok(&format!("keys create {name} --role readonly"));
    }
    let minted = shell.json("audit list --action key_minted --actor user:1 --limit 2 --follow-pages");
    assert_eq!(minted["count"], 3);
    let of_somebody = shell.json("audit list --actor user:1 --since 2020-01-01T00:00:00Z");
    assert!(of_somebody["events"].as_array().unwrap().iter().any(|event| event["action"] == "key_minted"));
    assert!(shell.ok("audit list").contains("key_minted"));
    shell.fails("audit list --actor nobody", 2);

    let event = json!({ "event_type": "user.action", "entity_id": "e", "payload": { "text": "\u{9b}2J" } });
    server.post("/api/v1/events", &shell.token(), &event);
    let table = shell.ok("query --type user.action");
    assert!(table.contains("user.action") && !table.contains('\u{9b}'), "{table:?}");
    let bad = server.call("POST", "/v1/logs", &shell.token(), Some(&json!({ "type": 7 })));
    assert_eq!(bad.status, 400, "{}", bad.text());
    // Nobody waits for a reject to be stored.
    let rejects = || shell.json("rejects list --source http --limit 5 --follow-pages");
    let begun = std::time::Instant::now();
    while rejects()["count"] != 1 {
        assert!(begun.elapsed().as_secs() < 20, "{}", rejects());
    }
    let table = shell.ok("rejects list");
    assert!(table.contains("SAMPLE") && table.contains("key_"), "{table}");
    assert_eq!(shell.json("rejects list --reason quota")["rejects"], json!([]));
    let read = shell.json("query --entity e");
    assert_eq!((&read["count"], &read["events"][0]["payload"]), (&json!(1), &event["payload"]));
}

#[test]
fn status_tells_of_a_server_that_is_there_and_of_one_that_is_not() {
    let server = start();
    let shell = Shell::at(server.http);
    let status = shell.json("status");
    assert_eq!((&status["health"]["status"], &status["ready"]["status"]), (&json!("healthy"), &json!("ready")));
    assert!(shell.ok("status").contains("healthy"));

    // Bound and not listening: nobody else can have the port, and nobody answers.
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    let address = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    let said = Shell::at(address).fails("status", 7);
    assert!(said.contains("ringlog serve"), "{said}");
    let said = Shell::at(address).with("RINGLOG_API_KEY", "k").fails("keys list --json", 7);
    assert!(serde_json::from_str::<Value>(&said).unwrap()["fix"].is_string(), "{said}");
}

#[test]
fn a_session_near_its_end_is_refreshed_and_kept() {
    let refreshed = json!({ "token": "rl_st_new", "expires_at": now() + 86_400 }).to_string();
    let told = Told::new(vec![answer("200 OK", "", &refreshed), answer("200 OK", "", "{\"id\":\"user_1\"}")]);
    let shell = Shell::at(told.address);
    let url = format!("http://{}", told.address);
    shell.keep(&json!({ "url": url, "token": "rl_st_old", "expires_at": now() + 600, "user": {} }));
    shell.ok("whoami");
    assert_eq!(shell.token(), "rl_st_new");
    assert_eq!(std::fs::metadata(shell.credentials()).unwrap().mode() & 0o7777, 0o600);
    let asked = told.asked();
    assert!(asked[0].starts_with("POST /api/v1/auth/refresh ") && asked[0].ends_with("{\"token\":\"rl_st_old\"}"));
    assert!(asked[1].to_lowercase().contains("authorization: bearer rl_st_new"), "{}", asked[1]);
}

#[test]
fn a_token_goes_to_no_other_server() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let other = elsewhere.local_addr().unwrap();
    let location = format!("Location: http://{other}/api/v1/auth/me\r\n");
    let told = Told::new(vec![answer("302 Found", &location, ""), answer("307 Temporary Redirect", &location, "")]);
    let shell = Shell::at(told.address);
    let url = format!("http://{}", told.address);
    shell.keep(&json!({ "url": url, "token": "rl_st_mine", "expires_at": now() + 86_400, "user": {} }));
    assert!(shell.fails("whoami", 1).contains("--url"));
    shell.fails("keys rotate-self", 1);
    assert_eq!(told.asked().len(), 2);
    assert!(shell.fails(&format!("whoami --url http://{other}"), 4).contains("ringlog login"));
    shell.fails(&format!("logout --url http://{other}"), 4);
    assert!(elsewhere.accept().is_err());
    assert!(shell.credentials().exists());
}

#[test]
fn a_server_gives_a_terminal_no_orders_and_its_refusals_have_an_exit_code() {
    let hostile =
        json!({ "error": "rate_limited", "message": "\u{1b}[2J\u{202e}slow", "fix": "\u{9b}wait" }).to_string();
    let told = Told::new(vec![
        answer("429 Too Many Requests", "", &hostile),
        answer("200 OK", "", "{\"id\":\"\u{9b}\u{7f}\"}"),
        answer("200 OK", "", "<html>"),
        answer("503 Service Unavailable", "", "busy"),
    ]);
    let shell = Shell::at(told.address).with("RINGLOG_API_KEY", "k");
    let said = shell.fails("whoami", 6);
    assert!(said.contains("rate_limited") && !said.contains(['\u{1b}', '\u{202e}', '\u{9b}']), "{said:?}");
    let text = shell.ok("whoami --json");
    assert!(!text.contains(['\u{9b}', '\u{7f}']), "{text:?}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["id"], "\u{9b}\u{7f}");
    assert!(shell.fails("whoami", 1).contains("--url"));
    shell.fails("whoami", 7);
    assert_eq!(told.asked().len(), 4);
}

#[test]
fn keys_of_programs_are_made_listed_and_revoked() {
    let server = start();
    let shell = Shell::at(server.http);
    shell.set_up();
    let made = shell.json("keys programmatic create CI --workspace ws-1 --permission read");
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert_eq!((opens(&server, key), &made["permissions"]), (true, &json!(["read"])));
    let table = shell.ok("keys programmatic list");
    assert!(table.contains(id) && !table.contains(key), "{table}");
    shell.fails("keys programmatic create CI --permission everything", 2);
    shell.ok(&format!("keys programmatic revoke {id} --yes"));
    assert!(!opens(&server, key));
    shell.fails(&format!("keys programmatic revoke {id} --yes"), 3);
}

#[test]
fn keys_of_programs_are_asked_for_in_the_shape_that_is_documented() {
    let made = json!({ "key": "tell_x", "id": "key_1", "name": "CI", "key_prefix": "tell_a1b2" }).to_string();
    let listed =
        json!({ "api_keys": [{ "id": "key_1", "name": "CI", "permissions": ["read"] }], "count": 1 }).to_string();
    let told = Told::new(vec![
        answer("201 Created", "", &made),
        answer("200 OK", "", &listed),
        answer("204 No Content", "", ""),
    ]);
    let shell = Shell::at(told.address).with("RINGLOG_API_KEY", "k");
    let create = "keys programmatic create CI --workspace ws-1 --permission read --expires-at 2026-12-31T23:59:59Z";
    assert_eq!(shell.ok(create), "tell_x\n");
    assert!(shell.ok("keys programmatic list").contains("key_1"));
    assert_eq!(shell.json("keys programmatic revoke key_1 --yes"), json!({}));
    let asked = told.asked();
    assert!(asked[0].starts_with("POST /api/v1/user/apikeys "), "{}", asked[0]);
    let (_, body) = asked[0].split_once("\r\n\r\n").unwrap();
    let expected = json!({
        "name": "CI", "workspace_id": "ws-1", "permissions": ["read"], "expires_at": "2026-12-31T23:59:59Z",
    });
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
    assert!(asked[1].starts_with("GET /api/v1/user/apikeys "), "{}", asked[1]);
    assert!(asked[2].starts_with("DELETE /api/v1/user/apikeys/key_1 "), "{}", asked[2]);
}
