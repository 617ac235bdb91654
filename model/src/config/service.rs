//! The upstream side: services, versions, endpoints, health.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::Certificate;
use super::decode::{At, Decode, Many, Path, Switch, Table};
use super::route::MethodSet;
use super::section::section;
use crate::literal::{
    BalanceBy, CapacityOf, EndpointAddress, ExpectStatus, FailureShare, FilePath, Flag, Host, Name, Percent, RetryWhen,
    Text, Time, TimeOrZero, UpstreamSpeaks, Whole,
};
use crate::problems::Problems;
use crate::yaml::{Node, Value};

section! {
    /// Something that runs behind the gateway, in one or several versions.
    pub struct Service {
        /// How an endpoint is chosen: `p2c` (the better of two random ones), `round_robin`, `least_conn`, or `hash KEY`.
        #[schemars(extend("default" = "p2c"))]
        pub balance: Option<At<BalanceBy>>,
        /// Active probes. Left out or `off`: there are none.
        pub health: Option<Switch<Health>>,
        /// Rests an endpoint that keeps failing. Left out: with the defaults; `off`: never.
        pub eject: Option<Switch<Eject>>,
        /// Tries a failed request again. Left out: once, when the connection fails; `off`: never.
        pub retry: Option<Switch<Retry>>,
        /// Deadlines towards endpoints.
        pub timeouts: Option<Timeouts>,
        /// The protocol spoken to endpoints: `http/1.1`, `h2` (also gRPC), or `auto`, which lets TLS negotiate it.
        #[schemars(extend("default" = "http/1.1"))]
        pub protocol: Option<At<UpstreamSpeaks>>,
        /// Speaks TLS to endpoints. `{}` for the defaults.
        pub tls: Option<UpstreamTls>,
        /// Requests that may wait for the service's answers at once. `auto`: measured; in a flood from many sources the gateway
        /// keeps out whoever there is no room for, known clients last. A number: that many. `off`: no bound.
        #[schemars(extend("default" = "auto"))]
        pub capacity: Option<At<CapacityOf>>,
        /// Idle connections kept to each endpoint for shadow copies. Live traffic keeps up to 2,048 for each core, over all endpoints.
        #[schemars(extend("default" = 32))]
        pub keep_idle: Option<At<Whole<0, 100_000>>>,
        /// Versions by name: canary, A/B and shadow name them as `service/version`.
        pub versions: Option<Table<Name, Version>>,
        /// Short for one version named `default`.
        pub endpoints: Option<Many<Endpoint>>,
    }
}

section! {
    /// A version: endpoints that run the same code.
    pub struct Version {
        /// Where it runs. An empty list is a version that is scaled to nothing: it answers 503.
        pub endpoints: Many<Endpoint>,
    }
}

/// Where a version runs: an address, or an address and a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Address and port, host and port, or `unix:` and the path of a socket.
    pub address: At<EndpointAddress>,
    /// Its share relative to the others.
    pub weight: Option<At<Whole<1, 1_000>>>,
}

section! {
    /// An endpoint with a weight.
    pub struct WeightedEndpoint {
        /// Address and port (`10.0.0.7:8080`), host and port (`app.internal:8080`), or `unix:` and the path of a socket.
        pub address: At<EndpointAddress>,
        /// Its share relative to the others.
        #[schemars(extend("default" = 1))]
        pub weight: Option<At<Whole<1, 1_000>>>,
    }
}

impl Decode for Endpoint {
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let WeightedEndpoint { address, weight, .. } = WeightedEndpoint::decode(node, path, problems)?;
            return Some(Self { address, weight });
        }
        Some(Self { address: At::decode(node, path, problems)?, weight: None })
    }
}

impl JsonSchema for Endpoint {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<At<EndpointAddress>>();
        let long = generator.subschema_for::<WeightedEndpoint>();
        json_schema!({"anyOf": [short, long]})
    }
}

