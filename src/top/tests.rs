//! The view of two made-up readings.

use std::time::{Duration, Instant};

use super::layout;
use super::scrape::{Admin, Reading, parse};
use super::view::View;

const SNAPSHOT: &str = r#"{
  "generation": 7, "stage": "serving", "version": "0.1.0", "uptime_seconds": 192.4,
  "services": [{"name": "shop", "versions": [
    {"name": "v1", "endpoints": [
      {"id": "shop/v1@127.0.0.1:9001", "in_flight": 3, "health": {"state": "up", "share": 1000}},
      {"id": "shop/v1@127.0.0.1:9002", "in_flight": 0, "health": {"state": "resting", "share": 0,
        "reason": "5 failures in a row", "resting_seconds": 12.2}}]},
    {"name": "v2", "endpoints": [
      {"id": "shop/v2@127.0.0.1:9011", "in_flight": 1, "health": {"state": "warming", "share": 250}}]}]}],
  "routes": [
    {"name": "shop", "arms": [{"to": "shop/v1", "weight": 95, "percent": 95.0}, {"to": "shop/v2", "weight": 5, "percent": 5.0}],
     "shadows": [{"to": "shop/v2", "sample_percent": 10.0}]},
    {"name": "a-route-with-quite-a-long-name", "arms": [{"to": "shop/v2", "weight": "drain", "percent": 0.0}]}],
  "limits": [{"name": "per_ip"}]
}"#;

fn reading(at: Instant, text: &str) -> Reading {
    Reading { at, samples: parse(text).unwrap(), snapshot: serde_json::from_str(SNAPSHOT).unwrap() }
}

fn base() -> Instant {
    static BASE: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *BASE
}

pub(super) fn before() -> Reading {
    reading(
        base(),
        r#"
        tidegate_requests_total{route="shop",service="shop",version="v1",code="200"} 1000
        tidegate_request_duration_seconds_bucket{route="shop",service="shop",version="v1",le="0.001"} 900
        tidegate_request_duration_seconds_bucket{route="shop",service="shop",version="v1",le="0.01"} 1000
        tidegate_request_duration_seconds_bucket{route="shop",service="shop",version="v1",le="+Inf"} 1000
        "#,
    )
}

pub(super) fn after() -> Reading {
    reading(
        base() + Duration::from_secs(2),
        r#"
        # HELP tidegate_requests_total Requests.
        # TYPE tidegate_requests_total counter
        tidegate_requests_total{route="shop",service="shop",version="v1",code="200"} 1190
        tidegate_requests_total{route="shop",service="shop",version="v1",code="503"} 10
        tidegate_requests_total{route="shop",service="",version="",code="429"} 40
        tidegate_requests_total{route="",service="",version="",code="404"} 2
        tidegate_request_duration_seconds_bucket{route="shop",service="shop",version="v1",le="0.001"} 1000
        tidegate_request_duration_seconds_bucket{route="shop",service="shop",version="v1",le="0.01"} 1199
        tidegate_request_duration_seconds_bucket{route="shop",service="shop",version="v1",le="+Inf"} 1200
        tidegate_shadow_sent_total{route="shop",service="shop",version="v2"} 20
        tidegate_shadow_finished_total{route="shop",service="shop",version="v2",result="answered"} 18
        tidegate_shadow_finished_total{route="shop",service="shop",version="v2",result="timeout"} 2
        tidegate_shadow_compared_total{route="shop",service="shop",version="v2"} 18
        tidegate_shadow_mismatches_total{route="shop",service="shop",version="v2",kind="body"} 9
        tidegate_limit_decisions_total{limit="per_ip",result="allowed"} 200
        tidegate_limit_decisions_total{limit="per_ip",result="refused"} 40
        tidegate_limit_keys{limit="per_ip"} 12
        tidegate_config_last_refused 1
        "#,
    )
}

fn text(view: &View, width: usize) -> String {
    layout::lines(view, width).iter().map(|line| format!("{}\n", line.text().trim_end())).collect()
}

