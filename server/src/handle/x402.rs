//! Paid routes, as version 2 of the x402 protocol has them: what is priced, the refusal that asks for a payment, and the
//! payment that a client sends.
//!
//! Owns the shape of all three; what follows from a payment is `due`'s. Must never: talk to a facilitator, or take a
//! payment for good because it is well-formed. Nothing is priced unless the operator says so.
//!
//! ```text
//! GET /x402/routes ──► {"enabled":false,"routes":[]}
//! request ──► 402, PAYMENT-REQUIRED: base64(PaymentRequired) ──► request, PAYMENT-SIGNATURE: base64(PaymentPayload)
//! ```
//!
//! The shapes are those of `specs/x402-specification-v2.md` and `specs/transports-v2/http.md` of the x402 Foundation; that
//! of the list is the first seed's.

pub mod due;
pub mod pricing;

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

pub use crate::handle::x402::due::Due;
use crate::handle::x402::pricing::{PricedRoute, Pricing};

pub const VERSION: u8 = 2;

pub const PAYMENT_REQUIRED: &str = "PAYMENT-REQUIRED";
pub const PAYMENT_SIGNATURE: &str = "PAYMENT-SIGNATURE";
pub const PAYMENT_RESPONSE: &str = "PAYMENT-RESPONSE";
/// What the first seed's clients, and version 1, call it.
pub const PAYMENT_SIGNATURE_BEFORE: &str = "X-PAYMENT";
pub const PAYMENT_RESPONSE_BEFORE: &str = "X-PAYMENT-RESPONSE";

/// Half of what the headers of a request may have together; a signature and its authorisation have about 1,500.
const PAYMENT_CHARS_MAX: usize = 8 * 1024;
/// A facilitator's reason is a word; the longest of the specification's has 56.
const REASON_CHARS_MAX: usize = 128;

/// One way to pay. What a client sends back as `accepted` must be one of those that it was offered, member for member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRequirements {
    pub scheme: String,
    /// CAIP-2, such as `eip155:84532`.
    pub network: String,
    pub amount: String,
    pub asset: String,
    pub pay_to: String,
    pub max_timeout_seconds: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<TokenDomain>,
}

/// What the `exact` scheme of the EVM networks wants to know of a token beside its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenDomain {
    pub name: String,
    pub version: String,
}

impl Pricing {
    /// The body of `GET /x402/routes`.
    pub fn routes_body(&self) -> Vec<u8> {
        let routes = self.routes().iter().map(|route| ListedRoute {
            method: &route.method,
            path: &route.path,
            amount: &route.requirements.amount,
            asset: &route.requirements.asset,
            networks: [&route.requirements.network],
            pay_to: &route.requirements.pay_to,
            description: route.description.as_deref(),
        });
        let first = self.routes().first().map(|route| &route.requirements.pay_to);
        let is_one = self.routes().iter().all(|route| Some(&route.requirements.pay_to) == first);
        let recipient_address = first.filter(|_| is_one).map(String::as_str);
        json(&RouteList { enabled: self.is_enabled(), recipient_address, routes: routes.collect() })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RouteList<'a> {
    enabled: bool,
    /// Where all routes pay to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient_address: Option<&'a str>,
    routes: Vec<ListedRoute<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedRoute<'a> {
    method: &'a str,
    path: &'a str,
    amount: &'a str,
    asset: &'a str,
    networks: [&'a str; 1],
    pay_to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PaymentRequired<'a> {
    x402_version: u8,
    error: &'a str,
    resource: Resource<'a>,
    accepts: [&'a PaymentRequirements; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    mime_type: &'a str,
}

/// Why a payment is asked for: what `error` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    NothingSent,
    /// The payment is of a version of the protocol that is not spoken here.
    OtherVersion,
    /// The payment is for something else, or for less.
    DoesNotMatch,
    /// It is being settled, or was settled for an earlier request.
    UsedAlready,
    /// The facilitator refused it, with this word.
    Refused(Option<&'a str>),
}

impl Asked<'_> {
    fn text(&self) -> Cow<'static, str> {
        match self {
            Asked::NothingSent => "PAYMENT-SIGNATURE header is required".into(),
            Asked::OtherVersion => PaymentError::Version.to_string().into(),
            Asked::DoesNotMatch => "the payment is not one that is accepted here".into(),
            Asked::UsedAlready => "the payment has been used already".into(),
            Asked::Refused(None) => "the payment was refused".into(),
            Asked::Refused(Some(reason)) => {
                let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
                format!("the payment was refused: {reason}").into()
            }
        }
    }
}

/// The `PaymentRequired` of a 402. It goes out twice: as the body, which the first seed's clients read, and in the header,
/// as base64, which version 2's clients read. `url` is the whole address of what was asked for.
pub fn payment_required_body(route: &PricedRoute, url: &str, asked: &Asked<'_>) -> Vec<u8> {
    let resource = Resource { url, description: route.description.as_deref(), mime_type: "application/json" };
    let accepts = [&route.requirements];
    json(&PaymentRequired { x402_version: VERSION, error: &asked.text(), resource, accepts })
}

/// The value of the `PAYMENT-REQUIRED` header for this body.
pub fn payment_required_header(body: &[u8]) -> String {
    STANDARD.encode(body)
}

/// A payment that a client sent: well-formed, and not verified by anybody.
#[derive(Debug, Clone)]
pub struct Payment {
    pub accepted: PaymentRequirements,
    /// The scheme's own part, as it was sent: the facilitator judges it.
    pub payload: Box<RawValue>,
    /// The whole decoded text, as a facilitator wants it.
    pub json: String,
    /// The same for every way to write the same payment down.
    pub digest: [u8; 32],
}

/// Why a header is no payment: 400, or 402 where it is of another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentError {
    TooLong,
    NotBase64,
    NotAPayment,
    Version,
}

