//! Reloads and the end: nothing that is open is lost.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tidegate_model::desired::Listener;

use super::super::*;
use super::kit::*;

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn named(name: &str) -> Listener {
    Listener { name: name.into(), ..listener() }
}

#[test]
fn a_reload_keeps_ports_and_connections_and_changes_the_terms_of_new_ones() {
    let mut rig = rig(vec![listener()]);
    let before = rig.address("web");
    let mut old = rig.connect();
    old.get("/");

    let mut strict = listener();
    strict.guard.max_headers = 1;
    rig.apply(vec![strict]);

    let two = "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    old.send(two);
    let mut new = rig.connect();
    new.send(two);
    assert_eq!(rig.address("web"), before);
    assert_eq!((old.answer().unwrap().status, new.answer().unwrap().status), (200, 431));
}

#[test]
fn a_listener_that_goes_stops_accepting_and_its_connections_stay() {
    let mut rig = rig(vec![named("web"), named("other")]);
    let (gone, mut old) = (rig.address("web"), rig.connect());
    old.get("/");

    rig.apply(vec![named("other")]);
    rig.wait_for_addresses(1);

    assert!(std::net::TcpStream::connect(gone).is_err());
    assert_eq!(old.get("/still").status, 200);
    assert_eq!(Client::to(rig.address("other")).get("/").status, 200);
}

#[test]
fn a_port_that_somebody_else_holds_is_reported_and_nothing_changes() {
    let rig = rig(vec![listener()]);
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    other.set_reuse_port(true).unwrap();
    other.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    other.listen(1).unwrap();
    let taken = [plain.local_addr().unwrap(), other.local_addr().unwrap().as_socket().unwrap()];
    let listeners: Vec<_> =
        taken.iter().map(|bind| Listener { bind: *bind, ..named("new") }).chain([listener()]).collect();

    let errors = rig.door.bind(&listeners).unwrap_err();

    assert_eq!(errors.iter().map(|e| e.address).collect::<Vec<_>>(), taken);
    assert!(errors.iter().all(|e| e.cause.kind() == std::io::ErrorKind::AddrInUse && e.hint.contains("ss -ltnp")));
    assert_eq!(rig.connect().get("/").status, 200);
}

#[test]
fn two_listeners_on_one_address_are_reported() {
    let rig = rig(vec![listener()]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let twice = [Listener { bind: free, ..named("one") }, Listener { bind: free, ..named("two") }];

    let errors = rig.door.bind(&twice).unwrap_err();

    assert_eq!(errors.iter().map(|e| e.listener.as_str()).collect::<Vec<_>>(), ["two"]);
}

#[test]
fn a_listener_can_move_from_one_address_to_every_address_in_one_change() {
    let mut rig = rig(vec![listener()]);
    let port = rig.address("web").port();
    rig.apply(vec![Listener { bind: SocketAddr::from(([127, 0, 0, 1], port)), ..named("fixed") }]);

    rig.apply(vec![Listener { bind: SocketAddr::from(([0, 0, 0, 0], port)), ..named("web") }]);
    rig.wait_for_addresses(1);

    assert_eq!(Client::to(SocketAddr::from(([127, 0, 0, 1], port))).get("/").status, 200);
}

#[test]
fn certificates_replaced_under_load_fail_no_handshake() {
    let folder = tempfile::tempdir().unwrap();
    let (files, first) = certificate(folder.path(), "a", &["a.test"]);
    let mut rig = rig(vec![tls_listener(vec![files.clone()])]);
    let address = rig.address("web");
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = std::thread::spawn({
        let (done, served) = (Arc::clone(&done), Arc::clone(&served));
        move || {
            let mut shown = HashSet::new();
            while !done.load(Ordering::Relaxed) {
                let mut client = Client::to(address).tls_to_anyone("a.test", &[]);
                assert_eq!(client.get("/").status, 200);
                shown.insert(client.io.conn.peer_certificates().unwrap()[0].to_vec());
                served.fetch_add(1, Ordering::Relaxed);
            }
            shown
        }
    });

    let mut in_force = HashSet::from([first.to_vec()]);
    for round in 0..20 {
        let (_, next) = certificate(folder.path(), "a", &["a.test"]);
        in_force.insert(next.to_vec());
        rig.apply(vec![tls_listener(vec![files.clone()])]);
        let seen = served.load(Ordering::Relaxed);
        // A client that starts now is shown the new one.
        assert_eq!(rig.connect().tls("a.test", &[], &next).get("/").status, 200, "round {round}");
        while served.load(Ordering::Relaxed) == seen && !load.is_finished() {
            std::thread::yield_now();
        }
    }
    done.store(true, Ordering::Relaxed);
    let shown = load.join().expect("no handshake fails");

    println!("{} handshakes, none failed, {} certificates", served.load(Ordering::Relaxed), shown.len());
    assert!(shown.is_subset(&in_force));
    assert_eq!(rig.address("web"), address);
}

#[test]
fn a_session_is_resumed_across_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = certificate(folder.path(), "a", &["a.test"]);
    let mut rig = rig(vec![tls_listener(vec![files.clone()])]);
    let config = client_config(&[], &root);
    let visit = |rig: &Rig| {
        let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
        let connection = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut client = rig.connect().over(connection);
        client.get("/");
        client.io.conn.handshake_kind()
    };
    let first = visit(&rig);

    rig.apply(vec![tls_listener(vec![files])]);
    let second = visit(&rig);

    assert_eq!(first, Some(rustls::HandshakeKind::Full));
    assert_eq!(second, Some(rustls::HandshakeKind::Resumed));
}

#[test]
fn draining_closes_the_idle_at_once_and_waits_for_the_busy() {
    let rig = rig(vec![listener()]);
    let (mut idle, mut fresh, mut busy, mut two) = (rig.connect(), rig.connect(), rig.connect(), rig.connect());
    let address = rig.address("web");
    idle.get("/");
    two.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    two.expect("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    rig.held.recv().unwrap();
    let Rig { door, release, .. } = rig;

    let drain = std::thread::spawn(move || block_on(door.drain(PATIENCE, Duration::ZERO)));
    idle.expect_end();
    fresh.expect_end();
    two.expect("GOAWAY");
    two.expect_end();
    let waiting = !drain.is_finished();
    release.send_replace(true);

    assert!(waiting, "drain ended before the request in flight");
    assert_eq!(busy.answer().unwrap().status, 200);
    assert!(busy.answer().unwrap().head.contains("Connection: close"));
    busy.expect_end();
    assert_eq!(drain.join().unwrap(), 0);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn draining_cuts_what_is_left_at_its_deadline_and_says_how_many() {
    let rig = rig(vec![listener()]);
    let mut busy = rig.connect();
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    rig.held.recv().unwrap();
    let Rig { door, release: _release, .. } = rig;

    let cut = block_on(door.drain(Duration::from_millis(50), Duration::ZERO));

    assert_eq!(cut, 1);
    busy.expect_end();
}

#[test]
fn an_idle_connection_is_a_small_future() {
    let size = super::super::connection::size_of_serve();

    println!("a connection's task is {size} bytes, its stream {}", size_of::<DoorStream>());
    assert!(size <= 1_024, "{size}");
    assert!(size_of::<DoorStream>() <= 320, "{}", size_of::<DoorStream>());
}
