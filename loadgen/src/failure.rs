//! Why a request failed: one word for each kind, the same in the report, in JSON and on the terminal.

use serde::{Deserialize, Serialize};

/// Why a request has no good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The host's name has no address.
    Dns,
    /// Nobody listens at the address.
    Refused,
    /// The connection was not made in time.
    ConnectTimeout,
    /// The connection was not made for another reason: no route, no free port, no descriptor.
    Connect,
    /// The certificate is not trusted, or not for this name.
    Certificate,
    /// The TLS handshake failed for another reason.
    Tls,
    /// The target closed or reset the connection before the answer was complete.
    Reset,
    /// The answer was not complete in time.
    Timeout,
    /// The answer is not HTTP.
    Malformed,
    /// The answer's body is longer than is allowed.
    TooLong,
    /// The target refused the stream, or said that it goes away (HTTP/2).
    Refusal,
    /// The status is 400 to 499, and no check wanted that.
    ClientError,
    /// The status is 500 or above, and no check wanted that.
    ServerError,
    /// A check did not hold.
    Check,
    /// Nothing was found where a later step needs a value.
    Take,
    /// A feeder whose rows are used once has no more.
    FeederDry,
    /// The run ended before the answer was complete. Counted with the age that the request had.
    Unanswered,
}

impl Failure {
    /// All of them, in the order in which reports list them.
    pub const ALL: [Self; 17] = [
        Self::Dns,
        Self::Refused,
        Self::ConnectTimeout,
        Self::Connect,
        Self::Certificate,
        Self::Tls,
        Self::Reset,
        Self::Timeout,
        Self::Malformed,
        Self::TooLong,
        Self::Refusal,
        Self::ClientError,
        Self::ServerError,
        Self::Check,
        Self::Take,
        Self::FeederDry,
        Self::Unanswered,
    ];

    /// For people: a few words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Dns => "name not found",
            Self::Refused => "connection refused",
            Self::ConnectTimeout => "connect timed out",
            Self::Connect => "could not connect",
            Self::Certificate => "certificate not trusted",
            Self::Tls => "TLS handshake failed",
            Self::Reset => "connection closed or reset",
            Self::Timeout => "answer timed out",
            Self::Malformed => "answer malformed",
            Self::TooLong => "answer too long",
            Self::Refusal => "stream refused",
            Self::ClientError => "status 4xx",
            Self::ServerError => "status 5xx",
            Self::Check => "check failed",
            Self::Take => "nothing to take",
            Self::FeederDry => "feeder ran dry",
            Self::Unanswered => "unanswered at the end",
        }
    }
}
