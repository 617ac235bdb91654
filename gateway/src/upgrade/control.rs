//! The control socket: where `tidegate upgrade` finds the running gateway.
//!
//! A Unix socket `run/control.sock` in the state folder. One JSON line asks, JSON lines answer as things happen.
//!
//! # Invariants
//!
//! - Only the user that the gateway runs as, and root, are heard: the folder has mode 0700, and who connects is
//!   looked at.
//! - The socket's name always leads to the gateway that serves; one that was replaced removes nothing.

use std::fs::{DirBuilder, Permissions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Step;

/// Connections at a time. Beyond it new ones are closed at once.
const CONNECTIONS: u32 = 8;

/// Time to ask. Beyond it the connection is closed.
const ASK: Duration = Duration::from_secs(5);

/// Bytes of what is asked. Beyond it the connection is closed.
const ASK_BYTES: u64 = 64 << 10;

/// Steps that wait for whoever follows them. Beyond it they aren't told.
const STEPS: usize = 64;

/// Time to tell the last steps to whoever follows them, before the process ends.
const LAST_STEPS: Duration = Duration::from_secs(1);

/// Bytes that a socket's path may have (`sun_path` of unix(7), less its final zero).
const PATH_BYTES: usize = 107;

/// After an accept that failed, so that the task doesn't spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// To be replaced.
    Upgrade {
        /// By this program, an absolute path.
        binary: PathBuf,
        /// With these arguments behind those that the running one was started with.
        arguments: Vec<String>,
        /// Within this time, in milliseconds.
        timeout_ms: u64,
    },
}

/// Something that was asked.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub request: Request,
    /// Where the answers go.
    pub steps: mpsc::Sender<Step>,
}

/// The open control socket.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    inode: u64,
    places: Arc<Semaphore>,
}

impl Control {
    /// Opens the control socket in the state folder `state`, in place of any other, and sends what is asked to `asked`.
    /// Within a runtime.
    ///
    /// # Errors
    ///
    /// The folder can't be written.
    pub fn open(state: &Path, asked: mpsc::Sender<Asked>) -> io::Result<Self> {
        let folder = folder(state);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        std::fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        let aside = folder.join(format!("control.{}", std::process::id()));
        let path = path(state);
        let _ = std::fs::remove_file(&aside); // Left by a process of the same number that was killed.
        let listener = within_reach(&aside, |aside| StdListener::bind(aside))?;
        listener.set_nonblocking(true)?;
        std::fs::rename(&aside, &path)?;
        let inode = std::fs::metadata(&path)?.ino();
        let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
        tokio::spawn(serve(UnixListener::from_std(listener)?, Arc::clone(&places), asked));
        Ok(Self { path, inode, places })
    }

    /// Waits a moment until whoever follows has been told everything.
    pub async fn told(&self) {
        let _ = timeout(LAST_STEPS, self.places.acquire_many(CONNECTIONS)).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if std::fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path); // It is only tidier without.
        }
    }
}

/// The control socket of a gateway that keeps its generations in `state`.
pub fn path(state: &Path) -> PathBuf {
    folder(state).join("control.sock")
}

fn folder(state: &Path) -> PathBuf {
    state.join("run")
}

/// Asks the gateway that keeps its generations in `state`, and hands each answer to `each` until there are no more or it breaks.
///
/// # Errors
///
/// No gateway answers there.
pub fn ask(state: &Path, request: &Request, mut each: impl FnMut(Step) -> ControlFlow<()>) -> io::Result<()> {
    let mut stream = within_reach(&path(state), |path| StdStream::connect(path))?;
    stream.set_write_timeout(Some(ASK))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    for line in BufReader::new(stream).lines() {
        match line {
            Ok(line) if each(serde_json::from_str(&line)?).is_break() => break,
            Ok(_) => {}
            // It was killed.
            Err(err) if err.kind() == io::ErrorKind::ConnectionReset => break,
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

/// Calls `act` with a name for `path` that is short enough for a socket.
fn within_reach<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return act(path) };
    if path.as_os_str().len() <= PATH_BYTES {
        return act(path);
    }
    let folder: OwnedFd = rustix::fs::open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    act(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

async fn serve(listener: UnixListener, places: Arc<Semaphore>, asked: mpsc::Sender<Asked>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(err) => {
                warn!(%err, "control socket could not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let asked = asked.clone();
        tokio::spawn(async move {
            if let Err(err) = answer(stream, &asked).await {
                debug!(%err, "control connection ended");
            }
            drop(place);
        });
    }
}

async fn answer(stream: UnixStream, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    let user = stream.peer_cred()?.uid();
    if user != 0 && user != rustix::process::geteuid().as_raw() {
        warn!(user, "control socket was used by somebody else, who was turned away");
        return Ok(());
    }
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(ASK_BYTES));
    timeout(ASK, reader.read_line(&mut line)).await??;
    let request = serde_json::from_str(&line)?;
    let (steps, mut told) = mpsc::channel(STEPS);
    if asked.try_send(Asked { request, steps: steps.clone() }).is_err() {
        let _ = steps.try_send(Step::Leaving); // There is space for one.
    }
    drop(steps);
    while let Some(step) = told.recv().await {
        let mut line = serde_json::to_vec(&step)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::Upgrade { binary: "/new".into(), arguments: vec!["--workers".into(), "2".into()], timeout_ms: 1 }
    }

    #[tokio::test]
    async fn what_is_asked_arrives_and_is_answered_in_a_folder_of_any_length() {
        let temp = tempfile::tempdir().unwrap();
        for state in [temp.path().join("state"), temp.path().join("long".repeat(40))] {
            let (sender, mut asked) = mpsc::channel(1);
            let control = Control::open(&state, sender).unwrap();
            let client = tokio::task::spawn_blocking({
                let state = state.clone();
                move || {
                    let mut steps = Vec::new();
                    ask(&state, &request(), |step| {
                        steps.push(step);
                        ControlFlow::Continue(())
                    })
                    .map(|()| steps)
                }
            });

            let got = asked.recv().await.unwrap();
            got.steps.send(Step::Started { pid: 7 }).await.unwrap();
            drop(got.steps);

            assert_eq!(got.request, request());
            assert_eq!(client.await.unwrap().unwrap(), [Step::Started { pid: 7 }]);
            drop(control);
            assert!(!path(&state).exists());
        }
    }

    #[tokio::test]
    async fn a_gateway_that_was_replaced_leaves_the_others_socket_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (sender, _asked) = mpsc::channel(1);
        let old = Control::open(temp.path(), sender.clone()).unwrap();
        let new = Control::open(temp.path(), sender).unwrap();

        drop(old);

        assert!(path(temp.path()).exists());
        drop(new);
        assert!(!path(temp.path()).exists());
    }

    #[tokio::test]
    async fn a_gateway_that_listens_to_nobody_any_more_says_so() {
        let temp = tempfile::tempdir().unwrap();
        let (sender, asked) = mpsc::channel(1);
        let _control = Control::open(temp.path(), sender).unwrap();
        drop(asked);
        let state = temp.path().to_owned();

        let steps = tokio::task::spawn_blocking(move || {
            let mut steps = Vec::new();
            ask(&state, &request(), |step| {
                steps.push(step);
                ControlFlow::Continue(())
            })
            .map(|()| steps)
        });

        assert_eq!(steps.await.unwrap().unwrap(), [Step::Leaving]);
    }
}
