//! Dyed traffic: a mark crosses every service, dyed writes stay out of the real store, and forged marks out of everything.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::kit::client::{raw, send};
use crate::kit::relay::Relay;
use crate::kit::{Client, Gateway, Mood, Origin, eventually, request};

fn tidegate(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).env("NO_COLOR", "1").output().unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(said).unwrap().trim_end().to_owned())
}

/// A new key in `folder`.
fn new_key(folder: &Path) -> String {
    let file = folder.join("pt.key");
    std::fs::write(&file, tidegate(&["mark", "key"]).1).unwrap();
    file.display().to_string()
}

fn sign(key: &str, run: &str, more: &[&str]) -> String {
    let (good, mark) = tidegate(&[&["mark", "sign", "--key", key, "--run", run], more].concat());
    assert!(good, "{mark}");
    mark
}

async fn start(config: &str, variables: &[(&str, &dyn ToString)], carrier: &str) -> (Gateway, String) {
    let mut gateway = Gateway::prepare(config, variables);
    let key = new_key(&gateway.dir());
    gateway.environment.push(("TIDEGATE_CARRIER".into(), carrier.into()));
    gateway.spawn();
    gateway.until_ready().await;
    (gateway, key)
}

const CHAIN: &str = "
access_log: $dir/access.log
dyed: {keys: [{file: $dir/pt.key}]}
services:
  shop: {endpoints: [\"$shop\"]}
  cart: {endpoints: [\"$cart\"]}
  pay: {endpoints: [\"$pay\"]}
  orders: {endpoints: [\"$orders\"]}
  orders-dyed: {endpoints: [\"$shadow\"]}
routes:
  - {name: shop, match: {host: shop.example.com}, to: shop}
  - {name: cart, match: {host: cart.internal}, to: cart}
  - {name: pay, match: {host: pay.internal}, to: pay}
  - {name: orders, match: {host: orders.internal, path: /orders, method: POST}, to: orders}
  - {name: orders-dyed, match: {host: orders.internal, dyed: true}, to: orders-dyed}
";

#[tokio::test]
async fn a_mark_crosses_four_services_and_no_dyed_row_lands_in_the_live_store() {
    for carrier in ["express", "pingora"] {
        let (live, shadow) = (Origin::start("live").await, Origin::start("shadow").await);
        let at = Arc::new(Mutex::new(None));
        let shop = Relay::start("cart.internal", Arc::clone(&at)).await;
        let cart = Relay::start("pay.internal", Arc::clone(&at)).await;
        let pay = Relay::start("orders.internal", Arc::clone(&at)).await;
        let variables: [(&str, &dyn ToString); 5] =
            [("shop", &shop), ("cart", &cart), ("pay", &pay), ("orders", &live), ("shadow", &shadow)];
        let (gateway, key) = start(CHAIN, &variables, carrier).await;
        *at.lock().unwrap() = Some(gateway.web());
        let mark = sign(&key, "drill", &[]);
        let order = async |headers: &[(&str, &str)], body: &str| {
            send(gateway.web(), "POST", "http://shop.example.com/orders", headers, body.to_owned()).await.unwrap()
        };

        for n in 0..10 {
            assert_eq!(order(&[("x-pt", &mark), ("baggage", "tenant=7")], &format!("dyed {n}")).await.status, 200);
            assert_eq!(order(&[], &format!("live {n}")).await.status, 200);
            assert_eq!(order(&[("baggage", "pt=drill")], &format!("forged {n}")).await.status, 200);
        }

        let bodies = |origin: &Origin| -> Vec<String> {
            origin.seen().iter().map(|seen| String::from_utf8_lossy(&seen.body).into_owned()).collect()
        };
        let is_dyed = |body: &String| body.starts_with("dyed");
        assert_eq!((bodies(&live).len(), bodies(&shadow).len()), (20, 10), "{carrier}");
        assert!(!bodies(&live).iter().any(is_dyed) && bodies(&shadow).iter().all(is_dyed), "{carrier}");
        for relay in [&shop, &cart, &pay] {
            let told = relay.seen();
            assert_eq!(
                told.iter().filter(|baggage| *baggage == "pt=drill,tenant=7").count(),
                10,
                "{carrier}: {told:?}"
            );
            assert_eq!(told.iter().filter(|baggage| baggage.is_empty()).count(), 20, "{carrier}: {told:?}");
        }
        let last = shadow.last();
        assert_eq!((last.header("baggage"), last.header("x-pt")), ("pt=drill,tenant=7".into(), mark));
        gateway.until_metric("tidegate_dyed_requests_total", &["route=\"shop\"", "code=\"200\""], 10.0).await;
        assert_eq!(gateway.metric("tidegate_requests_total", &["route=\"shop\"", "code=\"200\""]).await, 20.0);
        assert_eq!(gateway.metric("tidegate_request_duration_seconds_count", &["route=\"shop\""]).await, 20.0);
        assert_eq!(gateway.metric("tidegate_dyed_refused_total", &["reason=\"unsigned\""]).await, 10.0);
        eventually("the log names the run", || async {
            let log = std::fs::read_to_string(gateway.dir().join("access.log")).unwrap_or_default();
            log.lines().filter(|line| line.contains("\"dyed\":\"drill\"")).count() == 40
        })
        .await;
    }
}

const ONE: &str = "
dyed: {keys: [{file: $dir/pt.key}]}
services: {app: {endpoints: [\"$app\"]}}
routes: [{name: all, to: app}]
";

#[tokio::test]
async fn forged_marks_are_stripped_on_the_way_in_whatever_carries_them() {
    for carrier in ["express", "pingora"] {
        let app = Origin::start("app").await;
        let (gateway, key) = start(ONE, &[("app", &app)], carrier).await;
        let good = sign(&key, "drill", &[]);
        let elsewhere = sign(&key, "drill", &["--host", "other.example.com"]);
        let other = tempfile::tempdir().unwrap();
        let foreign = sign(&new_key(other.path()), "drill", &[]);
        let changed = good.replace("drill", "grill");
        let cases: [(&str, Vec<(&str, &str)>); 7] = [
            ("signature", vec![("x-pt", &foreign)]),
            ("signature", vec![("x-pt", &changed), ("baggage", "pt=grill")]),
            ("other_host", vec![("x-pt", &elsewhere)]),
            ("expired", vec![("x-pt", "v1;drill;1000000000;*;AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")]),
            ("malformed", vec![("X-Pt", "on")]),
            ("duplicate", vec![("x-pt", &good), ("x-pt", &good)]),
            ("unsigned", vec![("baggage", "a=1, pt=drill;x=y"), ("baggage", "b=2")]),
        ];
        let mut clients = [Client::h1(gateway.web()).await.unwrap(), Client::h2c(gateway.web()).await.unwrap()];
        for (reason, headers) in &cases {
            for client in &mut clients {
                let before = gateway.metric("tidegate_dyed_refused_total", &[&format!("reason=\"{reason}\"")]).await;

                let answer = client.send(request("GET", "http://shop.example.com/", headers, "")).await.unwrap();

                let seen = app.last();
                let rest = if *reason == "unsigned" { "a=1,b=2" } else { "" };
                assert_eq!(answer.status, 200, "{carrier} {reason}");
                assert_eq!(
                    (seen.header("x-pt"), seen.header("baggage")),
                    ("".into(), rest.into()),
                    "{carrier} {reason}"
                );
                let after = gateway.metric("tidegate_dyed_refused_total", &[&format!("reason=\"{reason}\"")]).await;
                assert_eq!(after, before + 1.0, "{carrier} {reason}");
            }
        }
        for client in &mut clients {
            let marked = [("x-pt", good.as_str()), ("baggage", "pt=forged,a=1"), ("baggage", "b=2")];
            client.send(request("GET", "http://shop.example.com/", &marked, "")).await.unwrap();

            assert_eq!(
                (app.last().header("x-pt"), app.last().header("baggage")),
                (good.clone(), "pt=drill,a=1,b=2".into())
            );
        }
    }
}

#[tokio::test]
async fn without_keys_every_mark_is_stripped_and_other_baggage_stays_as_it_is() {
    let app = Origin::start("app").await;
    let config = "services: {app: {endpoints: [\"$app\"]}}\nroutes: [{name: all, to: app}]\n";
    let gateway = Gateway::start(config, &[("app", &app)]).await;
    let ask = async |headers: &[(&str, &str)]| {
        send(gateway.web(), "GET", "http://shop.example.com/", headers, "").await.unwrap();
        (app.last().header("x-pt"), app.last().header("baggage"))
    };

    let key = new_key(&gateway.dir());
    let stripped = ask(&[("x-pt", &sign(&key, "drill", &[])), ("baggage", "pt=drill")]).await;
    let left = ask(&[("baggage", "a=1 , b=2")]).await;

    assert_eq!(stripped, (String::new(), String::new()));
    assert_eq!(left, (String::new(), "a=1 , b=2".into()));
    assert_eq!(gateway.metric("tidegate_dyed_refused_total", &["reason=\"no_keys\""]).await, 1.0);
}

#[tokio::test]
async fn an_underscore_does_not_smuggle_a_mark_past_the_gateway() {
    let app = Origin::start("app").await;
    let (gateway, key) = start(ONE, &[("app", &app)], "express").await;
    let mark = sign(&key, "drill", &[]);

    let said =
        raw(gateway.web(), format!("GET / HTTP/1.1\r\nHost: h\r\nX_PT: {mark}\r\nConnection: close\r\n\r\n")).await;

    assert!(said.unwrap().starts_with("HTTP/1.1 400 "));
    assert_eq!(app.hits(), 0);
}

#[tokio::test]
async fn a_key_is_replaced_without_losing_a_dyed_request() {
    let app = Origin::start("app").await;
    let (gateway, key) = start(ONE, &[("app", &app)], "express").await;
    let old = sign(&key, "old", &[]);
    let second = tempfile::tempdir().unwrap();
    let new_key = new_key(second.path());
    let new = sign(&new_key, "new", &[]);
    let run_of = async |mark: &str| {
        send(gateway.web(), "GET", "http://shop.example.com/", &[("x-pt", mark)], "").await.unwrap();
        app.last().header("baggage")
    };

    let before = (run_of(&old).await, run_of(&new).await);
    let both = ONE.replace("{file: $dir/pt.key}", &format!("{{file: {new_key}}}, {{file: $dir/pt.key}}"));
    gateway.reload(&both).await;
    let during = (run_of(&old).await, run_of(&new).await);
    gateway.reload(&ONE.replace("$dir/pt.key", &new_key)).await;
    let after = (run_of(&old).await, run_of(&new).await);

    assert_eq!(before, ("pt=old".into(), String::new()));
    assert_eq!(during, ("pt=old".into(), "pt=new".into()));
    assert_eq!(after, (String::new(), "pt=new".into()));
}

#[tokio::test]
async fn dyed_requests_use_up_nobodys_limit_and_ban_nobody_but_access_lists_hold() {
    let app = Origin::start("app").await;
    let config = "
dyed: {keys: [{file: $dir/pt.key}]}
limits: {few: {rate: 1/h, burst: 2, then: ban 1h after 2 in 10s}}
services: {app: {endpoints: [\"$app\"]}}
routes:
  - {name: shut, match: {path: /shut}, to: app, access: {deny: [127.0.0.0/8]}}
  - {name: all, limits: few, to: app}
";
    let (gateway, key) = start(config, &[("app", &app)], "express").await;
    let mark = sign(&key, "drill", &[]);
    let status = async |path: &str, headers: &[(&str, &str)]| {
        send(gateway.web(), "GET", &format!("http://shop.example.com{path}"), headers, "").await.unwrap().status
    };

    for _ in 0..50 {
        assert_eq!(status("/", &[("x-pt", &mark)]).await, 200);
    }

    assert_eq!(status("/shut", &[("x-pt", &mark)]).await, 403);
    assert_eq!([status("/", &[]).await, status("/", &[]).await, status("/", &[]).await], [200, 200, 429]);
}

#[tokio::test]
async fn dyed_traffic_is_shed_first_when_live_traffic_suffers_and_comes_back_by_itself() {
    let (app, other) = (Origin::start("app").await, Origin::start("other").await);
    let config = "
dyed:
  keys: [{file: $dir/pt.key}]
  shed: {when: [\"errors > 10%\"], over: 1s, least: 5}
services:
  app: {endpoints: [\"$app\"], eject: off}
  other: {endpoints: [\"$other\"]}
routes:
  - {name: other, match: {path: /other}, to: other}
  - {name: all, to: app}
";
    let (gateway, key) = start(config, &[("app", &app), ("other", &other)], "express").await;
    let mark = sign(&key, "drill", &[]);
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        send(gateway.web(), "GET", &format!("http://shop.example.com{path}"), headers, "").await.unwrap()
    };
    let dyed = [("x-pt", mark.as_str())];
    assert_eq!(ask("/", &dyed).await.status, 200);

    app.set(Mood::Status(500));
    for _ in 0..50 {
        assert_eq!(ask("/", &dyed).await.status, 500, "dyed errors break no promise to live traffic");
    }
    eventually("dyed requests are shed", || async {
        assert_eq!(ask("/", &[]).await.status, 500, "live ones are not");
        ask("/", &dyed).await.status == 503
    })
    .await;
    let shed = ask("/", &dyed).await;

    assert_eq!((shed.status, shed.header("x-tidegate-reason")), (503, "dyed_shed"));
    assert!(shed.header("retry-after").parse::<u32>().unwrap() >= 1);
    assert_eq!(ask("/other", &dyed).await.status, 200, "another service's live traffic is well");
    assert_eq!(gateway.metric("tidegate_dyed_shedding", &["service=\"app\""]).await, 1.0);
    assert!(gateway.metric("tidegate_dyed_shed_total", &["service=\"app\"", "reason=\"slo\""]).await >= 1.0);
    app.set(Mood::Ok);
    eventually("dyed requests come in again", || async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        ask("/", &[]).await;
        ask("/", &dyed).await.status == 200
            && gateway.metric("tidegate_dyed_shedding", &["service=\"app\""]).await == 0.0
    })
    .await;
}

#[tokio::test]
async fn explain_tells_the_run_and_where_it_goes_and_check_refuses_dyed_routes_without_keys() {
    let folder = tempfile::tempdir().unwrap();
    let key = new_key(folder.path());
    let config = folder.path().join("edge.yaml");
    let routes = "
services: {live: {endpoints: [\"127.0.0.1:1\"]}, dyed: {endpoints: [\"127.0.0.1:2\"]}}
listeners: {web: {bind: \"127.0.0.1:0\"}}
routes:
  - {name: live, match: {path: /orders}, to: live}
  - {name: dyed, match: {dyed: true}, to: dyed}
";
    std::fs::write(&config, format!("version: 1\ndyed: {{keys: [{{file: pt.key}}]}}{routes}")).unwrap();
    let file = config.to_str().unwrap();
    let header = format!("x-pt: {}", sign(&key, "drill", &[]));
    let url = "http://shop.example.com/orders";

    let signed = tidegate(&["explain", "--config", file, "-H", &header, url]).1;
    let forged = tidegate(&["explain", "--config", file, "-H", "x-pt: nonsense", url]).1;
    std::fs::write(&config, format!("version: 1{routes}")).unwrap();
    let (accepted, refusal) = tidegate(&["check", file]);

    assert!(signed.contains("dyed     by run drill") && signed.contains("goes     to dyed/"), "{signed}");
    assert!(forged.contains("taken off: it isn't written") && forged.contains("goes     to live/"), "{forged}");
    assert!(!accepted && refusal.contains("dyed-without-keys") && refusal.contains("tidegate mark key"), "{refusal}");
}

#[test]
fn marks_are_made_and_checked_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let key = new_key(folder.path());
    let mark = sign(&key, "drill", &["--for", "2h", "--host", "*.example.com"]);
    let check = |mark: &str, host: &str| tidegate(&["mark", "check", "--key", &key, "--host", host, mark]);

    let (good, said) = check(&mark, "shop.example.com");
    let (elsewhere, why) = check(&mark, "example.org");
    let (too_long, _) = tidegate(&["mark", "sign", "--key", &key, "--run", "drill", "--for", "25h"]);

    assert!(good && said.starts_with("good: run drill, for hosts *.example.com, "), "{said}");
    assert!(!elsewhere && why.contains("it is for other hosts"), "{why}");
    assert!(!too_long);
}
