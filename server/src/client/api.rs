//! One server, asked over HTTP: the home of `ureq`.
//!
//! Owns what a request may cost (time, bytes) and where a credential may go. Must never: follow a redirect, use a proxy that
//! nobody named, or send the token of a login to a server other than the one that gave it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use ureq::http::{Request, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Timeout};

use crate::auth::secret::Secret;
use crate::client::Reach;
use crate::client::credentials::{self, CredentialsFile, Environment, Held, Stored};
use crate::client::failure::Failure;
use crate::exit::Exit;

pub const URL_DEFAULT: &str = "http://127.0.0.1:3900";
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A full page of events of ordinary size; a guess.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// A session that has no more than this left is refreshed: a quarter of the day that it lives.
const REFRESH_WITHIN_S: i64 = 6 * 3600;

/// A path with its query. What comes from outside is percent-encoded, so that it stays one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    text: String,
    has_query: bool,
}

impl Target {
    pub fn new(path: &'static str) -> Target {
        Target { text: path.to_owned(), has_query: false }
    }

    /// One more segment.
    pub fn part(mut self, part: &str) -> Target {
        self.text.push('/');
        self.encode(part);
        self
    }

    pub fn then(mut self, path: &'static str) -> Target {
        self.text.push_str(path);
        self
    }

    pub fn query(mut self, name: &'static str, value: Option<&str>) -> Target {
        if let Some(value) = value {
            self.text.push(if self.has_query { '&' } else { '?' });
            self.has_query = true;
            self.text.push_str(name);
            self.text.push('=');
            self.encode(value);
        }
        self
    }

    fn encode(&mut self, text: &str) {
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                self.text.push(char::from(byte));
            } else {
                self.text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
}

/// A success: one JSON document, or `{}` where the server had nothing to say.
#[derive(Debug)]
pub struct Answer(Box<RawValue>);

impl Answer {
    fn read(status: u16, body: String) -> Result<Answer, Failure> {
        let body = if body.trim().is_empty() { "{}".to_owned() } else { body };
        RawValue::from_string(body).map(Answer).map_err(|_| {
            Failure::new(Exit::Other, format!("the answer (status {status}) is not JSON"))
                .fix("name a ringlog server with --url")
        })
    }

    pub fn json(&self) -> &str {
        self.0.get()
    }

    pub fn value(&self) -> Value {
        serde_json::from_str(self.json()).unwrap_or_default()
    }

    /// A member that must be a text.
    pub fn text(&self, member: &str) -> Result<String, Failure> {
        let missing = || Failure::new(Exit::Other, format!("the answer has no {member}"));
        self.value()[member].as_str().map(str::to_owned).ok_or_else(missing)
    }

    pub fn read_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        let wrong = |_| Failure::new(Exit::Other, "the answer is not of the shape that was expected");
        serde_json::from_str(self.json()).map_err(wrong)
    }
}

/// Where a server is: scheme, authority and path, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    url: String,
    is_private: bool,
}

impl Base {
    pub fn parse(text: &str) -> Result<Base, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("{text}: {why}")).fix(format!("name a server as in --url {URL_DEFAULT}"))
        };
        let uri: Uri = text.parse().map_err(|_| wrong("not a URL"))?;
        let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme));
        let (Some(scheme), Some(authority), Some(host)) = (scheme, uri.authority(), uri.host()) else {
            return Err(wrong("not an http:// or https:// URL"));
        };
        if authority.as_str().contains('@') {
            return Err(Failure::usage("a URL holds no name and no password").fix("ringlog login"));
        }
        if uri.query().is_some() || host.is_empty() {
            return Err(wrong("a server's URL has a host, and nothing behind its path"));
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_local = host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback());
        let path = uri.path().trim_end_matches('/');
        let url = format!("{scheme}://{}{path}", authority.as_str().to_ascii_lowercase());
        Ok(Base { url, is_private: is_local || scheme == "https" })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether what is sent there is read by nobody on the way.
    pub fn is_private(&self) -> bool {
        self.is_private
    }
}

pub struct Api {
    agent: Agent,
    base: Base,
    held: Option<Held>,
    tenant: Option<String>,
}

impl Api {
    /// With a credential. A login's that ends soon is refreshed first.
    pub fn open(reach: &Reach, environment: &Environment) -> Result<Api, Failure> {
        let (held, url) = credentials::find(reach, environment)?;
        let base = Base::parse(url.as_deref().unwrap_or(URL_DEFAULT))?;
        let mut api = Api { agent: agent(reach)?, base, held: None, tenant: reach.tenant.clone() };
        api.held = Some(match held {
            Held::Stored { stored, file } => {
                if stored.url != api.base.url {
                    let text = format!("the credentials are those of {}, not of {}", stored.url, api.base.url);
                    return Err(Failure::new(Exit::NotAllowed, text)
                        .fix(format!("log in there: ringlog login --url {}", api.base.url)));
                }
                let stored = api.keep_alive(stored, &file)?;
                Held::Stored { stored, file }
            }
            given => given,
        });
        Ok(api)
    }

