//! The client's side: listeners, certificates, the visitor's address.

use super::decode::{At, Many};
use super::section::section;
use crate::literal::{
    Bind, CertName, FilePath, HeaderName, HostMatch, Name, Network, Protocol, Rate, Size, Time, TlsMin, VerifyClient,
    Whole,
};

section! {
    /// The admin listener.
    pub struct Admin {
        /// Address and port. Keep it away from visitors: it isn't protected.
        pub bind: At<Bind>,
    }
}

section! {
    /// A socket that visitors reach. With certificates it speaks TLS.
    pub struct Listener {
        /// Address and port.
        pub bind: At<Bind>,
        /// Protocols: `h2`, `http/1.1` with certificates (default: both), `h2c`, `http/1.1` without (default: both).
        pub protocols: Option<Many<At<Protocol>>>,
        /// Certificates, chosen by the name the client asks for: exact, then wildcard, then the first.
        pub certificates: Option<Many<ListenerCertificate>>,
        /// Client certificates that are asked for, by the name the client asks for. Left out: none.
        pub client_certificates: Option<Many<ClientCertificates>>,
        /// The oldest TLS version that is spoken.
        #[schemars(extend("default" = "1.2"))]
        pub tls_min: Option<At<TlsMin>>,
        /// Sends every request to the same URL on this TLS listener, instead of routing it.
        pub redirect_to: Option<At<Name>>,
        /// Takes the visitor's address from a PROXY protocol header, version 1 or 2.
        pub proxy_protocol: Option<ProxyProtocol>,
        /// Deadlines for clients.
        pub timeouts: Option<ListenerTimeouts>,
        /// Bytes in the request line and headers together. Beyond it: 431.
        #[schemars(extend("default" = "32KiB"))]
        pub max_header: Option<At<Size>>,
        /// Number of headers. Beyond it: 431.
        #[schemars(extend("default" = 128))]
        pub max_headers: Option<At<Whole<1, 1024>>>,
        /// Requests on one connection, before it is closed politely. 0: no bound.
        #[schemars(extend("default" = 0))]
        pub max_requests: Option<At<Whole<0, 4_294_967_295>>>,
        /// Concurrent streams on one HTTP/2 connection.
        #[schemars(extend("default" = 128))]
        pub max_streams: Option<At<Whole<1, 65_535>>>,
        /// Bytes a second that a request body must bring while it is waited for, measured after 10 s (or `timeouts.body`,
        /// where that is less). A client that was faster has credit for pauses, up to `timeouts.body`. Slower: 408. A gRPC
        /// call may be silent. 0: no bound.
        #[schemars(extend("default" = "256B"))]
        pub min_body_rate: Option<At<Size>>,
        /// Bytes a second that a client must take of its answers while some wait for it, measured after 10 s (or
        /// `timeouts.send`, where that is less). Slower: the connection is cut. 0: no bound.
        #[schemars(extend("default" = "256B"))]
        pub min_send_rate: Option<At<Size>>,
        /// What an HTTP/2 client may do beyond requests and bodies.
        pub http2: Option<Http2>,
    }
}

section! {
    /// How often an HTTP/2 client may send frames that cost the gateway more than the client. An honest client stays far
    /// below; beyond a bound the connection is closed with ENHANCE_YOUR_CALM, and counted.
    pub struct Http2 {
        /// Streams that the client resets, where they are more than half of those it opened (rapid reset).
        #[schemars(extend("default" = "200/10s"))]
        pub resets: Option<At<Rate>>,
        /// PING frames, beyond one for each frame of an answer.
        #[schemars(extend("default" = "100/10s"))]
        pub pings: Option<At<Rate>>,
        /// SETTINGS frames.
        #[schemars(extend("default" = "50/10s"))]
        pub settings: Option<At<Rate>>,
        /// DATA frames that hold nothing and end nothing.
        #[schemars(extend("default" = "100/10s"))]
        pub empty_data: Option<At<Rate>>,
        /// PRIORITY frames and frames of unknown types, beyond four for each request.
        #[schemars(extend("default" = "500/10s"))]
        pub priorities: Option<At<Rate>>,
        /// WINDOW_UPDATE frames, beyond four for each frame of an answer.
        #[schemars(extend("default" = "2000/10s"))]
        pub window_updates: Option<At<Rate>>,
    }
}

