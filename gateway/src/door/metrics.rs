//! What the door counts. Handles are resolved once per listener; nothing looks up a label later.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::http2::Abuse;
use super::refusal::Refusal;

/// Why a connection was closed before it could send a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// `bounds.connections` is reached.
    Full,
    /// `bounds.connections_per_source` is reached.
    SourceFull,
    /// `bounds.connections_per_network` is reached.
    NetworkFull,
    /// No file descriptor (or memory) was left to accept it with; it waits in the kernel's queue.
    NoDescriptor,
    /// The PROXY header was missing or malformed.
    BadProxyHeader,
    /// It said too little in time to tell what it speaks.
    Late,
    /// Its source is banned.
    Banned,
}

impl Turned {
    const ALL: [Self; 7] = [
        Self::Full,
        Self::SourceFull,
        Self::NetworkFull,
        Self::NoDescriptor,
        Self::BadProxyHeader,
        Self::Late,
        Self::Banned,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::SourceFull => "source_full",
            Self::NetworkFull => "network_full",
            Self::NoDescriptor => "no_descriptor",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::Late => "late",
            Self::Banned => "banned",
        }
    }
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It succeeded.
    Ok,
    /// It took too long.
    Late,
    /// It had to give way to others: `bounds.handshakes` or one of its kin is reached.
    Crowded,
    /// The client left.
    Closed,
    /// The client spoke plain HTTP.
    PlainHttp,
    /// The client spoke no TLS.
    Garbage,
    /// No protocol version, cipher suite or application protocol in common.
    Incompatible,
    /// The client refused us, mostly over the certificate.
    ClientAlert,
    /// The client showed no certificate where one is required.
    NoClientCertificate,
    /// The client's certificate is revoked.
    ClientRevoked,
    /// The client's certificate is out of date.
    ClientExpired,
    /// The client's certificate isn't one that the listener accepts.
    ClientRefused,
    /// An ACME authority looked at a challenge's certificate (TLS-ALPN-01).
    Authority,
    /// Anything else.
    Failed,
}

impl Handshake {
    const ALL: [Self; 14] = [
        Self::Ok,
        Self::Late,
        Self::Crowded,
        Self::Closed,
        Self::PlainHttp,
        Self::Garbage,
        Self::Incompatible,
        Self::ClientAlert,
        Self::NoClientCertificate,
        Self::ClientRevoked,
        Self::ClientExpired,
        Self::ClientRefused,
        Self::Authority,
        Self::Failed,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Late => "late",
            Self::Crowded => "crowded",
            Self::Closed => "closed",
            Self::PlainHttp => "plain_http",
            Self::Garbage => "garbage",
            Self::Incompatible => "incompatible",
            Self::ClientAlert => "client_alert",
            Self::NoClientCertificate => "client_certificate_missing",
            Self::ClientRevoked => "client_certificate_revoked",
            Self::ClientExpired => "client_certificate_expired",
            Self::ClientRefused => "client_certificate_refused",
            Self::Authority => "acme_challenge",
            Self::Failed => "failed",
        }
    }
}

/// The door's metric families.
#[derive(Clone, Debug)]
pub struct DoorMetrics {
    open: IntGaugeVec,
    total: IntCounterVec,
    turned: IntCounterVec,
    handshakes: IntCounterVec,
    resumed: IntCounterVec,
    refused: IntCounterVec,
}

impl DoorMetrics {
    /// Registers the families.
    ///
    /// # Errors
    ///
    /// When `registry` has one of the names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let open =
            IntGaugeVec::new(Opts::new("tidegate_connections_open", "Client connections open now."), &["listener"])?;
        registry.register(Box::new(open.clone()))?;
        Ok(Self {
            open,
            total: counters("tidegate_connections_total", "Client connections accepted.", &["listener"])?,
            turned: counters(
                "tidegate_connections_refused_total",
                "Client connections closed before their first request.",
                &["listener", "reason"],
            )?,
            handshakes: counters("tidegate_tls_handshakes_total", "TLS handshakes.", &["listener", "result"])?,
            resumed: counters(
                "tidegate_tls_resumed_total",
                "TLS handshakes that went on with an earlier session; among those with result ok.",
                &["listener"],
            )?,
            refused: counters(
                "tidegate_requests_refused_total",
                "Requests and HTTP/2 connections refused for breaking a rule or a bound.",
                &["listener", "reason"],
            )?,
        })
    }

    /// The handles of one listener.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics {
            open: self.open.with_label_values(&[name]),
            total: self.total.with_label_values(&[name]),
            turned: Turned::ALL.map(|why| self.turned.with_label_values(&[name, why.label()])),
            handshakes: Handshake::ALL.map(|result| self.handshakes.with_label_values(&[name, result.label()])),
            resumed: self.resumed.with_label_values(&[name]),
            refused: Refusal::ALL.map(|why| self.refused.with_label_values(&[name, why.label()])),
            abused: Abuse::ALL.map(|what| self.refused.with_label_values(&[name, what.label()])),
        }
    }
}

/// The handles of one listener.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    /// Connections open now.
    pub open: IntGauge,
    /// Connections accepted.
    pub total: IntCounter,
    /// Handshakes that went on with an earlier session.
    pub resumed: IntCounter,
    turned: [IntCounter; Turned::ALL.len()],
    handshakes: [IntCounter; Handshake::ALL.len()],
    refused: [IntCounter; Refusal::ALL.len()],
    abused: [IntCounter; Abuse::ALL.len()],
}

impl ListenerMetrics {
    /// Counts a connection that was turned away.
    pub fn turned(&self, why: Turned) {
        self.turned[why as usize].inc();
    }

    /// Counts a handshake.
    pub fn handshake(&self, result: Handshake) {
        self.handshakes[result as usize].inc();
    }

    /// Counts a refused request.
    pub fn refused(&self, why: Refusal) {
        self.refused[why as usize].inc();
    }

    /// Counts an HTTP/2 connection that was closed for abuse.
    pub fn abused(&self, what: Abuse) {
        self.abused[what as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Encoder, TextEncoder};

    #[test]
    fn each_reason_is_counted_under_its_own_label() {
        let registry = Registry::new();
        let metrics = DoorMetrics::register(&registry).unwrap().listener("web");

        for why in Refusal::ALL {
            metrics.refused(why);
        }
        for what in Abuse::ALL {
            metrics.abused(what);
        }
        for why in Turned::ALL {
            metrics.turned(why);
        }
        for result in Handshake::ALL {
            metrics.handshake(result);
        }

        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let ones = String::from_utf8(text).unwrap().lines().filter(|line| line.ends_with("\"} 1")).count();
        assert_eq!(ones, Refusal::ALL.len() + Abuse::ALL.len() + Turned::ALL.len() + Handshake::ALL.len());
    }
}
