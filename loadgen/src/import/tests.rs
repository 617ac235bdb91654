use std::io::Write as _;
use std::path::PathBuf;

use tidegate_model::check::SourceFile;
use tidegate_model::diagnostic::{Colour, render_all};
use tidegate_model::scenario::plan::{Load, Origin, Plan};
use tidegate_model::scenario::{Table, check};

use super::*;
use crate::feeders;

const COMBINED: &str = r#"203.0.113.7 - - [10/Oct/2026:13:55:36 +0200] "GET /item/1?size=m HTTP/1.1" 200 2326 "https://shop.example.com/" "Mozilla/5.0 \x22x\x22"
203.0.113.7 - ann [10/Oct/2026:13:55:36 +0200] "GET /item/2 HTTP/1.1" 200 2326 "-" "curl/8"
::1 - - [10/Oct/2026:13:55:37 +0200] "POST /login HTTP/1.1" 303 0 "-" "curl/8"
this is no line of a log
203.0.113.7 - - [10/Oct/2026:13:55:38 +0200] "GET / HTTP/2.0" 404 12
203.0.113.7 - - [10/Oct/2026:13:55:39 +0200] "\x16\x03\x01" 400 0 "-" "-"
"#;

const HAR: &str = r#"{"log": {"version": "1.2", "entries": [
 {"startedDateTime": "2026-10-10T11:55:36.000Z", "time": 200.5, "request": {"method": "GET", "url": "https://shop.example.com/", "headers": [{"name": ":authority", "value": "shop.example.com"}, {"name": "Accept", "value": "*/*"}, {"name": "Cookie", "value": "sid=secret"}]}, "response": {"status": 200}},
 {"startedDateTime": "2026-10-10T11:55:36.100Z", "time": 50, "request": {"method": "GET", "url": "https://cdn.example.net/x.js", "headers": []}, "response": {"status": 200}},
 {"startedDateTime": "2026-10-10T11:55:38.200Z", "time": 90, "request": {"method": "POST", "url": "https://shop.example.com/cart?x={{y}}", "headers": [{"name": "Content-Type", "value": "application/json"}], "postData": {"mimeType": "application/json", "text": "{\"item\": \"{{7}}\"}"}}, "response": {"status": 201}},
 {"startedDateTime": "2026-10-10T11:55:38.300Z", "time": 9, "request": {"method": "GET", "url": "data:text/plain,x", "headers": []}, "response": {"status": 200}}
]}}"#;

const GATEWAY: &str = r#"{"time":"2026-10-10T11:55:36.000250Z","id":"a","client":"203.0.113.7","peer":"203.0.113.7:1","method":"GET","host":"shop.example.com","path":"/item/1","query":"a=b","protocol":"HTTP/2","status":200,"user_agent":"x","referer":null,"tls_version":"1.3"}
{"time":"2026-10-10T11:55:36.000750Z","id":"b","client":"203.0.113.7","peer":"203.0.113.7:1","method":"GET","host":"shop.example.com","path":"/","query":null,"protocol":"HTTP/1.1","status":200,"user_agent":null,"referer":null,"tls_version":null}
"#;

const RECORDING: &str = r#"{"recording":1,"began":1795400000000,"of":"shop","redacted":["authorization"],"body_cap":65536}
{"at_us":900,"method":"POST","origin":"https://shop.example.com","target":"/cart","headers":[["content-type","application/json"],["authorization","REDACTED"],["x-user","REDACTED"]],"body":"{}"}
{"at_us":100,"method":"GET","origin":"https://shop.example.com","target":"/item/7","headers":[["accept","*/*"]]}
{"end":true,"took_us":1000,"requests":2,"lost":3}
"#;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn taken(text: &str, unsafe_methods: bool) -> Traffic {
    let file = file(text);
    read(file.path(), Choice { unsafe_methods, all_hosts: false }).unwrap()
}

fn targets(traffic: &Traffic) -> Vec<(u64, &str, &str)> {
    let of = |request: &'_ Request| request.at_us;
    traffic.requests.iter().map(|request| (of(request), request.method.as_str(), request.target.as_str())).collect()
}

/// What is imported is accepted as a scenario, without warnings.
fn accepted(traffic: &Traffic) -> Plan {
    let written = scenario::write(traffic, Path::new("shop.yaml"), Path::new("access.log"), "http://127.0.0.1:8080");
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in &written.files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let source = SourceFile { path: folder.path().join("shop.yaml"), text: written.scenario.clone() };
    let checked = match check(&source, &mut |path: &Path| -> Result<Table, _> { feeders::read(path) }) {
        Ok(checked) => checked,
        Err(problems) => panic!("{}\n{}", written.scenario, render_all(&problems, Colour::Off)),
    };
    assert!(checked.warnings.is_empty(), "{}\n{:?}", written.scenario, checked.warnings);
    checked.plan
}

#[test]
fn a_combined_log_is_read_and_what_is_no_request_is_told() {
    let traffic = taken(COMBINED, false);

    assert_eq!(traffic.format, Format::CombinedLog);
    assert_eq!(targets(&traffic), [(0, "GET", "/item/1?size=m"), (0, "GET", "/item/2"), (2_000_000, "GET", "/")]);
    assert_eq!(traffic.requests[0].headers[0], ("user-agent".into(), "Mozilla/5.0 \"x\"".into()));
    assert_eq!(traffic.notes.len(), 2, "{:?}", traffic.notes);
    assert!(traffic.notes[0].starts_with("2 lines could not be read (line 4: "), "{:?}", traffic.notes);
    assert!(
        traffic.notes[1].starts_with("1 request left out whose methods may change something"),
        "{:?}",
        traffic.notes
    );
}

