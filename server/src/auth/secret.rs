//! Secrets in memory, their digests, and how they are made and compared.
//! A secret is never printed: its only text form is `Secret::expose`, so that every place that shows one can be found.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SecureRandom;
use subtle::ConstantTimeEq;

pub type Digest = [u8; 32];

/// A streaming key is 128 bits as 32 hex digits.
pub const STREAMING_KEY_CHARS: usize = 32;

const BOOTSTRAP_PREFIX: &str = "rl_bk_";
/// A guessable key opens everything; a longer one than this is a mistake.
const BOOTSTRAP_CHARS_MIN: usize = 16;
const BOOTSTRAP_CHARS_MAX: usize = 256;

/// Text that opens something.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(text: impl Into<Box<str>>) -> Secret {
        Secret(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept instead of the secret.
    pub fn digest(&self) -> Digest {
        sha256(&[&canonical(self.0.as_bytes())])
    }

    /// A new bootstrap key: 256 random bits.
    pub fn random_bootstrap_key() -> Secret {
        Secret::new(format!("{BOOTSTRAP_PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<32>())))
    }

    /// A new streaming key: 128 random bits.
    pub fn random_streaming_key() -> Secret {
        Secret::new(hex(&random::<16>()))
    }

    /// Whether this may be a bootstrap key: 16 to 256 visible ASCII characters.
    pub fn is_acceptable_bootstrap_key(&self) -> bool {
        (BOOTSTRAP_CHARS_MIN..=BOOTSTRAP_CHARS_MAX).contains(&self.0.len())
            && self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The one spelling of a presented secret: streaming keys are accepted in either case.
pub fn canonical(presented: &[u8]) -> Cow<'_, [u8]> {
    if presented.len() != STREAMING_KEY_CHARS {
        return Cow::Borrowed(presented);
    }
    // No branch on a digit: the predictor remembers those of keys that came before, and a guess that begins like one of
    // them would be read a little faster.
    let (mut is_hex, mut has_upper) = (true, false);
    for byte in presented {
        let is_letter = (byte | 0x20).wrapping_sub(b'a') < 6;
        is_hex &= is_letter | (byte.wrapping_sub(b'0') < 10);
        has_upper |= is_letter & (byte & 0x20 == 0);
    }
    if is_hex & has_upper {
        return Cow::Owned(presented.to_ascii_lowercase());
    }
    Cow::Borrowed(presented)
}

pub fn sha256(parts: &[&[u8]]) -> Digest {
    // Without a buffer between: 40 ns less for a key.
    if let [whole] = parts {
        let digest = ring::digest::digest(&ring::digest::SHA256, whole);
        return digest.as_ref().try_into().expect("SHA-256 gives 32 bytes");
    }
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// Takes as long for the first byte that differs as for the last.
pub fn same_digest(left: &Digest, right: &Digest) -> bool {
    // Half by half: byte by byte it would take ten times as long.
    let halves = |digest: &Digest| {
        let (halves, _) = digest.as_chunks::<16>();
        [u128::from_le_bytes(halves[0]), u128::from_le_bytes(halves[1])]
    };
    let (left, right) = (halves(left), halves(right));
    (left[0].ct_eq(&right[0]) & left[1].ct_eq(&right[1])).into()
}

/// # Panics
/// If the kernel has no randomness to give: nothing that follows could be secret.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes once it is up");
    bytes
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| hex_digits(*byte)).map(char::from).collect()
}

/// A streaming key that a protocol carries as 16 bytes, as it is written everywhere else.
pub fn streaming_key_text(key: &[u8; 16]) -> [u8; STREAMING_KEY_CHARS] {
    let mut text = [0; STREAMING_KEY_CHARS];
    for (digits, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(key) {
        *digits = hex_digits(*byte);
    }
    text
}

fn hex_digits(byte: u8) -> [u8; 2] {
    // By arithmetic: a table would be read at places that follow from the key.
    [byte >> 4, byte & 15].map(|digit| digit + b'0' + ((digit + 6) >> 4) * (b'a' - b'9' - 1))
}

/// Lower-case hex of exactly `N` bytes.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", Secret::new("rl_bk_do_not_show")), "Secret(..)");
    }

    #[test]
    fn new_keys_have_the_documented_form() {
        let bootstrap = Secret::random_bootstrap_key();
        assert_eq!(bootstrap.expose().len(), "rl_bk_".len() + 43);
        assert!(bootstrap.is_acceptable_bootstrap_key());
        assert_ne!(bootstrap, Secret::random_bootstrap_key());
        let streaming = Secret::random_streaming_key();
        assert!(from_hex::<16>(streaming.expose()).is_some());
    }

    #[test]
    fn weak_or_broken_bootstrap_keys_are_refused() {
        for bad in ["", "short", "fifteen-letters", "has a space in it....", "tab\tinside........", &"x".repeat(257)] {
            assert!(!Secret::new(bad).is_acceptable_bootstrap_key(), "{bad:?}");
        }
        assert!(Secret::new("sixteen-letters!").is_acceptable_bootstrap_key());
    }

    #[test]
    fn streaming_keys_have_one_digest_in_either_case() {
        let lower = Secret::new("000102030405060708090a0b0c0d0e0f");
        assert_eq!(lower.digest(), Secret::new("000102030405060708090A0B0C0D0E0F").digest());
        assert_ne!(Secret::new("rl_bk_A").digest(), Secret::new("rl_bk_a").digest());
        // Every byte in each of the places.
        for byte in 0..=255u8 {
            for at in 0..STREAMING_KEY_CHARS {
                let mut text = [b'B'; STREAMING_KEY_CHARS];
                text[at] = byte;
                let expected = if byte.is_ascii_hexdigit() { text.to_ascii_lowercase() } else { text.to_vec() };
                assert_eq!(*canonical(&text), expected, "{byte} at {at}");
            }
        }
        let short = [b'B'; STREAMING_KEY_CHARS - 1];
        assert_eq!(*canonical(&short), short);
    }

    #[test]
    fn hex_reads_back_and_refuses_anything_else() {
        assert_eq!(hex(&[0, 0x9f, 0xff]), "009fff");
        assert_eq!(from_hex::<3>("009fff"), Some([0, 0x9f, 0xff]));
        for bad in ["", "009ff", "009fff0", "009FFF", "00 fff", "00g0ff"] {
            assert_eq!(from_hex::<3>(bad), None, "{bad}");
        }
        assert_eq!(hex(&sha256(&[b"a", b"bc"]))[..8], *"ba7816bf");
        assert_eq!(sha256(&[b"a", b"bc"]), sha256(&[b"abc"]));
        for byte in 0..=255u8 {
            assert_eq!(hex(&[byte]), format!("{byte:02x}"));
            assert_eq!(streaming_key_text(&[byte; 16]), *hex(&[byte; 16]).as_bytes());
        }
    }

    #[test]
    fn every_bit_of_a_digest_counts() {
        let digest = sha256(&[b"abc"]);
        assert!(same_digest(&digest, &digest.clone()));
        for bit in 0..256 {
            let mut other = digest;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!same_digest(&digest, &other), "bit {bit}");
        }
    }
}
