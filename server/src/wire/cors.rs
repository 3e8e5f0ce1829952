//! Which web pages may read our answers (CORS, the Fetch standard 3.2).
//!
//! Owns the headers that say so, which every answer to a page carries, a refusal and a preflight no less than a success: without
//! them a page's program does not learn that its key was wrong. Must never: allow credentials. A key stands in the request
//! itself, so that a browser adds nothing of its user's that another page could abuse.

use std::fmt;

use super::http::{Head, Method};
use super::response::{HeaderValue, ReplyTo, Response};

const ALLOW_HEADERS: &str = "Authorization, Content-Type, X-API-Key, X-Workspace-ID, Content-Encoding, Idempotency-Key, X-Request-Id, \
     PAYMENT-SIGNATURE";
const EXPOSE_HEADERS: &str = "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, ETag, Idempotent-Replayed, Ringlog-Durability, \
     PAYMENT-REQUIRED, PAYMENT-RESPONSE";
/// A day; browsers keep it for two hours at most (Chromium) or a day (Firefox).
const MAX_AGE: &str = "86400";
/// Where pages send to with a key that can do nothing but send.
const INGEST_PREFIXES: [&str; 3] = ["/v1/", "/otlp/", "/ingest/"];

/// The header lines of one answer, made at the start. They live as long as the process, so that an answer that is not written
/// yet holds no reference count.
/// One word: it travels with every request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CorsHeaders(&'static &'static [u8]);

impl Default for CorsHeaders {
    fn default() -> CorsHeaders {
        CorsHeaders(&(b"" as &[u8]))
    }
}

impl CorsHeaders {
    pub fn as_bytes(self) -> &'static [u8] {
        self.0
    }

    /// Whether the page may read the answer.
    fn allow(self) -> bool {
        self.0.starts_with(b"Access-Control-Allow-Origin: ")
    }
}

impl fmt::Debug for CorsHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// For an origin that is not in the list, and for who sends none: a cache must not hand this answer to a page.
const VARY: CorsHeaders = CorsHeaders(&(b"Vary: Origin\r\n" as &[u8]));

/// Who may read what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    ingest: Origins,
    api: Origins,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origins {
    None,
    Any(CorsHeaders),
    Listed(Vec<Listed>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    origin: Box<str>,
    headers: CorsHeaders,
}

/// Any page may send events and see how that ended; none may read.
impl Default for Cors {
    fn default() -> Cors {
        Cors { ingest: Origins::any(), api: Origins::None }
    }
}

impl Cors {
    /// `*`, `none`, or origins such as `https://shop.example:8443` between commas: for every route alike.
    pub fn parse(text: &str) -> Result<Cors, String> {
        let origins = match text.trim() {
            "*" => Origins::any(),
            "none" => Origins::None,
            list => Origins::Listed(list.split(',').map(|origin| listed(origin.trim())).collect::<Result<_, _>>()?),
        };
        Ok(Cors { ingest: origins.clone(), api: origins })
    }

    /// What the answer to a request says to pages.
    #[inline]
    pub fn headers(&self, head: &Head<'_>) -> CorsHeaders {
        let is_ingest = INGEST_PREFIXES.iter().any(|prefix| head.path().starts_with(prefix));
        let origins = if is_ingest { &self.ingest } else { &self.api };
        match origins {
            Origins::None => CorsHeaders::default(),
            // Whoever is no page is spared the bytes; the answer would be the same for all pages.
            Origins::Any(headers) if head.header("Origin").is_some() => *headers,
            Origins::Any(_) => CorsHeaders::default(),
            Origins::Listed(listed) => {
                let origin = head.header("Origin").unwrap_or_default();
                listed.iter().find(|listed| listed.origin.as_bytes() == origin).map_or(VARY, |listed| listed.headers)
            }
        }
    }
}

/// As it is written in the configuration.
impl fmt::Display for Cors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.api {
            Origins::None if self.ingest == Origins::None => f.write_str("none"),
            Origins::None => f.write_str("* to send events"),
            Origins::Any(_) => f.write_str("*"),
            Origins::Listed(listed) => {
                let origins: Vec<_> = listed.iter().map(|listed| &*listed.origin).collect();
                f.write_str(&origins.join(","))
            }
        }
    }
}

impl Origins {
    fn any() -> Origins {
        Origins::Any(lines("*", ""))
    }
}

fn listed(origin: &str) -> Result<Listed, String> {
    let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
        let is_lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !scheme.is_empty()
            && scheme.bytes().all(|byte| is_lower(byte) || matches!(byte, b'+' | b'-' | b'.'))
            && !host.is_empty()
            && host.bytes().all(|byte| is_lower(byte) || matches!(byte, b'-' | b'.' | b':' | b'[' | b']' | b'_'))
    });
    if !is_origin {
        return Err(format!(
            "{origin:?} is not an origin as browsers send it, such as https://shop.example or http://localhost:8080"
        ));
    }
    Ok(Listed { origin: origin.into(), headers: lines(origin, "Vary: Origin\r\n") })
}

/// `origin` is header text. Called a few times at the start of a process; nothing frees it.
fn lines(origin: &str, vary: &str) -> CorsHeaders {
    let lines =
        format!("Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Expose-Headers: {EXPOSE_HEADERS}\r\n{vary}");
    CorsHeaders(Box::leak(Box::new(&*lines.into_bytes().leak())))
}

/// A browser asks whether a page may send what it wants to send.
pub fn is_preflight(head: &Head<'_>) -> bool {
    head.method() == Method::Options && head.header("Access-Control-Request-Method").is_some()
}

