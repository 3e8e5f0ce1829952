//! The one table from error codes to statuses, and the body that every refusal has.
//!
//! Owns the closed list of codes that clients may match on: a code is never renamed and never changes its status.
//! Never puts a secret or an unescaped byte of a client into an answer.

use std::borrow::Cow;

use crate::wire::otlp;
use crate::wire::response::{ContentType, HeaderValue, ReplyTo, Response, push_decimal, push_json_string};

/// What a client may be told is wrong. Two variants share a code where the same word has two statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BadRequest,
    InvalidFlatbuffer,
    BadFraming,
    InvalidJson,
    InvalidEvent,
    InvalidQuery,
    InvalidEmail,
    InvalidParameter,
    InvalidView,
    CursorMismatch,
    /// Of `/v1/*`: no line that is not blank.
    EmptyBody,
    /// Of `/v1/*`: no line that is good.
    ParseError,
    Unauthorized,
    InvalidCredentials,
    QuotaExceeded,
    PaymentRequired,
    Forbidden,
    TenantForbidden,
    /// Of `/v1/ingest`: the key in the body is another than the one beside it.
    ApiKeyMismatch,
    TenantSuspended,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    VersionConflict,
    TenantExists,
    AlreadyExists,
    ViewReset,
    RequestInProgress,
    /// This node follows another and never writes.
    ReadOnlyNode,
    LengthRequired,
    BodyTooLarge,
    /// `BodyTooLarge` and `TooManyEvents` on `/v1/*`.
    PayloadTooLarge,
    TooManyEvents,
    UriTooLong,
    UnsupportedMediaType,
    UnsupportedEncoding,
    ExpectationFailed,
    Unprocessable,
    IdempotencyKeyReused,
    RateLimited,
    HeadersTooLarge,
    Internal,
    DataDamaged,
    NotImplemented,
    Overloaded,
    /// What passes by itself, on `/v1/*`.
    ServiceUnavailable,
    OutcomeUnknown,
    FacilitatorUnavailable,
    PaymentOutcomeUnknown,
    /// A shard latched after a failed write.
    ReadOnly,
    ShuttingDown,
    VersionNotSupported,
    StorageFull,
}

struct Row {
    code: &'static str,
    status: u16,
    retry: Retry,
    fix: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    Never,
    /// The same request may succeed later; nothing says when.
    Later,
    /// `Retry-After` in seconds unless the refusal knows better.
    After(u32),
}

const fn row(code: &'static str, status: u16, retry: Retry, fix: &'static str) -> Row {
    Row { code, status, retry, fix }
}

impl ErrorCode {
    pub const ALL: [Self; 53] = [
        Self::BadRequest,
        Self::InvalidFlatbuffer,
        Self::BadFraming,
        Self::InvalidJson,
        Self::InvalidEvent,
        Self::InvalidQuery,
        Self::InvalidEmail,
        Self::InvalidParameter,
        Self::InvalidView,
        Self::CursorMismatch,
        Self::EmptyBody,
        Self::ParseError,
        Self::Unauthorized,
        Self::InvalidCredentials,
        Self::QuotaExceeded,
        Self::PaymentRequired,
        Self::Forbidden,
        Self::TenantForbidden,
        Self::ApiKeyMismatch,
        Self::TenantSuspended,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::VersionConflict,
        Self::TenantExists,
        Self::AlreadyExists,
        Self::ViewReset,
        Self::RequestInProgress,
        Self::ReadOnlyNode,
        Self::LengthRequired,
        Self::BodyTooLarge,
        Self::PayloadTooLarge,
        Self::TooManyEvents,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::UnsupportedEncoding,
        Self::ExpectationFailed,
        Self::Unprocessable,
        Self::IdempotencyKeyReused,
        Self::RateLimited,
        Self::HeadersTooLarge,
        Self::Internal,
        Self::DataDamaged,
        Self::NotImplemented,
        Self::Overloaded,
        Self::ServiceUnavailable,
        Self::OutcomeUnknown,
        Self::FacilitatorUnavailable,
        Self::PaymentOutcomeUnknown,
        Self::ReadOnly,
        Self::ShuttingDown,
        Self::VersionNotSupported,
        Self::StorageFull,
    ];

