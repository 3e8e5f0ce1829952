//! Paid routes, as version 2 of the x402 protocol has them: what is priced, the refusal that asks for a payment, and the
//! payment that a client sends.
//!
//! Owns the shape of all three and of the `[x402]` part of the configuration. Must never: talk to a facilitator, or take a
//! payment for good because it is well-formed. Nothing is priced unless the operator says so.
//!
//! ```text
//! GET /x402/routes ──► {"enabled":false,"routes":[]}
//! request ──► 402, PAYMENT-REQUIRED: base64(PaymentRequired) ──► request, PAYMENT-SIGNATURE: base64(PaymentPayload)
//! ```
//!
//! The shapes are those of `specs/x402-specification-v2.md` and `specs/transports-v2/http.md` of the x402 Foundation; that
//! of the list is the first seed's.

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const VERSION: u8 = 2;
/// The one scheme that we price in: this amount, now.
const SCHEME: &str = "exact";

pub const PAYMENT_REQUIRED: &str = "PAYMENT-REQUIRED";
pub const PAYMENT_SIGNATURE: &str = "PAYMENT-SIGNATURE";
pub const PAYMENT_RESPONSE: &str = "PAYMENT-RESPONSE";
/// What the first seed's clients, and version 1, call it.
pub const PAYMENT_SIGNATURE_BEFORE: &str = "X-PAYMENT";

/// Half of what the headers of a request may have together; a signature and its authorisation have about 1,500.
const PAYMENT_CHARS_MAX: usize = 8 * 1024;

const ROUTES_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 256;
const DESCRIPTION_CHARS_MAX: usize = 256;
/// The longest address of any chain that the specification names has about 100.
const ADDRESS_BYTES_MAX: usize = 128;
/// A 256-bit number.
const AMOUNT_DIGITS_MAX: usize = 78;
const URL_BYTES_MAX: usize = 512;

/// The specification's example: how long a client may take to pay.
const TIMEOUT_S_DEFAULT: u32 = 60;
const TIMEOUT_S_MAX: u32 = 3600;

/// `[x402]` as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPricing {
    pub enabled: bool,
    pub facilitator_url: Option<String>,
    /// What routes without their own take.
    pub pay_to: Option<String>,
    pub network: Option<String>,
    pub asset: Option<String>,
    pub max_timeout_seconds: Option<u32>,
    pub routes: Vec<RawRoute>,
}

/// `[[x402.routes]]` as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRoute {
    pub method: String,
    pub path: String,
    /// In the asset's smallest unit: `"10000"` is a cent of a token with six decimals.
    pub price: String,
    pub description: Option<String>,
    pub pay_to: Option<String>,
    pub network: Option<String>,
    pub asset: Option<String>,
    /// The token's name and version, which clients of the EVM networks sign over.
    pub asset_name: Option<String>,
    pub asset_version: Option<String>,
}

/// What is priced: nothing, by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pricing {
    is_enabled: bool,
    facilitator_url: Option<String>,
    routes: Vec<PricedRoute>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedRoute {
    pub method: String,
    pub path: String,
    pub description: Option<String>,
    pub requirements: PaymentRequirements,
}

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

/// What is wrong with `[x402]`. `route` counts from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PricingError {
    /// Priced routes need somebody who verifies payments.
    NoFacilitator,
    FacilitatorUrl(String),
    Timeout(u32),
    TooManyRoutes,
    Missing {
        route: usize,
        key: &'static str,
    },
    Wrong {
        route: usize,
        key: &'static str,
    },
    Twice {
        route: usize,
    },
}

impl fmt::Display for PricingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PricingError::NoFacilitator => write!(f, "x402.enabled needs x402.facilitator_url"),
            PricingError::FacilitatorUrl(url) => write!(
                f,
                "x402.facilitator_url: {url:?} does not begin with https://, or http:// for this machine, and a host"
            ),
            PricingError::Timeout(seconds) => {
                write!(f, "x402.max_timeout_seconds: {seconds} is not from 1 to {TIMEOUT_S_MAX}")
            }
            PricingError::TooManyRoutes => write!(f, "x402.routes: more than {ROUTES_MAX}"),
            PricingError::Missing { route, key } => write!(f, "x402.routes, number {route}: {key} is missing"),
            PricingError::Wrong { route, key } => {
                let what = match *key {
                    "method" => "GET, POST, PUT, PATCH or DELETE",
                    "path" => "a path without a query, such as /api/v1/events",
                    "price" => "a whole number of the asset's smallest unit, in quotes and not 0",
                    "network" => "a CAIP-2 name such as eip155:8453",
                    "description" => "at most 256 characters without control characters",
                    _ => "1 to 128 visible characters",
                };
                write!(f, "x402.routes, number {route}: {key} is not {what}")
            }
            PricingError::Twice { route } => write!(f, "x402.routes, number {route}: priced already"),
        }
    }
}