section! {
    /// A certificate and its key. Both files are watched, and loaded again when they change.
    pub struct Certificate {
        /// PEM file of the chain, leaf first. Names come from the leaf.
        pub cert: At<FilePath>,
        /// PEM file of the private key.
        pub key: At<FilePath>,
    }
}

section! {
    /// A certificate of a listener: two files, or names for which one is ordered. Files are watched, and loaded again
    /// when they change; what is ordered renews itself.
    pub struct ListenerCertificate {
        /// PEM file of the chain, leaf first. Names come from the leaf.
        pub cert: Option<At<FilePath>>,
        /// PEM file of the private key.
        pub key: Option<At<FilePath>>,
        /// DER file of an OCSP response that is stapled. Left out: the responder that the certificate names is asked.
        pub ocsp: Option<At<FilePath>>,
        /// Instead of files: names for which one certificate is ordered as `acme` at the top level says. At most 100.
        pub acme: Option<Many<At<CertName>>>,
    }
}

section! {
    /// Asks clients for a certificate, and checks it. All files are watched, and loaded again when they change.
    ///
    /// A request for a host with other demands than those of the name its connection asked for is answered 421.
    /// Endpoints get the certificate in the header `Client-Cert` (RFC 9440), which is removed from what clients send.
    pub struct ClientCertificates {
        /// Names that it holds for: a host or `*.example.com`; the most specific entry wins. Left out: every name
        /// without an entry of its own, and clients that ask for none.
        pub r#for: Option<Many<At<HostMatch>>>,
        /// PEM file of the authorities whose certificates are accepted.
        pub ca: At<FilePath>,
        /// `require`: no handshake without a certificate. `ask`: one may be left out, but not be wrong.
        #[schemars(extend("default" = "require"))]
        pub verify: Option<At<VerifyClient>>,
        /// PEM file of revocation lists: one of each authority in the chain, or its certificates are refused.
        pub crl: Option<At<FilePath>>,
    }
}

section! {
    /// PROXY protocol in front of a listener.
    pub struct ProxyProtocol {
        /// Networks of the proxies that send it. A connection from one of them must begin with a PROXY header.
        pub from: Many<At<Network>>,
    }
}

section! {
    /// Deadlines for clients.
    pub struct ListenerTimeouts {
        /// TLS handshake, PROXY header and protocol detection together.
        #[schemars(extend("default" = "10s"))]
        pub handshake: Option<At<Time>>,
        /// From the first byte of a request to the end of its headers.
        #[schemars(extend("default" = "10s"))]
        pub header: Option<At<Time>>,
        /// Between requests on a kept-alive connection, and on a silent WebSocket.
        #[schemars(extend("default" = "1m15s"))]
        pub idle: Option<At<Time>>,
        /// Between two reads of a request body.
        #[schemars(extend("default" = "30s"))]
        pub body: Option<At<Time>>,
        /// Between two pieces of an answer that the client takes.
        #[schemars(extend("default" = "1m"))]
        pub send: Option<At<Time>>,
    }
}

section! {
    /// TLS settings that all listeners share.
    pub struct TlsSettings {
        /// File of 32 random bytes or more, from which the keys of session tickets are made. Gateways with the same
        /// file resume each other's sessions, also after a restart. Left out: keys that only this process knows.
        pub ticket_secret: Option<At<FilePath>>,
    }
}

section! {
    /// How the visitor's address is found behind other proxies.
    pub struct ClientIp {
        /// Networks of the proxies whose word is taken. Left out: nobody's.
        pub trusted: Option<Many<At<Network>>>,
        /// The header they speak through: `x-forwarded-for`, `forwarded`, or one that holds a single address.
        #[schemars(extend("default" = "x-forwarded-for"))]
        pub header: Option<At<HeaderName>>,
        /// IPv6 clients are told apart by this many leading bits.
        #[schemars(extend("default" = 64))]
        pub v6_prefix: Option<At<Whole<1, 128>>>,
    }
}
