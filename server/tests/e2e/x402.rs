//! Paid routes, with a facilitator of the test's own: what is not settled is not carried out, and what is, once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::{Io, Place, Server};
use crate::http::{Client, Response};
use crate::on_both;
use crate::quotas::{BOOTSTRAP, tenant};

on_both! {
    nothing_is_priced_by_default,
    a_priced_route_asks_for_its_price_and_others_do_not,
    a_settled_payment_stores_the_event_once,
    a_query_is_paid_for_too_and_says_so_in_its_answer,
    what_the_facilitator_refuses_is_not_carried_out,
    without_a_facilitator_nothing_is_carried_out_and_the_payment_stays_good,
    a_payment_under_way_buys_nothing_else_and_holds_nobody_up,
    a_key_that_ends_while_its_payment_is_settled_stores_nothing,
}

const EVENTS: &str = "/api/v1/events";
const QUERY: &str = "/api/v1/events/query";
const PAY_TO: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
const ASSET: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

/// What it says, by the path that it is asked on. `None`: the connection ends without an answer.
type Says = Box<dyn FnMut(&str, &Value) -> Option<(u16, Value)> + Send>;

/// A facilitator that keeps what it was asked. It ends with the test's process.
struct Facilitator {
    url: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Facilitator {
    fn start(mut says: Says) -> Facilitator {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/base/", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some((path, question)) = read_question(&stream) else { continue };
                kept.lock().unwrap().push((path.clone(), question.clone()));
                let Some((status, answer)) = says(&path, &question) else { continue };
                let body = answer.to_string();
                let head =
                    format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                // Whoever asked may have gone.
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
            }
        });
        Facilitator { url, asked }
    }

    fn paths(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(path, _)| path.clone()).collect()
    }
}

fn read_question(stream: &TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, serde_json::from_slice(&body).unwrap()))
}

fn settlement() -> Value {
    json!({ "success": true, "transaction": "0xabc", "network": "eip155:84532", "payer": "0x857b" })
}

fn agrees(path: &str) -> (u16, Value) {
    match path {
        "/base/verify" => (200, json!({ "isValid": true, "payer": "0x857b" })),
        "/base/settle" => (200, settlement()),
        other => panic!("{other}"),
    }
}

fn config(url: &str) -> String {
    format!(
        "[x402]\nenabled = true\nfacilitator_url = \"{url}\"\npay_to = \"{PAY_TO}\"\nnetwork = \"eip155:84532\"\n\
         asset = \"{ASSET}\"\n\
         [[x402.routes]]\nmethod = \"POST\"\npath = \"{EVENTS}\"\nprice = \"100\"\ndescription = \"One event\"\n\
         [[x402.routes]]\nmethod = \"GET\"\npath = \"{QUERY}\"\nprice = \"7\"\n"
    )
}

fn start(io: Io, url: &str) -> Server {
    let place = Place::new(io);
    std::fs::write(place.path("ringlog.toml"), config(url)).unwrap();
    place.start(&["--cores=2", &format!("--bootstrap-key={BOOTSTRAP}")])
}

fn requirements(amount: &str) -> Value {
    json!({ "scheme": "exact", "network": "eip155:84532", "amount": amount, "asset": ASSET, "payTo": PAY_TO,
            "maxTimeoutSeconds": 60 })
}

fn payment(amount: &str, nonce: &str) -> Value {
    let authorization = json!({ "from": "0x857b", "to": PAY_TO, "value": amount, "nonce": nonce });
    json!({ "x402Version": 2, "accepted": requirements(amount),
            "payload": { "signature": "0x2d6a", "authorization": authorization } })
}

fn encoded(json: &Value) -> String {
    STANDARD.encode(json.to_string())
}

fn decoded(response: &Response, name: &str) -> Value {
    let value = response.header(name).unwrap_or_else(|| panic!("{name}: {:?}", response.headers));
    serde_json::from_slice(&STANDARD.decode(value).unwrap()).unwrap()
}

/// A request with these header lines.
fn send(client: &mut Client, request: &str, key: &str, lines: &str, body: &str) {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{request} HTTP/1.1\r\nHost: pay.example\r\nAuthorization: Bearer {key}\r\n{lines}{length}\r\n");
    client.send(format!("{head}{body}").as_bytes());
}

fn event() -> String {
    json!({ "event_type": "a.b", "entity_id": "e", "payload": {} }).to_string()
}

fn paying(nonce: &str) -> String {
    format!("PAYMENT-SIGNATURE: {}\r\n", encoded(&payment("100", nonce)))
}