impl std::error::Error for PricingError {}

impl RawPricing {
    pub fn resolve(&self) -> Result<Pricing, PricingError> {
        if let Some(url) = &self.facilitator_url
            && !is_facilitator_url(url)
        {
            return Err(PricingError::FacilitatorUrl(url.clone()));
        }
        if self.enabled && self.facilitator_url.is_none() {
            return Err(PricingError::NoFacilitator);
        }
        if ROUTES_MAX < self.routes.len() {
            return Err(PricingError::TooManyRoutes);
        }
        let timeout_s = self.max_timeout_seconds.unwrap_or(TIMEOUT_S_DEFAULT);
        if !(1..=TIMEOUT_S_MAX).contains(&timeout_s) {
            return Err(PricingError::Timeout(timeout_s));
        }
        let mut routes: Vec<PricedRoute> = Vec::with_capacity(self.routes.len());
        for (index, raw) in self.routes.iter().enumerate() {
            let route = self.route(raw, index + 1, timeout_s)?;
            if routes.iter().any(|known| (&known.method, &known.path) == (&route.method, &route.path)) {
                return Err(PricingError::Twice { route: index + 1 });
            }
            routes.push(route);
        }
        Ok(Pricing { is_enabled: self.enabled, facilitator_url: self.facilitator_url.clone(), routes })
    }

    fn route(&self, raw: &RawRoute, route: usize, max_timeout_seconds: u32) -> Result<PricedRoute, PricingError> {
        let check = |key, is_right: bool| if is_right { Ok(()) } else { Err(PricingError::Wrong { route, key }) };
        let given = |key, own: &Option<String>, common: &Option<String>| {
            own.as_ref().or(common.as_ref()).cloned().ok_or(PricingError::Missing { route, key })
        };
        let network = given("network", &raw.network, &self.network)?;
        let asset = given("asset", &raw.asset, &self.asset)?;
        let pay_to = given("pay_to", &raw.pay_to, &self.pay_to)?;
        check("method", ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&raw.method.as_str()))?;
        check("path", is_path(&raw.path))?;
        check("price", is_amount(&raw.price))?;
        check("network", is_network(&network))?;
        check("asset", is_address(&asset))?;
        check("pay_to", is_address(&pay_to))?;
        check("description", raw.description.as_deref().is_none_or(is_description))?;
        let extra = match (&raw.asset_name, &raw.asset_version) {
            (Some(name), Some(version)) => {
                check("asset_name", is_name(name))?;
                check("asset_version", is_name(version))?;
                Some(TokenDomain { name: name.clone(), version: version.clone() })
            }
            (None, None) => None,
            (Some(_), None) => return Err(PricingError::Missing { route, key: "asset_version" }),
            (None, Some(_)) => return Err(PricingError::Missing { route, key: "asset_name" }),
        };
        let requirements = PaymentRequirements {
            scheme: SCHEME.to_owned(),
            network,
            amount: raw.price.clone(),
            asset,
            pay_to,
            max_timeout_seconds,
            extra,
        };
        Ok(PricedRoute {
            method: raw.method.clone(),
            path: raw.path.clone(),
            description: raw.description.clone(),
            requirements,
        })
    }
}

fn is_path(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'%' | b'"' | b'\\');
    path.starts_with('/') && path.len() <= PATH_BYTES_MAX && path.bytes().all(is_plain)
}

