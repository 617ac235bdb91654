//! What Pingora asks of a stream besides reading and writing.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};

use super::DoorStream;

#[async_trait::async_trait]
impl Shutdown for DoorStream {
    async fn shutdown(&mut self) {
        self.close().await;
    }
}

impl UniqueID for DoorStream {
    fn id(&self) -> i32 {
        self.io.tcp().as_raw_fd()
    }
}

impl Ssl for DoorStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        if self.http2 { Some(ALPN::H2) } else { self.ssl.as_ref().map(|_| ALPN::H1) }
    }
}

impl GetTimingDigest for DoorStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new() // Asked for with every request and read by nobody: an empty one costs no allocation.
    }
}

impl GetProxyDigest for DoorStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for DoorStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket))
    }
}

/// The door has looked at the first bytes already; nobody else needs to.
impl Peek for DoorStream {}
