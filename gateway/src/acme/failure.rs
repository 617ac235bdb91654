//! Why an order failed, in words for a tired person: what the authority said, and what to try.

use std::error::Error as _;
use std::time::Duration;

use instant_acme::{Error, Problem};

use super::plan::Failed;

/// An order that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the next try depends on.
    pub kind: Failed,
    /// What happened.
    pub what: String,
    /// What to try.
    pub help: &'static str,
    /// How long the authority asks to wait.
    pub wait: Option<Duration>,
    /// Whether the order at the authority is of no use any more.
    pub order_is_over: bool,
    /// Whether the authority doesn't know our account.
    pub account_is_gone: bool,
    /// Whether the authority wants nothing but a fresher nonce (RFC 8555 §6.5).
    pub stale_nonce: bool,
}

impl Failure {
    /// Something on our side.
    pub fn ours(what: impl Into<String>, help: &'static str) -> Self {
        Self::new(Failed::Ours, what, help)
    }

    /// The authority refused to certify a name, for a reason that it gave.
    pub fn refused(name: &str, problem: &Problem) -> Self {
        Self { what: format!("{name}: {}", words(problem)), order_is_over: true, ..Self::from_problem(problem) }
    }

    /// The authority refused without saying why.
    pub fn unexplained() -> Self {
        let help = "ask the authority's operator";
        Self {
            order_is_over: true,
            ..Self::new(Failed::Refused, "the authority refused the order without a reason", help)
        }
    }

    /// It took too long.
    pub fn late(what: &str) -> Self {
        Self::new(
            Failed::Away,
            format!("{what} took too long"),
            "is the authority in trouble? its status page may tell",
        )
    }

    fn new(kind: Failed, what: impl Into<String>, help: &'static str) -> Self {
        Self {
            kind,
            what: what.into(),
            help,
            wait: None,
            order_is_over: false,
            account_is_gone: false,
            stale_nonce: false,
        }
    }

    fn from_problem(problem: &Problem) -> Self {
        let name = problem.r#type.as_deref().unwrap_or_default();
        let name = name.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(name);
        let (kind, help) = advice(name, problem.status.unwrap_or_default());
        Self {
            account_is_gone: name == "accountDoesNotExist",
            stale_nonce: name == "badNonce",
            order_is_over: name == "malformed" || problem.status == Some(404),
            ..Self::new(kind, words(problem), help)
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Api(problem) => Self::from_problem(problem),
            Error::Timeout(_) => Self::late("the authority"),
            Error::Json(_) | Error::Str(_) => Self::new(
                Failed::Away,
                format!("the authority's answer isn't understood: {error}"),
                "is acme.directory the URL of an ACME directory?",
            ),
            Error::Crypto | Error::KeyRejected => {
                Self::ours(error.to_string(), "the account's key in the store may be damaged")
            }
            Error::Unsupported(_) => Self::new(Failed::Refused, error.to_string(), "ask the authority's operator"),
            _ => {
                let mut what = format!("the authority can't be reached: {error}");
                let mut cause = error.source();
                while let Some(next) = cause {
                    what.push_str(&format!(": {next}"));
                    cause = next.source();
                }
                let help = if what.contains("certificate") {
                    "the directory's own certificate isn't trusted; name its authority by acme.ca"
                } else {
                    "check acme.directory, DNS and the way out of this machine; it is tried again"
                };
                Self::new(Failed::Away, what, help)
            }
        }
    }
}

/// What kind of failure an error type of RFC 8555 §6.7 is, and what helps.
fn advice(name: &str, status: u16) -> (Failed, &'static str) {
    match name {
        "dns" => (Failed::Refused, "the name must lead here in public DNS: check its A and AAAA records"),
        "connection" => (
            Failed::Refused,
            "ports 80 and 443 of every address of this name must lead here: check firewall and AAAA records",
        ),
        "tls" => (
            Failed::Refused,
            "port 443 of this name must lead to a TLS listener of this gateway, without TLS in between",
        ),
        "unauthorized" | "incorrectResponse" => {
            (Failed::Refused, "the name leads to another server, or something in front answers instead of this gateway")
        }
        "caa" => (Failed::Refused, "a CAA record of the domain forbids this authority"),
        "rejectedIdentifier" => {
            (Failed::Refused, "the authority doesn't certify this name: take it out, or ask another one")
        }
        "rateLimited" => {
            (Failed::TooOften, "too many orders or failures for these names; nothing is asked until the pause is over")
        }
        "userActionRequired" => {
            (Failed::Refused, "the authority's terms have changed: its message has the link to follow")
        }
        "externalAccountRequired" => {
            (Failed::Refused, "this authority wants accounts that are bound to a customer (EAB), which isn't there")
        }
        "accountDoesNotExist" => (Failed::Away, "the account is opened anew with the same key"),
        "invalidContact" | "unsupportedContact" => (Failed::Refused, "check acme.contact"),
        "badNonce" | "serverInternal" => (Failed::Away, "the authority had a bad moment; it is tried again"),
        _ if status == 429 || status == 503 => (Failed::TooOften, "the authority is overloaded or wants fewer orders"),
        _ if status >= 500 => (Failed::Away, "the authority had a bad moment; it is tried again"),
        _ => (Failed::Refused, "RFC 8555 section 6.7 tells what the error means"),
    }
}

/// A problem document in one line.
fn words(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or("no type");
    let mut text = match &problem.detail {
        Some(detail) => format!("{detail} ({kind})"),
        None => kind.to_owned(),
    };
    for sub in &problem.subproblems {
        text.push_str(&format!("; {sub}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Failure {
        Failure::from(Error::Api(serde_json::from_str(json).unwrap()))
    }

    #[test]
    fn a_problem_document_is_told_whole_with_what_to_try() {
        let failure = problem(
            r#"{"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "policy forbids it", "status": 400,
                "subproblems": [{"type": "urn:ietf:params:acme:error:caa", "detail": "CAA says no",
                                 "identifier": {"type": "dns", "value": "a.test"}}]}"#,
        );

        assert_eq!(failure.kind, Failed::Refused);
        for word in ["policy forbids it", "rejectedIdentifier", "a.test", "CAA says no"] {
            assert!(failure.what.contains(word), "{failure:?}");
        }
        assert!(failure.help.contains("take it out"));
    }

    #[test]
    fn rate_limits_bad_moments_and_lost_accounts_are_told_apart_from_refusals() {
        let limited = problem(r#"{"type": "urn:ietf:params:acme:error:rateLimited", "status": 429}"#);
        let moment = problem(r#"{"type": "urn:ietf:params:acme:error:serverInternal", "status": 500}"#);
        let lost = problem(r#"{"type": "urn:ietf:params:acme:error:accountDoesNotExist", "status": 400}"#);

        assert_eq!((limited.kind, moment.kind), (Failed::TooOften, Failed::Away));
        assert!(lost.account_is_gone && !moment.account_is_gone);
    }
}
