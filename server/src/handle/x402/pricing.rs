//! What is priced: the `[x402]` part of the configuration, as it is written and as it is checked.
//!
//! Owns the rules for routes, amounts, networks and addresses. Nothing is priced unless the operator says so, and a
//! mistake is refused with the number of its route.

use std::fmt;

use serde::Deserialize;

use crate::handle::x402::{PaymentRequirements, TokenDomain};

/// The one scheme that we price in: this amount, now.
const SCHEME: &str = "exact";

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
    NoSuchRoute {
        route: usize,
    },
}

impl fmt::Display for PricingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PricingError::NoFacilitator => write!(f, "x402.enabled needs x402.facilitator_url"),
            PricingError::FacilitatorUrl(url) => write!(
                f,
                "x402.facilitator_url: {url:?} is not https://, or http:// for this machine, with a host and without a query"
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
            PricingError::NoSuchRoute { route } => write!(
                f,
                "x402.routes, number {route}: the server has no such method and path, or a part of the path varies"
            ),
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
        let authority = rest.split('/').next()?;
        let host = match authority.strip_prefix('[') {
            Some(v6) => v6.split_once(']')?.0,
            None => authority.split(':').next()?,
        };
        (!host.is_empty() && !authority.contains('@')).then(|| host.to_owned())
    };
    let is_url = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'"' | b'\\');
    let is_plain = url.len() <= URL_BYTES_MAX && url.bytes().all(is_url);
    let host = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => host_of(rest),
        (None, Some(rest)) => host_of(rest).filter(|host| ["127.0.0.1", "localhost", "::1"].contains(&host.as_str())),
        (None, None) => None,
    };
    is_plain && host.is_some()
}

/// As `ringlog check` shows it.
impl fmt::Display for Pricing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", if self.is_enabled { "on" } else { "off" })?;
        let url = self.facilitator_url.as_deref().unwrap_or("none");
        write!(f, "(facilitator {url}")?;
        for PricedRoute { method, path, requirements, .. } in &self.routes {
            write!(f, ", {method} {path} {} of {}", requirements.amount, requirements.network)?;
        }
        write!(f, ")")
    }
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

    /// Whether every priced route is one: a price that nobody is asked for is a mistake. A path with a part that varies can
    /// be written in more ways than one, and so has no price.
    pub fn check_routes(&self, is_route: impl Fn(&str, &str) -> bool) -> Result<(), PricingError> {
        match self.routes.iter().position(|route| !is_route(&route.method, &route.path)) {
            Some(index) => Err(PricingError::NoSuchRoute { route: index + 1 }),
            None => Ok(()),
        }
    }

    /// All of them, whether pricing is on or not.
    pub fn routes(&self) -> &[PricedRoute] {
        &self.routes
    }
}

#[cfg(test)]
pub(in crate::handle::x402) mod tests {
    use super::*;

    pub(in crate::handle::x402) const CONFIG: &str = r#"
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

    pub(in crate::handle::x402) fn raw(config: &str) -> RawPricing {
        toml::from_str(config).unwrap()
    }

    pub(in crate::handle::x402) fn pricing() -> Pricing {
        raw(CONFIG).resolve().unwrap()
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
    fn a_price_for_what_is_not_served_is_a_mistake() {
        let pricing = pricing();
        assert_eq!(pricing.check_routes(|method, path| (method, path) == ("GET", "/premium-data")), Ok(()));
        let error = pricing.check_routes(|_, _| false).unwrap_err();
        assert_eq!(error, PricingError::NoSuchRoute { route: 1 });
        assert!(error.to_string().contains("number 1"), "{error}");
    }

    #[test]
    fn a_facilitator_on_this_machine_may_speak_in_the_clear() {
        for url in ["http://127.0.0.1:4021", "http://localhost/x", "http://[::1]:80/", "https://h", "https://h:1/p/"] {
            assert!(is_facilitator_url(url), "{url}");
        }
        for url in [
            "",
            "h",
            "ftp://h",
            "http://h",
            "https://h/?q",
            "https://h#f",
            "http://127.0.0.1.example.com",
            "http://localhost@evil",
            "https://a b",
        ] {
            assert!(!is_facilitator_url(url), "{url}");
        }
    }
}
