//! TLS handshakes that begin and never end.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::kit::beside::withstand;
use crate::kit::{Gateway, Origin, full_size};

/// The first bytes of a ClientHello of 512 bytes, of which no more comes.
const BEGINNING: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

async fn half_open(to: SocketAddr, from: Ipv4Addr, says: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let _ = stream.write_all(says).await; // It may have been given up already.
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_handshakes_give_way_to_good_clients_even_of_their_own_address() {
    let origin = Origin::start("v1").await;
    let (attackers, room, bounds) = if full_size() {
        (10_000, 2_000, "")
    } else {
        (600, 200, "bounds: {handshakes: 200, handshakes_per_network: 150, handshakes_per_source: 50}")
    };
    let config = format!(
        "services: {{app: {{endpoints: [\"$app\"], eject: off}}}}\nroutes: [{{name: all, match: {{path: /**}}, to: app}}]\n{bounds}\n"
    );
    let mut gateway = Gateway::start(&config, &[("app", &origin)]).await;
    let tls = gateway.tls();
    let pid = gateway.pid();

    let attack = async {
        let mut held = Vec::new();
        let mut most = 0;
        for n in 0..attackers {
            // Every fourth comes from the good clients' own address, the others from many networks.
            let from = match n % 4 {
                0 => Ipv4Addr::LOCALHOST,
                _ => Ipv4Addr::new(127, (n % 7) as u8, (n % 50) as u8, (n % 250) as u8 + 1),
            };
            held.push(half_open(tls, from, if n % 2 == 0 { BEGINNING } else { b"" }).await);
            if n % 50 == 0 {
                let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
                most = most.max(open);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await; // Good clients come meanwhile.
        drop(held);
        most
    };
    let (most, _) = withstand(&mut gateway, attack).await;

    let crowded = gateway.metric("tidegate_tls_handshakes_total", &["result=\"crowded\""]).await;
    let late = gateway.metric("tidegate_tls_handshakes_total", &["result=\"late\""]).await;
    println!("{attackers} half-open handshakes: {crowded} gave way, {late} were late, at most {most} descriptors");
    assert!(crowded + late >= (attackers - room) as f64, "{crowded} gave way, {late} were late");
    assert!(most < room + 200, "{most} descriptors");
}
