//! Tokens that must be refused, made with the right key wherever that is the harder case.

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER: &[u8] = b"fedcba9876543210fedcba9876543210";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT","kid":"k1"}"#;
const JTI: &str = "AAECAwQFBgcICQoLDA0ODw";
const GOOD: &str = r#"{"iss":"ringlog","sub":"key:1","tenant":"t","role":"developer","jti":"AAECAwQFBgcICQoLDA0ODw","iat":1,"row":5,"gen":2}"#;

fn keys() -> VerifyingKeys {
    VerifyingKeys::new([("k1", SECRET), ("k2", OTHER)])
}

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn mac(secret: &[u8], message: &str) -> String {
    URL_SAFE_NO_PAD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes()))
}

/// A token over any header and payload, with a right MAC.
fn signed(header: &str, payload: &str) -> String {
    signed_segments(&encode(header), &encode(payload))
}

fn signed_segments(header: &str, payload: &str) -> String {
    let message = format!("{header}.{payload}");
    format!("{message}.{}", mac(SECRET, &message))
}

fn subject() -> Subject<'static> {
    Subject {
        name: "key:1",
        tenant_id: "onboard-agent-at-your-company-com",
        role: Role::Developer,
        slot: 5,
        generation: 2,
        issued_at: Micros(1_700_000_000_000_000),
        expires_at: None,
    }
}

#[test]
fn a_minted_token_verifies_and_begins_as_documented() {
    let id = TokenId::random();
    let token = TokenSigner::new("k1", SECRET).mint(&subject(), &id);
    assert!(token.starts_with("eyJhbGciOiJIUzI1NiIs"), "{token}");
    let expected = Pointer { slot: 5, generation: 2, proof: id.proof(), expires_at: None };
    assert_eq!(keys().verify(token.as_bytes()), Some(expected));
    assert!(keys().is_token(token.as_bytes()));

    let expiring = Subject { expires_at: Some(Micros(1_800_000_000_000_000)), ..subject() };
    let token = TokenSigner::new("k2", OTHER).mint(&expiring, &id);
    assert_eq!(keys().verify(token.as_bytes()).unwrap().expires_at, expiring.expires_at);
}

#[test]
fn jsonwebtoken_accepts_what_we_mint_and_reads_the_same_claims() {
    let token = TokenSigner::new("k1", SECRET).mint(&subject(), &TokenId([7; 16]));
    let mut validation = jsonwebtoken::Validation::new(Algorithm::HS256);
    validation.required_spec_claims.clear();
    validation.set_issuer(&[ISSUER]);
    let read =
        jsonwebtoken::decode::<serde_json::Value>(&token, &DecodingKey::from_secret(SECRET), &validation).unwrap();
    assert_eq!(read.header.kid.as_deref(), Some("k1"));
    assert_eq!(read.claims["tenant"], "onboard-agent-at-your-company-com");
    assert_eq!(read.claims["row"], 5);
    assert_eq!(read.claims["jti"], URL_SAFE_NO_PAD.encode([7; 16]));
    assert_eq!(read.claims["iat"], 1_700_000_000);
    assert!(read.claims.get("exp").is_none());
    assert!(jsonwebtoken::decode::<serde_json::Value>(&token, &DecodingKey::from_secret(OTHER), &validation).is_err());
}

