//! The admin listener: metrics, health, snapshot, routes, bans, reload.
//!
//! It runs on a thread and runtime of its own, so that it answers while every core that carries traffic is busy.
//! It speaks HTTP/1.1 to whoever reaches its address and asks for no password: bind it where only operators are.
//!
//! # Invariants
//!
//! - Connections, their heads and their lifetimes are bounded; a client here can't hold up traffic.
//! - Nothing here changes the gateway, except `POST /reload`, which does what SIGHUP does, and `/bans`.
//! - `POST /record` shows what visitors send, without what is known to be secret.
//!
//! # Not here
//!
//! What each page shows is in `pages`, `snapshot`, `routes`, `bans` and `record`.

pub mod bans;
mod pages;
mod record;
mod routes;
mod snapshot;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{info, warn};

use crate::acme::Book;
use crate::record::Metrics;
use crate::snapshot::Snapshot;
use crate::source::{ReloadRequest, Status};

/// Open connections. Beyond it new ones are closed at once; metrics scrapers come back.
const CONNECTIONS: u32 = 64;
/// From a connection's opening, or its last answer, to the end of the next head. Beyond it the connection is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection lives no longer, so that a client that doesn't read its answer can't keep its place.
const LIFETIME: Duration = Duration::from_secs(300);
/// Bytes of a request head. Beyond it the answer is 431.
const HEAD_BYTES: usize = 16 << 10;
/// After an accept that failed (too many open files), so that the thread doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the admin pages show and do.
#[derive(Clone)]
pub struct AdminState {
    /// The snapshot in force.
    pub slot: Arc<ArcSwap<Snapshot>>,
    /// All metrics.
    pub metrics: Metrics,
    /// What `/readyz` says.
    pub readiness: Arc<Readiness>,
    /// What `/readyz` adds while something is wrong with the configuration on disk.
    pub source: Status,
    /// Whoever reads the configuration again. A small bound is right: while it is full, `/reload` answers 503.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// What is known about certificates.
    pub certificates: Book,
}

/// Whether the gateway takes traffic.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

/// A stage of the gateway's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It doesn't listen yet.
    Starting,
    /// It takes traffic.
    Serving,
    /// It finishes what it has, and takes nothing new.
    Draining,
    /// As before, and another gateway takes what is new at the same addresses.
    Replaced,
}

impl Readiness {
    /// Moves to `stage`.
    pub fn enter(&self, stage: Stage) {
        self.0.store(stage as u8, Relaxed);
    }

    /// The stage it is in; `Starting` at first.
    pub fn stage(&self) -> Stage {
        [Stage::Starting, Stage::Serving, Stage::Draining, Stage::Replaced][usize::from(self.0.load(Relaxed))]
    }
}

/// A running admin listener. Stops when it is dropped.
pub struct Admin {
    address: SocketAddr,
    /// A second handle to the socket, to pass it on.
    socket: TcpListener,
    /// Dropped with this, which ends what is left of its connections.
    life: Option<watch::Sender<()>>,
    listeners: Option<mpsc::UnboundedSender<TcpListener>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Opens the socket, apart from serving it, so that a configuration with an address in use can be refused.
    ///
    /// # Errors
    ///
    /// The address is in use or isn't ours.
    pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Serves `listener`, which [`Admin::bind`] made, on a thread of its own.
    ///
    /// # Errors
    ///
    /// The thread or its runtime can't be had.
    pub fn start(listener: TcpListener, state: AdminState) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (listeners, inbox) = mpsc::unbounded_channel();
        let (life, living) = watch::channel(());
        let socket = listener.try_clone()?;
        listeners.send(listener).expect("the receiver is in this function");
        let thread = std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || runtime.block_on(serve(inbox, living, Arc::new(state))))?;
        Ok(Self { address, socket, life: Some(life), listeners: Some(listeners), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A second handle to the socket, to be passed to the gateway that comes next.
    ///
    /// # Errors
    ///
    /// No descriptors are left.
    pub fn socket(&self) -> io::Result<TcpListener> {
        self.socket.try_clone()
    }

    /// Accepts no more. Open connections go on until they end, or until this is dropped.
    pub fn retire(&mut self) {
        self.listeners = None;
    }

    /// Moves to another listener. Open connections go on until they end.
    ///
    /// # Errors
    ///
    /// The listener has no address.
    pub fn rebind(&mut self, listener: TcpListener) -> io::Result<()> {
        self.address = listener.local_addr()?;
        self.socket = listener.try_clone()?;
        if let Some(listeners) = &self.listeners {
            let _ = listeners.send(listener); // Fails only if the thread panicked; then there is nothing to move.
        }
        Ok(())
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.listeners = None;
        self.life = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// By how much longer than [`LIFETIME`] one connection may live: as long as it was told to record.
#[derive(Default)]
struct Life(AtomicU64);

impl Life {
    /// It has something to do for `span`.
    fn extend(&self, span: Duration) {
        self.0.fetch_max(span.as_millis() as u64, Relaxed);
    }

    fn take(&self) -> Duration {
        Duration::from_millis(self.0.swap(0, Relaxed))
    }
}

/// Accepts from the newest listener until no more can come.
async fn serve(
    mut listeners: mpsc::UnboundedReceiver<TcpListener>,
    mut living: watch::Receiver<()>,
    state: Arc<AdminState>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let mut next = listeners.recv().await;
    while let Some(listener) = next {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                warn!(%error, "admin listener cannot be served");
                next = listeners.recv().await;
                continue;
            }
        };
        info!(address = listener.local_addr().ok().map(tracing::field::display), "admin listener opened");
        next = tokio::select! {
            newer = listeners.recv() => newer,
            () = accept(&listener, &places, &state) => unreachable!("accepting never ends"),
        };
    }
    tokio::select! {
        _ = places.acquire_many(CONNECTIONS) => {}
        _ = living.changed() => {} // Its other end is gone.
    }
}

async fn accept(listener: &tokio::net::TcpListener, places: &Arc<Semaphore>, state: &Arc<AdminState>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else { continue };
        let state = Arc::clone(state);
        tokio::spawn(async move {
            let life = Life::default();
            let service = service_fn(|request| pages::answer(request, &state, &life));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let mut span = LIFETIME;
            // A client's mistakes are its own.
            while tokio::time::timeout(span, &mut connection).await.is_err() {
                span = life.take();
                if span.is_zero() {
                    break;
                }
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests;
