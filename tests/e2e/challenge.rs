//! The challenge as visitors meet it: browsers work for a pass, everything else gets words.

use sha2::{Digest, Sha256};

use crate::kit::client::{Answer, send};
use crate::kit::{Gateway, Origin};

const CONFIG: &str = "
challenge: {work: 10, valid: 1h}
limits:
  narrow: {key: client_ip, rate: 1/m, over: challenge}
services: {shop: {endpoints: [\"$shop\"]}}
routes:
  - {name: shop, match: {path: /**}, to: shop}
  - {name: signup, match: {path: /signup}, to: shop, challenge: always}
  - {name: limited, match: {path: /limited}, to: shop, limits: narrow}
";

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

async fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(gateway.web(), method, &format!("http://shop.example.com{path}"), headers, "").await.unwrap()
}

/// The value of a data attribute on a page.
fn data(page: &str, name: &str) -> String {
    page.split(&format!("data-{name}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
}

/// What the page's script does.
fn work(question: &str, bits: u32) -> u64 {
    (0..)
        .find(|n| {
            let digest = Sha256::digest(format!("{question}:{n}"));
            u64::from_be_bytes(digest[..8].try_into().unwrap()).leading_zeros() >= bits
        })
        .unwrap()
}

/// Does what a browser does with the page for `path`, and returns the cookie that it gets.
async fn pass(gateway: &Gateway, path: &str) -> String {
    let page = ask(gateway, "GET", path, &[BROWSER]).await;
    let question = data(&page.text(), "question");
    let answer = work(&question, data(&page.text(), "bits").parse().unwrap());
    let thanks =
        ask(gateway, "GET", &format!("/.tidegate/challenge?q={question}&n={answer}&to={path}"), &[BROWSER]).await;
    assert_eq!((thanks.status, thanks.header("location")), (303, path));
    thanks.header("set-cookie").split(';').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_works_for_a_pass_that_the_application_never_sees() {
    let shop = Origin::start("shop").await;
    let gateway = Gateway::start(CONFIG, &[("shop", &shop)]).await;

    let page = ask(&gateway, "GET", "/signup", &[BROWSER]).await;
    let cookie = pass(&gateway, "/signup").await;
    let welcome = ask(&gateway, "GET", "/signup", &[BROWSER, ("cookie", &format!("a=1; {cookie}; b=2"))]).await;

    assert_eq!((page.status, page.header("cache-control")), (403, "no-store"));
    assert!(page.text().contains("One moment, please"), "{}", page.text());
    assert_eq!(welcome.status, 200);
    let seen = shop.seen();
    assert_eq!(seen.len(), 1, "nothing reached the application before");
    assert_eq!(seen[0].header("cookie"), "a=1; b=2");
    assert_eq!(gateway.metric("tidegate_challenges_total", &["result=\"passed\""]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_browser_gets_words_and_no_page() {
    let shop = Origin::start("shop").await;
    let gateway = Gateway::start(CONFIG, &[("shop", &shop)]).await;

    let posted = ask(&gateway, "POST", "/signup", &[BROWSER]).await;
    let scripted = ask(&gateway, "GET", "/signup", &[("accept", "application/json")]).await;
    let forged = ask(&gateway, "GET", "/signup", &[("cookie", "tidegate_pass=ffffffff.28.00")]).await;

    for answer in [posted, scripted, forged] {
        assert_eq!((answer.status, answer.header("content-type")), (403, "text/plain; charset=utf-8"));
    }
    assert_eq!(ask(&gateway, "GET", "/", &[]).await.status, 200, "other routes ask nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_challenges_is_not_asked_of_people_and_refuses_machines() {
    let shop = Origin::start("shop").await;
    let gateway = Gateway::start(CONFIG, &[("shop", &shop)]).await;

    let first = ask(&gateway, "GET", "/limited", &[]).await;
    let machine = ask(&gateway, "GET", "/limited", &[]).await;
    let page = ask(&gateway, "GET", "/limited", &[BROWSER]).await;
    let cookie = pass(&gateway, "/limited").await;

    assert_eq!((first.status, machine.status, page.status), (200, 429, 429));
    assert!(page.text().contains("data-question"), "{}", page.text());
    for _ in 0..5 {
        assert_eq!(ask(&gateway, "GET", "/limited", &[("cookie", &cookie)]).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_outlives_a_restart_and_a_redirect_is_enough_where_that_is_asked() {
    let shop = Origin::start("shop").await;
    let mut gateway = Gateway::start(CONFIG, &[("shop", &shop)]).await;
    let cookie = pass(&gateway, "/signup").await;

    gateway.signal("TERM");
    gateway.until_ended().await;
    gateway.spawn();
    gateway.until_ready().await;

    assert_eq!(ask(&gateway, "GET", "/signup", &[("cookie", &cookie)]).await.status, 200);
    gateway.reload(&CONFIG.replace("{work: 10, valid: 1h}", "{mode: redirect}")).await;
    let moved = ask(&gateway, "GET", "/signup?x=1", &[]).await;
    assert_eq!((moved.status, moved.header("location")), (307, "/signup?x=1"));
    let cookie = moved.header("set-cookie").split(';').next().unwrap().to_owned();
    assert_eq!(ask(&gateway, "GET", "/signup?x=1", &[("cookie", &cookie)]).await.status, 200);
}