fn is_amount(text: &str) -> bool {
    (1..=AMOUNT_DIGITS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && !text.starts_with('0')
}

/// CAIP-2: a namespace of 3 to 8 and a reference of 1 to 32 characters.
fn is_network(text: &str) -> bool {
    let Some((namespace, reference)) = text.split_once(':') else { return false };
    let is_namespace = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_reference = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (3..=8).contains(&namespace.len())
        && namespace.bytes().all(is_namespace)
        && (1..=32).contains(&reference.len())
        && reference.bytes().all(is_reference)
}

fn is_address(text: &str) -> bool {
    (1..=ADDRESS_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_name(text: &str) -> bool {
    (1..=ADDRESS_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn is_description(text: &str) -> bool {
    text.chars().count() <= DESCRIPTION_CHARS_MAX && !text.chars().any(char::is_control)
}

/// Payments are not verified over a line that others can change: in the clear only to this machine.
fn is_facilitator_url(url: &str) -> bool {
    let host_of = |rest: &'_ str| -> Option<String> {
        let authority = rest.split(['/', '?', '#']).next()?;
        let host = match authority.strip_prefix('[') {
            Some(v6) => v6.split_once(']')?.0,
            None => authority.split(':').next()?,
        };
        (!host.is_empty() && !authority.contains('@')).then(|| host.to_owned())
    };
    let is_plain = url.len() <= URL_BYTES_MAX && url.bytes().all(|byte| byte.is_ascii_graphic());
    let host = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => host_of(rest),
        (None, Some(rest)) => host_of(rest).filter(|host| ["127.0.0.1", "localhost", "::1"].contains(&host.as_str())),
        (None, None) => None,
    };
    is_plain && host.is_some()
}

impl Pricing {
    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    pub fn facilitator_url(&self) -> Option<&str> {
        self.facilitator_url.as_deref()
    }

    /// What this request costs; nothing unless pricing is on and the route stands in it.
    pub fn price_of(&self, method: &str, path: &str) -> Option<&PricedRoute> {
        let found = self.routes.iter().find(|route| route.method == method && route.path == path);
        found.filter(|_| self.is_enabled)
    }

    /// The body of `GET /x402/routes`.
    pub fn routes_body(&self) -> Vec<u8> {
        let routes = self.routes.iter().map(|route| ListedRoute {
            method: &route.method,
            path: &route.path,
            amount: &route.requirements.amount,
            asset: &route.requirements.asset,
            networks: [&route.requirements.network],
            pay_to: &route.requirements.pay_to,
            description: route.description.as_deref(),
        });
        let first = self.routes.first().map(|route| &route.requirements.pay_to);
        let is_one = self.routes.iter().all(|route| Some(&route.requirements.pay_to) == first);
        let recipient_address = first.filter(|_| is_one).map(String::as_str);
        json(&RouteList { enabled: self.is_enabled, recipient_address, routes: routes.collect() })
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
pub enum Asked {
    NothingSent,
    /// The payment is for something else, or for less.
    DoesNotMatch,
    /// The facilitator refused it.
    Refused,
}

impl Asked {
    fn text(self) -> &'static str {
        match self {
            Asked::NothingSent => "PAYMENT-SIGNATURE header is required",
            Asked::DoesNotMatch => "the payment is not one that is accepted here",
            Asked::Refused => "the payment was refused",
        }
    }
}

/// The `PaymentRequired` of a 402. It goes out twice: as the body, which the first seed's clients read, and in the header,
/// as base64, which version 2's clients read. `url` is the whole address of what was asked for.
pub fn payment_required_body(route: &PricedRoute, url: &str, asked: Asked) -> Vec<u8> {
    let resource = Resource { url, description: route.description.as_deref(), mime_type: "application/json" };
    let accepts = [&route.requirements];
    json(&PaymentRequired { x402_version: VERSION, error: asked.text(), resource, accepts })
}

/// The value of the `PAYMENT-REQUIRED` header for this body.
pub fn payment_required_header(body: &[u8]) -> String {
    STANDARD.encode(body)
}

/// A payment that a client sent: well-formed, and not verified by anybody.
#[derive(Debug)]
pub struct Payment {
    pub accepted: PaymentRequirements,
    /// The scheme's own part, as it was sent: the facilitator judges it.
    pub payload: Box<RawValue>,
    /// The whole decoded text, as a facilitator wants it.
    pub json: String,
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
    let (accepted, payload) = (read.accepted, read.payload.to_owned());
    Ok(Payment { accepted, payload, json })
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
mod tests {
    use super::*;

    const CONFIG: &str = r#"
        enabled = true
        facilitator_url = "https://x402.org/facilitator"
        pay_to = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
        network = "eip155:84532"
        asset = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"

        [[routes]]
        method = "GET"
        path = "/premium-data"
        price = "10000"
        description = "Access to premium market data"
        asset_name = "USDC"
        asset_version = "2"
    "#;

    /// The specification's own example of a payment, as JSON.
    const PAYMENT: &str = concat!(
        r#"{"x402Version":2,"resource":{"url":"https://api.example.com/premium-data"},"accepted":{"scheme":"exact","#,
        r#""network":"eip155:84532","amount":"10000","asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","#,
        r#""payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","maxTimeoutSeconds":60,"#,
        r#""extra":{"name":"USDC","version":"2"}},"payload":{"signature":"0x2d6a","authorization":{"value":"10000"}},"#,
        r#""extensions":{}}"#,
    );

    fn raw(config: &str) -> RawPricing {
        toml::from_str(config).unwrap()
    }

    fn pricing() -> Pricing {
        raw(CONFIG).resolve().unwrap()
    }

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
    fn only_the_exact_route_is_priced() {
        let pricing = pricing();
        assert!(pricing.price_of("GET", "/premium-data").is_some());
        for (method, path) in
            [("POST", "/premium-data"), ("GET", "/premium-data/"), ("GET", "/"), ("get", "/premium-data")]
        {
            assert_eq!(pricing.price_of(method, path), None, "{method} {path}");
        }
    }

    #[test]
    fn the_refusal_is_the_specifications_example() {
        let pricing = pricing();
        let route = pricing.price_of("GET", "/premium-data").unwrap();
        let body = payment_required_body(route, "https://api.example.com/premium-data", Asked::NothingSent);
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

    #[test]
    fn mistakes_in_the_configuration_are_named() {
        let wrong = |key| PricingError::Wrong { route: 1, key };
        let missing = |key| PricingError::Missing { route: 1, key };
        for (from, to, expected) in [
            ("facilitator_url", "#", PricingError::NoFacilitator),
            ("https://x402", "http://x402", PricingError::FacilitatorUrl("http://x402.org/facilitator".into())),
            ("https://x402.org", "https:///", PricingError::FacilitatorUrl("https:////facilitator".into())),
            ("https://x402.org", "https://a@b", PricingError::FacilitatorUrl("https://a@b/facilitator".into())),
            ("enabled", "max_timeout_seconds = 0\nenabled", PricingError::Timeout(0)),
            ("enabled", "max_timeout_seconds = 3601\nenabled", PricingError::Timeout(3601)),
            ("network =", "#", missing("network")),
            ("pay_to =", "#", missing("pay_to")),
            ("asset =", "#", missing("asset")),
            ("asset_name", "#", missing("asset_name")),
            ("asset_version", "#", missing("asset_version")),
            ("\"GET\"", "\"get\"", wrong("method")),
            ("/premium-data", "premium-data", wrong("path")),
            ("/premium-data", "/premium?data", wrong("path")),
            ("\"10000\"", "\"0\"", wrong("price")),
            ("\"10000\"", "\"0.01\"", wrong("price")),
            ("\"10000\"", "\"$1\"", wrong("price")),
            ("\"10000\"", "\"\"", wrong("price")),
            ("eip155:84532", "base-sepolia", wrong("network")),
            ("eip155:84532", "EIP155:84532", wrong("network")),
            ("eip155:84532", "eip155:", wrong("network")),
            ("0x209693Bc", "0x 9693Bc", wrong("pay_to")),
        ] {
            let config = CONFIG.replacen(from, to, 1);
            assert_ne!(config, CONFIG);
            assert_eq!(raw(&config).resolve(), Err(expected), "{from} {to}");
        }
        let twice = format!("{CONFIG}\n{}", &CONFIG[CONFIG.find("[[routes]]").unwrap()..]);
        assert_eq!(raw(&twice).resolve(), Err(PricingError::Twice { route: 2 }));
        assert!(toml::from_str::<RawPricing>("facilitator = \"x\"").is_err());
        assert!(toml::from_str::<RawPricing>(&CONFIG.replace("\"10000\"", "10000")).is_err());
    }

    #[test]
    fn a_facilitator_on_this_machine_may_speak_in_the_clear() {
        for url in ["http://127.0.0.1:4021", "http://localhost/x", "http://[::1]:80/", "https://h", "https://h:1/p?q"] {
            assert!(is_facilitator_url(url), "{url}");
        }
        for url in
            ["", "h", "ftp://h", "http://h", "http://127.0.0.1.example.com", "http://localhost@evil", "https://a b"]
        {
            assert!(!is_facilitator_url(url), "{url}");
        }
    }
}
