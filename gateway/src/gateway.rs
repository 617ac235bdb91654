//! The running gateway: what `run` starts, and how a configuration comes into force.
//!
//! # Invariants
//!
//! - A configuration comes into force whole or not at all: files are read and ports bound before
//!   anything that requests can see is changed.
//! - What requests see changes in one place, by one swap.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_model::check::Places;
use tidegate_model::desired::{Desired, Generation};
use tidegate_model::diagnostic::{Colour, Diagnostic};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::acme::{Acme, AcmeMetrics};
use crate::admin::{Admin, AdminState, Readiness};
use crate::carry::express::Express;
use crate::carry::pingora::PingoraCarrier;
use crate::compile::{Material, compile};
use crate::door::metrics::DoorMetrics;
use crate::door::{self, BindError, Door};
use crate::guard::Guard;
use crate::guard::bans::journal::Keeper;
use crate::guard::crowd::{self, Crowd};
use crate::guard::lists::Lists;
use crate::guard::pulse;
use crate::guard::quota::{self, QuotaMetrics};
use crate::guard::shelf::Shelf;
use crate::material::{self, Files};
use crate::proxy::Shared;
use crate::record::Metrics;
use crate::record::access::{AccessLog, Sink};
use crate::recording::Recorder;
use crate::resolve::{self, Names};
use crate::shadow::Shadows;
use crate::snapshot::Publisher;
use crate::source::{ReloadRequest, Status};
use crate::tls::ocsp::OcspKeeper;
use crate::tls::{CertTable, Slots};
use crate::upgrade::Sockets;
use crate::{clock, health};

/// The environment variable that turns the express carrier off: `pingora` lets Pingora carry everything, for tests
/// that compare the two, and for a doubt in production.
const CARRIER: &str = "TIDEGATE_CARRIER";

/// What a gateway is built around, whatever its configuration says.
pub struct Parts {
    /// All metrics.
    pub metrics: Metrics,
    /// What `/readyz` says.
    pub readiness: Arc<Readiness>,
    /// What `/readyz` adds while something is wrong with the configuration on disk.
    pub source: Status,
    /// Where `/reload` sends.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// The runtime for everything that isn't a client's request.
    pub control: Handle,
    /// Threads that carry requests.
    pub workers: usize,
    /// Where bans are kept over a restart; `None` where nothing can be kept.
    pub state: Option<PathBuf>,
}

/// A running gateway.
pub struct Gateway {
    parts: Parts,
    publisher: Publisher,
    material: Material,
    door: Door,
    admin: Option<Admin>,
    access_log: AccessLog,
    shadows: Arc<Shadows>,
    bans: Keeper,
    acme: Acme,
    ocsp: OcspKeeper,
    shelf: Shelf,
    /// The admin socket of the gateway before, until the first configuration.
    inherited_admin: Option<(SocketAddr, TcpListener)>,
}

/// What was got ready for a configuration, and doesn't show yet.
struct Ready {
    files: Files,
    slots: Slots,
    names: Names,
    lists: Lists,
    doors: door::Prepared,
    admin: Option<TcpListener>,
    log: Option<Sink>,
}

impl Gateway {
    /// Starts all threads, around an empty configuration that listens nowhere.
    ///
    /// # Errors
    ///
    /// The system gives no threads.
    pub fn open(parts: Parts) -> io::Result<Self> {
        let nothing = Arc::new(Desired::default());
        let access_log = AccessLog::start(Sink::open(&nothing.access_log)?, &parts.metrics);
        let shadows = Shadows::start(nothing.bounds.shadow_bytes, parts.metrics.registry())?;
        let guard = Arc::new(Guard::register(parts.metrics.registry()).map_err(io::Error::other)?);
        let bans = Keeper::start(Arc::clone(&guard.bans), parts.state.as_deref())?;
        if let Some(folder) = &parts.state {
            guard.crowd.restore(folder);
            parts.control.spawn(crowd::keep(Arc::clone(&guard.crowd), folder.clone()));
        }
        let pulse = Arc::clone(&guard.crowd.pulse);
        let soon = Arc::clone(&guard.soon);
        let recorder = Arc::new(Recorder::default());
        recorder.register(parts.metrics.registry()).map_err(io::Error::other)?;
        let material = Material { guard: Arc::clone(&guard), recorder, ..Material::default() };
        let publisher = Publisher::starting_with(compile(nothing, None, &material, &parts.metrics));
        let acme_metrics = AcmeMetrics::register(parts.metrics.registry()).map_err(io::Error::other)?;
        let acme = Acme::new(parts.control.clone(), acme_metrics);
        let ocsp = OcspKeeper::start(&parts.control, parts.state.as_deref(), parts.metrics.registry())
            .map_err(io::Error::other)?;
        let shelf = Shelf::new(parts.state.as_deref(), parts.metrics.registry()).map_err(io::Error::other)?;
        let challenges = acme.challenges().clone();
        let shared = Arc::new(Shared {
            challenges: challenges.clone(),
            snapshot: publisher.slot(),
            unrouted: parts.metrics.unrouted(),
            access_log: access_log.clone(),
            shadows: Arc::clone(&shadows),
        });
        let door_metrics = DoorMetrics::register(parts.metrics.registry()).map_err(io::Error::other)?;
        let only_pingora = std::env::var_os(CARRIER).is_some_and(|name| name == "pingora");
        let door = Door::start(parts.workers, door_metrics, guard, challenges, move |_worker, drain| {
            tokio::spawn(pulse::beat(Arc::clone(&pulse)));
            let pingora = Arc::new(PingoraCarrier::new(Arc::clone(&shared), drain));
            if only_pingora { pingora } else { Arc::new(Express::new(Arc::clone(&shared), pingora)) }
        })?;
        let quotas = QuotaMetrics::register(parts.metrics.registry()).map_err(io::Error::other)?;
        parts.control.spawn(quota::run(publisher.slot(), quotas, soon));
        parts.control.spawn(health::probe::run(publisher.slot(), clock::now));
        Ok(Self {
            parts,
            publisher,
            material,
            door,
            admin: None,
            access_log,
            shadows,
            bans,
            acme,
            ocsp,
            shelf,
            inherited_admin: None,
        })
    }

