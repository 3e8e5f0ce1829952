//! How often one may ask, and how often one may guess: by tenant and by address, over all cores together.

use std::time::Instant;

use serde_json::json;

use crate::harness::{Io, Place, Server};
use crate::http::Response;
use crate::on_both;
use crate::quotas::{BOOTSTRAP, set_quotas, tenant};

on_both! {
    a_tenant_is_limited_over_all_cores_and_no_other_is,
    ten_bad_credentials_turn_failures_away_and_no_good_one,
    an_address_is_the_sockets_unless_a_trusted_proxy_says_otherwise,
}

fn start(io: Io, more: &[&str]) -> Server {
    let bootstrap = format!("--bootstrap-key={BOOTSTRAP}");
    let usual: &[&str] = &["--cores=2", &bootstrap];
    Place::new(io).start(&[usual, more].concat())
}

/// A request as a proxy passes it on, on a connection of its own: whichever core that is on.
fn forwarded(server: &Server, request: &str, from: &str, key: &str, body: &str) -> Response {
    let auth = if key.is_empty() { String::new() } else { format!("Authorization: Bearer {key}\r\n") };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let forwarded = if from.is_empty() { String::new() } else { format!("X-Forwarded-For: {from}\r\n") };
    let mut client = server.connect();
    client.send(format!("{request} HTTP/1.1\r\nHost: h\r\n{auth}{forwarded}{length}\r\n{body}").as_bytes());
    client.answer()
}

fn query(server: &Server, from: &str, key: &str) -> Response {
    forwarded(server, "GET /api/v1/events/query?limit=1", from, key, "")
}

fn check_limited(answer: &Response, policy: &str) {
    assert_eq!((answer.status, answer.error().as_str()), (429, "rate_limited"), "{}", answer.text());
    let seconds: u64 = answer.header("Retry-After").unwrap().parse().unwrap();
    assert_eq!(answer.json()["retry_after"], seconds);
    assert_eq!(answer.header("RateLimit-Policy"), Some(policy));
    let name = policy.split(';').next().unwrap();
    let limit = answer.header("RateLimit").unwrap();
    assert!(limit.starts_with(&format!("{name};r=0;t=")), "{limit}");
}

fn a_tenant_is_limited_over_all_cores_and_no_other_is(io: Io) {
    let server = start(io, &[]);
    let key = tenant(&server, "acme", &json!({ "requests_per_second": 1 }));
    let neighbour = tenant(&server, "umbrella", &json!({}));
    let mut everywhere = server.connect_everywhere();
    let begun = Instant::now();
    let (mut admitted, mut refused) = (0, None);
    for _ in 0..6 {
        for client in &mut everywhere {
            let answer = client.call("GET", "/api/v1/events/query?limit=1", &key, None);
            match answer.status {
                200 => admitted += 1,
                _ => refused = Some(answer),
            }
            assert_eq!(client.call("GET", "/api/v1/usage", &neighbour, None).status, 200);
        }
    }
    // The burst at once, and one for each second, however slow this machine is.
    assert!((2..=2 + begun.elapsed().as_secs() + 1).contains(&admitted), "{admitted}");
    check_limited(&refused.expect("most of them are too many"), "\"tenant\";q=2;w=2");
    // An operator's look at the tenant is an operator's.
    for client in &mut everywhere {
        let head = format!("GET /api/v1/usage HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {BOOTSTRAP}\r\n");
        client.send(format!("{head}X-Tenant-ID: acme\r\n\r\n").as_bytes());
        assert_eq!(client.answer().status, 200);
    }
    let nothing = set_quotas(&server, "acme", &json!({ "requests_per_second": 0 }));
    assert_eq!((nothing.status, nothing.error().as_str()), (400, "invalid_parameter"));
    assert_eq!(set_quotas(&server, "acme", &json!({ "requests_per_second": "unlimited" })).status, 200);
    for client in &mut everywhere {
        assert_eq!(client.call("GET", "/api/v1/usage", &key, None).status, 200);
    }
}

fn ten_bad_credentials_turn_failures_away_and_no_good_one(io: Io) {
    let server = start(io, &["--trusted-proxies=127.0.0.0/8"]);
    let key = tenant(&server, "acme", &json!({}));
    let (guesser, other) = ("203.0.113.7", "203.0.113.8");
    for number in 0..10 {
        assert_eq!(query(&server, guesser, &format!("guess-{number}")).status, 401, "{number}");
    }
    for number in 0..4 {
        check_limited(&query(&server, guesser, &format!("guess-1{number}")), "\"credentials\";q=10;w=60");
        assert_eq!(query(&server, guesser, &key).status, 200, "whoever has a key has it from everywhere");
    }
    assert_eq!(query(&server, guesser, "").status, 401, "no key is no guess");
    // What stands before the address that the proxy saw is the client's own invention.
    let invented = format!("{other}, {guesser}");
    check_limited(&query(&server, &invented, "guess"), "\"credentials\";q=10;w=60");
    assert_eq!(query(&server, other, "guess").status, 401);
    // Whoever is on this machine is not limited.
    for _ in 0..12 {
        assert_eq!(query(&server, "", "guess").status, 401);
    }
}

fn an_address_is_the_sockets_unless_a_trusted_proxy_says_otherwise(io: Io) {
    let onboard = |server: &Server, name: &str, from: &str| {
        let body = json!({ "email": format!("{name}@example.com") }).to_string();
        forwarded(server, "POST /api/v1/onboard/start", from, "", &body)
    };
    let server = start(io, &["--onboard-per-hour=1", "--trusted-proxies=10.0.0.0/8, 127.0.0.1"]);
    assert_eq!(onboard(&server, "one", "203.0.113.7").status, 201);
    assert_eq!(onboard(&server, "two", "203.0.113.8, 10.1.2.3").status, 201);
    check_limited(&onboard(&server, "three", "203.0.113.7"), "\"onboard\";q=1;w=3600");
    assert_eq!(onboard(&server, "four", "").status, 201, "the proxy itself");
    let audit = server.get("/api/v1/audit/events?action=tenant_created&limit=3", BOOTSTRAP);
    let sources: Vec<_> = audit["events"].as_array().unwrap().iter().map(|event| event["source"].clone()).collect();
    assert_eq!(sources, ["127.0.0.1", "203.0.113.8", "203.0.113.7"]);

    // Nobody is believed who was not named.
    let (status, place) = server.stop();
    assert!(status.success());
    let server = place.start(&["--cores=2", "--onboard-per-hour=1"]);
    assert_eq!(onboard(&server, "five", "203.0.113.9").status, 201);
    check_limited(&onboard(&server, "six", "203.0.113.10"), "\"onboard\";q=1;w=3600");
}
