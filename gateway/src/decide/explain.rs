//! Says which route takes a request, where it sends it and why, and why the nearest others don't.
//!
//! For people: `tidegate explain` and the admin's `/routes`. It asks the same [`Router`] and [`Splitter`]
//! that requests are decided by, so it can't tell another story.
//!
//! # Not here
//!
//! Health and limits: they depend on the moment, and `/snapshot` shows them.

mod told;

use std::net::SocketAddr;
use std::sync::Arc;

use rand::Rng;
use regex::Regex;
use serde::Serialize;
use tidegate_model::desired::{
    Action, Asked, Capacity, Desired, DyedMatch, HostPattern, PathPattern, Priority, Route, Split, Weight,
};

use super::Head;
use super::access::AccessList;
use super::client::ClientFinder;
use super::ready::Entrance;
use super::route::{Failed, Router};
use super::split::{Splitter, Why};
use crate::guard::lists::Lists;

/// Losers that are told of. There may be thousands; the nearest few answer the question.
const NEAREST: usize = 5;

/// Which route takes a request, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `GET shop.example.com/login`.
    pub request: String,
    /// The visitor's address, as it was found.
    pub client: String,
    /// The run that it belongs to, where it is dyed: no limit is asked then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dyed: Option<String>,
    /// Whether an access list, the global or the route's, keeps this visitor out.
    pub denied: bool,
    /// The route that takes it; `None` means 404.
    pub winner: Option<Winner>,
    /// The routes that came nearest, nearest first.
    pub losers: Vec<Loser>,
}

/// The route that takes a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Winner {
    /// Its name.
    pub route: String,
    /// What of it matched, the most significant first.
    pub matched: Vec<String>,
    /// What it does.
    pub outcome: String,
    /// Why that arm; empty where there is no choice.
    pub why: String,
    /// Names of the limits that are asked.
    pub limits: Vec<String>,
    /// What is unusual about how it is treated when there isn't room for everybody: `priority low`, `challenge always`.
    pub in_attack: Vec<String>,
}

/// A route that doesn't take a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loser {
    /// Its name.
    pub route: String,
    /// The first condition that failed.
    pub miss: Miss,
}

/// Why a route doesn't take a request. Later ones were nearer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Miss {
    /// It is for other hosts.
    Host(String),
    /// It is for other paths.
    Path(String),
    /// It is for dyed traffic, or for another run.
    Dyed(String),
    /// It is for other methods.
    Method(String),
    /// This header is absent or different.
    Header(String),
    /// This query parameter is absent or different.
    Query(String),
    /// This cookie is absent or different.
    Cookie(String),
    /// It matches too, but the winner is more specific.
    LessSpecific,
}

/// Explains what `desired` does with `head` from `peer`, with the access lists that it names read into `lists`. `https`
/// tells how it came. Takes time in proportion to the configuration: not for the path of requests.
pub fn explain(
    desired: &Desired,
    lists: &Lists,
    head: &Head<'_>,
    peer: SocketAddr,
    https: bool,
    dice: &mut impl Rng,
) -> Explanation {
    let router = Router::build(&desired.routes);
    let entrance = Entrance::new(desired, lists, None);
    let client = entrance.client.find(head.headers, peer);
    let won = router.find(head);
    let denied = |index: usize| !AccessList::new(&desired.routes[index].access, lists).admits(client);

    let mut losers: Vec<(Miss, usize, Loser)> = desired
        .routes
        .iter()
        .enumerate()
        .filter(|&(index, _)| Some(index) != won)
        .map(|(index, route)| {
            let miss = miss(&router, index, route, head);
            (miss.clone(), common_start(&route.matches.path, head.path), Loser { route: route.name.clone(), miss })
        })
        .collect();
    losers.sort_by(|(a, a_common, _), (b, b_common, _)| {
        stage(b).cmp(&stage(a)).then(b_common.cmp(a_common)) // Stable: then file order.
    });

    Explanation {
        request: format!("{} {}{}", head.method, head.host, head.path),
        client: client.to_string(),
        dyed: head.dyed.map(str::to_owned),
        denied: !entrance.access.admits(client) || won.is_some_and(denied),
        winner: won.map(|index| winner(desired, index, head, &entrance.client, peer, https, dice)),
        losers: losers.into_iter().take(NEAREST).map(|(_, _, loser)| loser).collect(),
    }
}