impl fmt::Display for PaymentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PaymentError::TooLong => write!(f, "the payment is longer than {PAYMENT_CHARS_MAX} characters"),
            PaymentError::NotBase64 => write!(f, "the payment is not base64"),
            PaymentError::NotAPayment => write!(f, "the payment is not a PaymentPayload of x402"),
            PaymentError::Version => write!(f, "the payment is not of version {VERSION} of x402"),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionOnly {
    x402_version: u64,
}

/// Members that are not here (`resource`, `extensions`) are for the facilitator.
#[derive(Deserialize)]
struct PaymentPayload<'a> {
    accepted: PaymentRequirements,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// The specification says base64 and no more: clients send it with its padding and without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads the value of `PAYMENT-SIGNATURE`.
pub fn read_payment(value: &[u8]) -> Result<Payment, PaymentError> {
    let value = value.trim_ascii();
    if PAYMENT_CHARS_MAX < value.len() {
        return Err(PaymentError::TooLong);
    }
    let decoded = LENIENT.decode(value).map_err(|_| PaymentError::NotBase64)?;
    let json = String::from_utf8(decoded).map_err(|_| PaymentError::NotAPayment)?;
    // A list would be taken for the members in their order.
    if !json.trim_start().starts_with('{') {
        return Err(PaymentError::NotAPayment);
    }
    let version: VersionOnly = serde_json::from_str(&json).map_err(|_| PaymentError::NotAPayment)?;
    if version.x402_version != u64::from(VERSION) {
        return Err(PaymentError::Version);
    }
    let read: PaymentPayload<'_> = serde_json::from_str(&json).map_err(|_| PaymentError::NotAPayment)?;
    if !read.payload.get().starts_with('{') {
        return Err(PaymentError::NotAPayment);
    }
    let Ok(parsed) = serde_json::from_str(read.payload.get()) else { return Err(PaymentError::NotAPayment) };
    let digest = digest(&read.accepted, &parsed);
    let (accepted, payload) = (read.accepted, read.payload.to_owned());
    Ok(Payment { accepted, payload, json, digest })
}

