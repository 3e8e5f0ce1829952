//! The scanner against two other parsers, and its levels of SIMD against each other.

use ringlog_server::wire::json::{JsonError, JsonReason, Kind, Scanner, Value, as_text, validate};
use ringlog_server::wire::json_simd::{Level, Window};

use crate::run::{Check, Target, leave, mark, size};

/// What JSON of every kind is made of.
pub const WORDS: &[&[u8]] = &[
    b"{}",
    b"[]",
    b"null",
    b"true",
    b"false",
    b"-0.5e+10",
    b"1E-400",
    b"\"\"",
    b"\"a\":",
    b",",
    b"\\u0000",
    b"\\u00e9",
    b"\\ud83d\\ude00",
    b"\\ud83d",
    b"\\\"",
    b"\\\\",
    b"\xc3\xa9",
    b"\xf0\x9f\x98\x80",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":",
    b"                                                                ",
    b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

pub const JSON: Target = Target { name: "json", corpus, words: WORDS, mend: leave, checker };

fn corpus() -> Vec<Vec<u8>> {
    let mut corpus: Vec<_> = ["otlp/every_field.json", "otlp/python_sdk.json"]
        .map(|name| std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap())
        .to_vec();
    corpus.extend(
        [
            r#"{"a":[1,-2.5e3,"x\n\u00e9",null,true,false,{}],"b":{"c":[]},"d":""}"#,
            r#""a string with \"escapes\" \\ \/ \b\f\n\r\t \ud83d\ude00 and é and more than sixty-four bytes of it""#,
            " [ 0 , 1 ,\t2\n,\r3 , 18446744073709551615 , -9223372036854775808 , 0.1 , 1e9 ] ",
            "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
            "-1.5",
        ]
        .map(|text| text.as_bytes().to_vec()),
    );
    corpus
}

fn validate_at(level: Level, bytes: &[u8]) -> Result<Value, JsonError> {
    let mut window = Window::default();
    let mut scanner = Scanner::with_level(as_text(bytes)?, &mut window, level);
    let value = scanner.value()?;
    scanner.finish()?;
    Ok(value)
}

fn checker() -> Check {
    let mut window = Window::default();
    Box::new(move |input| {
        let ours = validate(input, &mut window);
        for level in Level::available() {
            assert_eq!(ours, validate_at(level, input));
        }
        match ours {
            Ok(value) => {
                assert_eq!(&input[value.span()], input.trim_ascii());
            }
            Err(error) => assert!(error.at <= input.len()),
        }
        compare(input, ours);
        match ours {
            Ok(value) => mark((value.kind as u8, value.is_escaped, size(value.span().len()))),
            Err(error) => mark((format!("{:?}", error.reason), size(error.at))),
        }
    })
}

/// The other parsers, and what is known to set us apart from them.
fn compare(input: &[u8], ours: Result<Value, JsonError>) {
    if matches!(ours, Err(JsonError { reason: JsonReason::Depth { .. } | JsonReason::NulEscape, .. })) {
        return;
    }
    let shown = || String::from_utf8_lossy(input).into_owned();
    // Numbers beyond f64 are text to us.
    match serde_json::from_slice::<serde_json::Value>(input) {
        Ok(theirs) => {
            let Ok(value) = ours else { panic!("serde_json accepts {}: {ours:?}", shown()) };
            if value.kind == Kind::String {
                let mut memory = String::new();
                let text = std::str::from_utf8(input).unwrap();
                assert_eq!(theirs, value.text().resolve(text, &mut memory));
            }
        }
        Err(error) if error.to_string().contains("number out of range") => {}
        Err(error) => assert!(ours.is_err(), "serde_json refuses {}: {error}", shown()),
    }
    // simd-json refuses integers beyond 64 bits as well, and numbers of many digits that it cannot hold.
    match simd_json::to_owned_value(&mut input.to_vec()) {
        Ok(_) => assert!(ours.is_ok(), "simd-json accepts {}: {ours:?}", shown()),
        Err(error) if matches!(error.error(), simd_json::ErrorType::InvalidNumber) => {}
        Err(error) => assert!(ours.is_err(), "simd-json refuses {}: {error}", shown()),
    }
}