fn winner(
    desired: &Desired,
    index: usize,
    head: &Head<'_>,
    finder: &ClientFinder,
    peer: SocketAddr,
    https: bool,
    dice: &mut impl Rng,
) -> Winner {
    let route = &desired.routes[index];
    let (outcome, why) = match &route.action {
        Action::Answer(fixed) => (format!("answers {}", fixed.status), String::new()),
        Action::Redirect(redirect) => {
            let port = if https { 443 } else { 80 };
            let location = super::target::location(redirect, head, &route.matches.path, https, port);
            (format!("redirects to {location} ({})", redirect.status), String::new())
        }
        Action::Forward(split) => {
            let network = finder.network(finder.find(head.headers, peer));
            let labels: Vec<Arc<str>> = split.arms.iter().map(|arm| label(desired, arm.version).into()).collect();
            let chosen = Splitter::new(split, &labels, None).choose(head, network, https, dice);
            match chosen.why {
                Why::Spread => ("to one of its arms".into(), format!("spread evenly: {}", shares(split, &labels))),
                Why::Only => (format!("to {}", labels[chosen.arm]), String::new()),
                Why::Stuck(at) => {
                    (format!("to {}", labels[chosen.arm]), format!("recognised by {}", key_name(&split.stick_by[at])))
                }
                Why::Drained => (format!("to {}", labels[chosen.arm]), "its cookie holds this drained arm".into()),
                Why::Issued if chosen.set_cookie.is_some() => {
                    ("to one of its arms".into(), format!("a new visitor gets a cookie: {}", shares(split, &labels)))
                }
                Why::Issued => (format!("to {}", labels[chosen.arm]), "recognised by the gateway's cookie".into()),
            }
        }
    };
    Winner {
        route: route.name.clone(),
        matched: matched(route, head),
        outcome,
        why,
        limits: match head.dyed {
            Some(_) => Vec::new(),
            None => route.limits.iter().map(|&limit| desired.limits[limit].name.clone()).collect(),
        },
        in_attack: in_attack(desired, route),
    }
}

/// What differs from the defaults.
fn in_attack(desired: &Desired, route: &Route) -> Vec<String> {
    let priority = match route.priority {
        Priority::Low => Some("priority low".into()),
        Priority::Normal => None,
        Priority::High => Some("priority high".into()),
    };
    let challenge = match route.challenge {
        Asked::Always => Some("challenge always".into()),
        Asked::Attack => None,
        Asked::Never => Some("challenge never".into()),
    };
    let capacity = match &route.action {
        Action::Forward(split) => split.arms.first().map(|arm| desired.services[arm.version.service].capacity),
        Action::Answer(_) | Action::Redirect(_) => None,
    };
    let capacity = match capacity {
        Some(Capacity::Fixed(most)) => Some(format!("capacity {most}")),
        Some(Capacity::Off) => Some("capacity off".into()),
        Some(Capacity::Auto) | None => None,
    };
    [priority, challenge, capacity].into_iter().flatten().collect()
}

fn label(desired: &Desired, at: tidegate_model::desired::VersionRef) -> String {
    let service = &desired.services[at.service];
    format!("{}/{}", service.name, service.versions[at.version].name)
}

