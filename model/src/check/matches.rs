//! What routes match, and routes that match the same.

use std::collections::HashMap;

use super::Checker;
use crate::config::{At, Match, Route, Table, ValueMatch};
use crate::desired::{self, DyedMatch, HostPattern, Matches, PathPattern, ValuePattern};
use crate::diagnostic::Diagnostic;
use crate::literal::Literal;
use crate::target;

/// What two routes must share to be twins.
#[derive(PartialEq, Eq, Hash)]
struct Conditions<'r> {
    host: Option<&'r HostPattern>,
    path: &'r PathPattern,
    dyed: Option<&'r DyedMatch>,
    methods: Vec<&'r str>,
    values: [Vec<&'r (String, ValuePattern)>; 3],
}

impl Checker<'_, '_> {
    pub(super) fn matches(&mut self, written: Option<&Match>) -> Matches {
        let mut ready = Matches {
            hosts: Vec::new(),
            path: PathPattern::Prefix(String::new()),
            dyed: written.and_then(|written| Some(written.dyed.as_ref()?.value.0.clone())),
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
        };
        let Some(written) = written else { return ready };
        let hosts = written.host.iter().flat_map(|many| &many.items);
        self.refuse_twins(hosts.clone().map(|host| (&host.value, host.span)), "host");
        let methods = written.method.iter().flat_map(|many| &many.items);
        self.refuse_twins(methods.clone().map(|method| (&method.value, method.span)), "method");

        if let Some(any) = methods.clone().find(|method| method.value.0 == "*") {
            let diagnostic = Diagnostic::error("bad-method", "no request has the method \"*\"")
                .help("leave method out to take every method");
            self.problems.add(any.span, "this isn't a method", diagnostic);
        }

        // One `*` among the hosts takes them all; desired says so with an empty list.
        ready.hosts = hosts.map(|host| host.value.0.clone()).collect::<Option<Vec<_>>>().unwrap_or_default();
        ready.methods = methods.map(|method| method.value.0.clone()).collect();
        if let Some(path) = &written.path {
            ready.path = path.value.0.clone();
        }
        ready.headers = values(&written.headers, |name| name.0.clone());
        ready.query = values(&written.query, |name| name.0.clone());
        ready.cookies = values(&written.cookies, |name| name.0.clone());
        for (what, many) in [
            ("host", written.host.as_ref().map(|many| (many.items.is_empty(), many.span))),
            ("method", written.method.as_ref().map(|many| (many.items.is_empty(), many.span))),
        ] {
            if let Some((true, span)) = many.filter(|_| !written.damaged) {
                let diagnostic = Diagnostic::error("empty-list", format!("an empty list of {what}s takes no request"))
                    .help(format!("leave {what} out to take every {what}"));
                self.problems.add(span, "this list is empty", diagnostic);
            }
        }
        ready
    }

    /// Warns of paths that no request has once it was brought to its normal form.
    pub(super) fn paths_that_never_come(
        &mut self,
        routes: &[&Route],
        ready: &[desired::Route],
        rules: &desired::Paths,
    ) {
        for (written, ready) in routes.iter().zip(ready) {
            let Some(path) = written.r#match.as_ref().and_then(|written| written.path.as_ref()) else { continue };
            let (PathPattern::Exact(text) | PathPattern::Prefix(text)) = &ready.matches.path else { continue };
            let normal = target::normalise(text, rules);
            let help = match &normal {
                _ if text.is_empty() => continue,
                Ok(normal) if normal == text => continue,
                Ok(normal) => format!("such requests come as \"{normal}\" (see paths)"),
                Err(bad) => format!("such requests are refused, because {} (see paths)", bad.text()),
            };
            let message = format!("route \"{}\" is for a path that no request has", ready.name);
            let diagnostic = Diagnostic::warning("path-never-comes", message).help(help);
            self.problems.add(path.span, "this never matches", diagnostic);
        }
    }

    /// Reports routes that take the same requests: the later one would never see any.
    pub(super) fn twin_matches(&mut self, routes: &[&Route], ready: &[desired::Route]) {
        let mut seen: HashMap<Conditions<'_>, usize> = HashMap::with_capacity(ready.len());
        for (at, route) in ready.iter().enumerate() {
            if routes[at].r#match.as_ref().is_some_and(|written| written.damaged) {
                continue; // It may mean something else once it is mended.
            }
            let hosts = &route.matches.hosts;
            let every = hosts.is_empty().then_some(None);
            let mut twin = None;
            for host in hosts.iter().map(Some).chain(every) {
                // Twins within one route have been reported as such.
                if let Some(first) = seen.insert(conditions(host, &route.matches), at).filter(|first| *first != at) {
                    twin.get_or_insert((first, host));
                }
            }
            let Some((first, host)) = twin else { continue };
            let (name, other) = (&route.name, &ready[first].name);
            let requests = match host {
                Some(HostPattern::Exact(host)) if route.matches.hosts.len() > 1 => {
                    format!("the same requests for host \"{host}\"")
                }
                Some(HostPattern::Wildcard(host)) if route.matches.hosts.len() > 1 => {
                    format!("the same requests for host \"*.{host}\"")
                }
                _ => "the same requests".into(),
            };
            let message = format!("routes \"{other}\" and \"{name}\" take {requests}");
            let diagnostic = Diagnostic::error("duplicate-match", message)
                .help("make one of them more specific; weights between versions belong into one split");
            let place = |route: &Route| route.r#match.as_ref().map_or(route.name.span, |written| written.span);
            self.problems.add_with(place(routes[at]), "this", (place(routes[first]), "and this"), diagnostic);
        }
    }
}

fn conditions<'r>(host: Option<&'r HostPattern>, matches: &'r Matches) -> Conditions<'r> {
    let mut methods: Vec<&str> = matches.methods.iter().map(String::as_str).collect();
    methods.sort_unstable();
    let values = [&matches.headers, &matches.query, &matches.cookies].map(|values| {
        let mut values: Vec<_> = values.iter().collect();
        values.sort_by(|(left, _), (right, _)| left.cmp(right));
        values
    });
    Conditions { host, path: &matches.path, dyed: matches.dyed.as_ref(), methods, values }
}

fn values<K: Literal>(table: &Table<K, ValueMatch>, name: impl Fn(&K) -> String) -> Vec<(String, ValuePattern)> {
    let entries = table.entries.iter();
    entries.filter_map(|(key, value): &(At<K>, _)| Some((name(&key.value), pattern(value.as_ref()?)))).collect()
}

fn pattern(written: &ValueMatch) -> ValuePattern {
    match written {
        ValueMatch::Exact(text) => ValuePattern::Exact(text.value.0.clone()),
        ValueMatch::Regex(regex) => ValuePattern::Regex(regex.value.0.clone()),
        ValueMatch::Present => ValuePattern::Present,
    }
}
