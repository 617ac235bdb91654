//! The door: accepts connections, and runs the keep-alive loop of each.
//!
//! One `SO_REUSEPORT` socket and one pinned single-threaded runtime per core.
//! Per connection: bounds → PROXY header → TLS → protocol → requests. The loop waits for
//! the next request *outside* the carrier, so that an idle connection holds next to nothing.
//!
//! # Invariants
//!
//! - A reload closes no connection: an address that stays keeps its sockets, and one that goes
//!   stops accepting and lets its connections go on to their end.
//! - A change whose ports can't be bound is refused before it changes anything.
//! - Cores share no lock while they serve requests.
//!
//! # Not here
//!
//! What happens to a request is `decide`'s; carrying it is `carry`'s.

pub mod census;
pub mod chunk;
mod connection;
mod frames;
pub mod framing;
mod handshake;
pub mod head;
mod http2;
mod io;
mod listener;
mod lobby;
pub mod metrics;
pub mod names;
mod outgoing;
pub mod pace;
mod preface;
pub mod proxy_header;
pub mod pulse;
pub mod refusal;
pub mod socket;
mod source;
pub mod stream;
mod worker;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use tidegate_model::desired::{Bounds, Desired, Listener};
use tokio::sync::watch;
use tracing::{error, info};

use crate::acme::Challenges;
use crate::decide::Connection;
use crate::guard::Guard;
use crate::tls::{Front, TlsFiles, TlsShape, TlsShared};
use census::{Census, Room};
use listener::{AddressKey, Open, Terms};
pub use listener::{BindError, Passed};
use lobby::LobbyRoom;
use metrics::DoorMetrics;
use stream::DoorStream;
use worker::{House, Order, Worker};

/// The environment variable that overrides the number of workers.
const WORKERS: &str = "TIDEGATE_WORKERS";

/// Workers at most: beyond any machine this runs on, and a bound for a typing error.
const MAX_WORKERS: usize = 1_024;

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
    async fn http2(self: Arc<Self>, stream: Box<DoorStream>, connection: Arc<Connection>, drain: watch::Receiver<bool>);
}

/// How many workers to start: as many as this process may use cores, or what `TIDEGATE_WORKERS` says.
pub fn default_workers() -> usize {
    let asked = std::env::var(WORKERS).ok().and_then(|text| text.parse().ok());
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.filter(|n| (1..=MAX_WORKERS).contains(n)).unwrap_or_else(cores)
}

/// Sockets that were bound for a change and don't listen yet. Dropped, they leave no trace.
#[derive(Debug, Default)]
pub struct Prepared(HashMap<AddressKey, (SocketAddr, Vec<socket2::Socket>)>);

/// See the module.
#[derive(Debug)]
pub struct Door {
    house: Arc<House>,
    workers: Vec<Worker>,
    open: HashMap<AddressKey, Open>,
    /// Sockets of the gateway before, until the first configuration has taken those it wants.
    inherited: Vec<Passed>,
    metrics: DoorMetrics,
    tls: TlsShared,
}

