//! Finds the route for a request, by Gateway API precedence.
//!
//! Candidates are asked from the most to the least specific, and the first whose every
//! condition holds takes the request:
//!
//! 0. dyed: a dyed request is offered to the routes that ask for dyed traffic first, in the order of
//!    the rules below, and only then to the others. A live one never meets them. So a single such
//!    route keeps a load test out of a real store, however specific the routes to that store are.
//! 1. host: exact, then the longest wildcard, then none. A host whose routes don't take the
//!    request hands over to the next less specific one.
//! 2. path: exact, then regular expression, then the longest prefix.
//! 3. a run's name, then a method condition, then more header, then more query, then more cookie conditions.
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
use tidegate_model::desired::{DyedMatch, HostPattern, Matches, PathPattern, Route, ValuePattern};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Head, key};

/// An index over all routes.
#[derive(Default)]
pub struct Router {
    rules: Vec<Rule>,
    /// Routes that ask for dyed traffic; `None` where there are none.
    dyed: Option<Box<Hosts>>,
    others: Hosts,
}

/// Routes by the hosts that they are for.
#[derive(Default)]
struct Hosts {
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
            let hosts = match matches.dyed {
                Some(_) => router.dyed.get_or_insert_default(),
                None => &mut router.others,
            };
            hosts.insert(matches, index, &mut regexes);
        }
        router
    }

    /// The most specific route that takes `head`: an index into what it was built from.
    pub fn find(&self, head: &Head<'_>) -> Option<usize> {
        let host = head.host.strip_suffix('.').unwrap_or(head.host);
        let takes = |index: u32| self.rules[index as usize].failed(head).is_none();
        let dyed = head.dyed.and(self.dyed.as_deref());
        let found = dyed.and_then(|hosts| hosts.find(host, head.path, takes));
        found.or_else(|| self.others.find(host, head.path, takes)).map(|index| index as usize)
    }

    /// The first condition of route `index` that `head` fails, host and path aside.
    pub(super) fn failed(&self, index: usize, head: &Head<'_>) -> Option<Failed<'_>> {
        self.rules[index].failed(head)
    }
}

impl Hosts {
    fn insert(&mut self, matches: &Matches, index: u32, regexes: &mut HashMap<String, Regex>) {
        for host in &matches.hosts {
            let paths = match host {
                HostPattern::Exact(name) => self.exact.entry(name.as_str().into()).or_default(),
                HostPattern::Wildcard(suffix) => {
                    self.longest_wildcard = self.longest_wildcard.max(suffix.len());
                    self.wildcard.entry(suffix.as_str().into()).or_default()
                }
            };
            paths.insert(&matches.path, index, regexes);
        }
        if matches.hosts.is_empty() {
            self.any.insert(&matches.path, index, regexes);
        }
    }