    /// Takes the sockets of the gateway before. The next configuration uses those it names, and closes the others.
    pub fn inherit(&mut self, sockets: Sockets) {
        self.door.inherit(sockets.listeners);
        self.inherited_admin = sockets.admin;
    }

    /// All listening sockets, to be passed to the gateway that comes next.
    ///
    /// # Errors
    ///
    /// No descriptors are left.
    pub fn sockets(&self) -> io::Result<Sockets> {
        let bind = self.publisher.current().desired.admin;
        let admin = self.admin.as_ref().zip(bind).map(|(admin, bind)| Ok::<_, io::Error>((bind, admin.socket()?)));
        Ok(Sockets { listeners: self.door.sockets()?, admin: admin.transpose()? })
    }

    /// Puts `desired` into force.
    ///
    /// # Errors
    ///
    /// What of it can't be had. Then nothing has changed.
    pub fn apply(&mut self, desired: &Arc<Desired>, places: &Places) -> Result<(), Vec<Diagnostic>> {
        let ready = self.prepare(desired, places)?;
        self.material.upstream_tls.clone_from(&ready.files.upstream_tls);
        self.material.names.clone_from(&ready.names);
        self.material.lists.clone_from(&ready.lists);
        self.material.clients.clone_from(&ready.files.tls.clients);
        self.material.keys.clone_from(&ready.files.keys);
        self.material.dyed.clone_from(&ready.files.dyed);
        self.material.guard.apply(desired);
        let previous = self.publisher.current();
        let next = compile(Arc::clone(desired), Some(&previous), &self.material, &self.parts.metrics);
        self.publisher.publish(next);
        self.show(desired, ready);
        self.shelf.keep(&self.material.lists);
        Ok(())
    }

    /// Takes over addresses behind names that have changed.
    pub fn renew(&mut self, news: Names) {
        if !resolve::merge(&mut self.material.names, news) {
            return;
        }
        let current = self.publisher.current();
        let next = compile(Arc::clone(&current.desired), Some(&current), &self.material, &self.parts.metrics);
        self.publisher.renew(next);
        self.parts.metrics.retain(&self.publisher.current());
        info!("addresses behind names changed");
    }

    /// The configuration in force, and the addresses behind its names.
    pub fn names(&self) -> (Arc<Desired>, Names) {
        (Arc::clone(&self.publisher.current().desired), self.material.names.clone())
    }

