//! The bytes of requests.

use super::*;
use crate::corpus::distribution::Sizes;

fn workload(mix: Mix, scrutiny: Scrutiny, tenant_choice: Option<Choice>) -> Workload {
    let recipe = Recipe {
        mix,
        corpus: Some(Corpus::new(1, &Sizes::Uniform(180, 260), Choice::Uniform(100), 500)),
        raw: None,
        query_limit: 7,
        window: Duration::from_secs(60),
        lines_path: "/api/v1/events/batch".to_owned(),
        lines_type: "application/x-ndjson".to_owned(),
        headers: Vec::new(),
        tenant_choice,
    };
    let tenants = ["a", "b"].map(|name| Tenant { id: name.into(), key: format!("key-{name}") });
    Workload::new(Protocol::Http, recipe, scrutiny, 2, "h", &tenants)
}

fn split(request: &[u8]) -> (String, String) {
    let text = String::from_utf8(request.to_vec()).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn the_same_seed_sends_the_same_requests() {
    let mix = Mix::parse("single,batch,lines,newest,by-type,by-entity", &[1, 10]).unwrap();
    let workload = workload(mix, Scrutiny::Counts, Some(Choice::parse("", "zipf:1.1", 2).unwrap()));
    let send = |seed| {
        let (mut stream, mut out) = (Stream::new(seed, 0, 1), Vec::new());
        for _ in 0..200 {
            workload.write(&mut stream, &mut out);
        }
        out
    };
    assert_eq!(send(3), send(3));
    assert_ne!(send(3), send(4));
}

#[test]
fn requests_are_http_with_the_right_length() {
    let workload = workload(Mix::of_events(&[1, 10, 500], false), Scrutiny::Everything, None);
    let mut stream = Stream::new(1, 0, 1);
    let mut sizes = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let mut out = Vec::new();
        let sent = workload.write(&mut stream, &mut out);
        let (head, body) = split(&out);
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        assert!(head.contains("Bearer key-b"));
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        let count = json.get("events").map_or(1, |events| events.as_array().unwrap().len());
        assert_eq!((count, stream.marks.len()), (sent.event_count as usize, sent.event_count as usize));
        sizes.insert(count);
    }
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [1, 10, 500]);
}

#[test]
fn json_lines_are_one_event_each() {
    let workload = workload(Mix::parse("lines", &[25]).unwrap(), Scrutiny::Counts, None);
    let mut stream = Stream::new(1, 0, 0);
    let mut out = Vec::new();
    assert_eq!(workload.write(&mut stream, &mut out).event_count, 25);
    let (head, body) = split(&out);
    assert!(head.starts_with("POST /api/v1/events/batch HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-ndjson"), "{head}");
    assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
    assert!(body.ends_with('\n'));
    let events: Vec<serde_json::Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 25);
    assert!(events.iter().all(|event| event["payload"]["seq"].is_string()));
}

#[test]
fn queries_name_what_they_ask_for() {
    let check = |name: &str, expected: &str| {
        let workload = workload(Mix::parse(name, &[]).unwrap(), Scrutiny::Counts, None);
        let mut out = Vec::new();
        let sent = workload.write(&mut Stream::new(1, 0, 0), &mut out);
        let (head, body) = split(&out);
        assert!(head.starts_with("GET /api/v1/events/query?order=desc&limit=7"), "{head}");
        assert!(head.lines().next().unwrap().contains(expected), "{head}");
        assert_eq!((sent.event_count, body.as_str()), (0, ""));
    };
    check("newest", "limit=7 HTTP/1.1");
    check("by-type", "&event_type=");
    check("by-entity", "&entity_id=e-000000");
    check("window", "&since=20");
}

#[test]
fn moments_are_written_as_rfc_3339() {
    let check = |ms: u64, expected: &str| assert_eq!(rfc3339(Duration::from_millis(ms)), expected);
    check(0, "1970-01-01T00:00:00.000Z");
    check(951_782_400_000, "2000-02-29T00:00:00.000Z");
    check(1_735_689_599_999, "2024-12-31T23:59:59.999Z");
    check(4_102_444_800_001, "2100-01-01T00:00:00.001Z");
}

#[test]
fn a_skew_gives_large_tenants_more() {
    let choice = Choice::parse("--tenant-skew", "zipf:1", 2).unwrap();
    let workload = workload(Mix::of_events(&[1], false), Scrutiny::Counts, Some(choice));
    let mut stream = Stream::new(1, 0, 0);
    let mut counts = [0_usize; 2];
    for _ in 0..3000 {
        let sent = workload.write(&mut stream, &mut Vec::new());
        counts[usize::from(sent.tenant)] += 1;
    }
    assert!(counts[0].abs_diff(2000) < 100, "{counts:?}");
}

#[test]
fn raw_requests_have_the_right_length_whatever_is_in_them() {
    for (body, is_constant) in [("fixed", true), ("[{event},{event}] {seq} {uuid}", false)] {
        let mut made = workload(Mix::only("raw", Shape::Raw), Scrutiny::Counts, None);
        let head = Template::parse("", b"PUT /x/{seq} HTTP/1.1\r\nhost: h\r\n").unwrap();
        let head = if is_constant { Template::verbatim(b"PUT /x HTTP/1.1\r\nhost: h\r\n") } else { head };
        made.recipe.raw =
            Some(Raw { head, body: RawBody::Text(Template::parse("", body.as_bytes()).unwrap()), event_count: 9 });
        let workload = Workload::new(Protocol::Http, made.recipe, Scrutiny::Counts, 1, "h", &[]);
        assert_eq!(workload.constant.is_some(), is_constant);
        let (mut stream, mut first, mut second) = (Stream::new(1, 0, 0), Vec::new(), Vec::new());
        assert_eq!(workload.write(&mut stream, &mut first).event_count, 9);
        workload.write(&mut stream, &mut second);
        let (head, body) = split(&second);
        assert!(head.starts_with("PUT /x"), "{head}");
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        assert_eq!(first == second, is_constant);
    }
}