#[test]
fn plain_table_shows_traffic_shadows_limits_and_unwell_endpoints() {
    let view = View::between(&before(), &after());

    insta::assert_snapshot!(text(&view, 120), @r"
    tidegate 0.1.0  serving  generation 7  up 3m12s  last change refused
    121/s  errors 4.1 %  p50 1ms  p99 9.9ms  in flight 4  up 2/3

    ROUTE                           VERSION   WEIGHT RATE/S  ERR %    P50    P99     UP   BUSY
    shop                            shop/v1     95 %    100      5    1ms  9.9ms    1/2      3
    shop                            shop/v2      5 %      0      -      -      -    1/1      1
    shop                            (gateway)            20      0      -      -
    a-route-with-quite-a-long-name  shop/v2    drain      0      -      -      -    1/1      1
    (no route)                      (gateway)             1      0      -      -

    SHADOW OF  VERSION SAMPLE SENT/S DROP/S FAIL %    P99 DIFF %  DIFFS
    shop       shop/v2   10 %     10      0     10      -     50      9

    LIMIT  PASSED/S REFUSED/S BANNED/S   KEYS
    per_ip      100        20        0     12

    ENDPOINTS THAT AREN'T WELL
    shop/v1@127.0.0.1:9002  ejected, back in 12s  5 failures in a row
    shop/v2@127.0.0.1:9011  warming up, at 25 %
    ");
}

#[test]
fn no_line_is_wider_than_it_may_be() {
    let view = View::between(&before(), &after());

    for width in [80, 100, 120, 200] {
        for line in text(&view, width).lines() {
            assert!(line.chars().count() <= width, "{} > {width}: {line}", line.chars().count());
        }
    }
}

#[test]
fn percentiles_are_interpolated_within_their_bucket() {
    let view = View::between(&before(), &after());

    // Of 200 new requests 100 took up to 1 ms, 99 up to 10 ms and one longer.
    let traffic = view.arms[0].traffic;
    assert_eq!(traffic.rate, 100.0);
    assert_eq!(traffic.error_percent, Some(5.0));
    assert_eq!(traffic.p50_seconds, Some(0.001));
    let p99 = traffic.p99_seconds.unwrap();
    assert!((p99 - (0.001 + 0.009 * 98.0 / 99.0)).abs() < 1e-9, "{p99}");
}

#[test]
fn percentile_beyond_the_last_bucket_is_infinite_and_none_without_requests() {
    let slow = |count: u32| {
        let bucket = "tidegate_request_duration_seconds_bucket{route=\"shop\",service=\"shop\",version=\"v1\"";
        reading(base() + Duration::from_secs(1), &format!("{bucket},le=\"30\"}} 0\n{bucket},le=\"+Inf\"}} {count}"))
    };
    let nothing = reading(base(), "");

    assert_eq!(View::between(&nothing, &slow(3)).arms[0].traffic.p50_seconds, Some(f64::INFINITY));
    assert_eq!(View::between(&nothing, &slow(0)).arms[0].traffic.p50_seconds, None);
}

#[test]
fn counter_that_began_anew_counts_from_zero() {
    let (mut first, second) = (after(), before());
    first.at = base() - Duration::from_secs(2);

    let view = View::between(&first, &second);

    assert_eq!(view.arms[0].traffic.rate, 500.0);
}

#[test]
fn exposition_format_is_read_with_its_escapes_and_refused_when_it_is_something_else() {
    let samples = parse("a{x=\"q\\\"\\\\\\n, }\",y=\"\"} 1.5 1700000000\nb +Inf\n").unwrap();

    assert_eq!(samples[0].label("x"), "q\"\\\n, }");
    assert_eq!((samples[0].value, samples[1].value), (1.5, f64::INFINITY));
    for broken in ["<html>", "a{x=\"1\" 2", "a{x=1} 2", "a x"] {
        assert!(parse(broken).is_none(), "{broken}");
    }
}

#[test]
fn admin_address_may_be_a_url_and_must_have_a_port() {
    let parsed = |text: &str| text.parse::<Admin>().map(|admin| admin.to_string());

    assert_eq!(parsed("http://10.0.0.5:9900/").unwrap(), "10.0.0.5:9900");
    assert_eq!(parsed("[::1]:9900").unwrap(), "[::1]:9900");
    assert!(parsed("localhost").is_err());
    assert!(parsed(":9900").is_err());
}
