//! A payment on its way: from a head that brings it, by what the facilitator says of it, to what the client is told.
//!
//! Owns every refusal of a paid route. Must never: let a payment count that nobody has settled.
//!
//! ```text
//! head ─► due ─┬─► nothing to pay         facilitator ─► Outcome ─┬─► Settlement: the request is carried out
//!              ├─► Due: to be settled                             └─► Problem
//!              └─► Problem: 402, 400
//! ```

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::handle::onboard::authority;
use crate::handle::x402::pricing::{PricedRoute, Pricing};
use crate::handle::x402::{
    Asked, PAYMENT_REQUIRED, PAYMENT_RESPONSE, PAYMENT_RESPONSE_BEFORE, PAYMENT_SIGNATURE, PAYMENT_SIGNATURE_BEFORE,
    Payment, PaymentError, json, payment_required_body, payment_required_header, read_payment,
};
use crate::wire::http::{Head, Method};
use crate::wire::response::HeaderValue;
use crate::wire::status::{ErrorCode, Problem};

/// A longer name of ours is not repeated: RFC 1035 has 253 characters for a name, and a port has six.
const AUTHORITY_CHARS_MAX: usize = 260;

/// What facilitators say when they cannot tell whether a payment reached its chain.
const UNSETTLED_REASONS: [&str; 2] = ["settlement_pending", "unexpected_settle_error"];

/// What the facilitator did, as it says itself. Goes out as base64 with the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settlement {
    pub success: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<String>,
    #[serde(default)]
    pub transaction: String,
    #[serde(default)]
    pub network: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
}

impl Settlement {
    pub fn header(&self) -> HeaderValue<'static> {
        header_value(STANDARD.encode(json(self)))
    }
}

/// What became of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Settled(Settlement),
    /// It would not be settled, and this is why.
    Invalid {
        reason: Option<String>,
    },
    /// It was good and did not go through.
    NotSettled(Settlement),
    /// Nobody said anything of it, and it was not handed over to be settled.
    Unavailable,
    /// It was handed over, and may or may not have been settled.
    Unknown,
}

impl Outcome {
    /// What a settlement says of itself.
    pub fn of(settlement: Settlement) -> Outcome {
        let reason = settlement.error_reason.as_deref().unwrap_or_default();
        match settlement.success {
            true => Outcome::Settled(settlement),
            false if UNSETTLED_REASONS.contains(&reason) => Outcome::Unknown,
            false => Outcome::NotSettled(settlement),
        }
    }
}

/// A payment that meets the price of what it came with, and that nobody has verified.
#[derive(Debug, Clone)]
pub struct Due {
    pub payment: Payment,
    pub route: PricedRoute,
    url: String,
    /// The header in which its client looks for what became of it.
    pub answers_in: &'static str,
}

/// What a request has to pay, with the payment that it brought.
pub fn due(pricing: &Pricing, head: &Head<'_>) -> Result<Option<Box<Due>>, Box<Problem>> {
    let method = match head.method() {
        Method::Head => Method::Get,
        method => method,
    };
    let Some(route) = pricing.price_of(method.as_str(), head.path()) else { return Ok(None) };
    let authority = authority(head.host().filter(|host| host.len() <= AUTHORITY_CHARS_MAX));
    let url = format!("http://{authority}{}", route.path);
    let refuse = |asked| Err(Box::new(payment_required(route, &url, &asked)));
    let sent = head.header(PAYMENT_SIGNATURE).map(|value| (value, PAYMENT_RESPONSE));
    let sent = sent.or_else(|| head.header(PAYMENT_SIGNATURE_BEFORE).map(|value| (value, PAYMENT_RESPONSE_BEFORE)));
    let Some((value, answers_in)) = sent else { return refuse(Asked::NothingSent) };
    let payment = match read_payment(value) {
        Ok(payment) => payment,
        Err(PaymentError::Version) => return refuse(Asked::OtherVersion),
        Err(error) => return Err(Box::new(Problem::new(ErrorCode::BadRequest, error.to_string()))),
    };
    if !route.is_met_by(&payment) {
        return refuse(Asked::DoesNotMatch);
    }
    let route = route.clone();
    Ok(Some(Box::new(Due { payment, route, url, answers_in })))
}