/// Appends the answer to a preflight, or to any other OPTIONS. `allow` is a list such as `POST, OPTIONS`.
pub fn respond_to_options(out: &mut Vec<u8>, reply: &ReplyTo, head: &Head<'_>, allow: &'static str) {
    let allow = HeaderValue::from_static(allow);
    let mut response = Response::begin(out, 204, reply);
    response.header("Allow", &allow);
    if reply.cors.allow() && is_preflight(head) {
        response
            .header("Access-Control-Allow-Methods", &allow)
            .header("Access-Control-Allow-Headers", &HeaderValue::from_static(ALLOW_HEADERS))
            .header("Access-Control-Max-Age", &HeaderValue::from_static(MAX_AGE));
    }
    response.without_body();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http::{HeadLimits, parse_head};
    use crate::wire::response::{Persistence, RequestId};
    use crate::wire::status::{ErrorCode, Problem};

    fn with_head<T>(request: &str, then: impl FnOnce(&Head<'_>) -> T) -> T {
        let bytes = format!("{request}Host: h\r\n\r\n");
        then(&parse_head(bytes.as_bytes(), &HeadLimits::SERVER).unwrap().unwrap().0)
    }

    fn reply(cors: CorsHeaders) -> ReplyTo {
        let request_id = RequestId::from_client(b"r").unwrap();
        ReplyTo { request_id, persistence: Persistence::KeepAlive, head_only: false, may_chunk: true, cors }
    }

    fn said(cors: &Cors, path: &str, origin: Option<&str>) -> String {
        let origin = origin.map_or(String::new(), |origin| format!("Origin: {origin}\r\n"));
        let headers = with_head(&format!("POST {path} HTTP/1.1\r\n{origin}"), |head| cors.headers(head));
        String::from_utf8(headers.as_bytes().to_vec()).unwrap()
    }

    const PAGE: Option<&str> = Some("https://shop.example");

    #[test]
    fn any_page_may_send_and_none_may_read_unless_somebody_says_so() {
        let cors = Cors::default();
        for path in ["/v1/events", "/v1/logs?token=x", "/otlp/v1/logs", "/ingest/ndjson", "/v1/no-such-route"] {
            assert!(said(&cors, path, PAGE).starts_with("Access-Control-Allow-Origin: *\r\n"), "{path}");
            assert_eq!(said(&cors, path, None), "");
        }
        for path in ["/api/v1/events", "/health", "/v1"] {
            assert_eq!(said(&cors, path, PAGE), "", "{path}");
        }
        let any = Cors::parse("*").unwrap();
        assert!(said(&any, "/api/v1/events", PAGE).starts_with("Access-Control-Allow-Origin: *\r\n"));
        let none = Cors::parse("none").unwrap();
        assert_eq!(said(&none, "/v1/events", PAGE), "");
    }

    #[test]
    fn a_list_mirrors_its_own_and_every_answer_varies_by_origin() {
        let cors = Cors::parse("https://shop.example, http://localhost:8080").unwrap();
        for path in ["/v1/events", "/api/v1/events"] {
            let text = said(&cors, path, PAGE);
            assert!(text.starts_with("Access-Control-Allow-Origin: https://shop.example\r\n"), "{text}");
            assert!(text.ends_with("\r\nVary: Origin\r\n"), "{text}");
            for other in ["https://shop.example.evil", "https://shop.exampl", "http://shop.example", "null", ""] {
                assert_eq!(said(&cors, path, Some(other)), "Vary: Origin\r\n");
            }
            assert_eq!(said(&cors, path, None), "Vary: Origin\r\n");
        }
        assert_eq!(cors.to_string(), "https://shop.example,http://localhost:8080");
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for bad in [
            "",
            "shop.example",
            "https://",
            "https://shop.example/",
            "https://Shop.example",
            "https://a b",
            "https://a,",
            "*,https://a",
            "null",
            "https://a\r\nX: y",
        ] {
            assert!(Cors::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refusal_can_be_read_by_the_page_too() {
        let cors = Cors::default();
        let headers = with_head("POST /v1/events HTTP/1.1\r\nOrigin: null\r\n", |head| cors.headers(head));
        let mut out = Vec::new();
        Problem::new(ErrorCode::Unauthorized, "no key").respond(&mut out, &reply(headers));
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 401 ") && text.contains("\r\nAccess-Control-Allow-Origin: *\r\n"), "{text}");
        assert!(!text.contains("Allow-Credentials"));
    }

    #[test]
    fn a_preflight_is_told_what_it_may_send() {
        let asked = "OPTIONS /v1/events HTTP/1.1\r\nOrigin: https://shop.example\r\n";
        let preflight = format!("{asked}Access-Control-Request-Method: POST\r\n");
        let answer = |cors: &Cors, request: &str| {
            with_head(request, |head| {
                let mut out = Vec::new();
                respond_to_options(&mut out, &reply(cors.headers(head)), head, "POST, OPTIONS");
                String::from_utf8(out).unwrap()
            })
        };
        let text = answer(&Cors::default(), &preflight);
        assert!(text.starts_with("HTTP/1.1 204 No Content\r\n"), "{text}");
        for line in [
            "Access-Control-Allow-Origin: *".to_owned(),
            "Access-Control-Allow-Methods: POST, OPTIONS".to_owned(),
            format!("Access-Control-Allow-Headers: {ALLOW_HEADERS}"),
            "Access-Control-Max-Age: 86400".to_owned(),
        ] {
            assert!(text.split("\r\n").any(|found| found == line), "{line} is missing from {text}");
        }
        for (cors, request) in
            [(Cors::default(), asked), (Cors::parse("https://other.example").unwrap(), preflight.as_str())]
        {
            let text = answer(&cors, request);
            assert!(text.contains("\r\nAllow: POST, OPTIONS\r\n") && !text.contains("Allow-Methods"), "{text}");
        }
    }
}
