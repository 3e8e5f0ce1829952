//! Packed bodies: no more than the ceiling comes out, and what does is what other decoders make of it.

use std::io::{Read, Write};

use ringlog_server::wire::inflate::{Encoding, Inflate, InflateError};

use crate::run::{Check, Target, leave, mark, size};

pub const INFLATE: Target = Target {
    name: "inflate",
    corpus,
    words: &[
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
        b"\x28\xb5\x2f\xfd",
        b"\x50\x2a\x4d\x18\x04\0\0\0abcd",
        b"\x01\0\0\xff\xff",
        b"\x03\0",
    ],
    mend: leave,
    checker,
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::GzBuilder::new()
        .filename("a")
        .comment("b")
        .extra(*b"extra")
        .write(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn corpus() -> Vec<Vec<u8>> {
    let text = br#"{"type":"track","event":"Button Clicked","user_id":"u"}"#.repeat(8);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    vec![
        gzip(&text),
        zstd(&text),
        gzip(b""),
        zstd(b""),
        // More than one member or frame, and more than the ceilings.
        [gzip(b"one"), gzip(b"two")].concat(),
        [zstd(b"one"), zstd(b"two")].concat(),
        gzip(&vec![0; 100_000]),
        zstd(&vec![0; 100_000]),
    ]
}

const CEILINGS: [usize; 3] = [1000, 16, 40_000];

fn checker() -> Check {
    let mut inflate = Inflate::default();
    Box::new(move |input| {
        let mut marks = Vec::new();
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            for max in CEILINGS {
                let mut out = Vec::new();
                let outcome = inflate.decode(encoding, input, &mut out, max);
                assert!(out.capacity() <= max + 1, "{} bytes for {max}", out.capacity());
                let mut other = Vec::new();
                let fresh = Inflate::default().decode(encoding, input, &mut other, max);
                // How far into a frame that says too little of itself zstd gets depends on the memory that it has from the
                // frame before: only the reason may.
                assert_eq!(fresh.is_ok(), outcome.is_ok());
                match outcome {
                    Ok(()) => {
                        assert!(out.len() <= max);
                        assert_eq!(out, other);
                        assert_eq!(out, by_another(encoding, input));
                    }
                    Err(error) => {
                        let is_told = matches!(error, InflateError::TooLarge { max: told } if told == max);
                        assert!(is_told || !matches!(error, InflateError::TooLarge { .. }));
                    }
                }
                marks.push(match outcome {
                    Ok(()) => size(out.len()),
                    Err(InflateError::TooLarge { .. }) => 101,
                    Err(InflateError::Truncated) => 102,
                    Err(_) => 103,
                });
            }
        }
        mark((marks, size(input.len())))
    })
}

fn by_another(encoding: Encoding, input: &[u8]) -> Vec<u8> {
    match encoding {
        Encoding::Gzip => {
            let mut out = Vec::new();
            flate2::read::MultiGzDecoder::new(input).read_to_end(&mut out).unwrap();
            out
        }
        _ => zstd::decode_all(input).unwrap(),
    }
}