fn pay(client: &mut Client, key: &str, nonce: &str) -> Response {
    send(client, &format!("POST {EVENTS}"), key, &paying(nonce), &event());
    client.answer()
}

/// What the tenant has stored, by a route that is free.
fn stored(server: &Server, key: &str) -> u64 {
    server.get("/api/v1/usage", key)["usage"]["events_per_month"]["used"].as_u64().unwrap()
}

fn nothing_is_priced_by_default(io: Io) {
    let server = Server::new(io);
    let answer = server.call("GET", "/x402/routes", "", None);
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"enabled":false,"routes":[]}"#));
    let head = server.connect().call("HEAD", "/x402/routes", "", None);
    assert_eq!((head.status, head.header("Content-Length")), (200, Some("29")));
    let key = server.onboard("free");
    let answer = pay(&mut server.connect(), &key, "0x1");
    assert_eq!((answer.status, answer.header("PAYMENT-RESPONSE")), (200, None), "a payment that nobody asked for");
}

fn a_priced_route_asks_for_its_price_and_others_do_not(io: Io) {
    let facilitator = Facilitator::start(Box::new(|path, _| Some(agrees(path))));
    let server = start(io, &facilitator.url);
    let list = server.get("/x402/routes", "");
    assert_eq!((&list["enabled"], &list["recipientAddress"]), (&json!(true), &json!(PAY_TO)));
    assert_eq!(list["routes"][1]["path"], QUERY);
    let key = server.onboard("asked");
    let mut client = server.connect();

    send(&mut client, &format!("POST {EVENTS}"), &key, "", &event());
    let answer = client.answer();
    let expected = json!({
        "x402Version": 2,
        "error": "PAYMENT-SIGNATURE header is required",
        "resource": { "url": "http://pay.example/api/v1/events", "description": "One event", "mimeType": "application/json" },
        "accepts": [requirements("100")],
    });
    assert_eq!((answer.status, answer.json()), (402, expected.clone()));
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    assert_eq!(decoded(&answer, "PAYMENT-REQUIRED"), expected);

    // On the same connection: what is wrong with a payment, and who pays.
    let mut ask = |key: &str, header: &str| {
        send(&mut client, &format!("POST {EVENTS}"), key, header, &event());
        let answer = client.answer();
        (answer.status, answer.error())
    };
    assert_eq!(ask(&key, "PAYMENT-SIGNATURE: nonsense\r\n"), (400, "bad_request".to_owned()));
    let less = format!("PAYMENT-SIGNATURE: {}\r\n", encoded(&payment("99", "0x1")));
    assert_eq!(ask(&key, &less), (402, "the payment is not one that is accepted here".to_owned()));
    assert_eq!(ask("nobody", &paying("0x1")), (401, "unauthorized".to_owned()));

    let head = client.call("HEAD", QUERY, &key, None);
    assert_eq!(head.status, 402);
    assert_eq!(decoded(&head, "PAYMENT-REQUIRED")["accepts"], json!([requirements("7")]));
    let batch = json!({ "events": [{ "event_type": "a.b", "entity_id": "e", "payload": {} }] });
    assert_eq!(client.call("POST", "/api/v1/events/batch", &key, Some(&batch)).status, 200, "it has no price");
    assert_eq!(stored(&server, &key), 1);
    assert!(facilitator.paths().is_empty(), "nobody was asked about what did not meet the price");
}

fn a_settled_payment_stores_the_event_once(io: Io) {
    let facilitator = Facilitator::start(Box::new(|path, _| Some(agrees(path))));
    let server = start(io, &facilitator.url);
    let key = server.onboard("payer");
    let mut client = server.connect();
    let answer = pay(&mut client, &key, "0x0f");
    assert_eq!((answer.status, &answer.json()["version"]), (200, &json!(1)), "{}", answer.text());
    assert_eq!(decoded(&answer, "PAYMENT-RESPONSE"), settlement());
    let again = pay(&mut client, &key, "0x0f");
    assert_eq!((again.status, again.error().as_str()), (402, "the payment has been used already"));
    assert!(again.header("PAYMENT-REQUIRED").is_some() && again.header("PAYMENT-RESPONSE").is_none());
    assert_eq!(facilitator.paths(), ["/base/verify", "/base/settle"]);
    let question = json!({
        "x402Version": 2, "paymentPayload": payment("100", "0x0f"), "paymentRequirements": requirements("100"),
    });
    assert!(facilitator.asked.lock().unwrap().iter().all(|(_, asked)| *asked == question));
    // However it is written down, on every core.
    for mut client in server.connect_everywhere() {
        assert_eq!(pay(&mut client, &key, "0x00F").status, 402);
    }
    let mut client = server.connect();
    let before = paying("0x10").replace("PAYMENT-SIGNATURE", "X-PAYMENT");
    send(&mut client, &format!("POST {EVENTS}"), &key, &before, &event());
    let answer = client.answer();
    assert_eq!((answer.status, decoded(&answer, "X-PAYMENT-RESPONSE")), (200, settlement()));
    // A payment is for the attempt: what is wrong with the body shows once it is settled.
    send(&mut client, &format!("POST {EVENTS}"), &key, &paying("0x11"), "{");
    let answer = client.answer();
    assert_eq!((answer.status, decoded(&answer, "PAYMENT-RESPONSE")), (400, settlement()));
    assert_eq!(stored(&server, &key), 2);
}