impl Due {
    /// The settlement with which the request may be carried out, or why it is not.
    pub fn conclude(&self, outcome: Outcome) -> Result<Settlement, Box<Problem>> {
        let problem = match outcome {
            Outcome::Settled(settlement) => return Ok(settlement),
            Outcome::Invalid { reason } => self.refused(reason.as_deref()),
            Outcome::NotSettled(settlement) => {
                self.refused(settlement.error_reason.as_deref()).header(self.answers_in, settlement.header())
            }
            Outcome::Unavailable => Problem::new(
                ErrorCode::FacilitatorUnavailable,
                "the payment could not be verified: the facilitator does not answer",
            ),
            Outcome::Unknown => Problem::new(
                ErrorCode::PaymentOutcomeUnknown,
                "the payment's outcome is unknown: it may have been settled, and the request was not carried out",
            ),
        };
        Err(Box::new(problem))
    }

    pub fn used_already(&self) -> Problem {
        payment_required(&self.route, &self.url, &Asked::UsedAlready)
    }

    fn refused(&self, reason: Option<&str>) -> Problem {
        payment_required(&self.route, &self.url, &Asked::Refused(reason))
    }
}

fn payment_required(route: &PricedRoute, url: &str, asked: &Asked<'_>) -> Problem {
    let body = payment_required_body(route, url, asked);
    let header = header_value(payment_required_header(&body));
    Problem::new(ErrorCode::PaymentRequired, asked.text().into_owned()).header(PAYMENT_REQUIRED, header).own_body(body)
}

