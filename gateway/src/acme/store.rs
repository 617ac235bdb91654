//! The folder that certificates, keys and pending challenges live in. Several gateways may share it.
//!
//! ```text
//! STORE/HOST-HASH/            one for each directory of an authority
//!   account.pem               the account's private key
//!   account.json              its URL and contacts, for people and for noticing a change
//!   certificates/ID.pem       private key and chain in one file, so that they always match
//!   orders/ID.json            what is known of past and current orders
//!   orders/ID.key             the private key of an order that isn't finished
//!   challenges/http-01/TOKEN  the key authorization that answers a pending challenge
//!   challenges/tls-alpn-01/NAME
//!   locks/ID                  held (flock) by whoever orders
//! ```
//!
//! # Invariants
//!
//! - A file is complete or absent, also after `kill -9` or a power cut: it is written aside, synced, renamed, and the
//!   folder synced.
//! - Private keys are readable by their owner only.
//! - What is in a file is believed only after it was parsed; a torn or foreign one is an error and never a panic.
//!
//! # Not here
//!
//! When to order is `plan`; these functions block, and are called where that is allowed.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tidegate_model::desired::{AcmeChallengeKind, AcmeNames};

use super::plan::Record;

/// Bytes of any file in the store. A longer one is refused: it is something else.
const MAX_FILE: u64 = 1 << 20;

/// Certificates that are looked through for one that covers a new list of names. Beyond it a placeholder is shown.
const LISTED: usize = 1_000;

/// A challenge, or a file that is being written, that is older was left behind by a gateway that died.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 3600);

/// Characters of a certificate's id that come from its first name. File names have at most 255.
const ID_NAME: usize = 180;

/// What a certificate's files are called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertId(String);

impl CertId {
    /// The same names give the same id on every gateway.
    pub fn of(names: &AcmeNames) -> Self {
        let first = names.0.first().map_or("none", String::as_str);
        if names.0.len() == 1 && first.len() <= ID_NAME {
            return Self(first.to_owned());
        }
        let mut sorted = names.0.clone();
        sorted.sort_unstable();
        let first = &first[..first.len().min(ID_NAME)]; // Names are ASCII.
        Self(format!("{first}+{}-{}", names.0.len() - 1, short_hash(&sorted.join(","))))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What tells two states of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// The part of the folder that belongs to one directory of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

/// Held while a certificate is ordered, or an account opened. The system frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(Option<File>);

/// What came of asking for a lock.
#[derive(Debug)]
pub enum Locking {
    /// It is ours.
    Ours(Lock),
    /// Another gateway (or task) holds it.
    Taken,
}

impl Store {
    /// The part of `folder` for the authority at `directory`. Touches nothing.
    pub fn at(folder: &Path, directory: &str) -> Self {
        let host = directory.trim_start_matches("https://").split(['/', '?', '#']).next().unwrap_or_default();
        let plain = |char: char| if char.is_ascii_alphanumeric() || ".-".contains(char) { char } else { '_' };
        let host: String = host.chars().map(plain).take(ID_NAME).collect();
        Self { root: folder.join(format!("{host}-{}", short_hash(directory))) }
    }

    /// Makes its folders, where they aren't there.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn make(&self) -> io::Result<()> {
        for folder in ["certificates", "orders", "challenges/http-01", "challenges/tls-alpn-01", "locks"] {
            DirBuilder::new().recursive(true).mode(0o700).create(self.root.join(folder))?;
        }
        Ok(())
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of a certificate.
    pub fn certificate(&self, id: &CertId) -> PathBuf {
        self.root.join("certificates").join(format!("{}.pem", id.0))
    }

    /// The account's key, as PEM; `None` while there is none.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub fn account_key(&self) -> io::Result<Option<Vec<u8>>> {
        read(&self.root.join("account.pem"))
    }

    /// Keeps the account's key.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn keep_account_key(&self, pem: &str) -> io::Result<()> {
        write(&self.root.join("account.pem"), pem.as_bytes())
    }

