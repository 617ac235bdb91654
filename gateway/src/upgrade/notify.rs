//! What systemd is told (sd_notify(3)): one datagram to the socket that `NOTIFY_SOCKET` names.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// Tells the service manager, if there is one. Whether it was told.
pub fn notify(state: &str) -> bool {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return false };
    let send = || {
        let address = match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&socket)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)
    };
    send().inspect_err(|err| warn!(%err, "service manager could not be told")).is_ok()
}

/// Makes `pid` the service's main process. False where nobody watches by these means, or where this is a container's
/// first process, whose end would be the container's.
pub fn main_process_is(pid: u32) -> bool {
    std::process::id() != 1 && notify(&format!("MAINPID={pid}"))
}
