//! Answers to bodies of JSON lines, and the refusals of `/v1/*` in the second seed's words.
//!
//! Owns the bodies that its SDKs and shippers were written against. Its SDKs take exactly 202 and 207 for an end, send again at
//! 200 and 5xx, and drop what any other 4xx answers; shippers take 200 for an end and send a chunk again at 207.
//!
//! ```text
//! 202 {"accepted":3,"request_id":"req_.."}
//! 207 {"accepted":2,"rejected":1,"errors":[{"line":3,"error":"device_id must be .."}],"request_id":"req_.."}
//! 200 the same members as 207, to shippers, whether something was rejected or not
//! ```

use std::fmt::Write;

use super::{Lines, LinesError};
use crate::limits::LINES_PER_REQUEST_MAX;
use crate::wire::answer::{put_number, put_string};
use crate::wire::response::{ContentType, Durability, ReplyTo, Response};
use crate::wire::status::{ErrorCode, Problem};

/// Appends the whole answer to the second seed's SDKs, once the accepted lines are as durable as it says.
pub fn respond(lines: &Lines, out: &mut Vec<u8>, reply: &ReplyTo, durability: Durability) {
    let status = if lines.rejected == 0 { 202 } else { 207 };
    respond_with(status, lines, out, reply, durability);
}

/// Appends the whole answer to a shipper.
pub fn respond_to_shipper(lines: &Lines, out: &mut Vec<u8>, reply: &ReplyTo, durability: Durability) {
    respond_with(200, lines, out, reply, durability);
}

/// Appends the whole answer to one binary batch, which is accepted as a whole.
pub fn respond_to_frame(out: &mut Vec<u8>, reply: &ReplyTo, durability: Durability) {
    let lines = Lines { accepted: 1, ..Lines::default() };
    respond_with(202, &lines, out, reply, durability);
}

fn respond_with(status: u16, lines: &Lines, out: &mut Vec<u8>, reply: &ReplyTo, durability: Durability) {
    let mut response = Response::begin(out, status, reply);
    response.content_type(ContentType::Json).durability(durability);
    let mut body = response.body();
    let out = body.buffer();
    out.extend_from_slice(b"{\"accepted\":");
    put_number(out, lines.accepted as u64);
    if status != 202 {
        put_refused(out, lines);
    }
    out.extend_from_slice(b",\"request_id\":");
    put_string(out, reply.request_id.as_str());
    out.push(b'}');
    body.finish();
}

fn put_refused(out: &mut Vec<u8>, lines: &Lines) {
    out.extend_from_slice(b",\"rejected\":");
    put_number(out, lines.rejected as u64);
    out.extend_from_slice(b",\"errors\":[");
    let mut text = String::new();
    for (index, refused) in lines.refused.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"line\":");
        put_number(out, refused.line as u64);
        out.extend_from_slice(b",\"error\":");
        text.clear();
        let _ = write!(text, "{}", refused.fault);
        put_string(out, &text);
        out.push(b'}');
    }
    out.push(b']');
}

impl From<&LinesError> for Problem {
    fn from(error: &LinesError) -> Problem {
        match error {
            LinesError::Empty => Problem::new(ErrorCode::EmptyBody, "the body has no line that is not blank"),
            LinesError::NoGoodLine(lines) => {
                let first = &lines.refused[0];
                Problem::new(ErrorCode::ParseError, first.fault.to_string())
                    .number("line", first.line as u64)
                    .number("rejected", lines.rejected as u64)
            }
            LinesError::Json(error) => Problem::new(ErrorCode::ParseError, error.to_string()),
            LinesError::TooLarge { limit } => {
                let message = format!("the lines take more than {limit} bytes once encoded; send fewer at once");
                Problem::new(ErrorCode::PayloadTooLarge, message).number("limit", LINES_PER_REQUEST_MAX as u64)
            }
        }
    }
}