    #[rustfmt::skip]
    const fn row(self) -> Row {
        use Retry::{After, Later, Never};
        match self {
            Self::InvalidFlatbuffer => row("invalid_flatbuffer", 400, Never, "send one batch as the SDKs encode it, without the length that goes before it over TCP"),
            Self::BadRequest => row("bad_request", 400, Never, "correct the request; the message names what is wrong"),
            Self::BadFraming => row("bad_framing", 400, Never, "send well-formed HTTP/1.1: CRLF line ends, one Host, one Content-Length or `Transfer-Encoding: chunked`"),
            Self::InvalidJson => row("invalid_json", 400, Never, "send valid JSON in UTF-8"),
            Self::InvalidEvent => row("invalid_event", 400, Never, "correct the event that the message names"),
            Self::InvalidQuery => row("invalid_query", 400, Never, "correct the query; the message names the part that is wrong"),
            Self::InvalidEmail => row("invalid_email", 400, Never, "send one e-mail address such as name@example.com"),
            Self::InvalidParameter => row("invalid_parameter", 400, Never, "correct the parameter that `param` names"),
            Self::InvalidView => row("invalid_view", 400, Never, "correct the view's definition; `detail` names the part that is wrong"),
            Self::CursorMismatch => row("cursor_mismatch", 400, Never, "start again without the cursor, or use it with the query it came from"),
            Self::EmptyBody => row("empty_body", 400, Never, "send at least one line"),
            Self::ParseError => row("parse_error", 400, Never, "correct the line that the message is about"),
            Self::Unauthorized => row("unauthorized", 401, Never, "send a valid key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"),
            Self::InvalidCredentials => row("invalid_credentials", 401, Never, "check the name and the password"),
            Self::QuotaExceeded => row("quota_exceeded", 402, Never, "raise the tenant's quota, or wait for the next month"),
            Self::PaymentRequired => row("payment_required", 402, Never, "send a payment that `accepts` asks for, in the header PAYMENT-SIGNATURE"),
            Self::Forbidden => row("forbidden", 403, Never, "use a key whose role has the permission that the message names"),
            Self::TenantForbidden => row("tenant_forbidden", 403, Never, "leave the tenant out, or name the one that the key belongs to"),
            Self::ApiKeyMismatch => row("api_key_mismatch", 403, Never, "send the same key in the body and beside it"),
            Self::TenantSuspended => row("tenant_suspended", 403, Never, "ask the operator to activate the tenant"),
            Self::NotFound => row("not_found", 404, Never, "check the path and the id"),
            Self::MethodNotAllowed => row("method_not_allowed", 405, Never, "use a method that the Allow header lists"),
            Self::RequestTimeout => row("request_timeout", 408, Later, "send the whole request without pauses"),
            Self::VersionConflict => row("version_conflict", 409, Never, "read the entity again and retry with its current version"),
            Self::TenantExists => row("tenant_exists", 409, Never, "log in to the existing tenant, or use another e-mail address"),
            Self::AlreadyExists => row("already_exists", 409, Never, "choose another name, or use what exists"),
            Self::ViewReset => row("view_reset", 409, Never, "read the view again from its start"),
            Self::RequestInProgress => row("request_in_progress", 409, After(1), "wait for the first request with this idempotency key"),
            Self::ReadOnlyNode => row("read_only", 409, Never, "write to the leader"),
            Self::LengthRequired => row("length_required", 411, Never, "send Content-Length or `Transfer-Encoding: chunked`"),
            Self::BodyTooLarge => row("body_too_large", 413, Never, "send less at once; `limit` is the most that is taken"),
            Self::PayloadTooLarge => row("payload_too_large", 413, Never, "send less at once; `limit` is the most that is taken"),
            Self::TooManyEvents => row("too_many_events", 413, Never, "send fewer events at once; `limit` is the most that is taken"),
            Self::UriTooLong => row("uri_too_long", 414, Never, "shorten the query string, or send it as a body"),
            Self::UnsupportedMediaType => row("unsupported_media_type", 415, Never, "send a content type that the Accept header lists"),
            Self::UnsupportedEncoding => row("unsupported_encoding", 415, Never, "send a content encoding that the Accept-Encoding header lists"),
            Self::ExpectationFailed => row("expectation_failed", 417, Never, "send no Expect header, or `Expect: 100-continue`"),
            Self::Unprocessable => row("unprocessable", 422, Never, "correct the values that the message names"),
            Self::IdempotencyKeyReused => row("idempotency_key_reused", 422, Never, "use a new idempotency key for a new request"),
            Self::RateLimited => row("rate_limited", 429, After(1), "slow down, and retry after the time in Retry-After"),
            Self::HeadersTooLarge => row("headers_too_large", 431, Never, "send fewer or shorter headers"),
            Self::Internal => row("internal", 500, Never, "report the request id to the operator"),
            Self::DataDamaged => row("data_damaged", 500, Never, "ask the operator to run `ringlog verify`"),
            Self::NotImplemented => row("not_implemented", 501, Never, "use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS"),
            Self::Overloaded => row("overloaded", 503, After(1), "retry after the time in Retry-After"),
            Self::ServiceUnavailable => row("service_unavailable", 503, After(1), "retry after the time in Retry-After"),
            Self::OutcomeUnknown => row("outcome_unknown", 503, Never, "read before writing again: the write may or may not be stored"),
            Self::FacilitatorUnavailable => row("facilitator_unavailable", 503, After(5), "retry with the same payment: nothing was settled, and the request was not carried out"),
            Self::PaymentOutcomeUnknown => row("payment_outcome_unknown", 503, Never, "look for the payment at its payer before paying again; the same payment may be sent again, and nothing was carried out for it"),
            Self::ReadOnly => row("read_only", 503, Never, "ask the operator: a disk refused a write, and the shard waits for a restart"),
            Self::ShuttingDown => row("shutting_down", 503, After(2), "retry; the server is restarting"),
            Self::VersionNotSupported => row("http_version_not_supported", 505, Never, "speak HTTP/1.1"),
            Self::StorageFull => row("storage_full", 507, After(30), "free or add disk space; writing resumes by itself"),
        }
    }

