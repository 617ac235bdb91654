//! What the process knows about visitors as a crowd: who is a regular, how strained the gateway is, and the secret that
//! signs passes where the configuration names none. Outlives every snapshot, and is kept in the state folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{IntCounterVec, Opts, Registry};
use tidegate_model::time::Timestamp;
use tracing::{info, warn};

use super::known::Known;
use super::pulse::Pulse;
use super::token::Keys;

/// Time between two savings of the regulars. What was learnt since is lost when the machine is.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The file of regulars in the state folder.
const REGULARS: &str = "regulars";

/// The file with the secret in the state folder. Several gateways share one by `challenge.secret` instead.
const SECRET: &str = "challenge-secret";

/// See the module.
#[derive(Debug)]
pub struct Crowd {
    /// Regulars.
    pub known: Arc<Known>,
    /// The gateway's own strain.
    pub pulse: Arc<Pulse>,
    epoch: u64,
    keys: OnceLock<Keys>,
    challenges: IntCounterVec,
}

/// What came of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenged {
    /// It was asked.
    Asked,
    /// It was passed.
    Passed,
    /// The answer was wrong, late or somebody else's.
    Failed,
}

impl Default for Crowd {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let epoch = now.saturating_sub(crate::clock::now().as_nanos() / 1_000_000_000);
        let opts = Opts::new("tidegate_challenges_total", "Challenges to unknown visitors, by what came of them.");
        let challenges = IntCounterVec::new(opts, &["result"]).expect("our own names are valid");
        for result in [Challenged::Asked, Challenged::Passed, Challenged::Failed] {
            challenges.with_label_values(&[label(result)]);
        }
        let known = Arc::new(Known::new(rand::random(), epoch));
        Self { known, pulse: Arc::default(), epoch, keys: OnceLock::new(), challenges }
    }
}

impl Crowd {
    /// Shows its families on `registry`.
    ///
    /// # Errors
    ///
    /// It has one of the names already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        self.pulse.register(registry)?;
        registry.register(Box::new(self.challenges.clone()))
    }

    /// The Unix time in seconds.
    pub fn unix(&self, now: Timestamp) -> u64 {
        self.epoch + now.as_nanos() / 1_000_000_000
    }

    /// The process's own keys, made at random where no file had any.
    pub fn keys(&self) -> &Keys {
        self.keys.get_or_init(|| Keys::read(&random_secret()).expect("a random secret is long enough"))
    }

    /// Counts a challenge.
    pub fn challenged(&self, result: Challenged) {
        self.challenges.with_label_values(&[label(result)]).inc();
    }

    /// Takes over what the last process left in `folder`: regulars and the secret. A file that can't be read or written is
    /// said and does no more harm than forgetting.
    pub fn restore(&self, folder: &Path) {
        match secret(folder) {
            Ok(text) => match Keys::read(&text) {
                Some(keys) => drop(self.keys.set(keys)),
                None => {
                    warn!(file = %folder.join(SECRET).display(), "challenge secret is too short, a new one is used")
                }
            },
            Err(error) => warn!(%error, "challenge secret can't be kept: passes end with this process"),
        }
        match fs::read(folder.join(REGULARS)) {
            Ok(bytes) => match self.known.restore(&bytes) {
                Some(regulars) => info!(regulars, "regulars remembered"),
                None => warn!(file = %folder.join(REGULARS).display(), "regulars can't be read, they are learnt anew"),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, "regulars can't be read, they are learnt anew"),
        }
    }

    /// Writes the regulars to `folder`.
    pub fn save(&self, folder: &Path, now: Timestamp) {
        let write = || {
            fs::create_dir_all(folder)?;
            let fresh = folder.join(format!("{REGULARS}.new"));
            write_private(&fresh, &self.known.save(now))?;
            fs::rename(fresh, folder.join(REGULARS))
        };
        if let Err(error) = write() {
            warn!(%error, "regulars could not be saved");
        }
    }
}

/// Saves the regulars to `folder` now and then, for as long as the runtime lasts.
pub async fn keep(crowd: Arc<Crowd>, folder: PathBuf) {
    loop {
        tokio::time::sleep(SAVE_EVERY).await;
        let (crowd, folder) = (Arc::clone(&crowd), folder.clone());
        let _ = tokio::task::spawn_blocking(move || crowd.save(&folder, crate::clock::now())).await;
    }
}

fn label(result: Challenged) -> &'static str {
    match result {
        Challenged::Asked => "asked",
        Challenged::Passed => "passed",
        Challenged::Failed => "failed",
    }
}

/// The secret in `folder`, made if there is none.
fn secret(folder: &Path) -> io::Result<String> {
    let file = folder.join(SECRET);
    match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder)?;
            let secret = random_secret();
            write_private(&file, secret.as_bytes())?;
            Ok(secret)
        }
        read => read,
    }
}

fn random_secret() -> String {
    format!("{:032x}{:032x}\n", rand::random::<u128>(), rand::random::<u128>())
}

/// Writes a file that only its owner can read.
fn write_private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut open = fs::OpenOptions::new();
    open.write(true).create(true).truncate(true).mode(0o600).open(file)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let holder = super::super::token::Holder {
            network: crate::decide::key::Network::of("192.0.2.7".parse().unwrap(), 64),
            host: "h",
        };
        let before = Crowd::default();
        before.restore(folder.path());
        let pass = before.keys().pass(holder, 18, 100);

        let after = Crowd::default();
        after.restore(folder.path());

        assert!(after.keys().admits(pass.as_bytes(), holder, 18, 99));
        assert!(!Crowd::default().keys().admits(pass.as_bytes(), holder, 18, 99));
    }

    #[test]
    fn nobody_else_can_read_the_secret() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();

        Crowd::default().restore(folder.path());

        let mode = fs::metadata(folder.path().join(SECRET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn damaged_files_are_forgotten_and_everything_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(SECRET), "short").unwrap();
        fs::write(folder.path().join(REGULARS), "nonsense").unwrap();
        let crowd = Crowd::default();

        crowd.restore(folder.path());
        crowd.save(folder.path(), Timestamp::ZERO);

        assert_eq!(Crowd::default().known.restore(&fs::read(folder.path().join(REGULARS)).unwrap()), Some(0));
    }
}
