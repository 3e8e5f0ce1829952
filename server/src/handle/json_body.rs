//! A control-plane request's body: one JSON object, and a refusal that says what is wrong with it.

use serde::Deserialize;

use crate::wire::status::{ErrorCode, Problem};

/// 400 `invalid_json` for what is no JSON, 400 `bad_request` for JSON of another shape, each with `fix`.
pub fn read_object<'a, T: Deserialize<'a>>(body: &'a [u8], fix: &'static str) -> Result<T, Problem> {
    // A list would be taken for the members in their order.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::new(ErrorCode::BadRequest, "the body is not an object").fix(fix));
    }
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { ErrorCode::BadRequest } else { ErrorCode::InvalidJson };
        Problem::new(code, error.to_string()).fix(fix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Pair {
        left: u8,
        right: u8,
    }

    #[test]
    fn only_an_object_of_the_shape_is_read() {
        let pair: Pair = read_object(br#" {"left":1,"right":2}"#, "send a pair").unwrap();
        assert_eq!((pair.left, pair.right), (1, 2));
        for (body, code) in [
            ("", ErrorCode::InvalidJson),
            ("{\"left\":1", ErrorCode::InvalidJson),
            ("{\"left\":1,\"right\":2} x", ErrorCode::InvalidJson),
            ("[1,2]", ErrorCode::BadRequest),
            ("7", ErrorCode::BadRequest),
            ("{\"left\":1}", ErrorCode::BadRequest),
            ("{\"left\":1,\"left\":1,\"right\":2}", ErrorCode::BadRequest),
            ("{\"left\":-1,\"right\":2}", ErrorCode::BadRequest),
        ] {
            let problem = read_object::<Pair>(body.as_bytes(), "send a pair").unwrap_err();
            assert_eq!(problem.code(), code, "{body}");
        }
    }
}