    fn find(&self, host: &str, path: &str, takes: impl Fn(u32) -> bool) -> Option<u32> {
        self.tables(host).find_map(|paths| paths.find(path, &takes))
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
pub(crate) fn conditions(matches: &Matches) -> (bool, bool, usize, usize, usize) {
    let run = matches!(matches.dyed, Some(DyedMatch::Run(_)));
    (run, !matches.methods.is_empty(), matches.headers.len(), matches.query.len(), matches.cookies.len())
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
    /// A live request fails `Some`.
    dyed: Option<DyedMatch>,
    methods: Vec<Method>,
    headers: Vec<(HeaderName, Test)>,
    query: Vec<(Box<str>, Test)>,
    cookies: Vec<(Box<str>, Test)>,
}

/// A condition that a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed<'a> {
    Dyed,
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
            dyed: matches.dyed.clone(),
            methods: matches.methods.iter().map(method).collect(),
            headers: matches.headers.iter().map(|(n, v)| (key::legal_name(n), Test::new(v, regexes))).collect(),
            query: matches.query.iter().map(|(n, v)| (n.as_str().into(), Test::new(v, regexes))).collect(),
            cookies: matches.cookies.iter().map(|(n, v)| (n.as_str().into(), Test::new(v, regexes))).collect(),
        }
    }

    /// The first condition that `head` fails; `None` when the route takes it.
    fn failed(&self, head: &Head<'_>) -> Option<Failed<'_>> {
        let is_asked_for = match (&self.dyed, head.dyed) {
            (None, _) | (Some(DyedMatch::Any), Some(_)) => true,
            (Some(DyedMatch::Run(wanted)), Some(run)) => wanted == run,
            (Some(_), None) => false,
        };
        if !is_asked_for {
            return Some(Failed::Dyed);
        }
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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    use super::super::explain::{host_fits, path_fits, specificity};
    use super::super::testkit::{Asked, route};
    use super::*;

    fn winner(routes: &[Route], asked: &Asked) -> Option<String> {
        Router::build(routes).find(&asked.head()).map(|index| routes[index].name.clone())
    }

    /// Routes named by their own matcher: `host path`, `-` for any host.
    fn table(lines: &[&str]) -> Vec<Route> {
        lines.iter().map(|line| route(line, line)).collect()
    }

    #[test]
    fn hosts_go_exact_then_longest_wildcard_then_any() {
        let routes = table(&["- /**", "*.example.com /**", "*.shop.example.com /**", "a.shop.example.com /**"]);
        let to = |host: &str| winner(&routes, &Asked::get(host, "/")).unwrap();

        assert_eq!(to("a.shop.example.com"), "a.shop.example.com /**");
        assert_eq!(to("a.shop.example.com."), "a.shop.example.com /**");
        assert_eq!(to("b.shop.example.com"), "*.shop.example.com /**");
        assert_eq!(to("x.y.shop.example.com"), "*.shop.example.com /**");
        assert_eq!(to("shop.example.com"), "*.example.com /**");
        assert_eq!(to("example.com"), "- /**");
        assert_eq!(to("badexample.com"), "- /**");
        assert_eq!(to(""), "- /**");
    }

    #[test]
    fn a_host_whose_routes_refuse_hands_over_to_the_next_less_specific() {
        let routes = table(&["a.example.com /only", "*.example.com /wild/**", "- /**"]);

        assert_eq!(winner(&routes, &Asked::get("a.example.com", "/only")).unwrap(), "a.example.com /only");
        assert_eq!(winner(&routes, &Asked::get("a.example.com", "/wild/x")).unwrap(), "*.example.com /wild/**");
        assert_eq!(winner(&routes, &Asked::get("a.example.com", "/else")).unwrap(), "- /**");
    }

    #[test]
    fn paths_go_exact_then_regex_then_longest_prefix() {
        let routes = table(&["- /**", "- /shop/**", "- /shop/cart/**", "- ~^/shop/item-[0-9]+$", "- /shop/item-1"]);
        let to = |path: &str| winner(&routes, &Asked::get("h", path)).unwrap();

        assert_eq!(to("/shop/item-1"), "- /shop/item-1");
        assert_eq!(to("/shop/item-2"), "- ~^/shop/item-[0-9]+$");
        assert_eq!(to("/shop/item-x"), "- /shop/**");
        assert_eq!(to("/shop/cart"), "- /shop/cart/**");
        assert_eq!(to("/shop/cart/1/2"), "- /shop/cart/**");
        assert_eq!(to("/shop/cartoon"), "- /shop/**");
        assert_eq!(to("/"), "- /**");
        assert_eq!(to("*"), "- /**");
    }

    #[test]
    fn a_prefix_ends_on_a_segment_border() {
        let routes = table(&["- /shop/**"]);
        let taken = |path: &str| winner(&routes, &Asked::get("h", path)).is_some();

        assert!(taken("/shop") && taken("/shop/") && taken("/shop/x") && taken("/shop//x"));
        assert!(!taken("/shopping") && !taken("/sho") && !taken("/") && !taken("//shop") && !taken("/Shop"));
    }

    #[test]
    fn ties_go_to_method_then_headers_then_query_then_cookies_then_the_file() {
        let with = |name: &str, f: &dyn Fn(&mut Matches)| {
            let mut route = route(name, "- /**");
            f(&mut route.matches);
            route
        };
        let present = |names: &[&str]| names.iter().map(|n| (n.to_string(), ValuePattern::Present)).collect::<Vec<_>>();
        let routes = [
            with("plain", &|_| {}),
            with("plain again", &|_| {}),
            with("cookie", &|m| m.cookies = present(&["c", "d"])),
            with("query", &|m| m.query = present(&["q"])),
            with("one header", &|m| m.headers = present(&["x-a"])),
            with("two headers", &|m| m.headers = present(&["x-a", "x-b"])),
            with("method", &|m| m.methods = vec!["POST".into()]),
        ];
        let all = Asked::get("h", "/").query("q=1").header("x-a", "1").header("x-b", "1").header("cookie", "c=1; d=2");
        let order = [
            all.clone().method("POST"),
            all.clone(),
            all.clone().without("x-b"),
            all.clone().without("x-b").without("x-a"),
        ];

        let winners = order.map(|asked| winner(&routes, &asked).unwrap());

        assert_eq!(winners, ["method", "two headers", "one header", "query"]);
        assert_eq!(winner(&routes, &Asked::get("h", "/").header("cookie", "d=1;c=1")).unwrap(), "cookie");
        assert_eq!(winner(&routes, &Asked::get("h", "/")).unwrap(), "plain");
    }

    #[test]
    fn dyed_requests_go_to_routes_that_ask_for_them_and_live_ones_never_do() {
        let dyed = |name: &str, pattern: &str, rule: DyedMatch| {
            let mut route = route(name, pattern);
            route.matches.dyed = Some(rule);
            route
        };
        let routes = [
            route("exact", "shop.example.com /orders"),
            dyed("any run", "- /orders/**", DyedMatch::Any),
            dyed("drill", "- /orders/**", DyedMatch::Run("drill".into())),
            route("rest", "- /**"),
        ];
        let asked = || Asked::get("shop.example.com", "/orders");

        assert_eq!(winner(&routes, &asked()).unwrap(), "exact");
        assert_eq!(winner(&routes, &asked().dyed("drill")).unwrap(), "drill");
        assert_eq!(winner(&routes, &asked().dyed("other")).unwrap(), "any run");
        assert_eq!(winner(&routes, &Asked::get("shop.example.com", "/items").dyed("drill")).unwrap(), "rest");
        assert_eq!(winner(&routes, &Asked::get("other", "/orders")).unwrap(), "rest");
    }

    #[test]
    fn conditions_look_at_any_header_line_and_at_the_first_parameter() {
        let mut routes = [route("beta", "- /**")];
        routes[0].matches.headers = vec![("x-beta".into(), ValuePattern::Exact("1".into()))];
        routes[0].matches.query = vec![("v".into(), ValuePattern::Regex("^[0-9]+$".into()))];
        let taken = |asked: Asked| winner(&routes, &asked).is_some();
        let beta = || Asked::get("h", "/").header("x-beta", "0").header("x-beta", "1");

        assert!(taken(beta().query("v=12")));
        assert!(taken(beta().query("v=%31%32&v=x")));
        assert!(!taken(beta().query("v=x&v=12")));
        assert!(!taken(beta()));
        assert!(!taken(Asked::get("h", "/").query("v=1").header("x-beta", "0, 1")));
    }

    #[test]
    fn what_a_regex_must_begin_with_is_taken_only_where_that_is_plain() {
        assert_eq!(leading_literal("^/item/[0-9]+$"), "/item/");
        assert_eq!(leading_literal("^/ab?c"), "/a");
        assert_eq!(leading_literal("^/a|/b"), "");
        assert_eq!(leading_literal("^/a.b"), "/a");
        assert_eq!(leading_literal("/a"), "");
        assert_eq!(leading_literal("^(?i)/a"), "");
        assert_eq!(leading_literal("^*"), "");
    }

    /// All routes in order of precedence, asked one after the other: what the index must agree with.
    fn reference(routes: &[Route], asked: &Asked) -> Option<usize> {
        let head = asked.head();
        let path_rank = |pattern: &PathPattern| match pattern {
            PathPattern::Exact(_) => (2, 0),
            PathPattern::Regex(_) => (1, 0),
            PathPattern::Prefix(prefix) => (0, prefix.len()),
        };
        let value_fits = |pattern: &ValuePattern, value: &str| match pattern {
            ValuePattern::Exact(exact) => exact == value,
            ValuePattern::Regex(regex) => Regex::new(regex).unwrap().is_match(value),
            ValuePattern::Present => true,
        };
        let header_fits = |name: &str, pattern: &ValuePattern| {
            asked.headers.get_all(name).iter().any(|line| value_fits(pattern, line.to_str().unwrap()))
        };
        let mut fitting: Vec<_> = (0..routes.len())
            .filter_map(|index| {
                let m = &routes[index].matches;
                let host = m
                    .hosts
                    .iter()
                    .filter(|h| host_fits(h, head.host.strip_suffix('.').unwrap_or(head.host)))
                    .map(specificity)
                    .max();
                let host = if m.hosts.is_empty() { Some((false, 0)) } else { host };
                let dyed = match (&m.dyed, head.dyed) {
                    (None, _) => true,
                    (Some(DyedMatch::Any), run) => run.is_some(),
                    (Some(DyedMatch::Run(wanted)), run) => run == Some(wanted.as_str()),
                };
                let fits = path_fits(&m.path, head.path)
                    && dyed
                    && (m.methods.is_empty() || m.methods.iter().any(|name| name == head.method.as_str()))
                    && m.headers.iter().all(|(name, pattern)| header_fits(name, pattern));
                host.filter(|_| fits)
                    .map(|host| (m.dyed.is_some(), host, path_rank(&m.path), conditions(m), std::cmp::Reverse(index)))
            })
            .collect();
        fitting.sort();
        fitting.last().map(|found| found.4.0)
    }

    fn any_route() -> impl Strategy<Value = Route> {
        let hosts = subsequence(vec!["a.x.y", "b.a.x.y", "*.x.y", "*.a.x.y", "*.y", "x.y"], 0..3);
        let path = select(vec![
            "/**",
            "/a/**",
            "/a/b/**",
            "/ab/**",
            "/",
            "/a",
            "/a/b",
            "/a/",
            "~^/a",
            "~b$",
            "~^/a/?b?$",
            "~^/ab?$",
        ]);
        let methods = subsequence(vec!["GET", "POST"], 0..=2);
        let headers = subsequence(
            vec![
                ("x-a", ValuePattern::Exact("1".into())),
                ("x-b", ValuePattern::Present),
                ("x-a", ValuePattern::Regex("^[12]$".into())),
            ],
            0..=3,
        );
        let dyed = prop::option::weighted(0.3, select(vec![DyedMatch::Any, DyedMatch::Run("drill".into())]));
        (hosts, path, methods, headers, dyed).prop_map(|(hosts, path, methods, headers, dyed)| {
            let mut one = route("r", &format!("- {path}"));
            one.matches.hosts = hosts.iter().flat_map(|host| route("h", &format!("{host} /")).matches.hosts).collect();
            one.matches.dyed = dyed;
            one.matches.methods = methods.into_iter().map(String::from).collect();
            one.matches.headers = headers.into_iter().map(|(name, value)| (name.into(), value)).collect();
            one
        })
    }

    fn any_request() -> impl Strategy<Value = Asked> {
        let host = select(vec!["a.x.y", "b.a.x.y", "c.b.a.x.y", "x.y", "y", "z", ""]);
        let path = select(vec!["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/abc", "/b", "*", "//a"]);
        let header = || prop::option::of(select(vec!["1", "2", "3", ""]));
        let dyed = prop::option::of(select(vec!["drill", "other"]));
        let method = select(vec!["GET", "POST", "PUT"]);
        (host, path, method, header(), header(), dyed).prop_map(|(host, path, method, a, b, dyed)| {
            let mut headers = HeaderMap::new();
            headers.extend(a.map(|a| (HeaderName::from_static("x-a"), HeaderValue::from_static(a))));
            headers.extend(b.map(|b| (HeaderName::from_static("x-b"), HeaderValue::from_static(b))));
            Asked { headers, dyed, ..Asked::get(host, path).method(method) }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn the_index_agrees_with_asking_every_route_in_order_of_precedence(
            routes in prop::collection::vec(any_route(), 0..24), asked in any_request(),
        ) {
            prop_assert_eq!(Router::build(&routes).find(&asked.head()), reference(&routes, &asked));
        }

        #[test]
        fn any_path_and_host_at_all_can_be_looked_up(host in "\\PC*", path in "\\PC*", query in "\\PC*") {
            let routes = table(&["*.a /a/**", "- ~^/a", "- /b"]);
            let asked = Asked::get(&host, &path).query(&query);

            prop_assert_eq!(Router::build(&routes).find(&asked.head()), reference(&routes, &asked));
        }
    }
}
