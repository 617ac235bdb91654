//! Answers that the gateway gives by itself, said so that a person with curl understands them.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use smallvec::SmallVec;
use tidegate_model::desired::FixedAnswer;
use tidegate_model::target::BadTarget;
use tidegate_model::time::Timestamp;

use crate::door::refusal::{ALLOWED, Refusal};

use super::balance::Nobody;
use super::limit::{LimitState, Outcome};
use super::{Answer, HeaderLines, Reason};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

impl Answer {
    /// A plain-text answer with its own sentence as body.
    pub fn text(status: u16, reason: Reason, client: IpAddr, sentence: &'static str) -> Self {
        let mut headers = HeaderLines::new();
        headers.push((header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
        Self { status, reason, route: None, client, headers, body: Bytes::from_static(sentence.as_bytes()) }
    }

    /// The same for a route, with the headers that were decided on the way.
    pub fn on(mut self, route: usize, headers: HeaderLines) -> Self {
        self.route = Some(route);
        self.headers.extend(headers);
        self
    }
}

/// For a request that breaks a rule of HTTP. HTTP/1 requests don't come so far: the door refuses them.
pub fn refused(client: IpAddr, refusal: Refusal) -> Answer {
    let mut answer = Answer::text(refusal.status(), Reason::BadRequest, client, refusal.text());
    if refusal.status() == 405 {
        answer.headers.push((header::ALLOW, HeaderValue::from_static(ALLOWED)));
    }
    answer
}

/// For a request whose target has no normal form. The carriers find that out before anything is decided.
pub fn bad_target(client: IpAddr, bad: BadTarget) -> Answer {
    Answer { body: format!("400: {}\n", bad.text()).into(), ..Answer::text(400, Reason::BadRequest, client, "") }
}

pub(super) fn no_route(client: IpAddr) -> Answer {
    Answer::text(404, Reason::NoRoute, client, "404: no route takes this request\n")
}

pub(super) fn denied(client: IpAddr) -> Answer {
    Answer::text(403, Reason::Denied, client, "403: your address may not use this\n")
}

pub(super) fn misdirected(client: IpAddr) -> Answer {
    let sentence = "421: this host asks for another client certificate; connect again under its name\n";
    Answer::text(421, Reason::Misdirected, client, sentence)
}

pub(super) fn body_too_large(client: IpAddr) -> Answer {
    Answer::text(413, Reason::BodyTooLarge, client, "413: the request body is larger than this route allows\n")
}

pub(super) fn nobody(client: IpAddr, nobody: Nobody) -> Answer {
    match nobody {
        Nobody::Empty => Answer::text(503, Reason::NoEndpoint, client, "503: this version has no endpoint\n"),
        Nobody::AllUnfit => {
            Answer::text(503, Reason::AllUnfit, client, "503: every endpoint of this version is unfit\n")
        }
    }
}

pub(super) fn fixed(client: IpAddr, fixed: &FixedAnswer) -> Answer {
    let mut headers = HeaderLines::new();
    if let Ok(value) = HeaderValue::from_str(&fixed.content_type) {
        headers.push((header::CONTENT_TYPE, value));
    }
    let body = Bytes::copy_from_slice(fixed.body.as_bytes());
    Answer { status: fixed.status, reason: Reason::Fixed, route: None, client, headers, body }
}

/// The answer to an ACME authority (RFC 8555 §8.3).
pub fn proof(client: IpAddr, proof: String) -> Answer {
    let mut headers = HeaderLines::new();
    headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")));
    Answer { status: 200, reason: Reason::Fixed, route: None, client, headers, body: proof.into() }
}

pub(super) fn redirect(client: IpAddr, status: u16, location: String) -> Answer {
    match HeaderValue::try_from(location) {
        Ok(location) => {
            let mut answer = Answer::text(status, Reason::Redirect, client, "moved: see the Location header\n");
            answer.headers.push((header::LOCATION, location));
            answer
        }
        Err(_) => {
            Answer::text(400, Reason::BadRequest, client, "400: this URL can't be written into a Location header\n")
        }
    }
}

/// The answer to somebody who is banned from the whole gateway.
pub(super) fn banned(client: IpAddr, until: Timestamp, now: Timestamp) -> Answer {
    let mut answer = Answer::text(429, Reason::Banned, client, BANNED);
    let wait = u64::try_from((until - now).as_nanos()).unwrap_or(u64::MAX);
    answer.headers.push((header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait).max(1))));
    answer
}

const BANNED: &str = "too many requests: banned for a while, see Retry-After\n";

/// The answer to a request that `limit` refused.
pub(super) fn limited(client: IpAddr, limit: &LimitState, outcome: Outcome, now: Timestamp) -> Answer {
    let status = limit.spec().over;
    let (reason, wait, sentence) = match outcome {
        Outcome::Banned { until } => {
            let wait = u64::try_from((until - now).as_nanos()).unwrap_or(u64::MAX);
            (Reason::Banned, wait, BANNED)
        }
        Outcome::Refused { retry_after } | Outcome::Punished { retry_after } => {
            (Reason::Limited, retry_after, "too many requests: see Retry-After\n")
        }
        Outcome::Taken { .. } => (Reason::Limited, 0, "too many requests\n"),
    };
    let mut answer = Answer::text(status, reason, client, sentence);
    let seconds = whole_seconds(wait).max(1);
    answer.headers.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
    answer.headers.extend(rate_limit_headers(&[(limit, 0, seconds)]));
    answer
}

/// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10): one item for each
/// limit, with the tokens left and the seconds until its bucket is full again.
pub(super) fn rate_limit_headers(limits: &[(&LimitState, u32, u64)]) -> HeaderLines {
    let mut lines = HeaderLines::new();
    let mut state = String::with_capacity(limits.len() * 32);
    for (limit, remaining, seconds) in limits {
        let comma = if state.is_empty() { "" } else { ", " };
        state.push_str(comma);
        state.push_str(limit.quoted_name());
        state.push_str(";r=");
        state.push_str(itoa::Buffer::new().format(*remaining));
        state.push_str(";t=");
        state.push_str(itoa::Buffer::new().format(*seconds));
    }
    let policy = match limits {
        [(only, ..)] => Some(only.policy().clone()),
        several => {
            let policies: SmallVec<[&[u8]; 4]> = several.iter().map(|(limit, ..)| limit.policy().as_bytes()).collect();
            HeaderValue::try_from(policies.join(&b", "[..])).ok()
        }
    };
    lines.extend(policy.map(|policy| (RATE_LIMIT_POLICY, policy)));
    lines.extend(HeaderValue::try_from(state).ok().map(|state| (RATE_LIMIT, state)));
    lines
}

/// Nanoseconds as seconds, rounded up.
pub(super) fn whole_seconds(nanos: u64) -> u64 {
    nanos.div_ceil(1_000_000_000)
}