section! {
    /// Active probes: `path` asks by HTTP, `tcp: true` only connects.
    pub struct Health {
        /// Asks `GET path`, over the service's own protocol.
        pub path: Option<At<Text>>,
        /// Only opens a connection.
        pub tcp: Option<At<Flag>>,
        /// Time between two probes of one endpoint, jittered by ±10 %.
        #[schemars(extend("default" = "5s"))]
        pub every: Option<At<Time>>,
        /// A probe that takes longer has failed. Left out: 2s, or `every` where that is shorter.
        pub timeout: Option<At<Time>>,
        /// Successes in a row before a down endpoint is up.
        #[schemars(extend("default" = 2))]
        pub up_after: Option<At<Whole<1, 1_000>>>,
        /// Failures in a row before an up endpoint is down.
        #[schemars(extend("default" = 3))]
        pub down_after: Option<At<Whole<1, 1_000>>>,
        /// The Host header of probes. Left out: the endpoint's address.
        pub host: Option<At<Text>>,
        /// Good statuses: `200`, `2xx`, `200-399`, or a list.
        #[schemars(extend("default" = "200-399"))]
        pub expect: Option<Many<At<ExpectStatus>>>,
    }
}

section! {
    /// Passive ejection: what makes an endpoint rest, and for how long.
    pub struct Eject {
        /// Failures in a row (5xx, failed or broken connections, timeouts). 0: this doesn't count.
        #[schemars(extend("default" = 5))]
        pub consecutive_5xx: Option<At<Whole<0, 100_000>>>,
        /// Share of the last requests that failed: `50% of 20`. Left out: this doesn't count.
        pub failure_rate: Option<At<FailureShare>>,
        /// The first rest. It grows with each ejection in a row.
        #[schemars(extend("default" = "30s"))]
        pub r#for: Option<At<Time>>,
        /// The longest rest. Left out: 5m, or `for` where that is longer.
        pub max_for: Option<At<Time>>,
        /// At most this share of a version's endpoints rests at once.
        #[schemars(extend("default" = "50%"))]
        pub max: Option<At<Percent<0, 100>>>,
        /// When fewer than this share is fit, all endpoints are used again.
        #[schemars(extend("default" = "40%"))]
        pub panic: Option<At<Percent<0, 100>>>,
        /// An endpoint that returns grows to its full share over this time. 0s: at once.
        #[schemars(extend("default" = "0s"))]
        pub slow_start: Option<At<TimeOrZero>>,
    }
}

section! {
    /// When and how often a request is tried again.
    pub struct Retry {
        /// Reasons: `connect` (nothing was sent), `reset` (broke before the answer), `timeout` (no first byte in time), statuses
        /// such as `502` or `5xx`.
        #[schemars(extend("default" = ["connect"]))]
        pub when: Option<Many<At<RetryWhen>>>,
        /// Tries after the first.
        #[schemars(extend("default" = 1))]
        pub attempts: Option<At<Whole<0, 10>>>,
        /// Methods that may be tried again once something was sent: `safe`, `idempotent`, `any`, or a list.
        #[schemars(extend("default" = "idempotent"))]
        pub methods: Option<MethodSet>,
        /// Retries may be this share of requests, so that they can't multiply an outage.
        #[schemars(extend("default" = "20%"))]
        pub budget: Option<At<Percent<0, 100>>>,
    }
}

section! {
    /// Deadlines towards endpoints.
    pub struct Timeouts {
        /// TCP connect and TLS handshake.
        #[schemars(extend("default" = "3s"))]
        pub connect: Option<At<Time>>,
        /// From the request being sent to the first byte of the answer.
        #[schemars(extend("default" = "30s"))]
        pub first_byte: Option<At<Time>>,
        /// Between two reads of the answer.
        #[schemars(extend("default" = "1m"))]
        pub idle: Option<At<Time>>,
        /// The whole exchange, retries included. Left out: no bound.
        pub total: Option<At<Time>>,
    }
}

section! {
    /// TLS to endpoints.
    pub struct UpstreamTls {
        /// PEM file of the authorities to trust. Left out: the system's.
        pub ca: Option<At<FilePath>>,
        /// The name that is asked for and verified. Left out: the request's host.
        pub sni: Option<At<Host>>,
        /// The gateway's own certificate.
        pub client: Option<Certificate>,
        /// Accepts any certificate. For tests only.
        #[schemars(extend("default" = false))]
        pub insecure: Option<At<Flag>>,
    }
}
