//! Finds the addresses behind endpoints that are named by host (`app.internal:8080`).
//!
//! Every address that a name leads to is an endpoint. Names are looked up before a
//! configuration takes effect, and again every now and then while it is in force.
//!
//! # Invariants
//!
//! - A name that can't be looked up keeps the addresses it had: a DNS outage takes
//!   no endpoint away.
//! - Addresses are sorted, so equal answers are equal values and nothing is
//!   recompiled because a server shuffled its answer.
//! - No wait is longer than [`PATIENCE`] for each [`AT_ONCE`] names.
//!
//! # Not here
//!
//! Making endpoints of addresses is `compile`; deciding what to do about a name
//! that never resolved is the caller's.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::desired::{Address, Desired};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::{info, warn};

/// A host name and a port.
pub type Name = (String, u16);
/// The addresses behind each name, sorted.
pub type Names = HashMap<Name, Vec<SocketAddr>>;

/// Time between two lookups of a name that resolves. The system's resolver doesn't tell how long its answers live.
const EVERY: Duration = Duration::from_secs(30);
/// Time between two lookups while some name doesn't resolve.
const EVERY_FAILING: Duration = Duration::from_secs(5);
/// A lookup that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Lookups under way at once. Beyond it they wait.
pub const AT_ONCE: usize = 32;
/// Addresses kept of one name. Beyond it the last, in order, are left out.
const MAX_ADDRESSES: usize = 256;

/// What a round of lookups brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The addresses of every name in the configuration; empty for one that never resolved.
    pub names: Names,
    /// Names that could not be looked up this time, in order.
    pub problems: Vec<Problem>,
}

/// A name that could not be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which.
    pub name: Name,
    /// Why, in words.
    pub cause: String,
    /// How many addresses it keeps from before.
    pub kept: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" can't be looked up ({}); ", self.name.0, self.cause)?;
        match self.kept {
            0 => write!(f, "no address is known"),
            1 => write!(f, "the address known before is kept"),
            kept => write!(f, "the {kept} addresses known before are kept"),
        }
    }
}

/// Looks up every name in `desired`. Names that fail keep what they have in `last`.
///
/// Takes at most [`PATIENCE`] for each [`AT_ONCE`] names.
pub async fn resolve(desired: &Desired, last: &Names) -> Resolved {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut lookups = JoinSet::new();
    for name in names(desired) {
        let places = Arc::clone(&places);
        lookups.spawn(async move {
            let _place = places.acquire_owned().await.expect("nobody closes this semaphore");
            let answer = look_up(&name).await;
            (name, answer)
        });
    }
    take_in(lookups.join_all().await, last)
}

/// Looks the names of the configuration in force up again and again, and sends those whose addresses changed.
/// Runs until it is dropped or nobody listens.
///
/// `current` may wait for a lock: it is called where that holds nothing else up. The receiver merges what it
/// gets into the names it has by then ([`merge`]), because a reload may have come in between.
pub async fn keep_fresh<F>(current: F, changed: mpsc::Sender<Names>)
where
    F: Fn() -> (Arc<Desired>, Names) + Send + Sync + 'static,
{
    let current = Arc::new(current);
    // A reload holds that lock while it waits for lookups, which need this runtime's threads.
    let look = || {
        let current = Arc::clone(&current);
        tokio::task::spawn_blocking(move || current())
    };
    let mut failing = BTreeSet::new();
    loop {
        let Ok((_, last)) = look().await else { return };
        let in_trouble = !failing.is_empty() || last.values().any(Vec::is_empty);
        tokio::time::sleep(if in_trouble { EVERY_FAILING } else { EVERY }).await;

        let Ok((desired, last)) = look().await else { return };
        let news = look_again(&desired, &last, &mut failing).await;
        if !news.is_empty() && changed.send(news).await.is_err() {
            return;
        }
    }
}

