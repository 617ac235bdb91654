//! Finds the route for a request, by Gateway API precedence.
//!
//! Candidates are asked from the most to the least specific, and the first whose every
//! condition holds takes the request:
//!
//! 1. host: exact, then the longest wildcard, then none. A host whose routes don't take the
//!    request hands over to the next less specific one.
//! 2. path: exact, then regular expression, then the longest prefix.
//! 3. a method condition, then more header, then more query, then more cookie conditions.
//! 4. the order of the file.
//!
//! Gateway API leaves the place of regular expressions open. They stand before prefixes, as in
//! nginx and Envoy Gateway: behind them, a single `/**` on the same host would make every
//! regular expression unreachable. Two of them are equally specific; rules 3 and 4 decide.
//!
//! A header condition holds if any one line of that name satisfies it; a query condition looks at
//! the first parameter of that name.
//!
//! # Invariants
//!
//! - Equal to sorting all routes by these rules and asking one after the other (a property test).
//! - Finding allocates nothing, except to decode a percent-encoded query value for a regex.
//! - Work is bounded by the length of the path and by what is configured, never by their product:
//!   a long path walks the tree no deeper than the deepest configured prefix.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use http::{HeaderName, Method};
use regex::Regex;
use smallvec::SmallVec;
use tidegate_model::desired::{HostPattern, Matches, PathPattern, Route, ValuePattern};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Head, key};

/// An index over all routes.
#[derive(Default)]
pub struct Router {
    rules: Vec<Rule>,
    exact: Map<Box<str>, Paths>,
    wildcard: Map<Box<str>, Paths>,
    /// Longest wildcard, in bytes: longer suffixes of a host needn't be looked up.
    longest_wildcard: usize,
    any: Paths,
}

impl Router {
    /// Indexes `routes`. Regular expressions were checked, so this can't fail on valid input.
    pub fn build(routes: &[Route]) -> Self {
        let mut regexes = HashMap::new();
        let mut router =
            Self { rules: routes.iter().map(|route| Rule::new(route, &mut regexes)).collect(), ..Self::default() };

        let mut order: Vec<u32> = (0..routes.len() as u32).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(conditions(&routes[index as usize].matches)));

        for index in order {
            let matches = &routes[index as usize].matches;
            for host in &matches.hosts {
                let paths = match host {
                    HostPattern::Exact(name) => router.exact.entry(name.as_str().into()).or_default(),
                    HostPattern::Wildcard(suffix) => {
                        router.longest_wildcard = router.longest_wildcard.max(suffix.len());
                        router.wildcard.entry(suffix.as_str().into()).or_default()
                    }
                };
                paths.insert(&matches.path, index, &mut regexes);
            }
            if matches.hosts.is_empty() {
                router.any.insert(&matches.path, index, &mut regexes);
            }
        }
        router
    }

    /// The most specific route that takes `head`: an index into what it was built from.
    pub fn find(&self, head: &Head<'_>) -> Option<usize> {
        let host = head.host.strip_suffix('.').unwrap_or(head.host);
        self.tables(host)
            .find_map(|paths| paths.find(head.path, |index| self.rules[index as usize].failed(head).is_none()))
            .map(|index| index as usize)
    }

    /// The first condition of route `index` that `head` fails, host and path aside.
    pub(super) fn failed(&self, index: usize, head: &Head<'_>) -> Option<Failed<'_>> {
        self.rules[index].failed(head)
    }

    /// Tables that may hold routes for `host`, the most specific first.
    fn tables<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Paths> {
        let wildcards = host
            .match_indices('.')
            .map(|(dot, _)| &host[dot + 1..])
            .filter(|suffix| suffix.len() <= self.longest_wildcard)
            .filter_map(|suffix| self.wildcard.get(suffix));
        self.exact.get(host).into_iter().chain(wildcards).chain(std::iter::once(&self.any))
    }
}

/// How specific a route is once host and path are equal.
pub(super) fn conditions(matches: &Matches) -> (bool, usize, usize, usize) {
    (!matches.methods.is_empty(), matches.headers.len(), matches.query.len(), matches.cookies.len())
}

/// The routes of one host pattern by path. Each list is in order of precedence.
#[derive(Default)]
struct Paths {
    exact: Map<Box<str>, Slot>,
    regexes: Vec<(PathRegex, u32)>,
    /// A tree of path segments; the root is `/**`.
    prefixes: Segment,
}

type Slot = SmallVec<[u32; 2]>;

#[derive(Default)]
struct Segment {
    routes: Slot,
    below: Map<Box<str>, Segment>,
}

impl Paths {
    fn insert(&mut self, path: &PathPattern, index: u32, regexes: &mut HashMap<String, Regex>) {
        match path {
            PathPattern::Exact(path) => self.exact.entry(path.as_str().into()).or_default().push(index),
            PathPattern::Regex(pattern) => self.regexes.push((PathRegex::new(pattern, regexes), index)),
            PathPattern::Prefix(prefix) => {
                let mut segment = &mut self.prefixes;
                for name in segments(prefix.strip_suffix('/').unwrap_or(prefix)) {
                    segment = segment.below.entry(name.into()).or_default();
                }
                segment.routes.push(index);
            }
        }
    }