fn shares(split: &Split, labels: &[Arc<str>]) -> String {
    let weight = |weight| match weight {
        Weight::Share(weight) => u64::from(weight),
        Weight::Drain | Weight::Off => 0,
    };
    let total: u64 = split.arms.iter().map(|arm| weight(arm.weight)).sum();
    let share = |(arm, label): (&tidegate_model::desired::Arm, &Arc<str>)| match arm.weight {
        Weight::Share(weight) => format!("{label} {:.1}%", f64::from(weight) * 100.0 / total as f64),
        Weight::Drain => format!("{label} drained"),
        Weight::Off => format!("{label} off"),
    };
    split.arms.iter().zip(labels).map(share).collect::<Vec<_>>().join(", ")
}

fn key_name(key: &tidegate_model::desired::Key) -> String {
    use tidegate_model::desired::Key;
    match key {
        Key::ClientIp => "the client's address".into(),
        Key::Network => "the client's network".into(),
        Key::Ja4 => "the fingerprint of its TLS handshake".into(),
        Key::Header(name) => format!("header {name}"),
        Key::Cookie(name) => format!("cookie {name}"),
        Key::Query(name) => format!("query parameter {name}"),
        Key::Host => "the host".into(),
        Key::Path => "the path".into(),
        Key::Method => "the method".into(),
    }
}

/// What of `route` matched.
fn matched(route: &Route, head: &Head<'_>) -> Vec<String> {
    let matches = &route.matches;
    let host = host_of(head);
    let mut parts = Vec::new();
    match matches.hosts.iter().filter(|pattern| host_fits(pattern, host)).max_by_key(|pattern| specificity(pattern)) {
        Some(pattern) => parts.push(format!("host {}", show_host(pattern))),
        None => parts.push("any host".into()),
    }
    parts.push(format!("path {}", show_path(&matches.path)));
    parts.extend(matches.dyed.as_ref().map(show_dyed));
    if !matches.methods.is_empty() {
        parts.push(format!("method {}", matches.methods.join(" or ")));
    }
    parts.extend(matches.headers.iter().map(|(name, _)| format!("header {name}")));
    parts.extend(matches.query.iter().map(|(name, _)| format!("query parameter {name}")));
    parts.extend(matches.cookies.iter().map(|(name, _)| format!("cookie {name}")));
    parts
}

fn miss(router: &Router, index: usize, route: &Route, head: &Head<'_>) -> Miss {
    let matches = &route.matches;
    if !matches.hosts.is_empty() && !matches.hosts.iter().any(|pattern| host_fits(pattern, host_of(head))) {
        return Miss::Host(matches.hosts.iter().map(show_host).collect::<Vec<_>>().join(", "));
    }
    if !path_fits(&matches.path, head.path) {
        return Miss::Path(show_path(&matches.path));
    }
    match router.failed(index, head) {
        Some(Failed::Dyed) => Miss::Dyed(matches.dyed.as_ref().map(show_dyed).unwrap_or_default()),
        Some(Failed::Method) => Miss::Method(matches.methods.join(", ")),
        Some(Failed::Header(name)) => Miss::Header(name.into()),
        Some(Failed::Query(name)) => Miss::Query(name.into()),
        Some(Failed::Cookie(name)) => Miss::Cookie(name.into()),
        None => Miss::LessSpecific,
    }
}

fn stage(miss: &Miss) -> u8 {
    match miss {
        Miss::Host(_) => 0,
        Miss::Path(_) => 1,
        Miss::Dyed(_) => 2,
        Miss::Method(_) => 3,
        Miss::Header(_) => 4,
        Miss::Query(_) => 5,
        Miss::Cookie(_) => 6,
        Miss::LessSpecific => 7,
    }
}

fn host_of<'a>(head: &Head<'a>) -> &'a str {
    head.host.strip_suffix('.').unwrap_or(head.host)
}

/// How specific a host pattern is among those that fit.
pub(super) fn specificity(pattern: &HostPattern) -> (bool, usize) {
    match pattern {
        HostPattern::Exact(name) => (true, name.len()),
        HostPattern::Wildcard(suffix) => (false, suffix.len()),
    }
}

/// Whether `pattern` takes `host`, told the plain way.
pub(super) fn host_fits(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => name == host,
        HostPattern::Wildcard(suffix) => host.strip_suffix(suffix.as_str()).is_some_and(|front| front.ends_with('.')),
    }
}

