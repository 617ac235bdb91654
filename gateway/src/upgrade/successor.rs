//! The old one's side: starts the new one, passes the sockets, and waits until it is ready.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::channel::{Channel, DESCRIPTORS, Received, is_open};
use super::{Failed, FromNew, FromOld, Label, MAX_DIAGNOSTICS, MAX_DRAINING, PROTOCOL, Sockets, Step, cut};
use crate::source::Hold;

/// The last bytes of what the new one said that the operator is shown. The log has all of it.
const SAID: u64 = 8 << 10;

/// How long a new one that closed its channel may take to exit, so that its exit code can be told.
const EXIT: Duration = Duration::from_secs(2);

/// The flag that tells a gateway to take over. See `tidegate gateway`.
const TAKE_OVER: &str = "--take-over";

/// Flags that a gateway doesn't hand on to the next: this one's parent isn't the next one's.
const PERSONAL: [&str; 2] = [TAKE_OVER, "--end-with-parent"];

/// A program, and its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file.
    pub binary: PathBuf,
    /// The arguments.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// What this process was started as. To be asked at the start: the file may be replaced later.
    pub fn of_this_process() -> Self {
        let arguments = std::env::args_os().skip(1).filter(|argument| !PERSONAL.iter().any(|own| argument == own));
        let arguments = arguments.collect();
        let binary = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        Self { binary, arguments }
    }
}

/// One try to be replaced.
pub struct Attempt {
    /// What to start.
    pub program: Program,
    /// How long it may take to become ready.
    pub timeout: Duration,
    /// Gateways that still drain, replaced by this one or by those before it.
    pub elders: Vec<OwnedFd>,
    /// Where the source of configurations is asked to hold.
    pub holds: mpsc::Sender<Hold>,
    /// Who follows the steps.
    pub progress: mpsc::Sender<Step>,
    /// To wait for the source on.
    pub runtime: Handle,
    /// Ends the attempt.
    pub abort: Abort,
}

/// The gateway that has taken over.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    /// Dropped when this process ends, which the successor notices.
    _channel: Arc<Channel>,
}

impl Successor {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// Ends an attempt from outside. Cheap to clone; all clones end the same.
#[derive(Clone, Debug, Default)]
pub struct Abort(Arc<Mutex<Option<OwnedFd>>>);

impl Abort {
    /// Kills the new one, if there is one that isn't ready. The attempt fails then.
    pub fn abort(&self) {
        if let Some(process) = self.process().as_ref() {
            let _ = pidfd_send_signal(process, Signal::KILL); // It may just have ended.
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new one that isn't ready yet. Killed when dropped, before its channel closes: it must not take that
/// for our death.
struct Candidate {
    child: Option<Child>,
    channel: Arc<Channel>,
    said: std::fs::File,
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // Fails only where it has ended.
            let _ = child.wait();
        }
    }
}

impl Attempt {
    /// Tries. Blocks until the new one is ready, or has failed. `sockets` is asked once nothing can change them.
    ///
    /// # Errors
    ///
    /// Nothing has changed.
    pub fn run(mut self, sockets: impl FnOnce() -> io::Result<Sockets>) -> Result<Successor, Failed> {
        let deadline = Instant::now() + self.timeout;
        self.elders.retain(is_open);
        if self.elders.len() >= MAX_DRAINING {
            return Err(Failed::because(format!(
                "{MAX_DRAINING} gateways that were replaced still drain; wait until some have ended"
            )));
        }
        let binary = self.program.binary.display().to_string();
        let new = self.start().map_err(|err| Failed::because(format!("{binary} could not be started: {err}")))?;
        let pid = new.child.as_ref().map_or(0, Child::id);
        info!(pid, binary, "new gateway started");
        self.tell(Step::Started { pid });
        let outcome = self.hand_over(&new, sockets, deadline);
        self.abort.process().take();
        match outcome {
            Ok(generation) => {
                info!(pid, generation, "new gateway is ready");
                self.tell(Step::Ready { pid, generation });
                Ok(new.ready())
            }
            Err(trouble) => Err(new.post_mortem(trouble, self.timeout)),
        }
    }

    fn start(&self) -> io::Result<Candidate> {
        let (channel, theirs) = Channel::pair()?;
        // A file, so that writing never fails, whatever becomes of this process.
        let said = rustix::fs::memfd_create("tidegate-said", MemfdFlags::CLOEXEC)?;
        let child = Command::new(&self.program.binary)
            .args(&self.program.arguments)
            .arg(TAKE_OVER)
            .stdin(Stdio::from(theirs))
            .stderr(Stdio::from(said.try_clone()?))
            .spawn()?;
        *self.abort.process() = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();
        Ok(Candidate { child: Some(child), channel: Arc::new(channel), said: said.into() })
    }