    /// With a key or none, for what needs no login. `last_url` is used where none is named.
    pub fn open_with(
        reach: &Reach,
        environment: &Environment,
        key: Option<Secret>,
        last_url: Option<&str>,
    ) -> Result<Api, Failure> {
        let named = reach.url.as_deref().or(environment.url.as_deref());
        let base = Base::parse(named.or(last_url).unwrap_or(URL_DEFAULT))?;
        Ok(Api { agent: agent(reach)?, base, held: key.map(Held::Given), tenant: reach.tenant.clone() })
    }

    pub fn base(&self) -> &Base {
        &self.base
    }

    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    pub fn get(&self, target: &Target) -> Result<Answer, Failure> {
        self.call("GET", target, None)
    }

    pub fn post(&self, target: &Target, body: &Value) -> Result<Answer, Failure> {
        self.call("POST", target, Some(body))
    }

    pub fn put(&self, target: &Target, body: &Value) -> Result<Answer, Failure> {
        self.call("PUT", target, Some(body))
    }

    pub fn delete(&self, target: &Target) -> Result<Answer, Failure> {
        self.call("DELETE", target, None)
    }

    /// Another process may have refreshed the session since it was read here: then its token is tried, once.
    fn call(&self, method: &str, target: &Target, body: Option<&Value>) -> Result<Answer, Failure> {
        let secret = self.held.as_ref().map(Held::secret);
        let (status, text) = self.send(method, target, body, secret)?;
        let Some(Held::Stored { stored, file }) = self.held.as_ref().filter(|_| status == 401) else {
            return answered(status, text);
        };
        let newer = file.read()?.filter(|newer| newer.token != stored.token && newer.url == stored.url);
        let again = newer.map(|newer| self.send(method, target, body, Some(&newer.token))).transpose()?;
        let (status, text) = again.unwrap_or((status, text));
        answered(status, text).map_err(|failure| match status {
            401 => failure.fix("log in again: ringlog login"),
            _ => failure,
        })
    }

    fn send(
        &self,
        method: &str,
        target: &Target,
        body: Option<&Value>,
        secret: Option<&Secret>,
    ) -> Result<(u16, String), Failure> {
        let mut request = Request::builder().method(method).uri(format!("{}{}", self.base.url, target.text));
        if let Some(secret) = secret {
            request = request.header("Authorization", format!("Bearer {}", secret.expose()));
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Tenant-ID", tenant);
        }
        // The error is without the header that caused it.
        let unfit = |_| Failure::usage("the key or the tenant has characters that no header takes");
        let sent = match body {
            None => self.agent.run(request.body(()).map_err(unfit)?),
            Some(body) => {
                let request = request.header("Content-Type", "application/json").body(body.to_string());
                self.agent.run(request.map_err(unfit)?)
            }
        };
        let failed = |error| self.failed(&error, method);
        let mut response = sent.map_err(failed)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true).read_to_string();
        Ok((status, body.map_err(failed)?))
    }

    fn failed(&self, error: &ureq::Error, method: &str) -> Failure {
        let url = &self.base.url;
        let unavailable = |why: &str| Failure::new(Exit::Unavailable, format!("{url}: {why}"));
        let is_running = "is the server running? start it with `ringlog serve`, or name another with --url";
        let half_done = match method {
            "GET" => "try again",
            _ => "the change may or may not have been made: look before trying again",
        };
        match error {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                unavailable("connection refused").fix(is_running)
            }
            ureq::Error::HostNotFound => unavailable("there is no such host").fix("name a server with --url"),
            ureq::Error::ConnectionFailed => unavailable("no connection").fix(is_running),
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                unavailable(&format!("no connection within {} s", CONNECT_WITHIN.as_secs())).fix(is_running)
            }
            ureq::Error::Timeout(_) => {
                unavailable(&format!("no answer within {} s", ANSWER_WITHIN.as_secs())).fix(half_done)
            }
            ureq::Error::Io(error) => unavailable(&error.to_string()).fix(half_done),
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => Failure::new(Exit::Other, format!("{url}: {error}"))
                .fix("name the authority that signed the server's certificate with --ca-file"),
            ureq::Error::BodyExceedsLimit(bytes) => {
                Failure::new(Exit::Other, format!("{url}: the answer is longer than {bytes} bytes"))
                    .fix("ask for less with --limit")
            }
            other => Failure::new(Exit::Other, format!("{url}: {other}")).fix("name a ringlog server with --url"),
        }
    }

    /// One process refreshes; those that waited for it find its token. A refresh that fails leaves the old one to its end.
    fn keep_alive(&self, stored: Stored, file: &CredentialsFile) -> Result<Stored, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        if !is_due(&stored, now) {
            return Ok(stored);
        }
        let locked = file.lock()?;
        let Some(stored) = file.read()?.filter(|newest| newest.url == stored.url) else { return Ok(stored) };
        if !is_due(&stored, now) {
            return Ok(stored);
        }
        let body = serde_json::json!({ "token": stored.token.expose() });
        let refreshed = self.send("POST", &Target::new("/api/v1/auth/refresh"), Some(&body), None);
        let Ok((200, text)) = refreshed else { return Ok(stored) };
        let answer = Answer::read(200, text)?;
        let Some(expires_at) = answer.value()["expires_at"].as_i64() else { return Ok(stored) };
        let stored = Stored { token: Secret::new(answer.text("token")?), expires_at: Some(expires_at), ..stored };
        locked.write(&stored)?;
        Ok(stored)
    }
}