#[test]
fn unsafe_methods_are_taken_where_somebody_says_so() {
    let traffic = taken(COMBINED, true);

    assert_eq!(targets(&traffic)[2], (1_000_000, "POST", "/login"));
}

#[test]
fn the_gateways_own_log_keeps_microseconds_and_hosts() {
    let traffic = taken(GATEWAY, false);

    assert_eq!(traffic.format, Format::GatewayLog);
    assert_eq!(targets(&traffic), [(0, "GET", "/item/1?a=b"), (500, "GET", "/")]);
    let origins: Vec<&str> = traffic.requests.iter().map(|request| request.origin.as_str()).collect();
    assert_eq!(origins, ["https://shop.example.com", "http://shop.example.com"]);
}

#[test]
fn a_har_file_loses_cookies_and_other_hosts() {
    let traffic = taken(HAR, true);

    assert_eq!(traffic.format, Format::Har);
    assert_eq!(targets(&traffic), [(0, "GET", "/"), (2_200_000, "POST", "/cart?x={{y}}")]);
    assert_eq!(traffic.requests[0].headers, [("accept".into(), "*/*".into())]);
    assert_eq!(traffic.requests[0].took_us, 200_500);
}

#[test]
fn a_recording_is_brought_into_order_and_redacted_fields_stay_behind() {
    let traffic = taken(RECORDING, true);

    assert_eq!(traffic.format, Format::Recording);
    assert_eq!(targets(&traffic), [(0, "GET", "/item/7"), (800, "POST", "/cart")]);
    assert_eq!(traffic.requests[1].headers, [("content-type".into(), "application/json".into())]);
    assert!(traffic.notes.iter().any(|note| note.starts_with("3 requests missing")), "{:?}", traffic.notes);
}

#[test]
fn what_is_imported_is_a_scenario_without_warnings() {
    let log = accepted(&taken(COMBINED, true));
    let visit = accepted(&taken(HAR, true));
    accepted(&taken(GATEWAY, false));
    accepted(&taken(RECORDING, true));

    let weights: Vec<(&str, f64)> = log.flows.iter().map(|flow| (flow.name.as_str(), flow.weight)).collect();
    assert_eq!(weights, [("get-item-id", 2.0), ("get-front", 1.0), ("post-login", 1.0)]);
    assert_eq!(visit.flows.len(), 1);
    let think = visit.flows[0].steps[0].think.unwrap();
    assert_eq!(think.least.as_millis(), 1_999, "from the last byte of the first to the second");
    assert_eq!(visit.flows[0].steps[1].target.fixed(), Some("/cart?x=%7B%7By%7D%7D"));
    assert_eq!(visit.flows[0].steps[1].body.as_ref().unwrap().fixed(), Some("{\"item\": \"{{7}}\"}"));
}

#[test]
fn a_replay_sends_each_request_with_its_own_header_and_body() {
    let traffic = taken(RECORDING, true);
    let options = replay::Options {
        target: Origin { tls: false, host: "127.0.0.1".into(), port: 8_080 },
        speed: 200.0,
        volume: 100.0,
        keep_host: true,
        client: Default::default(),
        most_in_flight: 10,
    };

    let plan = replay::plan(Path::new("shop.jsonl"), &traffic, &options).unwrap();

    let Load::Recorded { arrivals, .. } = &plan.load else { panic!("a replay is recorded") };
    let seen: Vec<_> = arrivals.iter().map(|arrival| (arrival.at.as_micros(), arrival.row)).collect();
    assert_eq!(seen, [(0, 0), (400, 1)]);
    let post = &plan.flows[arrivals[1].flow as usize].steps[0];
    assert_eq!((post.name.as_str(), post.method.as_str()), ("post-cart", "POST"));
    assert_eq!(post.headers[0].1.fixed(), Some("shop.example.com"));
    let rows = &plan.feeders[0].rows;
    let row: Vec<&[u8]> = (0..3).map(|field| rows.value(1, field)).collect();
    assert_eq!(row, [&b"/cart"[..], b"content-type: application/json\r\n", b"{}"]);
}

#[test]
fn files_that_are_none_of_the_formats_are_refused() {
    for (text, told) in [
        ("hello\n", "is neither a recording, an access log nor a HAR file"),
        ("", "is neither a recording, an access log nor a HAR file"),
        ("{\"recording\":9,\"began\":0}\n", "can't be read: this is a recording of version 9, and only 1 is known"),
        ("{\"log\": {}}", "isn't a HAR file"),
        ("{\"recording\":1,\"began\":0}\n", "there is nothing to take in this recording"),
        (
            "::1 - - [10/Oct/2026:13:55:37 +0200] \"POST /login HTTP/1.1\" 303 0\n",
            "there is nothing to take in this access log in the common or combined format: 1 request left out",
        ),
    ] {
        let file = file(text);

        let error = read(file.path(), Choice::default()).unwrap_err();

        let error = format!("{error:#}");
        assert!(error.contains(told), "{text:?}: {error}");
    }
    assert!(read(&PathBuf::from("/nowhere"), Choice::default()).is_err());
}