    fn find(&self, path: &str, takes: impl Fn(u32) -> bool) -> Option<u32> {
        let first = |routes: &[u32]| routes.iter().copied().find(|&index| takes(index));
        self.exact
            .get(path)
            .and_then(|routes| first(routes))
            .or_else(|| {
                self.regexes.iter().find(|(regex, index)| regex.is_match(path) && takes(*index)).map(|found| found.1)
            })
            .or_else(|| {
                // Deepest configured prefix first, so the walk down is remembered. Depth 16 without allocating.
                let mut walked: SmallVec<[&Segment; 16]> = SmallVec::new();
                walked.push(&self.prefixes);
                let mut segment = &self.prefixes;
                for name in segments(path) {
                    let Some(below) = segment.below.get(name) else { break };
                    segment = below;
                    walked.push(below);
                }
                walked.iter().rev().find_map(|segment| first(&segment.routes))
            })
    }
}

/// The segments of a path: `/a/b` has `a` and `b`, `/a/` has `a` and an empty one. `*` and the empty path have none.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'))
}

/// A path's regular expression, asked only where the path begins with the text it must begin with.
struct PathRegex {
    literal: Box<str>,
    regex: Regex,
}

impl PathRegex {
    fn new(pattern: &str, regexes: &mut HashMap<String, Regex>) -> Self {
        Self { literal: leading_literal(pattern).into(), regex: compiled(pattern, regexes) }
    }

    fn is_match(&self, path: &str) -> bool {
        path.starts_with(&*self.literal) && self.regex.is_match(path)
    }
}

/// The text that every match of `pattern` begins with; empty when that isn't plain to see.
fn leading_literal(pattern: &str) -> &str {
    let Some(rest) = pattern.strip_prefix('^') else { return "" };
    if rest.contains('|') {
        return "";
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_~%@!,;:=&".contains(c);
    let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
    match rest[end..].chars().next() {
        Some('?' | '*' | '{' | '+') => &rest[..end.saturating_sub(1)], // The last character is what repeats.
        _ => &rest[..end],
    }
}

/// Compiles `pattern` once, however many routes use it.
fn compiled(pattern: &str, regexes: &mut HashMap<String, Regex>) -> Regex {
    regexes
        .entry(pattern.to_owned())
        .or_insert_with(|| Regex::new(pattern).expect("check refuses regular expressions that don't compile"))
        .clone()
}

/// What a route asks of a request besides host and path.
struct Rule {
    methods: Vec<Method>,
    headers: Vec<(HeaderName, Test)>,
    query: Vec<(Box<str>, Test)>,
    cookies: Vec<(Box<str>, Test)>,
}

/// A condition that a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed<'a> {
    Method,
    Header(&'a str),
    Query(&'a str),
    Cookie(&'a str),
}

enum Test {
    Exact(Box<[u8]>),
    Regex(Regex),
    Present,
}

impl Rule {
    fn new(route: &Route, regexes: &mut HashMap<String, Regex>) -> Self {
        let matches = &route.matches;
        let method = |name: &String| Method::from_bytes(name.as_bytes()).expect("check refuses illegal methods");
        Self {
            methods: matches.methods.iter().map(method).collect(),
            headers: matches.headers.iter().map(|(n, v)| (key::legal_name(n), Test::new(v, regexes))).collect(),
            query: matches.query.iter().map(|(n, v)| (n.as_str().into(), Test::new(v, regexes))).collect(),
            cookies: matches.cookies.iter().map(|(n, v)| (n.as_str().into(), Test::new(v, regexes))).collect(),
        }
    }

    /// The first condition that `head` fails; `None` when the route takes it.
    fn failed(&self, head: &Head<'_>) -> Option<Failed<'_>> {
        if !self.methods.is_empty() && !self.methods.contains(head.method) {
            return Some(Failed::Method);
        }
        let header = |(name, test): &&(HeaderName, Test)| {
            !head.headers.get_all(name).iter().any(|line| test.holds(line.as_bytes()))
        };
        let query = |(name, test): &&(Box<str>, Test)| {
            !head.query.and_then(|query| key::query(query, name)).is_some_and(|value| test.holds(&value))
        };
        let cookie =
            |(name, test): &&(Box<str>, Test)| !key::cookie(head.headers, name).is_some_and(|value| test.holds(value));

        let failed = self.headers.iter().find(header).map(|(name, _)| Failed::Header(name.as_str()));
        let failed = failed.or_else(|| self.query.iter().find(query).map(|(name, _)| Failed::Query(name)));
        failed.or_else(|| self.cookies.iter().find(cookie).map(|(name, _)| Failed::Cookie(name)))
    }
}

impl Test {
    fn new(pattern: &ValuePattern, regexes: &mut HashMap<String, Regex>) -> Self {
        match pattern {
            ValuePattern::Exact(value) => Self::Exact(value.as_bytes().into()),
            ValuePattern::Regex(pattern) => Self::Regex(compiled(pattern, regexes)),
            ValuePattern::Present => Self::Present,
        }
    }

    /// A value that isn't UTF-8 matches no regular expression.
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(expected) => **expected == *value,
            Self::Regex(regex) => std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text)),
            Self::Present => true,
        }
    }
}

/// A map whose keys come from the configuration: a fast hash is safe, since visitors add no keys.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<Xxh3>>;

#[derive(Default)]
struct Xxh3(u64);

impl Hasher for Xxh3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// `str` ends with this byte to be prefix-free; we hash one string at a time.
    fn write_u8(&mut self, _: u8) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
