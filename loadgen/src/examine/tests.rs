use http::HeaderValue;
use tidegate_model::scenario::plan::{Origin, Take, Template};

use super::*;

fn examiner(checks: Vec<Check>, takes: Vec<Take>) -> Examiner {
    let origin = Origin { tls: false, host: "a".into(), port: 80 };
    let mut step = Step::get("s", origin, Template::text("/"));
    (step.checks, step.takes) = (checks, takes);
    let flow = Flow { name: "f".into(), weight: 1.0, steps: vec![step] };
    Examiner::of(&flow).unwrap().remove(0)
}

fn take(name: &str, from: From) -> Take {
    Take { name: name.into(), from }
}

fn regex(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

/// What `examiner` says of an answer, as failure and text; `None`: it is good.
fn says(examiner: &Examiner, status: u16, fields: &HeaderMap, body: &str) -> Option<(Failure, String)> {
    let mut visit = Visit::default();
    let told = |refused: Refused<'_>| (refused.failure, refused.to_string());
    let head = examiner.head(status, fields, &mut visit).err().map(told);
    head.or_else(|| examiner.body(body.as_bytes(), body.len() as u64, &mut visit).err().map(told))
}

fn refusal(failure: Failure, text: &str) -> Option<(Failure, String)> {
    Some((failure, text.into()))
}

#[test]
fn without_a_check_of_the_status_everything_below_400_is_good() {
    let examiner = examiner(Vec::new(), Vec::new());
    let none = headers(&[]);

    assert!([200, 204, 301, 399].iter().all(|status| says(&examiner, *status, &none, "").is_none()));
    assert_eq!(says(&examiner, 404, &none, ""), refusal(Failure::ClientError, "the status is 404"));
    assert_eq!(says(&examiner, 503, &none, ""), refusal(Failure::ServerError, "the status is 503"));
    assert!(!examiner.wants_body());
}

#[test]
fn a_wanted_404_is_good_and_an_unwanted_200_is_a_failed_check() {
    let examiner = examiner(vec![Check::Status(vec![404, 410])], Vec::new());
    let none = headers(&[]);

    assert_eq!(says(&examiner, 410, &none, ""), None);
    assert_eq!(says(&examiner, 200, &none, ""), refusal(Failure::Check, "the status is 200"));
    assert_eq!(says(&examiner, 500, &none, ""), refusal(Failure::ServerError, "the status is 500"));
}

#[test]
fn any_line_of_a_header_may_match() {
    let examiner = examiner(vec![Check::Header("Set-Cookie".into(), Some(regex("^sid=")))], Vec::new());

    let two = says(&examiner, 200, &headers(&[("set-cookie", "a=1"), ("set-cookie", "sid=2")]), "");
    let other = says(&examiner, 200, &headers(&[("set-cookie", "a=1")]), "");
    let none = says(&examiner, 200, &headers(&[]), "");

    assert_eq!(two, None);
    assert_eq!(other, refusal(Failure::Check, "header set-cookie doesn't match ^sid="));
    assert_eq!(none, refusal(Failure::Check, "there is no header set-cookie"));
}

#[test]
fn both_forms_of_a_head_are_searched_without_regard_to_case() {
    let examiner = examiner(vec![Check::Header("X-A".into(), None)], Vec::new());
    let fields = [httparse::Header { name: "x-A", value: b"" }];

    assert!(examiner.head(200, &fields[..], &mut Visit::default()).is_ok());
}

#[test]
fn json_is_compared_as_text() {
    let examiner = examiner(
        vec![
            Check::Json("$.ok".into(), Some("true".into())),
            Check::Json("$.items[0].name".into(), Some("tee".into())),
            Check::Json("$.id".into(), None),
        ],
        Vec::new(),
    );
    let none = headers(&[]);

    assert_eq!(says(&examiner, 200, &none, r#"{"ok":true,"items":[{"name":"tee"}],"id":null}"#), None);
    assert_eq!(
        says(&examiner, 200, &none, r#"{"ok":"true","items":[{"name":"cup"}]}"#),
        refusal(Failure::Check, "JSON path $.items[0].name doesn't find tee")
    );
    assert_eq!(
        says(&examiner, 200, &none, r#"{"ok":true,"items":[{"name":"tee"}]}"#),
        refusal(Failure::Check, "JSON path $.id finds nothing")
    );
    assert_eq!(says(&examiner, 200, &none, "<html>"), refusal(Failure::Check, "the body isn't JSON"));
}

#[test]
fn a_body_that_was_cut_is_told_from_one_that_is_not_json() {
    let examiner = examiner(vec![Check::Json("$".into(), None)], Vec::new());
    let body = vec![b'['; BODY_KEPT];

    let refused = examiner.body(&body, body.len() as u64 + 1, &mut Visit::default()).unwrap_err();

    assert_eq!(refused.to_string(), "the body has more than 1048576 bytes, so no JSON is read of it");
}

#[test]
fn a_body_longer_than_its_bound_is_too_long_even_where_nothing_of_it_was_kept() {
    let examiner = examiner(vec![Check::AtMost(10), Check::AtMost(5)], Vec::new());

    let at = examiner.body(b"", 5, &mut Visit::default()).is_ok();
    let over = examiner.body(b"", 6, &mut Visit::default()).unwrap_err();

    assert!(at && !examiner.wants_body());
    assert_eq!((over.failure, over.to_string()), (Failure::TooLong, "the body has 6 bytes, more than 5".into()));
}

#[test]
fn takes_are_numbered_over_the_steps_of_their_flow() {
    let origin = Origin { tls: false, host: "a".into(), port: 80 };
    let step = |takes: Vec<Take>| Step { takes, ..Step::get("s", origin.clone(), Template::text("/")) };
    let flow = Flow {
        name: "f".into(),
        weight: 1.0,
        steps: vec![
            step(vec![take("a", From::Header("X-A".into())), take("b", From::Json("$..id".into()))]),
            step(vec![take("c", From::Regex(regex("csrf=\"([^\"]+)\""))), take("d", From::Regex(regex("[0-9]+")))]),
        ],
    };
    let examiners = Examiner::of(&flow).unwrap();
    let mut visit = Visit::default();

    examiners[0].head(200, &headers(&[("x-a", "one")]), &mut visit).unwrap();
    examiners[0].body(br#"{"deep":{"id":42}}"#, 18, &mut visit).unwrap();
    examiners[1].body(br#"<i csrf="tok/en">7 8"#, 20, &mut visit).unwrap();

    let kept: Vec<_> = (0..4).map(|at| std::str::from_utf8(visit.kept(at).unwrap()).unwrap().to_owned()).collect();
    assert_eq!(kept, ["one", "42", "tok/en", "7"]);
}

#[test]
fn nothing_to_take_is_a_failure_of_its_own() {
    let of_header = examiner(Vec::new(), vec![take("token", From::Header("x-token".into()))]);
    let of_json = examiner(Vec::new(), vec![take("token", From::Json("$.token".into()))]);
    let of_text = examiner(Vec::new(), vec![take("token", From::Regex(regex("t=(.)")))]);
    let none = headers(&[]);

    for (examiner, body) in [(of_header, "{}"), (of_json, r#"{"token":null}"#), (of_text, "")] {
        assert_eq!(says(&examiner, 200, &none, body), refusal(Failure::Take, "there is nothing to take as token"));
    }
}

#[test]
fn a_cookie_is_taken_without_its_attributes() {
    let examiner = examiner(Vec::new(), vec![take("sid", From::Cookie("sid".into()))]);
    let mut visit = Visit::default();

    let set = headers(&[("set-cookie", "side=no; Path=/"), ("set-cookie", "sid=a=b; HttpOnly; Path=/")]);
    examiner.head(200, &set, &mut visit).unwrap();

    assert_eq!(visit.kept(0), Some(&b"a=b"[..]));
    assert!(examiner.head(200, &headers(&[("set-cookie", "x=sid=1")]), &mut visit).is_err());
}