/// Whether `pattern` takes `path`, told the plain way.
pub(super) fn path_fits(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => exact == path,
        PathPattern::Prefix(prefix) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            prefix.is_empty() || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathPattern::Regex(pattern) => Regex::new(pattern).is_ok_and(|regex| regex.is_match(path)),
    }
}

fn common_start(pattern: &PathPattern, path: &str) -> usize {
    let (PathPattern::Exact(text) | PathPattern::Prefix(text) | PathPattern::Regex(text)) = pattern;
    text.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count()
}

fn show_dyed(dyed: &DyedMatch) -> String {
    match dyed {
        DyedMatch::Any => "dyed".into(),
        DyedMatch::Run(run) => format!("dyed by run {run}"),
    }
}

fn show_host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
    }
}

fn show_path(pattern: &PathPattern) -> String {
    match pattern {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(prefix) => format!("{prefix}/**"),
        PathPattern::Regex(pattern) => format!("~ {pattern}"),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tidegate_model::desired::{Key, ValuePattern, Weight};

    use super::super::testkit::{Asked, desired, from, per_ip, route, split};
    use super::*;

    fn edge() -> Desired {
        let forward = |name: &str, pattern: &str, weights: &[Weight]| {
            let mut route = route(name, pattern);
            route.action = Action::Forward(split(weights));
            route
        };
        let mut login = forward("login", "shop.example.com /login", &[Weight::Share(1)]);
        login.matches.methods = vec!["POST".into()];
        let mut beta = forward("beta-users", "shop.example.com /**", &[Weight::Share(1)]);
        beta.matches.headers = vec![("x-beta".into(), ValuePattern::Exact("1".into()))];
        let mut shop = forward("shop", "shop.example.com /**", &[Weight::Share(95), Weight::Share(5)]);
        shop.limits = vec![0];
        let Action::Forward(weighted) = &mut shop.action else { unreachable!() };
        weighted.stick_by = vec![Key::Cookie("uid".into())];
        let admin = route("admin", "*.internal /**");
        Desired { limits: vec![per_ip(10)], routes: vec![login, beta, shop, admin], ..desired(&[], &[1, 1]) }
    }

    fn explained(asked: &Asked) -> String {
        explain(&edge(), &Lists::default(), &asked.head(), from("192.0.2.7").peer, true, &mut StdRng::seed_from_u64(7))
            .to_string()
    }

    #[test]
    fn the_winner_its_arm_and_the_nearest_losers_are_told() {
        insta::assert_snapshot!(explained(&Asked::get("shop.example.com", "/login").header("cookie", "uid=42")), @r"
        GET shop.example.com/login from 192.0.2.7
          route    shop
          because  host shop.example.com, path /**
          goes     to shop/v1
          why      recognised by cookie uid
          limits   per_ip
        not taken by
          beta-users  header x-beta is absent or different
          login       is for method POST
          admin       is for host *.internal
        ");
    }

    #[test]
    fn a_split_without_a_key_shows_its_shares_and_a_lost_request_its_404() {
        insta::assert_snapshot!(explained(&Asked::get("shop.example.com", "/cart").header("x-beta", "2")), @r"
        GET shop.example.com/cart from 192.0.2.7
          route    shop
          because  host shop.example.com, path /**
          goes     to one of its arms
          why      spread evenly: shop/v1 95.0%, shop/v2 5.0%
          limits   per_ip
        not taken by
          beta-users  header x-beta is absent or different
          login       is for path /login
          admin       is for host *.internal
        ");
        insta::assert_snapshot!(explained(&Asked::get("other.example.com", "/")), @r"
        GET other.example.com/ from 192.0.2.7
          no route takes it: 404
        not taken by
          login       is for host shop.example.com
          beta-users  is for host shop.example.com
          shop        is for host shop.example.com
          admin       is for host *.internal
        ");
    }
}
