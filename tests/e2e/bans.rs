//! Bans: who goes on after being refused is kept out, at accept and on connections that are open.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::kit::{Client, Gateway, PATIENCE, client};

/// Two requests, and out after the second refusal.
const CONFIG: &str = "
limits: {per_ip: {rate: 1/h, burst: 2, then: ban 1h after 2 in 10s up to 24h}}
routes: [{name: all, limits: per_ip, answer: {status: 200, body: hi}}]
";

async fn from(source: u8, to: SocketAddr) -> anyhow::Result<Client> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, source), 0).into())?;
    Client::h1_on(socket.connect(to).await?).await
}

async fn status(client: &mut Client) -> Option<u16> {
    client.get("http://shop.example.com/").await.ok().map(|answer| answer.status)
}

#[tokio::test]
async fn a_source_that_goes_on_is_cut_off_at_accept_and_others_are_served() {
    let gateway = Gateway::start(CONFIG, &[]).await;
    let mut attacker = from(2, gateway.web()).await.unwrap();
    let mut bystander = from(2, gateway.web()).await.unwrap();
    assert_eq!(status(&mut bystander).await, Some(200), "it has been accepted before the ban");

    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(status(&mut attacker).await);
    }
    let on_another_connection = bystander.get("http://shop.example.com/").await.unwrap();
    let newcomer = match from(2, gateway.web()).await {
        Ok(mut client) => status(&mut client).await,
        Err(_) => None,
    };

    assert_eq!(seen, [Some(200), Some(429), Some(429), Some(429)]);
    assert_eq!(on_another_connection.status, 429);
    assert!(on_another_connection.header("retry-after").parse::<u32>().unwrap() > 3_000);
    assert_eq!(newcomer, None, "a new connection is cut before it says a word");
    assert_eq!(status(&mut from(3, gateway.web()).await.unwrap()).await, Some(200));
    assert_eq!(gateway.metric("tidegate_connections_refused_total", &["reason=\"banned\""]).await, 1.0);
    assert_eq!(gateway.metric("tidegate_bans_total", &["by=\"limit\""]).await, 1.0);
}

#[tokio::test]
async fn a_ban_outlives_a_killed_gateway_and_ends_when_it_is_removed() {
    let mut gateway = Gateway::start(CONFIG, &[]).await;
    let mut attacker = from(2, gateway.web()).await.unwrap();
    while status(&mut attacker).await != Some(429) || gateway.metric("tidegate_bans", &[]).await < 1.0 {}
    let journal = gateway.dir().join("state/bans");
    crate::kit::eventually("the ban is on disk", || async {
        std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("ban 127.0.0.2/32"))
    })
    .await;

    gateway.signal("KILL");
    gateway.until_ended().await;
    gateway.spawn();
    gateway.until_ready().await;
    let after_the_restart = match from(2, gateway.web()).await {
        Ok(mut client) => status(&mut client).await,
        Err(_) => None,
    };
    let removed = client::send(gateway.admin(), "DELETE", "/bans?network=127.0.0.2/32", &[], "").await.unwrap();

    assert_eq!(after_the_restart, None);
    assert_eq!(removed.status, 200);
    assert_eq!(status(&mut from(2, gateway.web()).await.unwrap()).await, Some(200));
}

#[tokio::test]
async fn behind_a_proxy_the_visitor_is_banned_and_never_the_proxy() {
    let config = format!("\nlisteners: {{web: {{bind: \"$web\", proxy_protocol: {{from: [127.0.0.0/8]}}}}}}\n{CONFIG}");
    let gateway = Gateway::start(&config, &[]).await;
    let ask = |visitor: IpAddr| {
        let web = gateway.web();
        async move {
            let mut stream = tokio::net::TcpStream::connect(web).await.unwrap();
            let head =
                format!("PROXY TCP6 {visitor} ::1 40000 80\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await; // It may be cut already.
            let mut said = String::new();
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut said)).await.expect("an end");
            said.split(' ').nth(1).map(str::to_owned).unwrap_or_default()
        }
    };
    let visitor = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, n, 0, 0, 0, 7]);

    for _ in 0..4 {
        ask(visitor(1)).await;
    }

    assert_eq!(ask("2001:db8:0:1::99".parse().unwrap()).await, "", "its whole /64 is banned, before a word is said");
    assert_eq!(ask(visitor(2)).await, "200");
    let bans = client::get(gateway.admin(), "/bans").await.unwrap().text();
    assert!(bans.contains("2001:db8:0:1::/64") && !bans.contains("127.0.0."), "{bans}");
}

