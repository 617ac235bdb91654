//! Time as the engine reads it: nanoseconds of the system's monotonic clock, and an alarm that rings on time.
//!
//! Tokio's timers turn by whole milliseconds. A [`timerfd`](https://man7.org/linux/man-pages/man2/timerfd_create.2.html)
//! is a high-resolution timer of the kernel: what is left is how long a sleeping core takes to wake up, and the engine
//! takes that off by waking a little early and spinning for the rest (see [`Alarm`]).

use std::cell::Cell;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A point that never comes.
pub const NEVER: u64 = u64::MAX;

/// Most that an alarm rings early so that its thread can spin up to the very moment. More than a core takes to wake up.
const EARLY_AT_MOST: u64 = 40_000;

/// An alarm rings early by at most this part of the time that it slept: spinning costs 5 % of a core, whatever the rate.
const EARLY_PART: u64 = 20;

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds since 1970.
pub fn unix_now() -> u64 {
    nanos(clock_gettime(ClockId::Realtime))
}

/// Nanoseconds that this thread has been on a core.
pub fn thread_cpu() -> u64 {
    nanos(clock_gettime(ClockId::ThreadCPUTime))
}

fn nanos(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Asks the kernel not to put this thread's wake-ups together with later ones. Where it refuses, they come up to 50 µs
/// late, which the lag shows.
pub fn be_punctual() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Wakes the thread's timer task.
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
    /// What it was last set for.
    due: Cell<u64>,
}

impl Alarm {
    /// Must be called within a runtime.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "an OwnedFd is what the unsafe function that replaces it asks for")]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self { timer, due: Cell::new(NEVER) })
    }

    /// Rings for `due` (see [`early`]), and for nothing else.
    pub fn set(&self, due: u64, now: u64) {
        if self.due.replace(due) == due {
            return;
        }
        let at = due - early(due, now).min(due);
        // A timer that is set to 0 never rings; one that is set to the past rings at once.
        let at = at.max(1);
        let value = Timespec {
            tv_sec: i64::try_from(at / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(at % 1_000_000_000).unwrap_or(0),
        };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: zero, it_value: value };
        // It fails for values out of range only.
        let _ = timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &spec);
    }

    /// Until it rings. Setting it anew takes back what has not been waited for.
    pub async fn rung(&self) {
        if let Ok(mut guard) = self.timer.readable().await {
            // Its count need not be read: epoll tells each ring of its own (edge-triggered).
            guard.clear_ready();
            self.due.set(NEVER);
        }
    }
}

/// How long before `due` the alarm should ring, so that the thread is awake when it comes.
fn early(due: u64, now: u64) -> u64 {
    (due.saturating_sub(now) / EARLY_PART).min(EARLY_AT_MOST)
}

/// Spins until `due` where that is near enough to be what the alarm rang early for. Returns the time.
pub fn spin(due: u64) -> u64 {
    loop {
        let now = now();
        if now >= due || due - now > EARLY_AT_MOST {
            return now;
        }
        std::hint::spin_loop();
    }
}