    pub const fn as_str(self) -> &'static str {
        self.row().code
    }

    pub const fn status(self) -> u16 {
        self.row().status
    }

    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_retryable(self) -> bool {
        self.row().retry != Retry::Never
    }

    /// What the client can do about it, in one sentence.
    pub const fn fix(self) -> &'static str {
        self.row().fix
    }

    const fn retry_after_s(self) -> Option<u32> {
        match self.row().retry {
            Retry::After(seconds) => Some(seconds),
            Retry::Never | Retry::Later => None,
        }
    }
}

/// A value of an additional member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    Number(u64),
    Text(Cow<'static, str>),
    /// There is none here, and one in other refusals with this code.
    Null,
}

/// One refusal: the code, the sentence, and what the client needs to act on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    code: ErrorCode,
    message: Cow<'static, str>,
    fix: Option<Cow<'static, str>>,
    body: Body,
    headers: Vec<(&'static str, HeaderValue<'static>)>,
    retry_after_s: Option<u32>,
    /// For clients that read a `Status` of this encoding.
    otlp: Option<otlp::Encoding>,
}

/// Refusals travel by value: this is no larger than a list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    /// What every refusal has, and these members.
    Convention(Vec<(&'static str, Member)>),
    /// JSON of a protocol that has a body of its own for this.
    Own(Box<[u8]>),
}

impl Problem {
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            fix: None,
            body: Body::Convention(Vec::new()),
            headers: Vec::new(),
            retry_after_s: code.retry_after_s(),
            otlp: None,
        }
    }

    pub fn code(&self) -> ErrorCode {
        self.code
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same refusal under the code that another surface has for it.
    pub fn renamed(self, code: ErrorCode) -> Self {
        Self { code, retry_after_s: self.retry_after_s.or(code.retry_after_s()), ..self }
    }

    /// The same refusal as an exporter of OpenTelemetry reads it.
    pub fn in_otlp(self, encoding: otlp::Encoding) -> Self {
        Self { otlp: Some(encoding), ..self }
    }

    /// Instead of the table's sentence.
    pub fn fix(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    pub fn number(self, name: &'static str, value: u64) -> Self {
        self.member(name, Member::Number(value))
    }

    pub fn text(self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.member(name, Member::Text(value.into()))
    }

    pub fn null(self, name: &'static str) -> Self {
        self.member(name, Member::Null)
    }

    /// A body of its own has no such members.
    fn member(mut self, name: &'static str, value: Member) -> Self {
        if let Body::Convention(members) = &mut self.body {
            members.push((name, value));
        }
        self
    }

    /// The two headers that say which limit it was, beside `Retry-After` (draft-ietf-httpapi-ratelimit-headers-11).
    /// Both values must fit into a header as they are.
    pub fn rate_limit(self, limit: String, policy: String) -> Self {
        let value = |text: String| HeaderValue::new(text).expect("a policy's name and numbers are header text");
        self.header("RateLimit", value(limit)).header("RateLimit-Policy", value(policy))
    }

    pub fn header(mut self, name: &'static str, value: HeaderValue<'static>) -> Self {
        self.headers.push((name, value));
        self
    }

    /// This JSON instead of the body that every refusal has.
    pub fn own_body(mut self, json: Vec<u8>) -> Self {
        self.body = Body::Own(json.into());
        self
    }

    /// As the header, and as the member `retry_after`.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The first seed's conflict, whose two numbers its client reads.
    pub fn version_conflict(entity: &str, expected_version: u64, current_version: u64) -> Self {
        let message =
            format!("entity {entity} is at version {current_version}, the request expected {expected_version}");
        Self::new(ErrorCode::VersionConflict, message)
            .fix(format!("read the entity again and retry with expected_version {current_version}"))
            .number("expected_version", expected_version)
            .number("current_version", current_version)
    }

    /// 503, in the form that makes the first seed's client wait instead of trying again at once.
    pub fn overloaded(message: &'static str) -> Self {
        Self::new(ErrorCode::Overloaded, message).text("scope", "global")
    }

    /// 413, with the ceiling as `limit`.
    pub fn body_too_large(limit: usize) -> Self {
        Self::new(ErrorCode::BodyTooLarge, "the body is longer than this route takes").number("limit", limit as u64)
    }

    /// 405; `allow` is a list such as `GET, HEAD`.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(ErrorCode::MethodNotAllowed, "this path does not answer to that method")
            .header("Allow", HeaderValue::from_static(allow))
    }

    /// 415 for a content coding.
    pub fn unsupported_encoding(accepted: &'static str) -> Self {
        Self::new(ErrorCode::UnsupportedEncoding, "the content encoding is not one that is read here")
            .header("Accept-Encoding", HeaderValue::from_static(accepted))
    }

    /// 415 for a media type.
    pub fn unsupported_media_type(accepted: &'static str) -> Self {
        Self::new(ErrorCode::UnsupportedMediaType, "the content type is not one that this route reads")
            .header("Accept", HeaderValue::from_static(accepted))
    }

    /// Appends the JSON body.
    pub fn push_body(&self, out: &mut Vec<u8>, request_id: &str) {
        let members = match &self.body {
            Body::Own(json) => return out.extend_from_slice(json),
            Body::Convention(members) => members,
        };
        let code = self.code.as_str();
        out.extend_from_slice(b"{\"error\":\"");
        out.extend_from_slice(code.as_bytes());
        out.extend_from_slice(b"\",\"message\":");
        push_json_string(out, &self.message);
        out.extend_from_slice(b",\"type\":\"https://ringlog.dev/errors/");
        out.extend_from_slice(code.as_bytes());
        out.extend_from_slice(b"\",\"title\":\"");
        out.extend(code.bytes().enumerate().map(|(index, byte)| match byte {
            b'_' => b' ',
            _ if index == 0 => byte.to_ascii_uppercase(),
            _ => byte,
        }));
        out.extend_from_slice(b"\",\"status\":");
        push_decimal(out, u64::from(self.code.status()));
        out.extend_from_slice(b",\"detail\":");
        push_json_string(out, &self.message);
        out.extend_from_slice(b",\"request_id\":");
        push_json_string(out, request_id);
        out.extend_from_slice(if self.code.is_retryable() { b",\"retryable\":true" } else { b",\"retryable\":false" });
        out.extend_from_slice(b",\"fix\":");
        push_json_string(out, self.fix.as_deref().unwrap_or(self.code.fix()));
        for (name, value) in members {
            out.push(b',');
            push_json_string(out, name);
            out.push(b':');
            match value {
                Member::Number(number) => push_decimal(out, *number),
                Member::Text(text) => push_json_string(out, text),
                Member::Null => out.extend_from_slice(b"null"),
            }
        }
        if let Some(seconds) = self.retry_after_s {
            out.extend_from_slice(b",\"retry_after\":");
            push_decimal(out, u64::from(seconds));
        }
        out.push(b'}');
    }

    /// Appends the whole answer.
    pub fn respond(&self, out: &mut Vec<u8>, reply: &ReplyTo) {
        self.respond_with(out, reply, &[]);
    }

    /// Appends the whole answer with the headers that every answer of a route has, such as those of CORS.
    pub fn respond_with(&self, out: &mut Vec<u8>, reply: &ReplyTo, headers: &[(&'static str, HeaderValue<'_>)]) {
        if let Some(encoding) = self.otlp {
            return otlp::refuse(out, reply, headers, encoding, self);
        }
        let content_type = match self.body {
            Body::Own(_) => ContentType::Json,
            Body::Convention(_) => ContentType::ProblemJson,
        };
        let response = self.begin(out, self.code.status(), content_type, reply, headers);
        let mut body = response.body();
        self.push_body(body.buffer(), reply.request_id.as_str());
        body.finish();
    }

    /// Appends the head for a protocol that has a body of its own for refusals.
    pub fn begin<'o>(
        &self,
        out: &'o mut Vec<u8>,
        status: u16,
        content_type: ContentType,
        reply: &ReplyTo,
        headers: &[(&'static str, HeaderValue<'_>)],
    ) -> Response<'o> {
        let mut response = Response::begin(out, status, reply);
        response.content_type(content_type);
        if let Some(seconds) = self.retry_after_s {
            response.retry_after(seconds);
        }
        if status == 401 {
            response.header("WWW-Authenticate", &HeaderValue::from_static("Bearer realm=\"ringlog\""));
        }
        for (name, value) in &self.headers {
            response.header(name, value);
        }
        for (name, value) in headers {
            response.header(name, value);
        }
        response
    }
}