    /// Puts an account key that can't be used aside, so that it can be looked at.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn set_account_key_aside(&self) -> io::Result<PathBuf> {
        let aside = self.root.join("account.pem.unusable");
        fs::rename(self.root.join("account.pem"), &aside)?;
        Ok(aside)
    }

    /// What is kept about the account besides its key.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub fn account(&self) -> io::Result<Option<Vec<u8>>> {
        read(&self.root.join("account.json"))
    }

    /// Keeps what is known about the account.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn keep_account(&self, json: &[u8]) -> io::Result<()> {
        write(&self.root.join("account.json"), json)
    }

    /// A certificate's key and chain, as PEM; `None` while there is none.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub fn load_certificate(&self, id: &CertId) -> io::Result<Option<Vec<u8>>> {
        read(&self.certificate(id))
    }

    /// The PEM texts of all certificates; those that can't be read are left out.
    pub fn all_certificates(&self) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(self.root.join("certificates")).into_iter().flatten().flatten();
        entries.take(LISTED).filter_map(|entry| read(&entry.path()).ok()?).collect()
    }

    /// Tells whether a certificate's file is another than before; `None` while there is none.
    pub fn stamp(&self, id: &CertId) -> Option<Stamp> {
        let meta = fs::metadata(self.certificate(id)).ok()?;
        Some(Stamp { inode: meta.ino(), size: meta.size(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }

    /// Keeps a certificate, in place of an older one.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn keep_certificate(&self, id: &CertId, key_and_chain: &str) -> io::Result<()> {
        write(&self.certificate(id), key_and_chain.as_bytes())
    }

    /// What is known about orders of a certificate. One that is torn counts as unknown.
    ///
    /// # Errors
    ///
    /// It is there and can't be read.
    pub fn record(&self, id: &CertId) -> io::Result<Record> {
        let json = read(&self.order_file(id, "json"))?;
        Ok(json.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default())
    }

    /// Keeps what is known about orders of a certificate.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn keep_record(&self, id: &CertId, record: &Record) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
        write(&self.order_file(id, "json"), &json)
    }

    /// The private key of an order that isn't finished.
    ///
    /// # Errors
    ///
    /// It is there and can't be read.
    pub fn order_key(&self, id: &CertId) -> io::Result<Option<String>> {
        let pem = read(&self.order_file(id, "key"))?;
        Ok(pem.and_then(|pem| String::from_utf8(pem).ok()))
    }

    /// Keeps the private key of an order.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn keep_order_key(&self, id: &CertId, pem: &str) -> io::Result<()> {
        write(&self.order_file(id, "key"), pem.as_bytes())
    }

    /// Forgets the private key of an order that is over.
    pub fn forget_order_key(&self, id: &CertId) {
        let _ = fs::remove_file(self.order_file(id, "key")); // A stale one does no harm: it is tried, and doesn't fit.
    }

    /// Shows a challenge's answer to all gateways.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn pose(&self, kind: AcmeChallengeKind, key: &str, authorization: &str) -> io::Result<()> {
        write(&self.challenge(kind, key), authorization.as_bytes())
    }

    /// Takes a challenge's answer back.
    pub fn withdraw(&self, kind: AcmeChallengeKind, key: &str) {
        let _ = fs::remove_file(self.challenge(kind, key)); // What stays is swept later.
    }

    /// The answer to a pending challenge; `key` is a token or a name that was checked to be one.
    pub fn posed(&self, kind: AcmeChallengeKind, key: &str) -> Option<String> {
        let text = read(&self.challenge(kind, key)).ok()??;
        String::from_utf8(text).ok()
    }

    /// Removes challenges, and files that were being written, which a gateway left behind when it died.
    pub fn sweep(&self) {
        const CHALLENGES: [&str; 2] = ["challenges/http-01", "challenges/tls-alpn-01"];
        for folder in ["", "certificates", "orders"].into_iter().chain(CHALLENGES) {
            let Ok(entries) = fs::read_dir(self.root.join(folder)) else { continue };
            for entry in entries.flatten() {
                let left = CHALLENGES.contains(&folder) || entry.file_name().as_encoded_bytes().starts_with(b".");
                let since =
                    entry.metadata().and_then(|meta| meta.modified()).map(|at| SystemTime::now().duration_since(at));
                if left && matches!(since, Ok(Ok(age)) if age > LEFT_BEHIND) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Asks for a lock, and doesn't wait. Where the file system can't lock, it is given without being held: a single
    /// gateway must work on any of them.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn lock(&self, name: &str) -> io::Result<Locking> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.root.join("locks").join(name))?;
        match file.try_lock() {
            Ok(()) => Ok(Locking::Ours(Lock(Some(file)))),
            Err(TryLockError::WouldBlock) => Ok(Locking::Taken),
            Err(TryLockError::Error(err)) if err.kind() == io::ErrorKind::Unsupported => Ok(Locking::Ours(Lock(None))),
            Err(TryLockError::Error(err)) => Err(err),
        }
    }

    fn order_file(&self, id: &CertId, extension: &str) -> PathBuf {
        self.root.join("orders").join(format!("{}.{extension}", id.0))
    }

    fn challenge(&self, kind: AcmeChallengeKind, key: &str) -> PathBuf {
        self.challenge_folder(kind).join(key)
    }

    fn challenge_folder(&self, kind: AcmeChallengeKind) -> PathBuf {
        self.root.join("challenges").join(match kind {
            AcmeChallengeKind::Http01 => "http-01",
            AcmeChallengeKind::TlsAlpn01 => "tls-alpn-01",
        })
    }
}

impl Lock {
    /// Whether other gateways are really kept away.
    pub fn is_held(&self) -> bool {
        self.0.is_some()
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 1 MiB"));
    }
    Ok(Some(bytes))
}

/// Written aside under a name of this process and thread, so that two writers never share one.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mark: u64 = rand::random();
    let aside = folder.join(format!(".{mark:016x}.{}", short_hash(&name.to_string_lossy())));
    let written = (|| {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written?;
    File::open(folder)?.sync_all()
}

/// Eight hexadecimal digits: enough to tell a handful of things apart.
fn short_hash(text: &str) -> String {
    Sha256::digest(text).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path(), "https://ca.test:14000/dir");
        store.make().unwrap();
        (folder, store)
    }

    fn id(names: &[&str]) -> CertId {
        CertId::of(&AcmeNames(names.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn the_same_names_have_one_id_in_any_order_of_the_rest_and_other_names_another() {
        assert_eq!(id(&["shop.test"]).as_str(), "shop.test");
        assert_eq!(id(&["shop.test", "a.test", "b.test"]), id(&["shop.test", "b.test", "a.test"]));
        assert_ne!(id(&["shop.test", "a.test"]), id(&["shop.test", "b.test"]));
        assert_ne!(id(&["shop.test", "a.test"]), id(&["shop.test"]));
        assert!(id(&[&"a".repeat(237)]).as_str().len() < 200);
    }

    #[test]
    fn two_directories_of_one_host_share_nothing() {
        let folder = Path::new("/store");

        let (staging, production) =
            (Store::at(folder, "https://ca.test/staging"), Store::at(folder, "https://ca.test/"));

        assert_ne!(staging, production);
        assert!(production.root().starts_with(folder));
    }

    #[test]
    fn a_secret_is_readable_by_its_owner_only_and_comes_back_as_it_was() {
        let (_folder, store) = store();

        store.keep_account_key("secret").unwrap();
        store.keep_certificate(&id(&["shop.test"]), "pem").unwrap();

        assert_eq!(store.account_key().unwrap().as_deref(), Some(&b"secret"[..]));
        for path in [store.root().join("account.pem"), store.certificate(&id(&["shop.test"]))] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
        assert_eq!(fs::metadata(store.root()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_torn_record_counts_as_unknown_and_an_absent_certificate_as_absent() {
        let (_folder, store) = store();
        fs::write(store.order_file(&id(&["shop.test"]), "json"), "{\"failures\": 3").unwrap();

        assert_eq!(store.record(&id(&["shop.test"])).unwrap(), Record::default());
        assert_eq!(store.load_certificate(&id(&["shop.test"])).unwrap(), None);
        assert_eq!(store.stamp(&id(&["shop.test"])), None);
    }

    #[test]
    fn a_lock_is_given_to_one_at_a_time_and_freed_with_its_holder() {
        let (_folder, store) = store();

        let first = store.lock("shop.test").unwrap();
        let second = store.lock("shop.test").unwrap();
        let other = store.lock("blog.test").unwrap();
        assert!(matches!((&first, &second, &other), (Locking::Ours(_), Locking::Taken, Locking::Ours(_))));
        drop(first);

        assert!(matches!(store.lock("shop.test").unwrap(), Locking::Ours(lock) if lock.is_held()));
    }

    #[test]
    fn a_challenge_is_seen_by_every_gateway_until_it_is_withdrawn() {
        let (folder, store) = store();
        let other = Store::at(folder.path(), "https://ca.test:14000/dir");

        store.pose(AcmeChallengeKind::Http01, "token", "token.thumb").unwrap();
        let seen = other.posed(AcmeChallengeKind::Http01, "token");
        store.withdraw(AcmeChallengeKind::Http01, "token");

        assert_eq!(seen.as_deref(), Some("token.thumb"));
        assert_eq!(other.posed(AcmeChallengeKind::Http01, "token"), None);
    }
}
