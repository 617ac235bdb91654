//! Reads the configuration from a file or a folder, and fingerprints the files that it names.
//!
//! A folder means its `*.yaml` and `*.yml` files, sorted by name. What editors
//! drop beside them (`.#x`, `x~`, `.x.swp`) and hidden files are not configuration.
//!
//! # Not here
//!
//! What the text means is `tidegate_model::check`. Certificates are parsed by `tls`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tidegate_model::check::SourceFile;
use tidegate_model::desired::{CertificateSource, Desired};
use tidegate_model::diagnostic::Diagnostic;

use crate::guard::lists;

/// Bytes of configuration text in all. Beyond it the configuration is refused.
pub const MAX_BYTES: u64 = 16 << 20;

/// Files in a configuration folder. Beyond it the configuration is refused.
pub const MAX_FILES: usize = 1_000;

/// Bytes of a referenced file whose content counts for its fingerprint. Of a larger one (a list of millions of
/// networks) inode, size and times count instead: it isn't read twice for each reload.
const MAX_REFERENCE: u64 = 4 << 20;

/// Reads `path`, a file or a folder.
///
/// # Errors
///
/// Every file that is missing, unreadable, too large or not UTF-8; a folder without configuration.
pub fn read(path: &Path) -> Result<Vec<SourceFile>, Vec<Diagnostic>> {
    let paths = match list(path) {
        Ok(paths) => paths,
        Err(diagnostic) => return Err(vec![*diagnostic]),
    };
    let mut files = Vec::with_capacity(paths.len());
    let mut problems = Vec::new();
    let mut left = MAX_BYTES;
    for path in paths {
        match read_one(&path, left) {
            Ok(text) => {
                left -= text.len() as u64;
                files.push(SourceFile { path, text });
            }
            Err(diagnostic) => problems.push(*diagnostic),
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}

/// The configuration files that `path` stands for: itself, or what is in the folder.
pub fn list(path: &Path) -> Result<Vec<PathBuf>, Box<Diagnostic>> {
    let shown = path.display();
    let meta = fs::metadata(path).map_err(|err| Box::new(unreadable(path, &err)))?;
    if !meta.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut paths = BTreeSet::new();
    for entry in fs::read_dir(path).map_err(|err| Box::new(unreadable(path, &err)))? {
        let name = entry.map_err(|err| Box::new(unreadable(path, &err)))?.file_name();
        if name.to_str().is_some_and(is_config_name) && !path.join(&name).is_dir() {
            paths.insert(path.join(name));
        }
        if paths.len() > MAX_FILES {
            let message = format!("folder {shown} holds more than {MAX_FILES} configuration files");
            return Err(Box::new(Diagnostic::error("too-many-files", message).help("merge some of them")));
        }
    }
    if paths.is_empty() {
        let message = format!("folder {shown} holds no configuration");
        let help = "put at least one *.yaml file there; hidden files don't count";
        return Err(Box::new(Diagnostic::error("empty-folder", message).help(help)));
    }
    Ok(paths.into_iter().collect())
}

/// Whether a file of this name in a configuration folder is configuration.
pub fn is_config_name(name: &str) -> bool {
    (name.ends_with(".yaml") || name.ends_with(".yml")) && !name.starts_with(['.', '#', '~'])
}

/// Tells two texts of a configuration apart: SHA-256 over names and texts, as 64 hexadecimal digits.
///
/// Names count relative to `config`, so that a folder that moved with its history is still the same.
pub fn digest(config: &Path, files: &[SourceFile]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        let name = file.path.strip_prefix(config).unwrap_or(Path::new("")).as_os_str().as_encoded_bytes();
        for part in [name, file.text.as_bytes()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hex(&hash.finalize())
}

/// The files that `desired` names: certificates, keys, authorities and lists. Sorted, each once.
pub fn references(desired: &Desired) -> Vec<PathBuf> {
    let listeners = desired.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let upstreams = desired.services.iter().filter_map(|service| service.tls.as_ref());
    // What is ordered is looked after in `acme`: a renewal is no new generation.
    let files = listeners.clone().flat_map(|tls| &tls.certificates).filter_map(|source| match source {
        CertificateSource::Files(files) => Some(files),
        CertificateSource::Acme(_) => None,
    });
    let pairs = files.chain(upstreams.clone().filter_map(|tls| tls.client.as_ref()));
    let mut paths: BTreeSet<PathBuf> =
        pairs.flat_map(|pair| [pair.cert.clone(), pair.key.clone()].into_iter().chain(pair.ocsp.clone())).collect();
    paths.extend(upstreams.filter_map(|tls| tls.ca.clone()));
    paths.extend(lists::files(desired));
    paths.extend(desired.acme.as_ref().and_then(|acme| acme.ca.clone()));
    let clients = listeners.flat_map(|tls| &tls.clients);
    paths.extend(clients.flat_map(|auth| [Some(auth.ca.clone()), auth.crl.clone()]).flatten());
    paths.extend(desired.tls.ticket_secret.clone());
    paths.extend(desired.dyed.iter().flat_map(|dyed| dyed.keys.iter().cloned()));
    paths.into_iter().collect()
}

/// Tells two states of referenced files apart. A missing or unreadable file counts as such, so that
/// its arrival is a change.
pub fn fingerprint(paths: &[PathBuf]) -> String {
    let mut hash = Sha256::new();
    for path in paths {
        let name = path.as_os_str().as_encoded_bytes();
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
        let meta = fs::metadata(path).ok().filter(|meta| meta.len() > MAX_REFERENCE);
        if let Some(meta) = meta {
            let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
            [meta.dev(), meta.ino(), meta.len()].iter().for_each(|number| hash.update(number.to_be_bytes()));
            times.iter().for_each(|number| hash.update(number.to_be_bytes()));
            continue;
        }
        match read_bounded(path, MAX_REFERENCE) {
            Ok(bytes) => {
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
            Err(err) => hash.update(format!("{:?}", err.kind())),
        }
    }
    hex(&hash.finalize())
}

fn read_one(path: &Path, left: u64) -> Result<String, Box<Diagnostic>> {
    let shown = path.display();
    let bytes = read_bounded(path, left + 1).map_err(|err| Box::new(unreadable(path, &err)))?;
    if bytes.len() as u64 > left {
        let message = format!("configuration is larger than {} MiB at {shown}", MAX_BYTES >> 20);
        return Err(Box::new(Diagnostic::error("too-large", message).help("is this really a configuration file?")));
    }
    String::from_utf8(bytes).map_err(|err| {
        let line = 1 + err.as_bytes()[..err.utf8_error().valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        let message = format!("{shown} is not UTF-8 text: line {line} holds other bytes");
        Box::new(Diagnostic::error("not-utf8", message).help("save the file as UTF-8"))
    })
}

/// At most `max` bytes of a regular file. Pipes and devices are refused: they could block for ever.
fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(path: &Path, err: &io::Error) -> Diagnostic {
    let shown = path.display();
    let (code, message) = match err.kind() {
        io::ErrorKind::NotFound => ("missing-file", format!("{shown} does not exist")),
        _ => ("unreadable-file", format!("{shown} can't be read: {err}")),
    };
    let help = match err.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => "it is a symbolic link whose target is missing",
        io::ErrorKind::NotFound => "check the path given to --config",
        io::ErrorKind::PermissionDenied => "the gateway's user needs permission to read it",
        _ => return Diagnostic::error(code, message),
    };
    Diagnostic::error(code, message).help(help)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let files = read(path).unwrap();
        files.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    fn refusal(path: &Path) -> Vec<&'static str> {
        read(path).unwrap_err().iter().map(|diagnostic| diagnostic.code).collect()
    }

    #[test]
    fn folder_is_its_yaml_files_by_name_without_editor_droppings() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["b.yml", "a.yaml", ".hidden.yaml", ".#a.yaml", "a.yaml~", ".a.yaml.swp", "#a.yaml#", "README.md", "4913"]
        {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir(folder.path().join("sub.yaml")).unwrap();

        let found = names(folder.path());

        assert_eq!(found, ["a.yaml", "b.yml"]);
    }

    #[test]
    fn every_bad_file_of_a_folder_is_reported_in_one_run() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), b"version: 1\nname: \xff\n").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("b.yaml")).unwrap();
        fs::write(folder.path().join("c.yaml"), "version: 1\n").unwrap();

        let problems = read(folder.path()).unwrap_err();

        assert_eq!(problems.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["not-utf8", "missing-file"]);
        assert!(problems[0].message.contains("a.yaml") && problems[0].message.contains("line 2"), "{problems:?}");
    }

    #[test]
    fn missing_empty_and_special_files_are_refused_and_never_block() {
        let folder = tempfile::tempdir().unwrap();

        assert_eq!(refusal(&folder.path().join("gone.yaml")), ["missing-file"]);
        assert_eq!(refusal(folder.path()), ["empty-folder"]);
        assert_eq!(refusal(Path::new("/dev/zero")), ["unreadable-file"]);
    }

    #[test]
    fn text_beyond_the_bound_is_refused_over_all_files_together() {
        let folder = tempfile::tempdir().unwrap();
        let half = "#".repeat(MAX_BYTES as usize / 2);
        fs::write(folder.path().join("a.yaml"), &half).unwrap();
        fs::write(folder.path().join("b.yaml"), &half).unwrap();
        assert_eq!(names(folder.path()), ["a.yaml", "b.yaml"]);

        fs::write(folder.path().join("c.yaml"), "#").unwrap();

        assert_eq!(refusal(folder.path()), ["too-large"]);
    }

    #[test]
    fn digest_tells_apart_where_one_file_ends_and_the_next_begins() {
        let file = |name: &str, text: &str| SourceFile { path: Path::new("/etc/edge").join(name), text: text.into() };
        let config = Path::new("/etc/edge");

        let one = digest(config, &[file("a", "xy"), file("b", "z")]);
        let other = digest(config, &[file("a", "x"), file("b", "yz")]);

        assert_ne!(one, other);
    }

    #[test]
    fn fingerprint_changes_when_a_referenced_file_changes_vanishes_or_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().join("shop.crt")];
        let missing = fingerprint(&paths);
        fs::write(&paths[0], "one").unwrap();
        let one = fingerprint(&paths);
        fs::write(&paths[0], "two").unwrap();
        let two = fingerprint(&paths);

        fs::remove_file(&paths[0]).unwrap();

        assert!(missing != one && one != two && two != missing);
        assert_eq!(fingerprint(&paths), missing);
    }
}