fn a_query_is_paid_for_too_and_says_so_in_its_answer(io: Io) {
    let facilitator = Facilitator::start(Box::new(|path, _| Some(agrees(path))));
    let server = start(io, &facilitator.url);
    let key = server.onboard("reader");
    let mut client = server.connect();
    // Behind a paid write on the same connection, and it sees that.
    send(&mut client, &format!("POST {EVENTS}"), &key, &paying("0x1"), &event());
    let header = format!("PAYMENT-SIGNATURE: {}\r\n", encoded(&payment("7", "0x2")));
    send(&mut client, &format!("GET {QUERY}?limit=5"), &key, &header, "");
    assert_eq!(client.answer().status, 200);
    let answer = client.answer();
    assert_eq!((answer.status, &answer.json()["count"]), (200, &json!(1)), "{}", answer.text());
    assert_eq!(decoded(&answer, "PAYMENT-RESPONSE"), settlement());
    // The price of one thing does not buy another.
    send(&mut client, &format!("POST {EVENTS}"), &key, &header, &event());
    assert_eq!(client.answer().status, 402);
}

fn what_the_facilitator_refuses_is_not_carried_out(io: Io) {
    let facilitator = Facilitator::start(Box::new(|path, question| {
        let nonce = question["paymentPayload"]["payload"]["authorization"]["nonce"].as_str().unwrap();
        Some(match (path, nonce) {
            ("/base/verify", "0x1") => (200, json!({ "isValid": false, "invalidReason": "insufficient_funds" })),
            ("/base/settle", "0x2") => {
                (200, json!({ "success": false, "errorReason": "invalid_transaction_state", "transaction": "" }))
            }
            ("/base/settle", "0x3") => return None,
            ("/base/settle", "0x4") => (500, settlement()),
            _ => agrees(path),
        })
    }));
    let server = start(io, &facilitator.url);
    let key = server.onboard("poor");
    let mut client = server.connect();
    let refused = pay(&mut client, &key, "0x1");
    assert_eq!((refused.status, refused.error().as_str()), (402, "the payment was refused: insufficient_funds"));
    assert_eq!(decoded(&refused, "PAYMENT-REQUIRED"), refused.json());
    let refused = pay(&mut client, &key, "0x2");
    assert_eq!((refused.status, refused.error().as_str()), (402, "the payment was refused: invalid_transaction_state"));
    assert_eq!(decoded(&refused, "PAYMENT-RESPONSE")["success"], false);
    for nonce in ["0x3", "0x4"] {
        let unknown = pay(&mut client, &key, nonce);
        assert_eq!((unknown.status, unknown.error().as_str()), (503, "payment_outcome_unknown"), "{nonce}");
        assert_eq!(unknown.json()["retryable"], false);
        assert!(unknown.header("PAYMENT-RESPONSE").is_none());
    }
    assert_eq!(stored(&server, &key), 0);
}

fn without_a_facilitator_nothing_is_carried_out_and_the_payment_stays_good(io: Io) {
    // Bound and not listening: nobody else gets the port, and nobody answers there.
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at: std::net::SocketAddr = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
    let server = start(io, &format!("http://{at}"));
    let key = server.onboard("alone");
    for _ in 0..2 {
        let answer = pay(&mut server.connect(), &key, "0x1");
        assert_eq!((answer.status, answer.error().as_str()), (503, "facilitator_unavailable"), "{}", answer.text());
        assert_eq!((&answer.json()["retryable"], answer.header("Retry-After")), (&json!(true), Some("5")));
    }
    assert_eq!(stored(&server, &key), 0);

    // One that hangs up before it has shown who it is.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || listener.incoming().for_each(drop));
    let server = start(io, &url);
    let key = server.onboard("doubtful");
    let answer = pay(&mut server.connect(), &key, "0x1");
    assert_eq!((answer.status, answer.error().as_str()), (503, "facilitator_unavailable"), "{}", answer.text());
    assert_eq!(stored(&server, &key), 0);

    let facilitator = Facilitator::start(Box::new(|path, question| {
        let nonce = question["paymentPayload"]["payload"]["authorization"]["nonce"].as_str().unwrap();
        Some(if path == "/base/verify" && nonce == "0x1" { (502, json!("bad gateway")) } else { agrees(path) })
    }));
    let server = start(io, &facilitator.url);
    let key = server.onboard("ailing");
    let answer = pay(&mut server.connect(), &key, "0x1");
    assert_eq!((answer.status, answer.error().as_str()), (503, "facilitator_unavailable"));
    assert_eq!(facilitator.paths(), ["/base/verify"], "what was not verified is not settled");
    assert_eq!(pay(&mut server.connect(), &key, "0x2").status, 200);
    assert_eq!(stored(&server, &key), 1);
}

