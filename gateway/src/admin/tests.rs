//! The admin listener through real sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use tidegate_model::desired::{
    Action, Arm, Balance, Desired, EndpointSpec, FixedAnswer, Generation, HostPattern, Matches, PathPattern,
    PathRewrite, Redirect, Retry, Route, Service, Split, Timeouts, UpstreamProtocol, ValuePattern, Version, VersionRef,
    Weight,
};

use super::*;
use crate::acme::AcmeMetrics;
use crate::compile::{Material, compile};
use crate::snapshot::Publisher;
use crate::source::{Outcome, Status, Verdict};

fn route(name: &str, hosts: Vec<HostPattern>, path: PathPattern, action: Action) -> Route {
    Route {
        name: name.into(),
        matches: Matches { hosts, path, dyed: None, methods: vec![], headers: vec![], query: vec![], cookies: vec![] },
        action,
        limits: vec![],
        access: Default::default(),
        rewrite: Default::default(),
        request_headers: Default::default(),
        response_headers: Default::default(),
        cors: None,
        timeouts: Default::default(),
        max_body: None,
        priority: Default::default(),
        challenge: Default::default(),
        shadows: vec![],
    }
}

fn to(version: usize, weight: Weight) -> Arm {
    Arm { version: VersionRef { service: 0, version }, weight }
}

fn desired() -> Desired {
    let host = |name: &str| vec![HostPattern::Exact(name.into())];
    let prefix = |path: &str| PathPattern::Prefix(path.into());
    let forward = |arms| Action::Forward(Split { arms, ..Split::default() });
    let version = |name: &str, port| Version {
        name: name.into(),
        endpoints: vec![EndpointSpec {
            address: tidegate_model::desired::Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            weight: 1,
        }],
    };
    let answer = FixedAnswer { status: 404, content_type: "text/plain".into(), body: String::new() };
    let redirect = Redirect {
        scheme: Some("https".into()),
        host: None,
        port: Some(8443),
        path: Some(PathRewrite::Full("/new".into())),
        status: 301,
    };
    let mut beta = route("beta", host("shop.example.com"), prefix(""), forward(vec![to(1, Weight::Share(1))]));
    beta.matches.headers = vec![("x-beta".into(), ValuePattern::Exact("1".into()))];
    let mut login = route(
        "login",
        host("shop.example.com"),
        PathPattern::Exact("/login".into()),
        forward(vec![to(0, Weight::Share(1))]),
    );
    login.matches.methods = vec!["POST".into()];
    Desired {
        generation: Generation(7),
        services: vec![Service {
            name: "shop".into(),
            balance: Balance::P2c,
            probe: None,
            eject: None,
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            protocol: UpstreamProtocol::Http1,
            tls: None,
            capacity: Default::default(),
            keep_idle: 8,
            versions: vec![version("v1", 9001), version("v2", 9002)],
        }],
        routes: vec![
            route("rest", vec![], prefix(""), Action::Answer(answer)),
            route(
                "any-shop",
                vec![HostPattern::Wildcard("example.com".into())],
                prefix("/old"),
                Action::Redirect(redirect),
            ),
            route(
                "shop",
                host("shop.example.com"),
                prefix(""),
                forward(vec![to(0, Weight::Share(95)), to(1, Weight::Share(5))]),
            ),
            beta,
            login,
            route(
                "items",
                host("shop.example.com"),
                PathPattern::Regex("^/item/[0-9]+$".into()),
                forward(vec![to(0, Weight::Share(1)), to(1, Weight::Drain)]),
            ),
        ],
        ..Desired::default()
    }
}

struct Bench {
    admin: Admin,
    readiness: Arc<Readiness>,
    reloads: mpsc::Receiver<ReloadRequest>,
}

fn start() -> Bench {
    let metrics = Metrics::new();
    let snapshot = compile(Arc::new(desired()), None, &Material::default(), &metrics);
    let (reload, reloads) = mpsc::channel(1);
    let readiness = Arc::new(Readiness::default());
    let slot = Publisher::starting_with(snapshot).slot();
    let certificates = Book::new(AcmeMetrics::register(metrics.registry()).unwrap());
    let state = AdminState {
        slot,
        metrics,
        readiness: Arc::clone(&readiness),
        source: Status::default(),
        reload,
        certificates,
    };
    let listener = Admin::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    Bench { admin: Admin::start(listener, state).unwrap(), readiness, reloads }
}