    fn hand_over(
        &self,
        new: &Candidate,
        sockets: impl FnOnce() -> io::Result<Sockets>,
        deadline: Instant,
    ) -> Result<u64, Trouble> {
        match new.receive(deadline)? {
            FromNew::Hello { protocol: PROTOCOL, version } => self.tell(Step::Answered { version }),
            FromNew::Hello { version, .. } => {
                return Err(Trouble::Said(format!(
                    "version {version} can't take over from this one without a restart"
                )));
            }
            _ => return Err(Trouble::Said("the new gateway can't be understood".into())),
        }
        // Until it is dropped, which wakes the source, or fulfilled, which ends it.
        let hold = self.hold(deadline)?;
        pass(&new.channel, &sockets()?, &self.elders)?;
        loop {
            match new.receive(deadline)? {
                FromNew::Accepted { generation } => self.tell(Step::Accepted { generation }),
                FromNew::Ready { generation } => {
                    let _ = hold.send(()); // The source may have ended by itself.
                    return Ok(generation);
                }
                FromNew::Refused { diagnostics } => return Err(Trouble::Refused(diagnostics)),
                FromNew::Hello { .. } => return Err(Trouble::Said("the new gateway can't be understood".into())),
            }
        }
    }

    /// Asks the source to keep away from the state folder.
    fn hold(&self, deadline: Instant) -> Result<oneshot::Sender<()>, Trouble> {
        let (held, is_held) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let asked = self.holds.try_send(Hold { held, ended });
        let waited = self.runtime.block_on(tokio::time::timeout_at(deadline.into(), is_held));
        match (asked, waited) {
            (Ok(()), Ok(Ok(()))) => Ok(end),
            _ => Err(Trouble::Said("the running gateway is busy with a change of its configuration".into())),
        }
    }

    fn tell(&self, step: Step) {
        let _ = self.progress.try_send(step); // Who doesn't listen misses it.
    }
}

impl Candidate {
    fn receive(&self, deadline: Instant) -> Result<FromNew, Trouble> {
        match self.channel.receive(Some(deadline)) {
            Ok(Some(Received { message, .. })) => Ok(message),
            Ok(None) => Err(Trouble::Gone),
            Err(err) if err.kind() == io::ErrorKind::TimedOut => Err(Trouble::Late),
            Err(err) => Err(err.into()),
        }
    }

    fn ready(mut self) -> Successor {
        let child = self.child.take().expect("invariant: only dropping takes it before");
        Successor { child, _channel: Arc::clone(&self.channel) }
    }

    /// Ends it, and says what became of it.
    fn post_mortem(mut self, trouble: Trouble, timeout: Duration) -> Failed {
        let mut refused = false;
        let mut diagnostics = None;
        let why = match trouble {
            Trouble::Gone => match self.exit() {
                Some(status) => {
                    refused = status.code() == Some(2);
                    format!("the new gateway ended before it was ready ({status})")
                }
                None => "the new gateway gave up before it was ready".into(),
            },
            Trouble::Late => format!("the new gateway wasn't ready within {timeout:?}, and was killed"),
            Trouble::Refused(text) => {
                refused = true;
                diagnostics = Some(text);
                "the new gateway refuses the configuration".into()
            }
            Trouble::Said(why) => why,
        };
        if let Some(child) = &mut self.child {
            let _ = child.kill(); // Fails only where it has ended.
            let _ = child.wait();
        }
        let said = self.what_it_said();
        warn!("upgrade failed, this gateway serves on: {why}");
        if !said.is_empty() {
            let _ = io::stderr().write_all(said.as_bytes()); // Its log is ours.
        }
        Failed { why, refused, said: diagnostics.unwrap_or(said) }
    }

    fn exit(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + EXIT;
        let child = self.child.as_mut()?;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }

    fn what_it_said(&self) -> String {
        let length = self.said.metadata().map_or(0, |file| file.len());
        let mut bytes = vec![0; usize::try_from(length.min(SAID)).unwrap_or(0)];
        let read = self.said.read_at(&mut bytes, length.saturating_sub(SAID)).unwrap_or(0);
        cut(&String::from_utf8_lossy(&bytes[..read]), MAX_DIAGNOSTICS).to_owned()
    }
}

/// Why a candidate isn't ready.
enum Trouble {
    /// It closed its end.
    Gone,
    /// Its time is up.
    Late,
    /// It doesn't like the configuration, because of this.
    Refused(String),
    /// Anything else.
    Said(String),
}

impl From<io::Error> for Trouble {
    fn from(err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Gone,
            _ => Self::Said(format!("handing over failed: {err}")),
        }
    }
}

/// Passes the sockets, and what else the new one needs.
fn pass(channel: &Channel, sockets: &Sockets, elders: &[OwnedFd]) -> io::Result<()> {
    for some in sockets.listeners.chunks(DESCRIPTORS) {
        let labels = some.iter().map(|passed| Label::Listener { name: passed.name.clone(), bind: passed.bind });
        let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(|passed| passed.socket.as_fd()).collect();
        channel.send(&FromOld::Sockets(labels.collect()), &descriptors)?;
    }
    if let Some((bind, socket)) = &sockets.admin {
        channel.send(&FromOld::Sockets(vec![Label::Admin { bind: *bind }]), &[socket.as_fd()])?;
    }
    let log = io::stderr();
    let rest: Vec<BorrowedFd<'_>> = [log.as_fd()].into_iter().chain(elders.iter().map(|elder| elder.as_fd())).collect();
    channel.send(&FromOld::All, &rest)
}