/// What makes a payment this one and no other: for the EVM networks' authorisations payer and nonce, which the token's
/// contract takes once, however they are written and signed; for anything else all of it, in one order of members.
fn digest(accepted: &PaymentRequirements, payload: &Value) -> [u8; 32] {
    let authorization = &payload["authorization"];
    let own = match (authorization["from"].as_str(), authorization["nonce"].as_str()) {
        (Some(from), Some(nonce)) => json(&(hexadecimal(from), hexadecimal(nonce))),
        _ => json(payload),
    };
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in [accepted.network.as_bytes(), accepted.asset.as_bytes(), &own] {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// One way to write a number down in hexadecimal.
fn hexadecimal(text: &str) -> String {
    let lower = text.trim().to_ascii_lowercase();
    lower.strip_prefix("0x").unwrap_or(&lower).trim_start_matches('0').to_owned()
}

impl PricedRoute {
    /// Whether the payment is for what this route costs, so that asking the facilitator is worth it.
    pub fn is_met_by(&self, payment: &Payment) -> bool {
        payment.accepted == self.requirements
    }
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("strings and numbers are JSON")
}

#[cfg(test)]
pub(in crate::handle::x402) mod tests {
    use super::pricing::tests::{CONFIG, pricing, raw};
    use super::*;

    /// The specification's own example of a payment, as JSON.
    pub(in crate::handle::x402) const PAYMENT: &str = concat!(
        r#"{"x402Version":2,"resource":{"url":"https://api.example.com/premium-data"},"accepted":{"scheme":"exact","#,
        r#""network":"eip155:84532","amount":"10000","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","#,
        r#""payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","maxTimeoutSeconds":60,"#,
        r#""extra":{"name":"USDC","version":"2"}},"payload":{"signature":"0x2d6a","authorization":{"value":"10000"}},"#,
        r#""extensions":{}}"#,
    );

    fn text(body: Vec<u8>) -> String {
        String::from_utf8(body).unwrap()
    }

    fn read(json: &str) -> Result<Payment, PaymentError> {
        read_payment(STANDARD.encode(json).as_bytes())
    }

    #[test]
    fn nothing_is_priced_unless_the_operator_says_so() {
        let none = Pricing::default();
        assert_eq!(text(none.routes_body()), r#"{"enabled":false,"routes":[]}"#);
        assert_eq!(raw("").resolve(), Ok(none));
        let off = raw(&CONFIG.replace("true", "false")).resolve().unwrap();
        assert_eq!(off.price_of("GET", "/premium-data"), None);
        assert!(text(off.routes_body()).starts_with(r#"{"enabled":false,"recipientAddress":"0x20"#));
    }

    #[test]
    fn the_list_is_the_first_seeds() {
        let expected = concat!(
            r#"{"enabled":true,"recipientAddress":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","#,
            r#""routes":[{"method":"GET","path":"/premium-data","amount":"10000","#,
            r#""asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","networks":["eip155:84532"],"#,
            r#""payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","description":"Access to premium market data"}]}"#,
        );
        assert_eq!(text(pricing().routes_body()), expected);
    }

    #[test]
    fn the_refusal_is_the_specifications_example() {
        let pricing = pricing();
        let route = pricing.price_of("GET", "/premium-data").unwrap();
        let body = payment_required_body(route, "https://api.example.com/premium-data", &Asked::NothingSent);
        // The header of the example in specs/transports-v2/http.md.
        let header = concat!(
            "eyJ4NDAyVmVyc2lvbiI6MiwiZXJyb3IiOiJQQVlNRU5ULVNJR05BVFVSRSBoZWFkZXIgaXMgcmVxdWlyZWQiLCJyZXNvdXJjZSI6eyJ1cmwi",
            "OiJodHRwczovL2FwaS5leGFtcGxlLmNvbS9wcmVtaXVtLWRhdGEiLCJkZXNjcmlwdGlvbiI6IkFjY2VzcyB0byBwcmVtaXVtIG1hcmtldCBk",
            "YXRhIiwibWltZVR5cGUiOiJhcHBsaWNhdGlvbi9qc29uIn0sImFjY2VwdHMiOlt7InNjaGVtZSI6ImV4YWN0IiwibmV0d29yayI6ImVpcDE1",
            "NTo4NDUzMiIsImFtb3VudCI6IjEwMDAwIiwiYXNzZXQiOiIweDAzNkNiRDUzODQyYzU0MjY2MzRlNzkyOTU0MWVDMjMxOGYzZENGN2UiLCJw",
            "YXlUbyI6IjB4MjA5NjkzQmM2YWZjMEM1MzI4YkEzNkZhRjAzQzUxNEVGMzEyMjg3QyIsIm1heFRpbWVvdXRTZWNvbmRzIjo2MCwiZXh0cmEi",
            "OnsibmFtZSI6IlVTREMiLCJ2ZXJzaW9uIjoiMiJ9fV19",
        );
        assert_eq!(payment_required_header(&body), header);
    }

    #[test]
    fn the_specifications_payment_is_read_and_meets_the_price() {
        let payment = read(PAYMENT).unwrap();
        let pricing = pricing();
        let route = pricing.price_of("GET", "/premium-data").unwrap();
        assert!(route.is_met_by(&payment));
        assert_eq!(payment.payload.get(), r#"{"signature":"0x2d6a","authorization":{"value":"10000"}}"#);
        assert_eq!(payment.json, PAYMENT);
        let unpadded = STANDARD.encode(PAYMENT).trim_end_matches('=').to_owned();
        assert!(read_payment(unpadded.as_bytes()).is_ok());
    }

    #[test]
    fn a_payment_for_anything_else_does_not_meet_the_price() {
        let pricing = pricing();
        let route = pricing.price_of("GET", "/premium-data").unwrap();
        for (from, to) in [
            ("\"amount\":\"10000\"", "\"amount\":\"9999\""),
            ("\"amount\":\"10000\"", "\"amount\":\"010000\""),
            ("\"scheme\":\"exact\"", "\"scheme\":\"upto\""),
            ("eip155:84532", "eip155:8453"),
            ("0x036CbD", "0x036cbd"),
            ("0x209693", "0x209694"),
            ("\"maxTimeoutSeconds\":60", "\"maxTimeoutSeconds\":61"),
            (",\"extra\":{\"name\":\"USDC\",\"version\":\"2\"}", ""),
        ] {
            let other = PAYMENT.replacen(from, to, 1);
            assert_ne!(other, PAYMENT);
            assert!(!route.is_met_by(&read(&other).unwrap()), "{to}");
        }
    }

    #[test]
    fn what_is_no_payment_is_refused() {
        for json in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"x402Version":2}"#,
            r#"{"x402Version":"2"}"#,
            &format!("{PAYMENT} {{}}"),
            &PAYMENT[..PAYMENT.len() - 1],
            &PAYMENT.replace("\"payload\":{", "\"payloads\":{"),
            &PAYMENT.replacen("\"amount\":\"10000\"", "\"amount\":10000", 1),
            &PAYMENT.replacen("\"x402Version\":2", "\"x402Version\":2,\"x402Version\":2", 1),
            &format!(r#"[2,{}]"#, &PAYMENT[15..]),
            r#"{"x402Version":2,"accepted":{},"payload":{}}"#,
        ] {
            assert_eq!(read(json).unwrap_err(), PaymentError::NotAPayment, "{json}");
        }
        let scalar = PAYMENT.replacen(
            "\"payload\":{\"signature\":\"0x2d6a\",\"authorization\":{\"value\":\"10000\"}}",
            "\"payload\":7",
            1,
        );
        assert_eq!(read(&scalar).unwrap_err(), PaymentError::NotAPayment);
        for version in ["1", "3", "0"] {
            let other = PAYMENT.replacen("\"x402Version\":2", &format!("\"x402Version\":{version}"), 1);
            assert_eq!(read(&other).unwrap_err(), PaymentError::Version);
        }
        for value in ["*", "eyJ4", "YQ=", "YR==", "e30-_w"] {
            let error = read_payment(value.as_bytes()).unwrap_err();
            assert!(matches!(error, PaymentError::NotBase64 | PaymentError::NotAPayment), "{value}");
        }
        assert_eq!(read_payment(&vec![b'A'; PAYMENT_CHARS_MAX + 1]).unwrap_err(), PaymentError::TooLong);
        assert_eq!(read_payment(&[0xff; 16]).unwrap_err(), PaymentError::NotBase64);
    }

    #[test]
    fn a_payment_is_the_same_however_it_is_written() {
        let with = |payload: &str| {
            let old = r#"{"signature":"0x2d6a","authorization":{"value":"10000"}}"#;
            read(&PAYMENT.replacen(old, payload, 1)).unwrap().digest
        };
        let evm = with(r#"{"signature":"0x1","authorization":{"from":"0xAb","value":"1","nonce":"0x0f"}}"#);
        for same in [
            r#"{ "authorization":{"nonce":"0xF","from":"0xaB","value":"1"},"signature":"0x1"}"#,
            r#"{"signature":"0x2","authorization":{"from":"0xab","nonce":"000f","junk":1},"junk":[]}"#,
        ] {
            assert_eq!(with(same), evm, "{same}");
        }
        for other in ["0x10", "0x1f", ""] {
            let payload = format!(r#"{{"authorization":{{"from":"0xab","nonce":"{other}"}}}}"#);
            assert_ne!(with(&payload), evm, "{payload}");
        }
        assert_eq!(with(r#"{"a":1,"transaction":"AA=="}"#), with(r#"{"transaction":"AA==", "a":1}"#));
        assert_ne!(with(r#"{"transaction":"AA=="}"#), with(r#"{"transaction":"AQ=="}"#));
    }

    #[test]
    fn deep_payloads_end_without_a_stack_overflow() {
        for depth in [100, 1000, 2500] {
            let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let json = PAYMENT.replacen("\"payload\":{", &format!("\"payload\":{{\"deep\":{deep},"), 1);
            let cut = &json[..json.len() / 2];
            // Well-formed, it is the facilitator's to judge.
            assert!(matches!(read(&json), Ok(_) | Err(PaymentError::NotAPayment)), "{depth}");
            assert!(read(cut).is_err(), "{depth}");
        }
    }
}