impl Door {
    /// Starts the workers; nothing listens yet. `make` is called once on each worker's thread,
    /// within its runtime, with the worker's number and a watch that turns true when
    /// [`Door::drain`] begins, so that an answer which starts after that can say `Connection: close`. `challenges` knows
    /// what ACME authorities are shown.
    ///
    /// # Errors
    ///
    /// When the system gives no threads.
    pub fn start(
        workers: usize,
        metrics: DoorMetrics,
        guard: Arc<Guard>,
        challenges: Challenges,
        make: impl Fn(usize, watch::Receiver<bool>) -> Arc<dyn Carrier> + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let house = Arc::new(House {
            census: Arc::default(),
            room: ArcSwap::from_pointee(room(&Desired::default())),
            exhausted: AtomicBool::new(false),
            guard,
        });
        let make: Arc<worker::MakeCarrier> = Arc::new(make);
        // Pinned only where every worker gets a core of its own.
        let cores = core_affinity::get_core_ids().filter(|cores| cores.len() >= workers).unwrap_or_default();
        let workers = (0..workers.clamp(1, MAX_WORKERS))
            .map(|n| Worker::start(n, cores.get(n).copied(), Arc::clone(&house), Arc::clone(&make)))
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            house,
            workers,
            open: HashMap::new(),
            inherited: Vec::new(),
            metrics,
            tls: TlsShared::new(challenges),
        })
    }

    /// Takes the sockets of the gateway before: the next configuration accepts from those it has listeners for, and
    /// closes the others.
    pub fn inherit(&mut self, sockets: Vec<Passed>) {
        self.inherited = sockets;
    }

    /// The sockets of all listeners, to be passed to the gateway that comes next.
    ///
    /// # Errors
    ///
    /// No descriptors are left.
    pub fn sockets(&self) -> std::io::Result<Vec<Passed>> {
        let mut all = Vec::new();
        for (key, open) in &self.open {
            let name = open.terms.load().name.to_string();
            for socket in &open.sockets {
                all.push(Passed { name: name.clone(), bind: key.bind(), socket: socket.try_clone()? });
            }
        }
        Ok(all)
    }

    /// Binds what `listeners` need beyond what is open, and changes nothing yet.
    ///
    /// # Errors
    ///
    /// Every address that can't be bound.
    pub fn bind(&self, listeners: &[Listener]) -> Result<Prepared, Vec<BindError>> {
        let mut prepared = Prepared::default();
        let mut errors = Vec::new();
        for listener in listeners {
            let key = AddressKey::of(listener);
            if self.open.contains_key(&key) {
                continue;
            }
            let leaves = |open: &AddressKey| !listeners.iter().any(|other| AddressKey::of(other) == *open);
            let ours = self.open.iter().any(|(k, open)| leaves(k) && open.address.port() == listener.bind.port());
            let bound = if prepared.0.contains_key(&key) {
                Err(std::io::ErrorKind::AddrInUse.into())
            } else {
                match self.inherited_by(listener) {
                    Ok(sockets) if sockets.is_empty() => listener::bind(listener.bind, self.workers.len(), ours),
                    Ok(sockets) => listener::complete(sockets, self.workers.len()),
                    Err(err) => Err(err),
                }
            };
            match bound.and_then(|sockets| Ok((listener::bound_to(&sockets[0])?, sockets))) {
                Ok(bound) => drop(prepared.0.insert(key, bound)),
                Err(cause) => errors.push(BindError::new(listener, cause)),
            }
        }
        if errors.is_empty() { Ok(prepared) } else { Err(errors) }
    }

    fn inherited_by(&self, listener: &Listener) -> std::io::Result<Vec<socket2::Socket>> {
        let passed = self.inherited.iter().filter(|passed| passed.is_for(listener));
        passed.map(|passed| Ok(passed.socket.try_clone()?.into())).collect()
    }

    /// Serves as `desired` says from now on. `tls` is what its listeners' files hold; `prepared` is what [`Door::bind`]
    /// returned for the same listeners.
    ///
    /// Connections that are open keep the terms they came under.
    pub fn apply(&mut self, desired: &Desired, tls: TlsFiles, mut prepared: Prepared) {
        assert_eq!(tls.certificates.len(), desired.listeners.len(), "invariant: one entry for each listener");
        self.tls.set_ticket_secret(tls.ticket_secret);
        let clients = desired.listeners.iter().map(|listener| tls.clients.get(&listener.name).cloned());
        let certificates: Vec<_> = tls.certificates.into_iter().zip(clients).collect();
        self.house.room.store(Arc::new(room(desired)));
        let keys: Vec<_> = desired.listeners.iter().map(AddressKey::of).collect();
        self.open.retain(|key, open| {
            let stays = keys.contains(key);
            if !stays {
                open.stop.send_replace(true);
                info!(address = %open.address, "listener closed");
            }
            stays
        });
        for ((listener, key), (table, clients)) in desired.listeners.iter().zip(keys).zip(certificates) {
            let tls = listener.tls.as_ref().zip(table).map(|(tls, table)| {
                let shape = TlsShape { only_tls13: tls.only_tls13, http1: listener.http1, http2: listener.http2 };
                Front::new(&mut self.tls, shape, table, clients.unwrap_or_default())
            });
            let bans = Arc::clone(&self.house.guard.bans);
            let terms = Terms::new(listener, tls, self.metrics.listener(&listener.name), bans);
            if let Some(open) = self.open.get_mut(&key) {
                open.terms.store(Arc::new(terms));
            } else if let Some((address, sockets)) = prepared.0.remove(&key) {
                let terms = Arc::new(ArcSwap::from_pointee(terms));
                let mut open = Open { address, terms, stop: watch::channel(false).0, sockets: Vec::new() };
                self.open_up(&mut open, sockets);
                info!(listener = listener.name, %address, "listener opened");
                self.open.insert(key, open);
            } else {
                error!(listener = listener.name, "listener was not bound before it was applied");
            }
        }
        self.tls.forget_unused();
        self.inherited = Vec::new();
    }

    fn open_up(&self, open: &mut Open, sockets: Vec<socket2::Socket>) {
        // A gateway with more workers has left more sockets, and each must be accepted from.
        for (worker, socket) in self.workers.iter().cycle().zip(sockets) {
            match listener::listen(socket).and_then(|socket| Ok((socket.try_clone()?, socket))) {
                Ok((handle, socket)) => {
                    open.sockets.push(handle);
                    worker.order(Order::Accept {
                        socket,
                        terms: Arc::clone(&open.terms),
                        stop: open.stop.subscribe(),
                        presence: self.house.census.presence(),
                    });
                }
                Err(err) => error!(address = %open.address, %err, "socket could not listen"),
            }
        }
    }

    /// The listeners that are open, by name, with the addresses they are bound to.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let mut all: Vec<_> =
            self.open.values().map(|open| (open.terms.load().name.to_string(), open.address)).collect();
        all.sort();
        all
    }

    /// Client connections open now.
    pub fn connections(&self) -> usize {
        self.house.census.connections()
    }

    /// Who is here, to be watched while the door drains.
    pub fn census(&self) -> Arc<Census> {
        Arc::clone(&self.house.census)
    }

    /// Stops: accepts nobody new, closes connections that wait for a request after `quiet`, lets requests in
    /// flight finish. Takes as long as the last of them, at most `patience`, and returns how many
    /// connections were cut then.
    pub async fn drain(mut self, patience: Duration, quiet: Duration) -> usize {
        for (_, open) in self.open.drain() {
            open.stop.send_replace(true);
        }
        for worker in &self.workers {
            worker.drain(quiet);
        }
        let left = match tokio::time::timeout(patience, self.house.census.wait_until_empty()).await {
            Ok(()) => 0,
            Err(_) => self.connections(),
        };
        self.house.census.cut_off();
        let mut workers = std::mem::take(&mut self.workers);
        // Joining blocks, and this may be the runtime's only thread.
        let ended = tokio::task::spawn_blocking(move || workers.iter_mut().for_each(Worker::end)).await;
        if let Err(err) = ended {
            error!(%err, "workers could not be ended");
        }
        left
    }
}

fn room(desired: &Desired) -> Room {
    let bounds: &Bounds = &desired.bounds;
    Room {
        connections: bounds.connections,
        per_source: bounds.connections_per_source,
        per_network: bounds.connections_per_network,
        lobby: LobbyRoom {
            total: bounds.handshakes,
            per_source: bounds.handshakes_per_source,
            per_network: bounds.handshakes_per_network,
        },
        v6_prefix: desired.client_ip.v6_prefix,
    }
}

#[cfg(test)]
mod tests;