/// A facilitator that says when it is asked to settle, and waits until it may answer.
fn hesitating() -> (Facilitator, Receiver<()>, Sender<()>) {
    let (asks, is_asked) = channel();
    let (goes_on, may_go_on) = channel::<()>();
    let facilitator = Facilitator::start(Box::new(move |path, _| {
        if path == "/base/settle" {
            asks.send(()).unwrap();
            // A test that failed says nothing.
            let _ = may_go_on.recv();
        }
        Some(agrees(path))
    }));
    (facilitator, is_asked, goes_on)
}

fn a_payment_under_way_buys_nothing_else_and_holds_nobody_up(io: Io) {
    let (facilitator, is_asked, goes_on) = hesitating();
    let server = start(io, &facilitator.url);
    let key = server.onboard("slow");
    let mut first = server.connect();
    send(&mut first, &format!("POST {EVENTS}"), &key, &paying("0x1"), &event());
    is_asked.recv().unwrap();
    for mut client in server.connect_everywhere() {
        let answer = pay(&mut client, &key, "0x1");
        assert_eq!((answer.status, answer.error().as_str()), (402, "the payment has been used already"));
    }
    assert_eq!(stored(&server, &key), 0, "nothing is carried out before it is settled");
    goes_on.send(()).unwrap();
    let answer = first.answer();
    assert_eq!((answer.status, &answer.json()["version"]), (200, &json!(1)), "{}", answer.text());
    assert_eq!(stored(&server, &key), 1);
}

fn a_key_that_ends_while_its_payment_is_settled_stores_nothing(io: Io) {
    let (facilitator, is_asked, goes_on) = hesitating();
    let server = start(io, &facilitator.url);
    let key = tenant(&server, "ending", &json!({}));
    let reading = json!({ "name": "reader", "role": "readonly", "tenant_id": "ending" });
    let made = server.call("POST", "/api/v1/teams/agent-keys", BOOTSTRAP, Some(&reading));
    assert_eq!(made.status, 201, "{}", made.text());
    let reader = made.json()["key"].as_str().unwrap().to_owned();
    let mut client = server.connect();
    send(&mut client, &format!("POST {EVENTS}"), &key, &paying("0x1"), &event());
    is_asked.recv().unwrap();
    assert_eq!(server.call("DELETE", "/api/v1/auth/keys/self", &key, None).status, 204);
    goes_on.send(()).unwrap();
    let answer = client.answer();
    assert_eq!((answer.status, decoded(&answer, "PAYMENT-RESPONSE")), (401, settlement()));
    assert_eq!(stored(&server, &reader), 0);
}

#[test]
fn a_mistake_in_the_prices_is_refused_with_78_and_the_routes_number() {
    let place = Place::new(Io::Fallback);
    let text = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    for (from, to, expected) in [
        ("price = \"7\"", "price = \"7.5\"", "x402.routes, number 2: price is not"),
        (QUERY, "/api/v1/evnets", "x402.routes, number 2: the server has no such method and path"),
        ("https://", "http://", "x402.facilitator_url: "),
        ("enabled", "enabledd", "ringlog.toml:2: x402: unknown field `enabledd`"),
    ] {
        std::fs::write(place.path("ringlog.toml"), config("https://pay.example").replacen(from, to, 1)).unwrap();
        for output in [place.refused(&[]), place.command(&["check"]).output().unwrap()] {
            assert_eq!(output.status.code(), Some(78), "{to}: {}", text(&output));
            assert!(text(&output).contains(expected), "{to}: {}", text(&output));
        }
    }
    std::fs::write(place.path("ringlog.toml"), config("https://pay.example")).unwrap();
    let output = place.command(&["check"]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains(" x402=on(facilitator https://pay.example, POST /api/v1/events 100 of"), "{shown}");
}