#[tokio::test]
async fn a_trusted_proxy_is_refused_and_not_banned() {
    let config = format!("\nclient_ip: {{trusted: [127.0.0.0/8]}}\n{CONFIG}");
    let gateway = Gateway::start(&config, &[]).await;
    let mut proxy = from(2, gateway.web()).await.unwrap();

    for _ in 0..6 {
        status(&mut proxy).await;
    }

    assert_eq!(status(&mut proxy).await, Some(429));
    let request = client::request("GET", "http://a/", &[("x-forwarded-for", "192.0.2.1")], "");
    assert_eq!(from(2, gateway.web()).await.unwrap().send(request).await.unwrap().status, 200);
    assert_eq!(gateway.metric("tidegate_bans", &[]).await, 0.0);
}

#[tokio::test]
async fn a_list_is_followed_and_one_with_a_bad_line_leaves_the_last_good_one() {
    let config = "
access: {deny_files: $dir/bad.txt}
routes: [{name: all, answer: {status: 200, body: hi}}]
";
    let mut gateway = Gateway::prepare(config, &[]);
    let list = gateway.dir().join("bad.txt");
    std::fs::write(&list, "# nobody yet\n").unwrap();
    gateway.spawn();
    gateway.until_ready().await;
    let web = gateway.web();
    let denied = |source| async move { status(&mut from(source, web).await.unwrap()).await == Some(403) };
    assert!(!denied(2).await);

    std::fs::write(&list, "127.0.0.2\n").unwrap();
    crate::kit::eventually("the list is in force", || denied(2)).await;
    let others = denied(3).await;
    std::fs::write(&list, "127.0.0.3\n127.0.0.300\n").unwrap();
    crate::kit::eventually("the bad line is told", || async { gateway.log().contains("bad.txt:2:1") }).await;

    assert!(!others);
    assert!(denied(2).await && !denied(3).await, "the last good list stays");
}

#[tokio::test]
async fn a_limit_by_ja4_counts_a_program_whatever_its_address() {
    let config = "
limits: {program: {key: ja4, rate: 2/h}}
routes: [{name: all, limits: program, answer: {status: 200, body: hi}}]
";
    let gateway = Gateway::start(config, &[]).await;
    let url = "https://shop.example.com/";

    let mut seen = Vec::new();
    for source in [2, 3, 4] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, source), 0).into()).unwrap();
        let tcp = socket.connect(gateway.tls()).await.unwrap();
        let name = "shop.example.com".try_into().unwrap();
        let connector = tokio_rustls::TlsConnector::from(gateway.authority.trust(&["http/1.1"]));
        let mut client = Client::h1_on(connector.connect(name, tcp).await.unwrap()).await.unwrap();
        seen.push(client.get(url).await.unwrap().status);
    }

    assert_eq!(seen, [200, 200, 429]);
}

#[tokio::test]
async fn a_gateway_starts_while_a_list_is_broken_with_its_last_good_state_until_it_is_good_again() {
    let config = "
access: {deny_files: [$dir/bad.txt]}
routes: [{name: all, match: {path: /**}, answer: {status: 200}}]
";
    let mut gateway = Gateway::prepare(config, &[]);
    let list = gateway.dir().join("bad.txt");
    let is_denied = |web| async move { client::get(web, "/").await.unwrap().status == 403 };
    std::fs::write(&list, "127.0.0.0/8\n").unwrap();
    gateway.spawn();
    gateway.until_ready().await;
    gateway.signal("TERM");
    gateway.until_ended().await;

    std::fs::write(&list, "127.0.0.300\n").unwrap();
    gateway.spawn();
    gateway.until_ready().await;
    let broken = (is_denied(gateway.web()).await, gateway.metric("tidegate_lists_stale", &[]).await);
    let told = gateway.log().contains("its last good state is in force") && gateway.log().contains("bad.txt:1:1");
    std::fs::write(&list, "192.0.2.7\n").unwrap();
    let web = gateway.web();
    crate::kit::eventually("the list is good again", || async move { !is_denied(web).await }).await;

    assert_eq!(broken, (true, 1.0));
    assert!(told, "{}", gateway.log());
    assert_eq!(gateway.metric("tidegate_lists_stale", &[]).await, 0.0);
    gateway.assert_unharmed();
}
