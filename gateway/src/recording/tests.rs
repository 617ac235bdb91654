use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tidegate_model::scenario::recording::{Line, REDACTED, Request, read_line};

use super::*;
use crate::clock;
use crate::decide::testkit::Asked;

fn wish(cap: u64) -> Wish {
    Wish {
        route: None,
        lasts: Duration::from_millis(1),
        sample: WHOLE,
        body_cap: cap,
        secrets: Secrets::new(["X-Partner".to_owned()]),
    }
}

fn open(recorder: &Recorder, route: &str, asked: &Asked) -> Option<Box<Reel>> {
    Reel::open(recorder, route, &asked.head(), true, clock::now(), &mut StdRng::seed_from_u64(7))
}

/// What the lines say once the recording has ended.
async fn read(lines: Lines) -> Vec<Line> {
    let text = lines.collect().await.unwrap().to_bytes();
    String::from_utf8(text.to_vec()).unwrap().lines().map(|line| read_line(line).unwrap()).collect()
}

fn requests(lines: &[Line]) -> Vec<&Request> {
    lines.iter().filter_map(|line| if let Line::Request(request) = line { Some(&**request) } else { None }).collect()
}

#[tokio::test]
async fn a_request_is_recorded_as_it_came_without_its_secrets() {
    let recorder = Arc::new(Recorder::default());
    let lines = recorder.begin(wish(100), clock::now()).unwrap();
    let asked = Asked::get("shop.example.com", "/login")
        .method("POST")
        .query("a=1&access_token=t0p&p%61ssword=x")
        .header("host", "Shop.example.com:443")
        .header("authorization", "Bearer s3cret")
        .header("x-partner", "p4rtner")
        .header("connection", "close")
        .header("content-type", "application/json")
        .header("accept", "*/*");

    let mut reel = open(&recorder, "shop", &asked).unwrap();
    reel.chunk(0, br#"{"user":"ann","#);
    reel.chunk(0, br#"{"user":"ann",""#);
    reel.chunk(14, br#""password":"hunter2"}"#);
    reel.answered(201);
    drop(reel);

    let lines = read(lines).await;
    let [request] = requests(&lines)[..] else { panic!("{lines:?}") };
    assert_eq!((request.method.as_str(), request.status), ("POST", 201));
    assert_eq!(request.origin, "https://Shop.example.com");
    assert_eq!(request.target, format!("/login?a=1&access_token={REDACTED}&p%61ssword={REDACTED}"));
    let field = |name: &str| request.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!((field("authorization"), field("x-partner")), (Some(REDACTED), Some(REDACTED)));
    assert_eq!((field("accept"), field("host"), field("connection")), (Some("*/*"), None, None));
    let body: serde_json::Value = serde_json::from_slice(&request.body()).unwrap();
    assert_eq!(body, serde_json::json!({"user": "ann", "password": REDACTED}));
    assert!(matches!(&lines[..], [Line::Head(_), _, Line::End(end)] if end.requests == 1 && end.lost == 0));
}

#[tokio::test]
async fn only_what_was_asked_for_is_recorded() {
    let recorder = Arc::new(Recorder::default());
    let get = Asked::get("h", "/");
    assert!(open(&recorder, "shop", &get).is_none(), "nobody records");
    let lines = recorder.begin(Wish { route: Some("shop".into()), ..wish(10) }, clock::now()).unwrap();

    drop(open(&recorder, "shop", &get));

    assert!(open(&recorder, "other", &get).is_none());
    assert!(open(&recorder, "shop", &get.clone().dyed("drill")).is_none());
    assert!(open(&recorder, "shop", &get.clone().header("upgrade", "websocket")).is_none());
    assert_eq!(requests(&read(lines).await).len(), 1);
    assert!(!recorder.is_on());
}

#[tokio::test]
async fn a_long_body_is_left_out_and_one_that_broke_off_takes_its_request_along() {
    let recorder = Arc::new(Recorder::default());
    let lines = recorder.begin(wish(4), clock::now()).unwrap();
    let post = Asked::get("h", "/").method("POST");

    let mut long = open(&recorder, "shop", &post).unwrap();
    long.chunk(0, b"abc");
    long.chunk(3, b"defg");
    drop(long);
    let mut broken = open(&recorder, "shop", &Asked { content_length: Some(4), ..post }).unwrap();
    broken.chunk(0, b"abc");
    drop(broken);

    let lines = read(lines).await;
    let [request] = requests(&lines)[..] else { panic!("{lines:?}") };
    assert_eq!((request.cut, request.body()), (7, vec![]));
}

#[tokio::test]
async fn what_nobody_writes_in_time_is_lost_and_counted() {
    let recorder = Arc::new(Recorder::default());
    let lines = recorder.begin(wish(4), clock::now()).unwrap();

    for _ in 0..QUEUE + 5 {
        drop(open(&recorder, "shop", &Asked::get("h", "/")));
    }

    let lines = read(lines).await;
    assert!(matches!(lines.last(), Some(Line::End(end)) if end.requests == QUEUE as u64 && end.lost == 5), "{lines:?}");
    assert_eq!(recorder.budget.held(), 0);
}

#[tokio::test]
async fn two_may_record_at_once_and_a_place_is_free_when_one_goes_away() {
    let recorder = Arc::new(Recorder::default());
    let begin = || recorder.begin(wish(4), clock::now());

    let (first, _second) = (begin().unwrap(), begin().unwrap());
    let third = begin().err();
    drop(first);

    assert_eq!(third, Some(Busy));
    assert!(begin().is_ok());
}

proptest! {
    #[test]
    fn a_form_keeps_what_is_not_secret(name in "[a-g]{1,6}", value in "[a-z0-9]{0,9}", secret in "[a-z]{8,12}") {
        let form = format!("{name}={value}&user_Password={secret}&z=1");

        let clean = Secrets::new([]).body("application/x-www-form-urlencoded", form.as_bytes()).into_owned();

        prop_assert_eq!(String::from_utf8(clean).unwrap(), format!("{name}={value}&user_Password=REDACTED&z=1"));
    }

    #[test]
    fn no_bytes_at_all_make_redaction_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,60}") {
        let secrets = Secrets::new([]);
        for kind in ["application/json", "application/x-www-form-urlencoded", "text/plain"] {
            let _ = secrets.body(kind, &bytes);
        }

        let _ = secrets.target(&text);
    }
}