#[test]
fn the_hand_made_good_token_is_good() {
    // Otherwise every refusal below would prove nothing.
    let pointer = keys().verify(signed(HEADER, GOOD).as_bytes()).unwrap();
    assert_eq!((pointer.slot, pointer.generation, pointer.expires_at), (5, 2, None));
    assert!(keys().verify(signed(HEADER, &GOOD.replace(r#""iat":1"#, r#""iat":1,"exp":9"#)).as_bytes()).is_some());
}

#[test]
fn hostile_tokens_are_refused() {
    let good = signed(HEADER, GOOD);
    let (message, good_mac) = good.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let mut hostile: Vec<(&str, String)> = Vec::new();

    // Headers: every one of these carries a right MAC over itself.
    for (what, other) in [
        ("alg none", r#"{"alg":"none","typ":"JWT","kid":"k1"}"#),
        ("alg None", r#"{"alg":"None","typ":"JWT","kid":"k1"}"#),
        ("alg hs256", r#"{"alg":"hs256","typ":"JWT","kid":"k1"}"#),
        ("alg HS384", r#"{"alg":"HS384","typ":"JWT","kid":"k1"}"#),
        ("alg HS512", r#"{"alg":"HS512","typ":"JWT","kid":"k1"}"#),
        ("alg RS256", r#"{"alg":"RS256","typ":"JWT","kid":"k1"}"#),
        ("alg ES256", r#"{"alg":"ES256","typ":"JWT","kid":"k1"}"#),
        ("no alg", r#"{"typ":"JWT","kid":"k1"}"#),
        ("empty header", "{}"),
        ("no kid", r#"{"alg":"HS256","typ":"JWT"}"#),
        ("unknown kid", r#"{"alg":"HS256","typ":"JWT","kid":"k9"}"#),
        ("kid path", r#"{"alg":"HS256","typ":"JWT","kid":"../../dev/null"}"#),
        ("kid sql", r#"{"alg":"HS256","typ":"JWT","kid":"k1' or 1=1"}"#),
        ("kid number", r#"{"alg":"HS256","typ":"JWT","kid":1}"#),
        ("other order", r#"{"typ":"JWT","alg":"HS256","kid":"k1"}"#),
        ("white space", r#"{"alg":"HS256", "typ":"JWT","kid":"k1"}"#),
        ("new line", "{\"alg\":\"HS256\",\"typ\":\"JWT\",\"kid\":\"k1\"}\n"),
        ("two algs", r#"{"alg":"HS256","alg":"none","typ":"JWT","kid":"k1"}"#),
        ("jku", r#"{"alg":"HS256","typ":"JWT","kid":"k1","jku":"https://evil.example/jwks"}"#),
        ("jwk", r#"{"alg":"HS256","typ":"JWT","kid":"k1","jwk":{"kty":"oct","k":"AA"}}"#),
        ("x5u", r#"{"alg":"HS256","typ":"JWT","kid":"k1","x5u":"https://evil.example/x"}"#),
        ("crit", r#"{"alg":"HS256","typ":"JWT","kid":"k1","crit":["exp"]}"#),
        ("zip", r#"{"alg":"HS256","typ":"JWT","kid":"k1","zip":"DEF"}"#),
        ("b64 false", r#"{"alg":"HS256","typ":"JWT","kid":"k1","b64":false}"#),
        ("typ at+jwt", r#"{"alg":"HS256","typ":"at+jwt","kid":"k1"}"#),
        ("typ lower", r#"{"alg":"HS256","typ":"jwt","kid":"k1"}"#),
    ] {
        hostile.push((what, signed(other, GOOD)));
    }
    hostile.push(("kid of the other key", signed(r#"{"alg":"HS256","typ":"JWT","kid":"k2"}"#, GOOD)));
    hostile.push(("alg none without mac", format!("{}.{payload}.", encode(r#"{"alg":"none"}"#))));
    hostile.push(("padded header", signed_segments(&format!("{header}="), payload)));

    // Payloads under a right MAC.
    let swap = |from: &str, to: &str| {
        assert!(GOOD.contains(from));
        signed(HEADER, &GOOD.replace(from, to))
    };
    for (what, from, to) in [
        ("iss other", r#""iss":"ringlog""#, r#""iss":"evil""#),
        ("iss list", r#""iss":"ringlog""#, r#""iss":["ringlog"]"#),
        ("iss twice", r#""iss":"ringlog""#, r#""iss":"ringlog","iss":"ringlog""#),
        ("iss escaped", r#""iss":"ringlog""#, r#""iss":"r\u0069nglog""#),
        ("iss missing", r#""iss":"ringlog","#, ""),
        ("sub missing", r#""sub":"key:1","#, ""),
        ("sub number", r#""sub":"key:1""#, r#""sub":1"#),
        ("sub null", r#""sub":"key:1""#, r#""sub":null"#),
        ("tenant missing", r#""tenant":"t","#, ""),
        ("tenant twice", r#""tenant":"t""#, r#""tenant":"t","tenant":"u""#),
        ("role unknown", r#""role":"developer""#, r#""role":"god""#),
        ("role upper", r#""role":"developer""#, r#""role":"Developer""#),
        ("role twice", r#""role":"developer""#, r#""role":"developer","role":"admin""#),
        ("role missing", r#""role":"developer","#, ""),
        ("jti missing", r#""jti":"AAECAwQFBgcICQoLDA0ODw","#, ""),
        ("jti short", JTI, "AAEC"),
        ("jti empty", JTI, ""),
        ("jti long", JTI, "AAECAwQFBgcICQoLDA0ODxAR"),
        ("jti very long", JTI, "AAECAwQFBgcICQoLDA0ODxARAAECAwQFBgcICQoLDA0ODxAR"),
        ("jti trailing bits", JTI, "AAECAwQFBgcICQoLDA0ODx"),
        ("jti padded", JTI, "AAECAwQFBgcICQoLDA0ODw=="),
        ("jti plain alphabet", JTI, "++ECAwQFBgcICQoLDA0ODw"),
        ("iat float", r#""iat":1"#, r#""iat":1.5"#),
        ("iat text", r#""iat":1"#, r#""iat":"1""#),
        ("iat negative", r#""iat":1"#, r#""iat":-1"#),
        ("iat missing", r#""iat":1,"#, ""),
        ("exp float", r#""iat":1"#, r#""iat":1,"exp":9999999999.0"#),
        ("exp exponent", r#""iat":1"#, r#""iat":1,"exp":1e12"#),
        ("exp text", r#""iat":1"#, r#""iat":1,"exp":"9999999999""#),
        ("exp null", r#""iat":1"#, r#""iat":1,"exp":null"#),
        ("exp negative", r#""iat":1"#, r#""iat":1,"exp":-1"#),
        ("exp true", r#""iat":1"#, r#""iat":1,"exp":true"#),
        ("exp twice", r#""iat":1"#, r#""iat":1,"exp":1,"exp":9999999999"#),
        ("exp beyond 64 bits", r#""iat":1"#, r#""iat":1,"exp":99999999999999999999"#),
        ("exp overflows", r#""iat":1"#, r#""iat":1,"exp":18446744073709551615"#),
        ("row negative", r#""row":5"#, r#""row":-5"#),
        ("row float", r#""row":5"#, r#""row":5.0"#),
        ("row text", r#""row":5"#, r#""row":"5""#),
        ("row beyond 32 bits", r#""row":5"#, r#""row":4294967301"#),
        ("row twice", r#""row":5"#, r#""row":5,"row":6"#),
        ("row missing", r#","row":5"#, ""),
        ("gen missing", r#","gen":2"#, ""),
        ("gen twice", r#""gen":2"#, r#""gen":2,"gen":3"#),
        ("gen leading zero", r#""gen":2"#, r#""gen":02"#),
        ("unknown member", r#""gen":2"#, r#""gen":2,"admin":true"#),
        ("trailing comma", r#""gen":2"#, r#""gen":2,"#),
    ] {
        hostile.push((what, swap(from, to)));
    }
    hostile.push(("payload twice", signed(HEADER, &format!("{GOOD}{GOOD}"))));
    hostile.push(("payload then text", signed(HEADER, &format!("{GOOD}x"))));
    hostile.push(("payload list", signed(HEADER, "[]")));
    hostile
        .push(("payload positional", signed(HEADER, &format!(r#"["ringlog","key:1","t","admin","{JTI}",1,9,5,2]"#))));
    hostile.push(("payload null", signed(HEADER, "null")));
    hostile.push(("payload empty", signed_segments(header, "")));
    hostile.push(("payload nested", signed(HEADER, &"[".repeat(700))));
    hostile.push(("payload beyond 1 KiB", signed(HEADER, &format!("{}{GOOD}", " ".repeat(1024)))));
    hostile.push(("payload padded", signed_segments(header, &format!("{payload}=="))));
    hostile.push(("payload plain alphabet", signed_segments(header, &format!("{payload}+/"))));
    hostile.push(("payload with space", signed_segments(header, &format!("{payload} "))));
    let trailing = URL_SAFE_NO_PAD.encode(format!("{GOOD} "));
    assert_eq!(trailing.len() % 4, 3, "{}", trailing.len());
    let last = trailing.as_bytes()[trailing.len() - 1] + 1;
    let trailing = format!("{}{}", &trailing[..trailing.len() - 1], char::from(last));
    hostile.push(("payload trailing bits", signed_segments(header, &trailing)));

    // Shapes and MACs.
    hostile.push(("empty", String::new()));
    hostile.push(("dots", "..".into()));
    hostile.push(("header only", header.into()));
    hostile.push(("two segments", message.into()));
    hostile.push(("header and mac", format!("{header}.{good_mac}")));
    hostile.push(("no mac", format!("{message}.")));
    hostile.push(("extra segment", format!("{good}.x")));
    hostile.push(("extra empty segment", format!("{good}.")));
    hostile.push(("extra segment in front", format!("x.{good}")));
    hostile.push(("doubled dot", good.replacen('.', "..", 1)));
    hostile.push(("space in front", format!(" {good}")));
    hostile.push(("space behind", format!("{good} ")));
    hostile.push(("new line behind", format!("{good}\n")));
    hostile.push(("nul behind", format!("{good}\0")));
    hostile.push(("padded mac", format!("{good}=")));
    hostile.push(("mac one short", good[..good.len() - 1].into()));
    hostile.push(("mac one long", format!("{good}A")));
    hostile.push(("mac of zeros", format!("{message}.{}", "A".repeat(43))));
    hostile.push(("mac of another key", format!("{message}.{}", mac(OTHER, message))));
    hostile.push(("mac of no key", format!("{message}.{}", mac(b"", message))));
    hostile.push(("mac over the payload only", format!("{message}.{}", mac(SECRET, payload))));
    hostile.push(("mac in hex", format!("{message}.{}", "0".repeat(64))));
    hostile.push(("upper case", good.to_uppercase()));
    hostile.push(("not base64 at all", format!("{message}.{}", "!".repeat(43))));
    hostile.push(("half of it", good[..good.len() / 2].into()));
    hostile.push(("very long", format!("{header}.{}.{good_mac}", "A".repeat(100_000))));
    // The last character of a MAC has two bits that mean nothing: the other three spellings are no tokens.
    for spelling in other_spellings(good_mac) {
        hostile.push(("mac trailing bits", format!("{message}.{spelling}")));
    }

    assert!(100 <= hostile.len(), "{}", hostile.len());
    let keys = keys();
    for (what, token) in hostile {
        assert_eq!(keys.verify(token.as_bytes()), None, "{what}: {token}");
    }
}

#[test]
fn no_single_changed_byte_survives() {
    let good = signed(HEADER, GOOD);
    let keys = keys();
    for at in 0..good.len() {
        for change in [1, 2, 0x20, 0x80] {
            let mut token = good.clone().into_bytes();
            token[at] ^= change;
            assert_eq!(keys.verify(&token), None, "byte {at} by {change}");
        }
    }
    for length in 0..good.len() {
        assert_eq!(keys.verify(&good.as_bytes()[..length]), None, "cut to {length}");
    }
}

#[test]
fn a_retired_key_verifies_nothing() {
    let token = TokenSigner::new("k1", SECRET).mint(&subject(), &TokenId::random());
    let keys = VerifyingKeys::new([("k2", OTHER)]);
    assert!(!keys.is_token(token.as_bytes()));
    assert_eq!(keys.verify(token.as_bytes()), None);
    assert_eq!(VerifyingKeys::default().verify(token.as_bytes()), None);
}

fn other_spellings(mac: &str) -> Vec<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = mac.as_bytes()[mac.len() - 1];
    let value = ALPHABET.iter().position(|byte| *byte == last).unwrap();
    assert_eq!(value % 4, 0);
    (1..4).map(|bits| format!("{}{}", &mac[..mac.len() - 1], char::from(ALPHABET[value + bits]))).collect()
}