/// One round: logs what began or ceased to fail, and returns the names whose addresses changed.
async fn look_again(desired: &Desired, last: &Names, failing: &mut BTreeSet<Name>) -> Names {
    let resolved = resolve(desired, last).await;
    tell(&resolved, failing);
    resolved.names.into_iter().filter(|(name, addresses)| last.get(name) != Some(addresses)).collect()
}

/// Takes over what [`keep_fresh`] sent, as far as the configuration still has those names. Tells whether
/// anything changed.
pub fn merge(into: &mut Names, news: Names) -> bool {
    let mut changed = false;
    for (name, addresses) in news {
        if let Some(known) = into.get_mut(&name).filter(|known| **known != addresses) {
            *known = addresses;
            changed = true;
        }
    }
    changed
}

/// Logs names that began or ceased to fail.
fn tell(resolved: &Resolved, failing: &mut BTreeSet<Name>) {
    let now_failing: BTreeSet<Name> = resolved.problems.iter().map(|problem| problem.name.clone()).collect();
    for problem in resolved.problems.iter().filter(|problem| !failing.contains(&problem.name)) {
        let Problem { name: (host, port), cause, kept } = problem;
        warn!(host, port, cause, kept, "name doesn't resolve");
    }
    for (host, port) in failing.difference(&now_failing) {
        info!(host, port, "name resolves again");
    }
    *failing = now_failing;
}

fn names(desired: &Desired) -> BTreeSet<Name> {
    let versions = desired.services.iter().flat_map(|service| &service.versions);
    let addresses = versions.flat_map(|version| &version.endpoints).map(|endpoint| &endpoint.address);
    addresses
        .filter_map(|address| match address {
            Address::Name(host, port) => Some((host.clone(), *port)),
            Address::Tcp(_) | Address::Unix(_) => None,
        })
        .collect()
}

async fn look_up((host, port): &Name) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host.as_str(), *port))).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

fn take_in(answers: Vec<(Name, Result<Vec<SocketAddr>, String>)>, last: &Names) -> Resolved {
    let mut resolved = Resolved::default();
    for (name, answer) in answers {
        let found = answer.map(tidy).and_then(|found| match found.len() {
            0 => Err("it has no address".to_owned()),
            _ => Ok(found),
        });
        let addresses = found.unwrap_or_else(|cause| {
            let kept = last.get(&name).cloned().unwrap_or_default();
            resolved.problems.push(Problem { name: name.clone(), cause, kept: kept.len() });
            kept
        });
        resolved.names.insert(name, addresses);
    }
    resolved.problems.sort_by(|a, b| a.name.cmp(&b.name));
    resolved
}

/// Sorts, and leaves out what is there twice.
///
/// `localhost` is one host with two addresses rather than two endpoints, and most servers listen on the
/// older one only: where both are there, that one is meant.
fn tidy(mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if found.iter().any(|address| address.is_ipv4() && address.ip().is_loopback()) {
        found.retain(|address| !(address.is_ipv6() && address.ip().is_loopback()));
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_ADDRESSES);
    found
}

#[cfg(test)]
mod tests {
    use tidegate_model::desired::{Balance, EndpointSpec, Retry, Service, Timeouts, UpstreamProtocol, Version};

    use super::*;

    fn name(host: &str) -> Name {
        (host.to_owned(), 80)
    }