/// Whether a session ends soon and has not ended.
fn is_due(stored: &Stored, now: i64) -> bool {
    stored.expires_at.is_some_and(|end| now < end && end - now <= REFRESH_WITHIN_S)
}

fn answered(status: u16, text: String) -> Result<Answer, Failure> {
    match status {
        200..=299 => Answer::read(status, text),
        _ => Err(Failure::from_answer(status, &text)),
    }
}

fn agent(reach: &Reach) -> Result<Agent, Failure> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = &reach.ca_file {
        let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let items: Result<Vec<_>, _> = parse_pem(&bytes).collect();
        let items = items.map_err(|error| wrong(error.to_string()))?;
        let certificate = |item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        };
        let roots: Vec<_> = items.into_iter().filter_map(certificate).collect();
        if roots.is_empty() {
            return Err(wrong("there is no certificate in PEM form".to_owned()));
        }
        tls = tls.root_certs(RootCerts::Specific(Arc::new(roots)));
    }
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_connect(Some(CONNECT_WITHIN))
        .timeout_resolve(Some(CONNECT_WITHIN))
        .timeout_global(Some(ANSWER_WITHIN))
        .user_agent(concat!("ringlog/", env!("CARGO_PKG_VERSION")))
        .accept("application/json")
        .tls_config(tls.build())
        .build();
    Ok(Agent::new_with_config(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_stays_one_part_of_a_target() {
        let target = Target::new("/api/v1/tenants").part("a/../b?c#d é").then("/stats").query("limit", Some("1&x=2"));
        assert_eq!(target.text, "/api/v1/tenants/a%2F..%2Fb%3Fc%23d%20%C3%A9/stats?limit=1%26x%3D2");
        let target = Target::new("/x").query("a", None).query("b", Some("")).query("c", Some("d"));
        assert_eq!(target.text, "/x?b=&c=d");
    }

    #[test]
    fn a_servers_url_has_one_spelling() {
        let parsed = |text: &str| Base::parse(text).map(|base| (base.url, base.is_private)).unwrap();
        assert_eq!(parsed("http://LocalHost:3900/"), ("http://localhost:3900".to_owned(), true));
        assert_eq!(parsed("http://[::1]:3900"), ("http://[::1]:3900".to_owned(), true));
        assert_eq!(parsed("https://x.example/ring/"), ("https://x.example/ring".to_owned(), true));
        assert_eq!(parsed("http://10.0.0.1"), ("http://10.0.0.1".to_owned(), false));
        assert_eq!(parsed("http://localhost.example"), ("http://localhost.example".to_owned(), false));
        for wrong in
            ["", "localhost", "localhost:3900", "/x", "ftp://x", "http://", "http://u:p@x", "http://x/?a=b", "x y"]
        {
            assert_eq!(Base::parse(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_session_is_refreshed_in_its_last_hours_and_a_key_never() {
        let due = |expires_at, now| {
            let stored = Stored { url: String::new(), token: Secret::new(""), expires_at, user: Value::Null };
            is_due(&stored, now)
        };
        let end = 10 * REFRESH_WITHIN_S;
        assert!(!due(Some(end), end - REFRESH_WITHIN_S - 1));
        assert!(due(Some(end), end - REFRESH_WITHIN_S));
        assert!(due(Some(end), end - 1));
        assert!(!due(Some(end), end));
        assert!(!due(None, end));
    }

    #[test]
    fn an_answer_is_one_document() {
        assert_eq!(Answer::read(204, String::new()).unwrap().json(), "{}");
        assert_eq!(Answer::read(200, "{\"a\":1e400}".to_owned()).unwrap().json(), "{\"a\":1e400}");
        assert!(Answer::read(200, "<html>".to_owned()).is_err());
        assert!(Answer::read(200, "{}{}".to_owned()).is_err());
    }
}
