//! Allow and deny lists.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;
use tidegate_model::desired::Access;

use super::nets::NetSet;
use crate::guard::lists::Lists;

/// [`Access`], ready for requests.
#[derive(Clone, Debug, Default)]
pub struct AccessList {
    /// Whether only those in `allow` may come, even where that is empty.
    only_allowed: bool,
    allow: Sets,
    deny: Sets,
}

/// What the configuration says itself, and what it says in files.
type Sets = SmallVec<[Arc<NetSet>; 1]>;

impl AccessList {
    /// Prepares `access`, with the files that it names in `lists`.
    pub fn new(access: &Access, lists: &Lists) -> Self {
        let sets = |own: &[IpNet], files: &[PathBuf]| -> Sets {
            let own = (!own.is_empty()).then(|| Arc::new(NetSet::new(own)));
            own.into_iter().chain(files.iter().map(|file| lists.of(file))).collect()
        };
        Self {
            only_allowed: !access.allow.is_empty() || !access.allow_files.is_empty(),
            allow: sets(&access.allow, &access.allow_files),
            deny: sets(&access.deny, &access.deny_files),
        }
    }

    /// Whether `client` may come in. Deny wins; without an allow list everybody may.
    pub fn admits(&self, client: IpAddr) -> bool {
        let within = |sets: &Sets| sets.iter().any(|set| set.contains(client));
        !within(&self.deny) && (!self.only_allowed || within(&self.allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(allow: &[&str], deny: &[&str]) -> AccessList {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        AccessList::new(&Access { allow: nets(allow), deny: nets(deny), ..Access::default() }, &Lists::default())
    }

    #[test]
    fn deny_wins_over_allow_and_an_empty_allow_list_allows_everybody() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();

        assert!(list(&[], &[]).admits(ip("192.0.2.1")));
        assert!(!list(&[], &["192.0.2.0/24"]).admits(ip("::ffff:192.0.2.1")));
        assert!(list(&["192.0.2.0/24"], &["192.0.2.7/32"]).admits(ip("192.0.2.8")));
        assert!(!list(&["192.0.2.0/24"], &["192.0.2.7/32"]).admits(ip("192.0.2.7")));
        assert!(!list(&["192.0.2.0/24"], &[]).admits(ip("2001:db8::1")));
        assert!(list(&["::/0"], &[]).admits(ip("192.0.2.1")), "::/0 covers the mapped form of every IPv4 address");
    }

    #[test]
    fn an_allow_file_that_is_empty_allows_nobody() {
        let access = Access { allow_files: vec!["friends.txt".into()], ..Access::default() };

        assert!(!AccessList::new(&access, &Lists::default()).admits("192.0.2.1".parse().unwrap()));
    }
}
