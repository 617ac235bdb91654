//! The door: accepts connections, and runs the keep-alive loop of each.
//!
//! One `SO_REUSEPORT` socket and one pinned single-threaded runtime per core.
//! Per connection: bounds → PROXY header → TLS → protocol → requests. The loop waits for
//! the next request *outside* the carrier, so that an idle connection holds next to nothing.

pub mod census;
pub mod chunk;
pub mod head;
pub mod metrics;
pub mod proxy_header;
pub mod refusal;
pub mod socket;
pub mod stream;

use std::sync::Arc;

use crate::decide::Connection;
use stream::DoorStream;

/// Carries requests from a connection to wherever they are decided to go.
#[async_trait::async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// Carries one HTTP/1 request whose head lies checked and unread at the front of `stream`. Returns
    /// the stream when the connection may carry another one; `last` asks for `Connection: close`.
    async fn http1(
        self: Arc<Self>,
        stream: Box<DoorStream>,
        connection: Arc<Connection>,
        last: bool,
    ) -> Option<Box<DoorStream>>;

    /// Serves an HTTP/2 connection, preface included, until it ends; says GOAWAY once `drain` turns true.
    async fn http2(
        self: Arc<Self>,
        stream: Box<DoorStream>,
        connection: Arc<Connection>,
        drain: tokio::sync::watch::Receiver<bool>,
    );
}
