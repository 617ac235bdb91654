//! Starts gateways, origins and clients, and waits for conditions.
#![allow(dead_code, reason = "a kit has more tools than any one test uses")]

pub mod app;
pub mod beside;
pub mod certs;
pub mod client;
pub mod flood;
pub mod frames;
pub mod gateway;
pub mod load;
pub mod nginx;
pub mod origin;
pub mod pebble;
pub mod ports;
pub mod relay;

pub use app::App;
pub use client::{Client, curl, get, request};
pub use gateway::Gateway;
pub use origin::{Mood, Origin};
pub use pebble::{Manner, Pebble};

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long anything that is awaited may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Looks again and again until `condition` holds.
///
/// # Panics
///
/// With `what` when it doesn't hold in time.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The binary that is tested: the one that was built with the tests, or another (a release build, say) that
/// `TIDEGATE_BINARY` names.
pub fn binary() -> PathBuf {
    std::env::var_os("TIDEGATE_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_tidegate").into(), PathBuf::from)
}

/// Whether a test runs at full size (`make bench`) or at the size that CI can afford.
pub fn full_size() -> bool {
    std::env::var_os("TIDEGATE_FULL").is_some_and(|value| value == "1")
}