impl From<crate::wire::http::HttpError> for Problem {
    fn from(error: crate::wire::http::HttpError) -> Self {
        Self::new(error.code, error.message)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::wire::cors::CorsHeaders;
    use crate::wire::response::{Persistence, RequestId};

    fn reply() -> ReplyTo {
        ReplyTo {
            request_id: RequestId::from_client(b"req-1").unwrap(),
            persistence: Persistence::KeepAlive,
            head_only: false,
            may_chunk: true,
            cors: CorsHeaders::default(),
        }
    }

    fn body(problem: &Problem) -> Value {
        let mut out = Vec::new();
        problem.push_body(&mut out, "req-1");
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn every_code_stands_in_the_list_once_and_has_a_status_and_a_fix() {
        let mut seen = HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code), "{code:?} stands twice");
            assert!((400..600).contains(&code.status()), "{code:?}");
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code:?}");
            assert!(!code.fix().is_empty() && !code.fix().ends_with('.'), "{code:?}");
        }
        let words: HashSet<_> = ErrorCode::ALL.iter().map(|code| (code.as_str(), code.status())).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        // A variant that is missing from the list would have a discriminant beyond its end.
        assert_eq!(ErrorCode::StorageFull as usize + 1, ErrorCode::ALL.len());
    }

    #[test]
    fn the_body_has_every_member_of_the_convention() {
        assert_eq!(
            body(&Problem::version_conflict("order-7", 11, 12)),
            json!({
                "error": "version_conflict",
                "message": "entity order-7 is at version 12, the request expected 11",
                "type": "https://ringlog.dev/errors/version_conflict",
                "title": "Version conflict",
                "status": 409,
                "detail": "entity order-7 is at version 12, the request expected 11",
                "request_id": "req-1",
                "retryable": false,
                "fix": "read the entity again and retry with expected_version 12",
                "expected_version": 11,
                "current_version": 12,
            })
        );
    }

    #[test]
    fn untrusted_text_stays_inside_its_string() {
        let hostile = "a\",\"retryable\":true,\"x\":\"\\\u{0}\u{1f}\n\r\t\u{7f}\u{2028}é😀</script>";
        let problem = Problem::new(ErrorCode::InvalidEvent, hostile).text("param", hostile).fix(hostile);
        let body = body(&problem);
        assert_eq!(body["message"], hostile);
        assert_eq!(body["detail"], hostile);
        assert_eq!(body["param"], hostile);
        assert_eq!(body["fix"], hostile);
        assert_eq!(body["retryable"], false);
    }

    #[test]
    fn the_answer_carries_the_headers_its_status_asks_for() {
        let check = |problem: Problem, lines: &[&str]| {
            let mut out = Vec::new();
            problem.respond(&mut out, &reply());
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            for line in lines {
                assert!(head.split("\r\n").any(|found| found == *line), "{line} is missing from {head}");
            }
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
            assert!(head.contains("Content-Type: application/problem+json"), "{head}");
            serde_json::from_str::<Value>(body).unwrap()
        };
        let limited = Problem::new(ErrorCode::RateLimited, "slow down").retry_after(7).text("scope", "tenant");
        let body = check(limited, &["HTTP/1.1 429 Too Many Requests", "Retry-After: 7", "X-Request-Id: req-1"]);
        assert_eq!((&body["retry_after"], &body["scope"]), (&json!(7), &json!("tenant")));
        let policy = || ("\"tenant\";r=0;t=1".to_owned(), "\"tenant\";q=4000;w=2".to_owned());
        let limited = Problem::new(ErrorCode::RateLimited, "slow down").rate_limit(policy().0, policy().1);
        check(limited, &["RateLimit: \"tenant\";r=0;t=1", "RateLimit-Policy: \"tenant\";q=4000;w=2", "Retry-After: 1"]);
        assert_eq!(
            check(Problem::new(ErrorCode::QuotaExceeded, "full").null("reset_at"), &[])["reset_at"],
            Value::Null
        );
        check(Problem::new(ErrorCode::Overloaded, "full"), &["HTTP/1.1 503 Service Unavailable", "Retry-After: 1"]);
        check(Problem::method_not_allowed("GET, HEAD"), &["Allow: GET, HEAD"]);
        check(Problem::new(ErrorCode::Unauthorized, "no key"), &["WWW-Authenticate: Bearer realm=\"ringlog\""]);
        check(Problem::unsupported_encoding("gzip, zstd"), &["Accept-Encoding: gzip, zstd"]);
        assert_eq!(check(Problem::body_too_large(65536), &[])["limit"], 65536);
        check(Problem::new(ErrorCode::StorageFull, "full"), &["HTTP/1.1 507 Insufficient Storage", "Retry-After: 30"]);
    }

    #[test]
    fn a_protocols_own_body_stands_alone_behind_the_same_head() {
        let mut out = Vec::new();
        let problem = Problem::new(ErrorCode::PaymentRequired, "pay").own_body(b"{\"own\":1}".to_vec());
        problem.header("Own", HeaderValue::from_static("x")).respond(&mut out, &reply());
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 402 Payment Required\r\n"), "{text}");
        assert!(text.contains("\r\nContent-Type: application/json\r\n") && text.contains("\r\nOwn: x\r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 9\r\n\r\n{\"own\":1}"), "{text}");
    }
}