    fn addresses(written: &[&str]) -> Vec<SocketAddr> {
        written.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn desired(endpoints: &[Address]) -> Desired {
        let endpoints = endpoints.iter().map(|address| EndpointSpec { address: address.clone(), weight: 1 }).collect();
        let service = Service {
            name: "shop".into(),
            balance: Balance::P2c,
            probe: None,
            eject: None,
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            protocol: UpstreamProtocol::Http1,
            tls: None,
            capacity: Default::default(),
            keep_idle: 1,
            versions: vec![Version { name: "v1".into(), endpoints }],
        };
        Desired { services: vec![service], ..Desired::default() }
    }

    /// A name that no resolver can be asked for: a label has at most 63 characters (RFC 1035 §2.3.4).
    fn impossible() -> String {
        format!("{}.invalid", "x".repeat(64))
    }

    #[test]
    fn every_address_counts_once_and_their_order_does_not_matter() {
        let answers = [&["10.0.0.2:80", "10.0.0.1:80"][..], &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"]];

        let [first, second] = answers.map(|found| take_in(vec![(name("app"), Ok(addresses(found)))], &Names::new()));

        assert_eq!(first, second);
        assert_eq!(first.names[&name("app")], addresses(&["10.0.0.1:80", "10.0.0.2:80"]));
    }

    #[test]
    fn a_name_that_fails_or_has_no_address_any_more_keeps_those_it_had() {
        let last = Names::from([(name("app"), addresses(&["10.0.0.1:80"]))]);

        for answer in [Err("timed out".to_owned()), Ok(vec![])] {
            let resolved = take_in(vec![(name("app"), answer)], &last);

            assert_eq!(resolved.names, last);
            assert_eq!(resolved.problems.len(), 1);
        }
    }

    #[test]
    fn a_name_that_never_resolved_has_no_address_and_is_reported() {
        let resolved = take_in(vec![(name("app"), Err("not known".into()))], &Names::new());

        assert_eq!(resolved.names[&name("app")], []);
        assert_eq!(resolved.problems[0].to_string(), "\"app\" can't be looked up (not known); no address is known");
    }

    #[test]
    fn localhost_means_its_ipv4_address_where_it_has_both() {
        assert_eq!(tidy(addresses(&["[::1]:80", "127.0.0.1:80"])), addresses(&["127.0.0.1:80"]));
        assert_eq!(tidy(addresses(&["[::1]:80"])), addresses(&["[::1]:80"]));
        assert_eq!(
            tidy(addresses(&["[2001:db8::1]:80", "192.0.2.1:80"])),
            addresses(&["192.0.2.1:80", "[2001:db8::1]:80"])
        );
    }

    #[test]
    fn news_are_merged_only_into_names_that_are_still_configured() {
        let mut names = Names::from([(name("app"), addresses(&["10.0.0.1:80"])), (name("db"), vec![])]);
        let news =
            Names::from([(name("app"), addresses(&["10.0.0.9:80"])), (name("gone"), addresses(&["10.0.0.5:80"]))]);

        assert!(merge(&mut names, news.clone()));
        assert!(!merge(&mut names, news), "the second time brings nothing new");

        assert_eq!(names, Names::from([(name("app"), addresses(&["10.0.0.9:80"])), (name("db"), vec![])]));
    }

    #[tokio::test]
    async fn names_are_looked_up_and_addresses_are_left_alone() {
        let desired = desired(&[
            Address::Name("localhost".into(), 8_080),
            Address::Tcp("10.0.0.1:80".parse().unwrap()),
            Address::Name(impossible(), 80),
        ]);

        let resolved = resolve(&desired, &Names::new()).await;

        assert_eq!(resolved.names.len(), 2);
        assert_eq!(resolved.names[&("localhost".to_owned(), 8_080)], addresses(&["127.0.0.1:8080"]));
        let failed: Vec<_> = resolved.problems.iter().map(|problem| problem.name.0.as_str()).collect();
        assert_eq!(failed, [impossible()]);
    }

    #[tokio::test]
    async fn another_round_brings_only_what_changed_and_remembers_what_fails() {
        let localhost = ("localhost".to_owned(), 8_080);
        let broken = (impossible(), 80);
        let desired = desired(&[Address::Name("localhost".into(), 8_080), Address::Name(impossible(), 80)]);
        let last = Names::from([(localhost.clone(), vec![]), (broken.clone(), addresses(&["10.0.0.1:80"]))]);
        let mut failing = BTreeSet::new();

        let news = look_again(&desired, &last, &mut failing).await;

        assert_eq!(news, Names::from([(localhost, addresses(&["127.0.0.1:8080"]))]));
        assert_eq!(failing, BTreeSet::from([broken]));
    }
}
