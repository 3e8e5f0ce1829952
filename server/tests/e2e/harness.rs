//! A server process of a test's own: its directory, its ports, its end.
//! Nothing here sleeps or polls: a server has started when it says `ready`, and has ended when `wait` returns.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{Client, Response};

/// Far beyond what a start takes: it only ends a test that would hang.
const START_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    Uring,
    Fallback,
}

impl Io {
    pub fn flag(self) -> &'static str {
        match self {
            Io::Uring => "--io=uring",
            Io::Fallback => "--io=fallback",
        }
    }
}

/// A directory that outlives the servers that work in it.
pub struct Place {
    directory: TempDir,
    io: Io,
}

impl Place {
    pub fn new(io: Io) -> Place {
        Place { directory: tempfile::tempdir().unwrap(), io }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The binary as a test starts it: in its own directory, with nothing of the caller's environment that it reads.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringlog"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGLOG_")) {
            command.env_remove(name);
        }
        command.current_dir(self.directory.path()).args(arguments).stdin(Stdio::null());
        command
    }

    /// A server that does not start: how it ended and what it said.
    pub fn refused(&self, arguments: &[&str]) -> Output {
        self.command(&serve_arguments(self.io, arguments)).output().unwrap()
    }

    /// A server that answers. What is in `arguments` comes behind the usual, and so must not repeat it.
    pub fn start(self, arguments: &[&str]) -> Server {
        let stdout = self.path("stdout");
        let mut child = self
            .command(&serve_arguments(self.io, arguments))
            .stdout(File::create(&stdout).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (ready, is_ready) = sync_channel(1);
        let kept = Arc::clone(&log);
        // Ends with the process that writes.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let says_ready = line.contains("ready: ");
                *kept.lock().unwrap() += &format!("{line}\n");
                if says_ready {
                    let _ = ready.try_send(());
                }
            }
        });
        let mut server = Server { child, log, http: "0.0.0.0:0".parse().unwrap(), place: Some(self) };
        // The sender goes when the process does: a server that failed is not waited for.
        assert!(is_ready.recv_timeout(START_WITHIN).is_ok(), "the server did not start");
        server.http = server.ports()["http"].as_str().unwrap().parse().unwrap();
        server
    }
}

fn serve_arguments<'a>(io: Io, arguments: &[&'a str]) -> Vec<&'a str> {
    let usual = [
        "serve",
        io.flag(),
        "--data-dir=data",
        "--http=127.0.0.1:0",
        "--tcp=127.0.0.1:0",
        "--ports-file=ports.json",
        "--segment-bytes=64MiB",
        "--onboard-per-hour=0",
    ];
    let name = |argument: &&str| argument.split('=').next().unwrap().to_owned();
    let given: Vec<String> = arguments.iter().map(name).collect();
    let cores = ["--cores=1"];
    let usual = usual.into_iter().chain(cores).filter(|argument| !given.contains(&name(argument)));
    usual.chain(arguments.iter().copied()).collect()
}

/// Whether a text stands in any file below a directory.
pub fn holds(directory: &Path, needle: &str) -> bool {
    let mut places = vec![directory.to_owned()];
    let mut found = false;
    while let Some(place) = places.pop() {
        if place.is_dir() {
            places.extend(std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let bytes = std::fs::read(&place).unwrap();
            found |= bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
        }
    }
    found
}

/// A running server. It is killed when a test ends, however it ends.
pub struct Server {
    child: Child,
    log: Arc<Mutex<String>>,
    pub http: SocketAddr,
    place: Option<Place>,
}

impl Server {
    pub fn new(io: Io) -> Server {
        Place::new(io).start(&[])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.as_ref().unwrap().path(name)
    }

    pub fn ports(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("ports.json")).unwrap()).unwrap()
    }

    /// What the first run printed. Complete once the server says that it is ready.
    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.path("stdout")).unwrap()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.http)
    }

    /// Connections that the kernel spreads over both cores. Each has had an answer, so that it may rest for a while.
    pub fn connect_everywhere(&self) -> Vec<Client> {
        let connect = |_| {
            let mut client = self.connect();
            assert_eq!(client.call("GET", "/health", "", None).status, 200);
            client
        };
        (0..16).map(connect).collect()
    }

    /// One request on a connection of its own.
    pub fn call(&self, method: &str, path: &str, key: &str, body: Option<&Value>) -> Response {
        self.connect().call(method, path, key, body)
    }

    pub fn get(&self, path: &str, key: &str) -> Value {
        let answer = self.call("GET", path, key, None);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    pub fn post(&self, path: &str, key: &str, body: &Value) -> Value {
        let answer = self.call("POST", path, key, Some(body));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// A new tenant's key.
    pub fn onboard(&self, name: &str) -> String {
        let body = serde_json::json!({ "email": format!("{name}@example.com"), "name": name });
        let answer = self.call("POST", "/api/v1/onboard/start", "", Some(&body));
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["api_key"].as_str().unwrap().to_owned()
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Cuts the process off, and hands out what it worked in.
    pub fn kill(mut self) -> Place {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.place.take().unwrap()
    }

    /// Asks the process to end, and waits until it has.
    pub fn stop(mut self) -> (ExitStatus, Place) {
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        if !status.success() {
            eprintln!("{}", self.log());
        }
        (status, self.place.take().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the server's log:\n{}", self.log.lock().map(|log| log.clone()).unwrap_or_default());
        }
    }
}
