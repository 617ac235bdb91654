//! Where a configuration's generations are kept.
//!
//! `--state DIR` is that folder itself. Without it, the folder is
//! `BASE/NAME-HASH`, so that two configurations never share one: NAME is the
//! configuration's file name, HASH tells equal names apart. BASE is
//! `$STATE_DIRECTORY` (set by systemd's `StateDirectory=`), else
//! `$XDG_STATE_HOME/tidegate`, else `~/.local/state/tidegate`, else
//! `/var/lib/tidegate`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use sha2::{Digest as _, Sha256};

/// Where services keep their state; where commands look when no variable points elsewhere.
const SYSTEM: &str = "/var/lib/tidegate";

/// The folder in which a gateway keeps the generations of `config`.
pub fn folder(config: &Path, state: Option<&Path>) -> PathBuf {
    state.map_or_else(|| base(|name| env::var_os(name).map(PathBuf::from)).join(leaf(config)), Path::to_owned)
}

/// The folder in which a command finds the generations of `config`: the gateway's, or the one of a
/// service under `/var/lib` if only that exists.
pub fn find(config: &Path, state: Option<&Path>) -> PathBuf {
    let folder = folder(config, state);
    let system = Path::new(SYSTEM).join(leaf(config));
    if state.is_none() && !folder.is_dir() && system.is_dir() { system } else { folder }
}

/// The folders of all configurations whose generations are kept in the usual place.
pub fn known() -> Vec<PathBuf> {
    let base = base(|name| env::var_os(name).map(PathBuf::from));
    let folders = [base, SYSTEM.into()].into_iter().filter_map(|base| fs::read_dir(base).ok()).flatten().flatten();
    let mut known: Vec<PathBuf> =
        folders.map(|entry| entry.path()).filter(|folder| folder.join("lock").is_file()).collect();
    known.sort();
    known.dedup();
    known
}

fn base(var: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let set = |name: &str| var(name).filter(|path| path.is_absolute());
    // systemd lists several folders with colons between them; the first is ours.
    let unit = set("STATE_DIRECTORY").and_then(|list| env::split_paths(&list).next());
    unit.or_else(|| set("XDG_STATE_HOME").map(|home| home.join("tidegate")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/tidegate")))
        .unwrap_or_else(|| SYSTEM.into())
}

/// `edge.yaml-3f2a91bc`: the name for people, the hash of the absolute path against confusion.
fn leaf(config: &Path) -> String {
    let name = config.file_name().map_or("config".into(), |name| name.to_string_lossy());
    let hash = Sha256::digest(config.as_os_str().as_encoded_bytes());
    format!("{name}-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base_with(vars: &[(&str, &str)]) -> PathBuf {
        base(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn systemd_wins_over_xdg_and_xdg_over_home() {
        let all = [("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("XDG_STATE_HOME", "/x"), ("HOME", "/home/op")];

        assert_eq!(base_with(&all), Path::new("/var/lib/a"));
        assert_eq!(base_with(&all[1..]), Path::new("/x/tidegate"));
        assert_eq!(base_with(&all[2..]), Path::new("/home/op/.local/state/tidegate"));
        assert_eq!(base_with(&[]), Path::new(SYSTEM));
        assert_eq!(base_with(&[("HOME", "relative")]), Path::new(SYSTEM));
    }

    #[test]
    fn two_configurations_of_one_name_have_two_folders() {
        let one = folder(Path::new("/etc/one/edge.yaml"), None);
        let other = folder(Path::new("/etc/other/edge.yaml"), None);

        assert_ne!(one, other);
        assert_eq!(folder(Path::new("/etc/one/edge.yaml"), Some(Path::new("/s"))), Path::new("/s"));
    }
}
