//! Values for the tests of deciding.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tidegate_model::desired::{
    Action, Arm, Desired, EndpointSpec, FixedAnswer, HostPattern, Matches, PathPattern, Route, Service, Split, Version,
    VersionRef, Weight,
};

use super::{Connection, Head};

/// A request that owns its parts.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub method: Method,
    pub host: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub content_length: Option<u64>,
    pub dyed: Option<&'static str>,
}

impl Asked {
    pub fn get(host: &str, path: &str) -> Self {
        Self {
            method: Method::GET,
            host: host.into(),
            path: path.into(),
            query: None,
            headers: HeaderMap::new(),
            content_length: None,
            dyed: None,
        }
    }

    pub fn method(self, method: &str) -> Self {
        Self { method: method.parse().unwrap(), ..self }
    }

    pub fn query(self, query: &str) -> Self {
        Self { query: Some(query.into()), ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        self
    }

    pub fn dyed(self, run: &'static str) -> Self {
        Self { dyed: Some(run), ..self }
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    pub fn head(&self) -> Head<'_> {
        Head {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            content_length: self.content_length,
            dyed: self.dyed,
        }
    }
}

/// A connection from `peer` to our port 8080.
pub(crate) fn from(peer: &str) -> Connection {
    Connection {
        peer: SocketAddr::new(peer.parse().unwrap(), 40_000),
        local: "192.0.2.1:8080".parse().unwrap(),
        listener: "web".into(),
        redirect_to: None,
        tls: None,
        guard: Arc::default(),
    }
}

/// A route called `name` for `HOST PATH`; host `-` is any, path as in the configuration. It answers 200.
pub(crate) fn route(name: &str, pattern: &str) -> Route {
    let (host, path) = pattern.split_once(' ').unwrap();
    let hosts = match (host, host.strip_prefix("*.")) {
        ("-", _) => vec![],
        (_, Some(suffix)) => vec![HostPattern::Wildcard(suffix.into())],
        (exact, None) => vec![HostPattern::Exact(exact.into())],
    };
    let path = match (path.strip_suffix("/**"), path.strip_prefix('~')) {
        (_, Some(regex)) => PathPattern::Regex(regex.into()),
        (Some(prefix), _) => PathPattern::Prefix(prefix.into()),
        _ => PathPattern::Exact(path.into()),
    };
    Route {
        name: name.into(),
        matches: Matches { hosts, path, dyed: None, methods: vec![], headers: vec![], query: vec![], cookies: vec![] },
        action: Action::Answer(FixedAnswer { status: 200, content_type: "text/plain".into(), body: "hi".into() }),
        limits: vec![],
        access: Default::default(),
        rewrite: Default::default(),
        request_headers: Default::default(),
        response_headers: Default::default(),
        cors: None,
        timeouts: Default::default(),
        max_body: None,
        priority: Default::default(),
        challenge: Default::default(),
        shadows: vec![],
    }
}

/// A split over versions 0, 1, … of service 0.
pub(crate) fn split(weights: &[Weight]) -> Split {
    let arm = |(version, &weight)| Arm { version: VersionRef { service: 0, version }, weight };
    Split { arms: weights.iter().enumerate().map(arm).collect(), ..Split::default() }
}

/// A service `shop` with one version for each number, of so many endpoints.
pub(crate) fn shop(endpoints: &[u16]) -> Service {
    let version = |(index, &count): (usize, &u16)| Version {
        name: format!("v{}", index + 1),
        endpoints: (0..count)
            .map(|n| EndpointSpec {
                address: tidegate_model::desired::Address::Tcp(SocketAddr::from((
                    [127, 0, 0, 1],
                    9_000 + 100 * index as u16 + n,
                ))),
                weight: 1,
            })
            .collect(),
    };
    Service {
        name: "shop".into(),
        balance: Default::default(),
        probe: None,
        eject: None,
        retry: Default::default(),
        timeouts: Default::default(),
        protocol: Default::default(),
        tls: None,
        capacity: Default::default(),
        keep_idle: 8,
        versions: endpoints.iter().enumerate().map(version).collect(),
    }
}

/// One route `shop` for everything, over `weights`.
pub(crate) fn desired(weights: &[Weight], endpoints: &[u16]) -> Desired {
    let mut everything = route("shop", "- /**");
    everything.action = Action::Forward(split(weights));
    Desired { services: vec![shop(endpoints)], routes: vec![everything], ..Desired::default() }
}

/// A limit by client address.
pub(crate) fn per_ip(burst: u32) -> tidegate_model::desired::Limit {
    tidegate_model::desired::Limit {
        name: "per_ip".into(),
        keys: vec![tidegate_model::desired::Key::ClientIp],
        interval: Duration::from_millis(20),
        burst,
        window: Duration::from_secs(1),
        per_window: 50,
        over: 429,
        challenge: false,
        ban: None,
        shared: false,
    }
}
