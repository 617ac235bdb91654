//! Cross-origin policy (Fetch standard, "CORS protocol"): preflights are answered here, and other answers
//! get the headers that let a script read them.
//!
//! # Invariants
//!
//! - An origin that isn't allowed gets no CORS header at all; the browser does the refusing.
//! - With credentials, nothing is answered with `*`, which browsers would not accept; what was asked for is echoed.
//! - `Vary: Origin` is on every answer that could be another one for another origin.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use tidegate_model::desired::Cors;

use super::{Answer, Head, HeaderLines, Reason};

/// A [`Cors`] policy with its header values written.
#[derive(Clone, Debug)]
pub struct CorsReady {
    origins: Vec<Origin>,
    credentials: bool,
    methods: Listed,
    headers: Listed,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
}

#[derive(Clone, Debug)]
enum Origin {
    Any,
    Exact(Box<str>),
    /// Text before and after a `*`.
    Around(Box<str>, Box<str>),
}

#[derive(Clone, Debug)]
enum Listed {
    All,
    These(HeaderValue),
    None,
}

impl Listed {
    fn new(names: &[String]) -> Self {
        match names {
            [] => Self::None,
            names if names.iter().any(|name| name == "*") => Self::All,
            names => HeaderValue::try_from(names.join(", ")).map_or(Self::None, Self::These),
        }
    }

    /// What to answer to somebody who asks for `asked`.
    fn answer(&self, asked: Option<&HeaderValue>, credentials: bool) -> Option<HeaderValue> {
        match self {
            Self::These(names) => Some(names.clone()),
            Self::All if credentials => asked.cloned(),
            Self::All => Some(HeaderValue::from_static("*")),
            Self::None => None,
        }
    }
}

/// The method that a preflight asks for; `None` when `head` isn't a preflight.
pub(super) fn preflight_method(head: &Head<'_>) -> Option<Method> {
    let asked = head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let is_preflight = *head.method == Method::OPTIONS && head.headers.contains_key(header::ORIGIN);
    is_preflight.then(|| Method::from_bytes(asked.as_bytes()).ok()).flatten()
}

impl CorsReady {
    /// Prepares `cors`.
    pub fn new(cors: &Cors) -> Self {
        let origin = |text: &String| match text.split_once('*') {
            None => Origin::Exact(text.as_str().into()),
            Some(("", "")) => Origin::Any,
            Some((before, after)) => Origin::Around(before.into(), after.into()),
        };
        let max_age = |age: std::time::Duration| HeaderValue::from(age.as_secs());
        Self {
            origins: cors.origins.iter().map(origin).collect(),
            credentials: cors.credentials,
            methods: Listed::new(&cors.methods),
            headers: Listed::new(&cors.headers),
            expose: (!cors.expose.is_empty()).then(|| HeaderValue::try_from(cors.expose.join(", ")).ok()).flatten(),
            max_age: cors.max_age.map(max_age),
        }
    }

    /// The answer to a preflight: 204, with what is allowed.
    pub(super) fn preflight(&self, head: &Head<'_>, client: IpAddr) -> Answer {
        let mut headers = HeaderLines::new();
        headers.push((
            header::VARY,
            HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers"),
        ));
        if let Some(origin) = self.allowed(head.headers) {
            headers.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin));
            let asked = |name| head.headers.get(name);
            let methods = self.methods.answer(asked(header::ACCESS_CONTROL_REQUEST_METHOD), self.credentials);
            headers.extend(methods.map(|methods| (header::ACCESS_CONTROL_ALLOW_METHODS, methods)));
            let allowed = self.headers.answer(asked(header::ACCESS_CONTROL_REQUEST_HEADERS), self.credentials);
            headers.extend(allowed.map(|allowed| (header::ACCESS_CONTROL_ALLOW_HEADERS, allowed)));
            if self.credentials {
                headers.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
            }
            headers.extend(self.max_age.clone().map(|age| (header::ACCESS_CONTROL_MAX_AGE, age)));
        }
        Answer { status: 204, reason: Reason::Preflight, route: None, client, headers, body: Bytes::new() }
    }

    /// Headers for the answer to a request that isn't a preflight.
    pub(super) fn on_answer(&self, head: &Head<'_>, headers: &mut HeaderLines) {
        if !self.answers_all_alike() {
            headers.push((header::VARY, HeaderValue::from_static("origin")));
        }
        let Some(origin) = self.allowed(head.headers) else { return };
        headers.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin));
        if self.credentials {
            headers.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        headers.extend(self.expose.clone().map(|expose| (header::ACCESS_CONTROL_EXPOSE_HEADERS, expose)));
    }

    fn answers_all_alike(&self) -> bool {
        !self.credentials && self.origins.iter().any(|origin| matches!(origin, Origin::Any))
    }

    /// The Access-Control-Allow-Origin value, if the request has an origin that is allowed.
    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        let fits = |pattern: &Origin| match pattern {
            Origin::Any => true,
            Origin::Exact(exact) => text.eq_ignore_ascii_case(exact),
            Origin::Around(before, after) => {
                let lower = text.to_ascii_lowercase();
                let label = lower.strip_prefix(&**before).and_then(|rest| rest.strip_suffix(&**after));
                label.is_some_and(|l| {
                    !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
                })
            }
        };
        let any = self.origins.iter().any(fits);
        any.then(|| if self.answers_all_alike() { HeaderValue::from_static("*") } else { origin.clone() })
    }
}
