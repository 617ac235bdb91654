//! What a gateway turns into when another has taken over: the process that whoever started it still watches.
//!
//! A shell, a container engine or a supervisor knows the first gateway's process number, and takes its end for the
//! service's. So this number lives on: the process runs itself anew as a small program that holds nothing of the
//! gateway, passes signals on to whichever gateway serves, and ends with it, with its exit code.
//!
//! Gateways between the first and the last leave no such thing: they become children of the stand-in
//! (`PR_SET_CHILD_SUBREAPER`, prctl(2)), and simply end. Under systemd there is none at all: it is told the new main
//! process (see [`super::notify`]).
//!
//! # Invariants
//!
//! - A signal goes straight to every gateway that descends from this process, once. Those between don't pass it on: one
//!   that is about to end would lose it, and a second one to the same gateway means "at once".

use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tracing::info;

/// The hidden command that [`become_one`] runs, which calls [`stand_in`].
pub const COMMAND: &str = "stand-in";

/// Signals that are passed on.
const PASSED: [Signal; 5] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2];

/// Makes this process the one that orphans among its descendants fall to.
///
/// # Errors
///
/// The kernel is older than 3.4.
pub fn adopt_descendants() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Runs this process anew as a stand-in. `came` tells, once signals are held back, which one to end came last and
/// wasn't passed on. Returns only if that can't be done.
///
/// # Errors
///
/// What the system says.
pub fn become_one(came: impl FnOnce() -> Option<Signal>) -> io::Result<Infallible> {
    info!("this process stands in for the gateway that took over");
    // The mask survives the change of programs, so a signal that comes in the middle waits.
    watched().thread_block()?;
    if let Some(signal) = came() {
        raise(signal)?; // Waits too.
    }
    Err(Command::new("/proc/self/exe").arg0("tidegate").arg(COMMAND).exec())
}

/// Passes signals on until no descendant is left. Returns the exit code of the last; 128 and the signal's number if
/// one killed it, as shells say it.
///
/// # Errors
///
/// What the system says.
pub fn stand_in() -> io::Result<u8> {
    let watched = watched();
    watched.thread_block()?;
    let mut last = 0;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => last = u8::try_from(code).unwrap_or(1),
            Ok(WaitStatus::Signaled(_, signal, _)) => last = 128 + signal as u8,
            Ok(WaitStatus::StillAlive) => match watched.wait()? {
                Signal::SIGCHLD => {}
                signal => pass_on(signal),
            },
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(last),
            Err(err) => return Err(err.into()),
        }
    }
}

/// Sends a signal to every process that descends from this one.
pub fn pass_on(signal: Signal) {
    for process in descendants() {
        let _ = kill(process, signal); // It may just have ended.
    }
}

fn watched() -> SigSet {
    PASSED.into_iter().chain([Signal::SIGCHLD]).collect()
}

/// The processes that descend from this one, as /proc tells (proc(5): the fourth field of `stat` is the parent). One that
/// has ended stays in the list until it is waited for, so its children are found whichever parent they have just then.
fn descendants() -> Vec<Pid> {
    let parent_of = |process: i32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name before it stands in parentheses, and may hold any others.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut rest: Vec<(i32, i32)> = all
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, parent_of(process)?)))
        .collect();
    let mut found = vec![Pid::this().as_raw()];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(rest.extract_if(.., |(_, of)| *of == parent).map(|(process, _)| process));
        next += 1;
    }
    found.into_iter().skip(1).map(Pid::from_raw).collect()
}
