//! What connections cost that wait for their next request.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::kit::frames::{self, frame};
use crate::kit::gateway::HOST;
use crate::kit::{Gateway, Origin, eventually, full_size};

const CONFIG: &str = "
services: {app: {endpoints: [\"$app\"], eject: off}}
routes: [{name: all, match: {path: /**}, to: app}]
";

async fn connect(to: SocketAddr, n: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 1, (n % 200) as u8 + 1), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// One request and its answer, after which the connection stays.
async fn visit(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), http2: bool) {
    let mut buffer = [0; 2048];
    if http2 {
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(frames::SETTINGS, 0, 0, b""));
        hello.extend(frame(frames::HEADERS, frames::WHOLE, 1, frames::GET));
        stream.write_all(&hello).await.unwrap();
    } else {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    }
    let mut seen = Vec::new();
    while !seen.windows(5).any(|bytes| bytes == b"v1 /\n") {
        let n = stream.read(&mut buffer).await.unwrap();
        assert_ne!(n, 0, "closed after {seen:?}");
        seen.extend_from_slice(&buffer[..n]);
    }
}

/// What is spoken, whether under TLS, and the bytes that a connection may cost: in a debug build too, and with what the
/// allocator rounds up.
const KINDS: [(&str, bool, u64); 4] =
    [("http/1.1", false, 6 << 10), ("http/1.1", true, 20 << 10), ("h2", false, 44 << 10), ("h2", true, 56 << 10)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_cost_little_and_give_back_what_they_took() {
    let many = if full_size() { 10_000 } else { 1_000 };
    let origin = Origin::start("v1").await;
    for (speaks, encrypted, most) in KINDS {
        let mut gateway = Gateway::start(CONFIG, &[("app", &origin)]).await;
        let connector = TlsConnector::from(gateway.authority.trust(&[speaks]));
        let (web, tls) = (gateway.web(), gateway.tls());
        let name = || rustls::pki_types::ServerName::try_from(HOST).unwrap();
        visit(&mut connector.connect(name(), connect(tls, 0).await).await.unwrap(), speaks == "h2").await;
        let before = gateway.resident();
        let (mut plain, mut covered) = (Vec::new(), Vec::new());

        for n in 0..many {
            if encrypted {
                let mut stream = connector.connect(name(), connect(tls, n).await).await.unwrap();
                visit(&mut stream, speaks == "h2").await;
                covered.push(stream);
            } else {
                let mut stream = connect(web, n).await;
                visit(&mut stream, speaks == "h2").await;
                plain.push(stream);
            }
        }

        let each = gateway.resident().saturating_sub(before) / many as u64;
        let over = if encrypted { "TLS" } else { "TCP" };
        println!("{many} idle {speaks} connections over {over}: {:.1} KiB each", each as f64 / 1024.0);
        assert!(each <= most, "{speaks} over {over}: {each} bytes");
        assert_eq!(gateway.metric("tidegate_connections_open", &[]).await, many as f64, "all of them are open");
        drop((plain, covered));
        eventually("all have gone", || async { gateway.metric("tidegate_connections_open", &[]).await == 0.0 }).await;
        gateway.assert_unharmed();
    }
}

/// A request whose path is to be remembered (HPACK, RFC 7541 §6.2.1), in a frame that is nearly as large as can be. The
/// library remembers paths as pieces of the frames they came in: some 95 of them in a table of 4 KiB.
fn bulky(stream: u32) -> Vec<u8> {
    const PADDING: usize = 15_000;
    let mut block = b"\x82\x86\x44\x06".to_vec();
    block.extend(format!("/{stream:05}").as_bytes());
    block.extend(b"\x01\x01x\x10\x01z\x7f");
    let rest = PADDING - 127;
    block.extend([(rest & 0x7f | 0x80) as u8, (rest >> 7) as u8]); // An integer of 7 bits at a time, the lowest first.
    block.extend([b'a'; PADDING]);
    frame(frames::HEADERS, frames::WHOLE, stream, &block)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_http2_connection_has_us_remember_stays_below_two_mebibytes() {
    const CONNECTIONS: usize = 30;
    const REQUESTS: u32 = 100;
    let config = "routes: [{name: all, match: {path: /**}, answer: {status: 204}}]\n";
    let gateway = Gateway::start(config, &[]).await;
    let mut clients = Vec::new();
    let before = gateway.resident();

    for _ in 0..CONNECTIONS {
        let mut stream = frames::open(gateway.web(), b"").await;
        for n in 0..REQUESTS {
            stream.write_all(&bulky(2 * n + 1)).await.unwrap();
            until_answered(&mut stream).await;
        }
        clients.push(stream);
    }

    let each = gateway.resident().saturating_sub(before) / CONNECTIONS as u64;
    println!("{REQUESTS} paths in frames of 15,000 bytes: {:.0} KiB for each connection", each as f64 / 1024.0);
    assert!(each < 2 << 20, "{each} bytes for each connection");
    assert_eq!(gateway.metric("tidegate_connections_open", &[]).await, CONNECTIONS as f64);
}

async fn until_answered(stream: &mut TcpStream) {
    let mut head = [0; 9];
    loop {
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == frames::HEADERS {
            return;
        }
    }
}
