//! The new one's side: takes the sockets, and says when it is ready.

use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use tracing::{info, warn};

use super::channel::{Channel, Received};
use super::{FromNew, FromOld, Label, MAX_DIAGNOSTICS, PROTOCOL, Sockets, cut};
use crate::door::Passed;

/// How long the old one may take to pass its sockets. It may be in the middle of a reload, and gives up itself before.
const SOCKETS: Duration = Duration::from_secs(600);

/// Why there is nobody to take over from.
#[derive(Debug, thiserror::Error)]
pub enum PredecessorError {
    /// Standard input isn't what `tidegate upgrade` makes it.
    #[error("--take-over is for gateways that a running gateway starts; use `tidegate upgrade`")]
    Alone(#[source] io::Error),
    /// What it says makes no sense.
    #[error("the running gateway can't be understood")]
    Strange(#[source] io::Error),
}

/// The gateway that this one takes over from.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    alive: bool,
    sockets: Sockets,
    elders: Vec<OwnedFd>,
    log: Option<OwnedFd>,
}

impl Predecessor {
    /// Meets the gateway that started this process, and takes its sockets.
    ///
    /// # Errors
    ///
    /// This process wasn't started to take over. That the old one has died meanwhile is none.
    pub fn meet() -> Result<Self, PredecessorError> {
        let ours = io::stdin().as_fd().try_clone_to_owned();
        let channel = ours.and_then(Channel::over).map_err(PredecessorError::Alone)?;
        let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        if let Err(err) = nothing.and_then(rustix::stdio::dup2_stdin) {
            warn!(%err, "standard input could not be closed");
        }
        let mut new = Self { channel, alive: true, sockets: Sockets::default(), elders: Vec::new(), log: None };
        new.say(&FromNew::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").into() });
        let deadline = Instant::now() + SOCKETS;
        while new.alive {
            match new.channel.receive(Some(deadline)).map_err(PredecessorError::Strange)? {
                None => new.bereaved(),
                Some(Received { message: FromOld::Sockets(labels), descriptors }) => {
                    labels.into_iter().zip(descriptors).for_each(|(label, socket)| new.take(label, socket));
                }
                Some(Received { message: FromOld::All, descriptors }) => {
                    let mut descriptors = descriptors.into_iter();
                    new.log = descriptors.next();
                    new.elders = descriptors.collect();
                    break;
                }
            }
        }
        Ok(new)
    }

    /// The sockets that it passed.
    pub fn sockets(&mut self) -> Sockets {
        std::mem::take(&mut self.sockets)
    }

    /// Whether the old one still serves. If not, this one must, come what may.
    pub fn is_alive(&self) -> bool {
        self.alive && super::channel::is_open(&self.channel)
    }

    /// Tells that the configuration is accepted.
    pub fn accepted(&mut self, generation: u64) {
        self.say(&FromNew::Accepted { generation });
    }

    /// Tells that the configuration is refused.
    pub fn refused(&mut self, diagnostics: &str) {
        self.say(&FromNew::Refused { diagnostics: cut(diagnostics, MAX_DIAGNOSTICS).to_owned() });
    }

    /// Tells that this one serves: the old one drains from now on. Returns a handle for each gateway that drains.
    pub fn ready(mut self, generation: u64) -> Vec<OwnedFd> {
        self.say(&FromNew::Ready { generation });
        if let Some(log) = self.log.take()
            && let Err(err) = speak_to(&log)
        {
            warn!(%err, "the log could not be taken over");
        }
        info!("took over from the gateway before");
        let mut elders = std::mem::take(&mut self.elders);
        if self.alive {
            elders.extend(self.channel.handle().ok());
        }
        elders.retain(super::channel::is_open);
        elders
    }

    fn take(&mut self, label: Label, socket: OwnedFd) {
        match label {
            Label::Listener { name, bind } => {
                self.sockets.listeners.push(Passed { name, bind, socket: socket.into() });
            }
            Label::Admin { bind } => self.sockets.admin = Some((bind, socket.into())),
        }
    }

    fn say(&mut self, message: &FromNew) {
        if self.alive && self.channel.send(message, &[]).is_err() {
            self.bereaved();
        }
    }

    fn bereaved(&mut self) {
        self.alive = false;
        warn!("the gateway before has died while handing over");
    }
}

/// Makes `log` standard error, and repeats there what was said so far to the file that was it.
fn speak_to(log: &OwnedFd) -> io::Result<()> {
    let mut before = std::fs::File::from(io::stderr().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stderr(log)?;
    let mut said = Vec::new();
    if before.metadata()?.is_file() {
        before.rewind()?;
        before.read_to_end(&mut said)?;
    }
    io::stderr().write_all(&said)
}