fn header_value(base64: String) -> HeaderValue<'static> {
    HeaderValue::new(base64).expect("base64 is header text")
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::handle::x402::pricing::tests::pricing;
    use crate::handle::x402::tests::PAYMENT;
    use crate::wire::cors::CorsHeaders;
    use crate::wire::http::{HeadLimits, parse_head};
    use crate::wire::response::{Persistence, ReplyTo, RequestId};

    fn ask(request: &str, more: &str) -> Result<Option<Box<Due>>, (u16, String)> {
        let text = format!("{request} HTTP/1.1\r\nHost: api.example.com\r\n{more}\r\n");
        let (head, _) = parse_head(text.as_bytes(), &HeadLimits::SERVER).unwrap().unwrap();
        due(&pricing(), &head).map_err(|problem| answer(&problem))
    }

    fn answer(problem: &Problem) -> (u16, String) {
        let reply = ReplyTo {
            request_id: RequestId::from_client(b"r").unwrap(),
            persistence: Persistence::KeepAlive,
            head_only: false,
            may_chunk: true,
            cors: CorsHeaders::default(),
        };
        let mut out = Vec::new();
        problem.respond(&mut out, &reply);
        (problem.code().status(), String::from_utf8(out).unwrap())
    }

    fn body(answer: &str) -> Value {
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn paying(json: &str) -> String {
        format!("PAYMENT-SIGNATURE: {}\r\n", STANDARD.encode(json))
    }

    /// A payment that differs from others in its nonce.
    pub(crate) fn due_with(nonce: &str) -> Due {
        let own = format!("\"authorization\":{{\"from\":\"0x1\",\"nonce\":\"{nonce}\",");
        let json = PAYMENT.replacen("\"authorization\":{", &own, 1);
        *ask("GET /premium-data", &paying(&json)).unwrap().unwrap()
    }

    fn a_due() -> Due {
        *ask("GET /premium-data", &paying(PAYMENT)).unwrap().unwrap()
    }

    #[test]
    fn only_what_is_priced_is_charged_and_head_as_get_is() {
        for request in ["POST /premium-data", "OPTIONS /premium-data", "GET /", "GET /premium-data/"] {
            assert!(ask(request, "").unwrap().is_none(), "{request}");
        }
        for request in ["GET /premium-data", "HEAD /premium-data?a=b"] {
            let (status, text) = ask(request, "").unwrap_err();
            assert_eq!(status, 402);
            let body = body(&text);
            assert_eq!(body["resource"]["url"], "http://api.example.com/premium-data");
            assert_eq!(body["error"], "PAYMENT-SIGNATURE header is required");
            let header = text.lines().find_map(|line| line.strip_prefix("PAYMENT-REQUIRED: ")).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&STANDARD.decode(header).unwrap()).unwrap(), body);
        }
    }

    #[test]
    fn a_payment_is_taken_from_either_header_and_answered_in_its_pair() {
        let due = a_due();
        assert_eq!((due.answers_in, due.payment.json.as_str()), ("PAYMENT-RESPONSE", PAYMENT));
        let before = paying(PAYMENT).replace("PAYMENT-SIGNATURE", "X-Payment");
        assert_eq!(ask("GET /premium-data", &before).unwrap().unwrap().answers_in, "X-PAYMENT-RESPONSE");
    }

    #[test]
    fn what_is_wrong_with_a_payment_decides_the_status() {
        let check = |json: &str, expected: (u16, &str)| {
            let (status, text) = ask("GET /premium-data", &paying(json)).unwrap_err();
            assert_eq!((status, body(&text)["error"].as_str().unwrap()), expected, "{json}");
        };
        check("{}", (400, "bad_request"));
        check(
            &PAYMENT.replace("\"x402Version\":2", "\"x402Version\":1"),
            (402, "the payment is not of version 2 of x402"),
        );
        check(
            &PAYMENT.replacen("\"amount\":\"10000\"", "\"amount\":\"1\"", 1),
            (402, "the payment is not one that is accepted here"),
        );
    }

    #[test]
    fn a_long_host_is_not_repeated() {
        let text = format!("GET /premium-data HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(AUTHORITY_CHARS_MAX + 1));
        let (head, _) = parse_head(text.as_bytes(), &HeadLimits::SERVER).unwrap().unwrap();
        let (_, text) = answer(&due(&pricing(), &head).unwrap_err());
        assert_eq!(body(&text)["resource"]["url"], "http://127.0.0.1:3900/premium-data");
    }

    #[test]
    fn only_a_settled_payment_carries_a_request() {
        let due = a_due();
        let settlement = |json: Value| Outcome::of(serde_json::from_value(json).unwrap());
        let good = json!({"success": true, "transaction": "0x1", "network": "eip155:84532", "payer": "0x2"});
        let settled = due.conclude(settlement(good.clone())).unwrap();
        let decoded = STANDARD.decode(settled.header().as_str()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&decoded).unwrap(), good);

        let refused = |outcome| answer(&due.conclude(outcome).unwrap_err());
        let bad = json!({"success": false, "errorReason": "insufficient_funds"});
        let (status, text) = refused(settlement(bad));
        assert_eq!(status, 402);
        assert!(text.contains("\r\nPAYMENT-RESPONSE: ") && text.contains("\r\nPAYMENT-REQUIRED: "), "{text}");
        assert_eq!(body(&text)["error"], "the payment was refused: insufficient_funds");
        let (status, text) = refused(Outcome::Invalid { reason: None });
        assert_eq!((status, &body(&text)["error"]), (402, &json!("the payment was refused")));
        let (status, text) = refused(Outcome::Unavailable);
        assert_eq!((status, &body(&text)["retryable"]), (503, &json!(true)));
        for reason in UNSETTLED_REASONS {
            let (status, text) = refused(settlement(json!({"success": false, "errorReason": reason})));
            let word = &body(&text)["error"];
            assert_eq!((status, word), (503, &json!("payment_outcome_unknown")), "{reason}");
        }
        let (status, text) = answer(&due.used_already());
        assert_eq!((status, &body(&text)["error"]), (402, &json!("the payment has been used already")));
    }
}