/// Status line, headers and body of one exchange.
fn ask(address: SocketAddr, head: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{head}\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    ask(address, &format!("GET {path} HTTP/1.1"))
}

#[test]
fn readiness_follows_the_gateways_life_and_health_does_not() {
    let bench = start();
    let ready = || get(bench.admin.address(), "/readyz");

    assert_eq!(ready().0, 503);
    bench.readiness.enter(Stage::Serving);
    assert_eq!(ready().0, 200);
    bench.readiness.enter(Stage::Draining);
    let (status, _, said) = ready();

    assert_eq!((status, said.as_str()), (503, "draining: no new connection is taken\n"));
    assert_eq!(get(bench.admin.address(), "/healthz").0, 200);
}

#[test]
fn metrics_are_served_as_exposition_text() {
    let bench = start();

    let (status, head, body) = get(bench.admin.address(), "/metrics");

    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let up = "tidegate_endpoint_up{service=\"shop\",version=\"v1\",endpoint=\"127.0.0.1:9001\"} 1";
    assert!(body.contains(up), "{body}");
}

#[test]
fn snapshot_shows_generation_endpoints_and_weights() {
    let bench = start();

    let (_, head, body) = get(bench.admin.address(), "/snapshot");

    assert!(head.contains("content-type: application/json"), "{head}");
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["generation"], 7);
    assert_eq!(json["services"][0]["versions"][1]["endpoints"][0]["address"], "127.0.0.1:9002");
    assert_eq!(json["services"][0]["versions"][1]["endpoints"][0]["health"]["state"], "up");
    let shop = &json["routes"][2]["arms"];
    assert_eq!(shop[1], serde_json::json!({"to": "shop/v2", "weight": 5, "percent": 5.0}));
    assert_eq!(json["routes"][5]["arms"][1]["weight"], "drain");
}