/// A refusal as the routes of the second seed say it: its codes, and 503 for whatever passes by itself, since its SDKs drop a
/// batch at 429 and send it again at 503.
pub fn in_words_of_v1(problem: Problem) -> Problem {
    match problem.code() {
        ErrorCode::BodyTooLarge | ErrorCode::TooManyEvents => problem.renamed(ErrorCode::PayloadTooLarge),
        ErrorCode::InvalidJson => problem.renamed(ErrorCode::ParseError),
        ErrorCode::UnsupportedEncoding => problem.renamed(ErrorCode::UnsupportedMediaType),
        ErrorCode::Overloaded
        | ErrorCode::ShuttingDown
        | ErrorCode::ReadOnly
        | ErrorCode::StorageFull
        | ErrorCode::RateLimited => problem.renamed(ErrorCode::ServiceUnavailable),
        _ => problem,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use ringlog_engine::event::{EventBatch, FingerprintKey, Source};
    use ringlog_engine::ids::Tenant;
    use serde_json::{Value, json};

    use super::*;
    use crate::limits::LINES_NAMED_MAX;
    use crate::wire::lines::{Received, Scratch, Shape, put};
    use crate::wire::response::{Persistence, RequestId};

    fn taken(body: &str) -> Result<Lines, LinesError> {
        let received = Received { source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST) };
        let mut batch = EventBatch::new(Tenant(1), Source::Http, FingerprintKey(1));
        put(body.as_bytes(), Shape::Logs, &received, &mut Scratch::default(), &mut batch)
    }

    fn reply() -> ReplyTo {
        ReplyTo {
            request_id: RequestId::from_client(b"req_1").unwrap(),
            persistence: Persistence::KeepAlive,
            head_only: false,
            may_chunk: true,
            cors: Default::default(),
        }
    }

    fn answer(write: impl FnOnce(&mut Vec<u8>, &ReplyTo)) -> (u16, String, Value) {
        let mut out = Vec::new();
        write(&mut out, &reply());
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_owned(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn good_lines_are_202_and_a_bad_one_is_207() {
        let good = taken("{\"message\":\"a\"}\n{\"message\":\"b\"}").unwrap();
        let (status, head, body) = answer(|out, reply| respond(&good, out, reply, Durability::Disk));
        assert_eq!((status, body), (202, json!({"accepted": 2, "request_id": "req_1"})));
        assert!(head.contains("Content-Type: application/json") && head.contains("Ringlog-Durability: disk"));
        let mixed = taken("{\"message\":\"a\"}\n\n{\"message\":1}\nx").unwrap();
        let (status, _, body) = answer(|out, reply| respond(&mixed, out, reply, Durability::Memory));
        let errors = json!([
            {"line": 3, "error": "message must be a string"},
            {"line": 4, "error": "expected '{' at byte 0"},
        ]);
        assert_eq!(status, 207);
        assert_eq!(body, json!({"accepted": 1, "rejected": 2, "errors": errors, "request_id": "req_1"}));
    }

    #[test]
    fn a_shipper_is_never_told_207() {
        for (text, rejected) in [("{\"message\":\"a\"}", 0), ("{\"message\":\"a\"}\nx", 1)] {
            let lines = taken(text).unwrap();
            let (status, _, body) = answer(|out, reply| respond_to_shipper(&lines, out, reply, Durability::Disk));
            assert_eq!((status, &body["accepted"], &body["rejected"]), (200, &json!(1), &json!(rejected)));
            assert_eq!(body["errors"].as_array().unwrap().len(), rejected);
        }
    }

    #[test]
    fn an_answer_is_small_however_many_lines_are_bad() {
        let body = format!("{{\"message\":\"a\"}}\n{}", format!("\"{}\"\n", "x".repeat(500)).repeat(20_000));
        let lines = taken(&body).unwrap();
        assert_eq!((lines.accepted, lines.rejected, lines.refused.len()), (1, 20_000, LINES_NAMED_MAX));
        let mut out = Vec::new();
        respond(&lines, &mut out, &reply(), Durability::Disk);
        assert!(out.len() < 150 * LINES_NAMED_MAX);
    }

    #[test]
    fn refusals_have_the_codes_that_the_second_seed_named() {
        let said = |problem: Problem| {
            let problem = in_words_of_v1(problem);
            let (status, head, body) = answer(|out, reply| problem.respond(out, reply));
            assert!(body["message"].is_string() && body["request_id"] == "req_1");
            (status, body["error"].as_str().unwrap().to_owned(), head.contains("Retry-After: "))
        };
        for (problem, status, code, retries) in [
            (Problem::from(&taken(" \n").unwrap_err()), 400, "empty_body", false),
            (Problem::from(&taken("x").unwrap_err()), 400, "parse_error", false),
            (Problem::from(&LinesError::TooLarge { limit: 1 }), 413, "payload_too_large", false),
            (Problem::body_too_large(1), 413, "payload_too_large", false),
            (Problem::new(ErrorCode::Unauthorized, "x"), 401, "unauthorized", false),
            (Problem::new(ErrorCode::QuotaExceeded, "x"), 402, "quota_exceeded", false),
            (Problem::new(ErrorCode::ApiKeyMismatch, "x"), 403, "api_key_mismatch", false),
            (Problem::unsupported_media_type("x"), 415, "unsupported_media_type", false),
            (Problem::unsupported_encoding("gzip"), 415, "unsupported_media_type", false),
            (Problem::overloaded("x"), 503, "service_unavailable", true),
            (Problem::new(ErrorCode::ShuttingDown, "x"), 503, "service_unavailable", true),
            (Problem::new(ErrorCode::ReadOnly, "x"), 503, "service_unavailable", true),
            (Problem::new(ErrorCode::StorageFull, "x"), 503, "service_unavailable", true),
            (Problem::new(ErrorCode::RateLimited, "x").retry_after(7), 503, "service_unavailable", true),
        ] {
            assert_eq!(said(problem), (status, code.to_owned(), retries));
        }
        let error = taken("x\n{\"message\":1}").unwrap_err();
        let mut body = Vec::new();
        Problem::from(&error).push_body(&mut body, "req_1");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["message"], &body["line"]), (&json!("expected '{' at byte 0"), &json!(1)));
    }
}
