//! Free ports that stay free: below the ephemeral range, and reserved among all tests of this machine.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Ports that outgoing connections never use: the kernel's default range begins at 32,768.
const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

/// A test elsewhere that wants the same port fails to bind this address, and goes on to the next one.
const RESERVATION: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 254);

/// A loopback port that nobody else takes while this value lives.
pub struct Port {
    _reservation: TcpListener,
    /// On 127.0.0.1.
    pub address: SocketAddr,
}

/// Reserves a port.
pub fn reserve() -> Port {
    static NEXT: AtomicU16 = AtomicU16::new(0);

    let start = u16::try_from(std::process::id() * 61 % u32::from(COUNT)).expect("below COUNT");
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Relaxed) % COUNT) % COUNT;
        let Ok(reservation) = TcpListener::bind((RESERVATION, port)) else { continue };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Port { _reservation: reservation, address: (Ipv4Addr::LOCALHOST, port).into() };
        }
    }
    panic!("no port of {COUNT} is free");
}