#[test]
fn routes_are_listed_in_order_of_precedence() {
    let bench = start();

    let (_, _, table) = ask(bench.admin.address(), "GET /routes HTTP/1.1\r\nAccept: text/plain");
    let (_, _, json) = get(bench.admin.address(), "/routes");

    insta::assert_snapshot!(table, @r"
    HOST              PATH              CONDITIONS       ROUTE     ACTION                                LIMITS
    shop.example.com  /login            POST             login     to shop/v1                            -
    shop.example.com  ~ ^/item/[0-9]+$  -                items     split shop/v1: 1, shop/v2: drain      -
    shop.example.com  /**               header:x-beta=1  beta      to shop/v2                            -
    shop.example.com  /**               -                shop      split shop/v1: 95, shop/v2: 5         -
    *.example.com     /old/**           -                any-shop  redirect 301 https://{host}:8443/new  -
    *                 /**               -                rest      answer 404                            -
    ");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["route"], "login");
    assert_eq!(json[0]["conditions"], serde_json::json!(["POST"]));
}

#[test]
fn unknown_path_is_404_and_wrong_method_is_405_with_allow() {
    let bench = start();
    let address = bench.admin.address();

    assert_eq!(get(address, "/metricsx").0, 404);
    let (status, head, _) = ask(address, "POST /metrics HTTP/1.1\r\nContent-Length: 0");
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    let (status, head, _) = get(address, "/reload");
    assert_eq!(status, 405);
    assert!(head.contains("allow: post"), "{head}");
}

#[test]
fn head_answers_without_a_body() {
    let bench = start();

    let (status, _, body) = ask(bench.admin.address(), "HEAD /metrics HTTP/1.1");

    assert_eq!((status, body.as_str()), (200, ""));
}

#[test]
fn reload_answers_with_the_generation_or_the_diagnostics() {
    let mut bench = start();
    let address = bench.admin.address();
    let reloader = std::thread::spawn(move || {
        let outcome = |result, generation, diagnostics: &str| {
            let diagnostics = diagnostics.to_owned();
            Outcome { result, generation: Generation(generation), diagnostics }
        };
        for outcome in [outcome(Verdict::Published, 8, ""), outcome(Verdict::Refused, 8, "error[x]: no\n")] {
            let request = bench.reloads.blocking_recv().unwrap();
            request.reply.send(outcome).unwrap();
        }
        bench
    });

    let good = ask(address, "POST /reload HTTP/1.1\r\nContent-Length: 0");
    let bad = ask(address, "POST /reload HTTP/1.1\r\nContent-Length: 0");

    assert_eq!(good.0, 200);
    let json: serde_json::Value = serde_json::from_str(&good.2).unwrap();
    assert_eq!(json, serde_json::json!({"result": "published", "generation": 8, "diagnostics": ""}));
    assert_eq!((bad.0, bad.2.as_str()), (422, "error[x]: no\n"));
    drop(reloader.join().unwrap());
}

#[test]
fn reload_from_a_web_page_is_refused() {
    let mut bench = start();

    let (status, _, _) =
        ask(bench.admin.address(), "POST /reload HTTP/1.1\r\nContent-Length: 0\r\nOrigin: http://evil.example");

    assert_eq!(status, 403);
    assert!(bench.reloads.try_recv().is_err());
}

#[test]
fn bans_are_begun_listed_and_ended() {
    let bench = start();
    let address = bench.admin.address();
    let post = |body: &str| {
        let head = format!(
            "POST /bans HTTP/1.1\r\nContent-Length: {}\r\nHost: admin\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        (text[9..12].parse::<u16>().unwrap(), text.split_once("\r\n\r\n").unwrap().1.to_owned())
    };

    assert_eq!(post(r#"{"network": "203.0.113.9/24", "for": "2h", "reason": "scraper"}"#).0, 201);
    assert_eq!(post(r#"{"network": "2001:db8::1"}"#).0, 201);
    let everybody = post(r#"{"network": "0.0.0.0/0"}"#);
    let nonsense = post(r#"{"network": "203.0.113.0/24", "for": "soon"}"#);
    let page: bans::Page = serde_json::from_str(&get(address, "/bans?limit=1").2).unwrap();
    let rest: bans::Page = serde_json::from_str(&get(address, "/bans?after=203.0.113.0/24").2).unwrap();
    let freed = ask(address, "DELETE /bans?network=203.0.113.0/24 HTTP/1.1");
    let unknown = ask(address, "DELETE /bans?network=203.0.113.0%2F24 HTTP/1.1");

    assert_eq!((everybody.0, nonsense.0), (400, 400), "{everybody:?} {nonsense:?}");
    assert_eq!(
        (page.bans[0].network.to_string().as_str(), page.bans[0].reason.as_str()),
        ("203.0.113.0/24", "scraper")
    );
    assert_eq!(page.bans[0].until.duration_since(page.bans[0].since).as_secs(), 7_200);
    assert_eq!((page.entries, page.next.map(|net| net.to_string()).as_deref()), (2, Some("203.0.113.0/24")));
    assert_eq!(rest.bans.len(), 1);
    assert_eq!((freed.0, unknown.0), (200, 404));
}

#[test]
fn rebound_listener_answers_on_its_new_address_and_frees_the_old_one() {
    let mut bench = start();
    let old = bench.admin.address();

    bench.admin.rebind(Admin::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()).unwrap();

    let new = bench.admin.address();
    assert_ne!(new, old);
    assert_eq!(get(new, "/healthz").0, 200);
    Admin::bind(old).expect("the old address is free once the new one answers");
}

#[test]
fn idle_connections_do_not_keep_others_out_for_longer_than_their_bound() {
    let bench = start();
    let idle: Vec<_> = (0..CONNECTIONS).map(|_| TcpStream::connect(bench.admin.address()).unwrap()).collect();

    // One too many is closed at once, rather than left waiting.
    let mut extra = TcpStream::connect(bench.admin.address()).unwrap();
    let read = extra.read(&mut [0_u8; 1]);
    drop(idle);

    assert!(matches!(read, Ok(0) | Err(_)));
    let answers = || {
        let mut stream = TcpStream::connect(bench.admin.address()).unwrap();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text.starts_with("HTTP/1.1 200")
    };
    while !answers() {
        std::thread::yield_now(); // The thread sees the closed ones soon.
    }
}