    /// Where it listens: by name of the listener.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.door.addresses()
    }

    /// Where the admin pages are.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// The access log, for reopening.
    pub fn access_log(&self) -> &AccessLog {
        &self.access_log
    }

    /// Takes the door out, to drain it; the admin pages go on until the rest is dropped.
    pub fn into_door(self) -> (Door, Rest) {
        let crowd = self.parts.state.map(|folder| (Arc::clone(&self.material.guard.crowd), folder));
        let (access_log, admin, _shadows, bans) = (self.access_log, self.admin, self.shadows, Some(self.bans));
        (self.door, Rest { access_log, crowd, admin, _shadows, bans })
    }

    /// Gets everything ready that may fail.
    fn prepare(&self, desired: &Desired, places: &Places) -> Result<Ready, Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let slots = self.acme.slots(desired);
        let files = material::read(desired, places, &slots).map_err(|told| problems.extend(told)).ok();
        // A change that names a broken list is refused; a start isn't, as long as there is a good state of it.
        let shelf = (self.publisher.current().generation() == Generation::default()).then_some(&self.shelf);
        let lists = Lists::read_or_kept(desired, places, &self.material.lists, shelf)
            .map_err(|told| problems.extend(told))
            .ok();
        let doors = self
            .door
            .bind(&desired.listeners)
            .map_err(|errors| problems.extend(errors.iter().map(|error| bind_problem(error, places))))
            .ok();
        let admin = self.bind_admin(desired.admin).unwrap_or_else(|(address, cause)| {
            let message = format!("the admin listener can't be bound to {address}");
            problems.push(
                Diagnostic::error("bind", message)
                    .maybe_at(places.of("admin.bind"), cause.to_string())
                    .help("`ss -ltnp` shows what listens there"),
            );
            None
        });
        let changed = self.publisher.current().desired.access_log != desired.access_log;
        let log = changed.then(|| Sink::open(&desired.access_log)).transpose().unwrap_or_else(|cause| {
            problems.push(log_problem(&cause, places));
            None
        });
        match (files, lists, doors) {
            (Some(files), Some(lists), Some(doors)) if problems.is_empty() => {
                let names = self.parts.control.block_on(resolve::resolve(desired, &self.material.names)).names;
                Ok(Ready { files, slots, names, lists, doors, admin, log })
            }
            _ => Err(problems),
        }
    }

    /// A socket for the admin pages, where they move.
    fn bind_admin(&self, wanted: Option<SocketAddr>) -> Result<Option<TcpListener>, (SocketAddr, io::Error)> {
        let Some(address) = wanted else { return Ok(None) };
        let stays = self.admin.is_some() && self.publisher.current().desired.admin == wanted;
        let bind = || match &self.inherited_admin {
            Some((bind, socket)) if *bind == address => socket.try_clone(),
            _ => Admin::bind(address),
        };
        if stays { Ok(None) } else { bind().map(Some).map_err(|cause| (address, cause)) }
    }

    /// Shows what was got ready. Nothing here may fail.
    fn show(&mut self, desired: &Desired, ready: Ready) {
        for warning in &ready.files.warnings {
            warn!("{}", warning.render(Colour::Off).trim_end());
        }
        let from_files = ready.files.tls.certificates.iter().flatten().flat_map(CertTable::files).cloned().collect();
        let mut tls = ready.files.tls;
        self.ocsp.apply(tls.certificates.iter_mut().flatten().flat_map(CertTable::take_stapled).collect());
        self.door.apply(desired, tls, ready.doors);
        self.acme.apply(desired, &ready.slots, from_files);
        self.shadows.set_bytes(desired.bounds.shadow_bytes);
        if let Some(sink) = ready.log {
            self.access_log.switch(sink);
        }
        match (ready.admin, &mut self.admin) {
            (Some(listener), Some(admin)) => {
                if let Err(error) = admin.rebind(listener) {
                    warn!(%error, "admin listener could not move");
                }
            }
            (Some(listener), None) => {
                let state = AdminState {
                    slot: self.publisher.slot(),
                    metrics: self.parts.metrics.clone(),
                    readiness: Arc::clone(&self.parts.readiness),
                    source: self.parts.source.clone(),
                    reload: self.parts.reload.clone(),
                    certificates: self.acme.book().clone(),
                };
                match Admin::start(listener, state) {
                    Ok(admin) => self.admin = Some(admin),
                    Err(error) => warn!(%error, "admin listener could not start"),
                }
            }
            (None, _) if desired.admin.is_none() => self.admin = None,
            (None, _) => {}
        }
        self.inherited_admin = None;
        let metrics = &self.parts.metrics;
        metrics.retain(&self.publisher.current());
        metrics.in_force(desired.generation, std::time::SystemTime::now());
        info!(generation = %desired.generation, routes = desired.routes.len(), "snapshot published");
    }
}

/// What is kept until the door has drained.
pub struct Rest {
    access_log: AccessLog,
    crowd: Option<(Arc<Crowd>, PathBuf)>,
    admin: Option<Admin>,
    _shadows: Arc<Shadows>,
    bans: Option<Keeper>,
}

impl Rest {
    /// Leaves the admin address and the files of bans and regulars to the gateway that has taken over.
    pub fn retire(&mut self) {
        self.bans = None;
        self.crowd = None;
        if let Some(admin) = &mut self.admin {
            admin.retire();
        }
    }

    /// Writes what is left of the access log, and who the regulars are.
    pub fn close(self) {
        if let Some((crowd, folder)) = &self.crowd {
            crowd.save(folder, clock::now());
        }
        self.access_log.close();
    }
}

fn bind_problem(error: &BindError, places: &Places) -> Diagnostic {
    Diagnostic::error("bind", error.to_string())
        .maybe_at(places.of(&format!("listeners.{}.bind", error.listener)), error.cause.to_string())
        .help(error.hint)
}

fn log_problem(cause: &io::Error, places: &Places) -> Diagnostic {
    Diagnostic::error("access-log", "the access log can't be opened")
        .maybe_at(places.of("access_log"), cause.to_string())
        .help("check that the folder exists and can be written")
}
