//! What an exporter is answered, in the encoding that it sent.
//!
//! Owns `ExportLogsServiceResponse` and `google.rpc.Status` in both encodings, and what of our statuses an exporter must see
//! differently. Must never: answer a partial success with anything but 200, or a refusal that will pass with a status that
//! exporters take for final: they try 429, 502, 503 and 504 again and drop the records at every other.

use super::{Encoding, Outcome};
use crate::wire::answer::put_number;
use crate::wire::response::{HeaderValue, ReplyTo, Response, push_json_string};
use crate::wire::status::{ErrorCode, Problem};

/// Codes of `google.rpc.Code`, which exporters log and do not act on.
mod rpc_code {
    pub const UNKNOWN: u8 = 2;
    pub const INVALID_ARGUMENT: u8 = 3;
    pub const DEADLINE_EXCEEDED: u8 = 4;
    pub const NOT_FOUND: u8 = 5;
    pub const PERMISSION_DENIED: u8 = 7;
    pub const RESOURCE_EXHAUSTED: u8 = 8;
    pub const FAILED_PRECONDITION: u8 = 9;
    pub const UNIMPLEMENTED: u8 = 12;
    pub const INTERNAL: u8 = 13;
    pub const UNAVAILABLE: u8 = 14;
    pub const UNAUTHENTICATED: u8 = 16;
}

/// The status that an exporter gets for a code of ours. A full disk has room again later, so that it is 503 here.
pub fn http_status(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::StorageFull => 503,
        other => other.status(),
    }
}

fn rpc_code(status: u16) -> u8 {
    match status {
        400 | 411 | 415 | 422 | 431 => rpc_code::INVALID_ARGUMENT,
        401 => rpc_code::UNAUTHENTICATED,
        403 => rpc_code::PERMISSION_DENIED,
        404 => rpc_code::NOT_FOUND,
        405 | 501 => rpc_code::UNIMPLEMENTED,
        408 => rpc_code::DEADLINE_EXCEEDED,
        409 => rpc_code::FAILED_PRECONDITION,
        402 | 413 | 429 => rpc_code::RESOURCE_EXHAUSTED,
        500 => rpc_code::INTERNAL,
        503 => rpc_code::UNAVAILABLE,
        _ => rpc_code::UNKNOWN,
    }
}

/// Appends 200 with the body of [`put_outcome`]. `headers` are those of the route.
pub fn respond(
    out: &mut Vec<u8>,
    reply: &ReplyTo,
    headers: &[(&'static str, HeaderValue<'_>)],
    encoding: Encoding,
    outcome: &Outcome,
) {
    let mut response = Response::begin(out, 200, reply);
    response.content_type(encoding.content_type());
    for (name, value) in headers {
        response.header(name, value);
    }
    let mut body = response.body();
    put_outcome(body.buffer(), encoding, outcome);
    body.finish();
}

/// Appends the whole answer to a request that was refused. `headers` are those of the route.
pub fn refuse(
    out: &mut Vec<u8>,
    reply: &ReplyTo,
    headers: &[(&'static str, HeaderValue<'_>)],
    encoding: Encoding,
    problem: &Problem,
) {
    let status = http_status(problem.code());
    let mut body = problem.begin(out, status, encoding.content_type(), reply, headers).body();
    put_status(body.buffer(), encoding, status, problem.message());
    body.finish();
}

/// `ExportLogsServiceResponse`, which says nothing when every record was stored.
pub fn put_outcome(out: &mut Vec<u8>, encoding: Encoding, outcome: &Outcome) {
    let rejected_count = outcome.rejected_count as u64;
    let message = match &outcome.first_rejection {
        Some(first) if rejected_count > 1 => format!("{first} (the first of {rejected_count})"),
        Some(first) => first.to_string(),
        None => String::new(),
    };
    match encoding {
        Encoding::Protobuf if rejected_count == 0 => {}
        Encoding::Protobuf => {
            let mut partial = Vec::new();
            put_varint_field(&mut partial, 1, rejected_count);
            put_bytes_field(&mut partial, 2, message.as_bytes());
            put_bytes_field(out, 1, &partial);
        }
        Encoding::Json if rejected_count == 0 => out.extend_from_slice(b"{}"),
        Encoding::Json => {
            // 64-bit integers are strings in protobuf's JSON.
            out.extend_from_slice(b"{\"partialSuccess\":{\"rejectedLogRecords\":\"");
            put_number(out, rejected_count);
            out.extend_from_slice(b"\",\"errorMessage\":");
            push_json_string(out, &message);
            out.extend_from_slice(b"}}");
        }
    }
}

/// `google.rpc.Status` for an HTTP status.
pub fn put_status(out: &mut Vec<u8>, encoding: Encoding, http_status: u16, message: &str) {
    let code = rpc_code(http_status);
    match encoding {
        Encoding::Protobuf => {
            put_varint_field(out, 1, u64::from(code));
            put_bytes_field(out, 2, message.as_bytes());
        }
        Encoding::Json => {
            out.extend_from_slice(b"{\"code\":");
            put_number(out, u64::from(code));
            out.extend_from_slice(b",\"message\":");
            push_json_string(out, message);
            out.push(b'}');
        }
    }
}

fn put_varint_field(out: &mut Vec<u8>, number: u8, value: u64) {
    out.push(number << 3);
    put_varint(out, value);
}

fn put_bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    let mut rest = value;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
