//! A worker: one core, one thread, one single-threaded runtime, and a socket of every address.

use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

use super::Carrier;
use super::census::{Census, Presence, Room};
use super::connection::{Service, serve};
use super::listener::Terms;
use super::metrics::Turned;
use crate::guard::Guard;

/// Connections that are still accepted from each socket once its address has closed: as many as can wait there. A
/// gateway that took over accepts from the same queue, and might fill it without end.
const LAST_GUESTS: usize = 4_096;

/// How long accepting rests when the process has no descriptor left. Connections wait in the
/// kernel meanwhile, and others end.
const EXHAUSTED_REST: Duration = Duration::from_millis(50);

/// What all workers share.
#[derive(Debug)]
pub struct House {
    /// Who is here.
    pub census: Arc<Census>,
    /// How many may come.
    pub room: ArcSwap<Room>,
    /// Whether the lack of descriptors was said already.
    pub exhausted: AtomicBool,
    /// Who is banned.
    pub guard: Arc<Guard>,
}

/// Makes the carrier of a worker, on that worker's thread and within its runtime.
pub type MakeCarrier = dyn Fn(usize, watch::Receiver<bool>) -> Arc<dyn Carrier> + Send + Sync;

/// An order to a worker.
pub enum Order {
    /// Accept here.
    Accept {
        /// The socket.
        socket: StdListener,
        /// The terms of the address.
        terms: Arc<ArcSwap<Terms>>,
        /// Turns true when the address closes.
        stop: watch::Receiver<bool>,
        /// Lets the door know when accepting has ended.
        presence: Presence,
    },
    /// End, whatever is still going on.
    End,
}

/// A worker's strings.
#[derive(Debug)]
pub struct Worker {
    orders: mpsc::UnboundedSender<Order>,
    drain: watch::Sender<bool>,
    quiet: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts worker `index`, pinned to `core` where one is given.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or runtime.
    pub fn start(
        index: usize,
        core: Option<core_affinity::CoreId>,
        house: Arc<House>,
        make: Arc<MakeCarrier>,
    ) -> io::Result<Self> {
        let (orders, mut inbox) = mpsc::unbounded_channel();
        let (drain, draining) = watch::channel(false);
        let quiet = Arc::new(AtomicU64::new(0));
        let may_wait = Arc::clone(&quiet);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = async move {
            let service = Service { carrier: make(index, draining.clone()), drain: draining, quiet: may_wait };
            while let Some(order) = inbox.recv().await {
                match order {
                    Order::Accept { socket, terms, stop, presence } => match TcpListener::from_std(socket) {
                        Ok(socket) => {
                            let accept = accept(socket, terms, stop, Arc::clone(&house), service.clone(), presence);
                            tokio::spawn(accept);
                        }
                        Err(err) => error!(%err, "listening socket could not be used"),
                    },
                    Order::End => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("door-{index}")).spawn(move || {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            runtime.block_on(work);
            // Dropping it ends every connection that is left.
            runtime.shutdown_background();
        })?;
        Ok(Self { orders, drain, quiet, thread: Some(thread) })
    }

    /// Gives an order. A worker that has ended ignores it.
    pub fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// Asks all connections to end at the next border between two requests. One that waits for a request may do so
    /// for `quiet` more.
    pub fn drain(&self, quiet: Duration) {
        self.quiet.store(u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.drain.send_replace(true);
    }

    /// Ends the worker and waits for its thread.
    pub fn end(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("worker panicked");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without waiting: whoever wants to wait calls `end`.
        self.order(Order::End);
    }
}

async fn accept(
    socket: TcpListener,
    terms: Arc<ArcSwap<Terms>>,
    mut stop: watch::Receiver<bool>,
    house: Arc<House>,
    service: Service,
    _presence: Presence,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => welcome(tcp, peer, &terms.load_full(), &house, &service),
            Err(err) if is_exhaustion(&err) => {
                terms.load().metrics.turned(Turned::NoDescriptor);
                if !house.exhausted.swap(true, Ordering::Relaxed) {
                    error!(%err, "connections wait because no file descriptor is left");
                }
                tokio::time::sleep(EXHAUSTED_REST).await;
            }
            // The client has left again; the next one is not its fault.
            Err(err) if is_clients(&err) => {}
            Err(err) => {
                warn!(%err, "accept failed");
                tokio::time::sleep(EXHAUSTED_REST).await;
            }
        }
    }
    // Whoever has connected before the address closed is still served. The kernel is asked itself,
    // because the runtime may not have heard of them yet.
    let Ok(socket) = socket.into_std() else { return };
    for _ in 0..LAST_GUESTS {
        let Ok((tcp, peer)) = socket.accept() else { return };
        if tcp.set_nonblocking(true).is_ok()
            && let Ok(tcp) = TcpStream::from_std(tcp)
        {
            welcome(tcp, peer, &terms.load_full(), &house, &service);
        }
    }
}

fn welcome(tcp: TcpStream, peer: std::net::SocketAddr, terms: &Arc<Terms>, house: &House, service: &Service) {
    terms.metrics.total.inc();
    if terms.is_banned(peer.ip()) && !terms.is_proxy(peer.ip()) {
        return turn_away(&tcp, terms);
    }
    let room = **house.room.load();
    match house.census.seat(room, &terms.metrics.open) {
        Ok(seat) => {
            tokio::spawn(serve(tcp, peer, Arc::clone(terms), room, seat, service.clone()));
        }
        Err(why) => terms.metrics.turned(why),
    }
}

/// Cuts off a banned client by a reset: the kernel forgets the connection at once.
fn turn_away(tcp: &TcpStream, terms: &Terms) {
    terms.metrics.turned(Turned::Banned);
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO)); // Without it, it ends more politely.
}

/// Tells whether `accept` failed for lack of descriptors or memory (accept(2): EMFILE, ENFILE, ENOBUFS, ENOMEM).
fn is_exhaustion(err: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    const ENOBUFS: i32 = 105;
    const ENOMEM: i32 = 12;
    matches!(err.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

fn is_clients(err: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, PermissionDenied, TimedOut,
    };
    matches!(
        err.kind(),
        ConnectionAborted | ConnectionReset | ConnectionRefused | Interrupted | PermissionDenied | TimedOut
    )
}
