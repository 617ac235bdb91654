//! What went wrong with one request, and which kind of failure the system's and the library's errors are.

use std::borrow::Cow;
use std::io;

use crate::Failure;

/// What went wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub failure: Failure,
    /// What the system or the target said.
    pub text: Cow<'static, str>,
}

impl Fault {
    /// A fault in our own words.
    pub fn new(failure: Failure, text: impl Into<Cow<'static, str>>) -> Self {
        Self { failure, text: text.into() }
    }

    /// Of a connection that could not be made.
    pub fn of_connect(err: &io::Error) -> Self {
        let failure = match err.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused,
            io::ErrorKind::TimedOut => Failure::ConnectTimeout,
            _ => Failure::Connect,
        };
        Self::new(failure, err.to_string())
    }

    /// Of a TLS handshake.
    pub fn of_handshake(err: &io::Error) -> Self {
        let failure = match tls_error(err) {
            Some(rustls::Error::InvalidCertificate(_)) => Failure::Certificate,
            _ => Failure::Tls,
        };
        Self::new(failure, err.to_string())
    }

    /// Of a connection that was in use.
    pub fn of_exchange(err: &io::Error) -> Self {
        let failure = if tls_error(err).is_some() { Failure::Tls } else { Failure::Reset };
        Self::new(failure, err.to_string())
    }
}

fn tls_error(err: &io::Error) -> Option<&rustls::Error> {
    err.get_ref()?.downcast_ref()
}
