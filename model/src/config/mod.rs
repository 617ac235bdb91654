//! The configuration as it is written.
//!
//! Each section is one struct; doc comments are what operators read in the reference.
//! Values know where they stand, so that `check` can point at them.
//!
//! # Not here
//!
//! What values mean together is decided in `check`; defaults are in `desired`.

mod acme;
pub(crate) mod decode;
mod dyed;
mod listener;
mod route;
pub(crate) mod section;
mod service;

pub use acme::Acme;
pub use decode::{At, Many, Switch, Table};
pub use dyed::{Dyed, DyedKey, DyedShed};
pub use listener::{
    Admin, Certificate, ClientCertificates, ClientIp, Http2, Listener, ListenerCertificate, ListenerTimeouts,
    ProxyProtocol, TlsSettings,
};
pub use route::{
    Answer, Cors, HeaderEdits, Issue, Match, MethodSet, Redirect, Rewrite, Route, RouteTimeouts, Shadow, Split,
    ValueMatch,
};
pub use service::{Eject, Endpoint, Health, Retry, Service, Timeouts, UpstreamTls, Version};

use crate::literal::{
    AccessLogTo, BanFor, ChallengeBy, DotSegmentsWord, EscapedSlashesWord, FilePath, Flag, Name, Network, OverLimit,
    Rate, RedisUrl, Size, SlashesWord, Text, Time, TokenKey, VersionNumber, Whole,
};
use section::section;
use serde_json::{Map, Value, json};

section! {
    /// The configuration of a gateway: one file, or a folder of files that are read as one.
    pub struct Config {
        /// The version of this format: 1. With several files, one of them says it.
        pub version: Option<At<VersionNumber>>,
        /// The admin listener: `/metrics`, `/healthz`, `/readyz`, `/snapshot`, `/routes`. Left out: there is none.
        pub admin: Option<Admin>,
        /// Sockets that visitors reach, by name.
        #[schemars(default)]
        pub listeners: Table<Name, Listener>,
        /// TLS settings that all listeners share.
        pub tls: Option<TlsSettings>,
        /// How the visitor's address is found behind other proxies.
        pub client_ip: Option<ClientIp>,
        /// How paths are brought to one form before anything else looks at them. Endpoints get the same form.
        pub paths: Option<Paths>,
        /// Who may talk to any route at all.
        pub access: Option<Access>,
        /// Rate limits, by name. Routes that name the same limit share its buckets.
        #[schemars(default)]
        pub limits: Table<Name, Limit>,
        /// What runs behind the gateway, by name.
        #[schemars(default)]
        pub services: Table<Name, Service>,
        /// Which requests go where. The most specific route wins, not the first: exact host before wildcard, then exact
        /// path, longest prefix, method, number of headers, number of query parameters.
        pub routes: Option<Vec<Route>>,
        /// The Redis through which gateways count their shared limits together.
        pub redis: Option<Redis>,
        /// Where JSON access-log lines go: `off`, `stdout` or a file.
        #[schemars(extend("default" = "off"))]
        pub access_log: Option<At<AccessLogTo>>,
        /// Where certificates are ordered that listeners name by `acme`.
        pub acme: Option<Acme>,
        /// How unknown visitors show that they are people, where that is asked of them. Left out: with the defaults; `off`:
        /// nobody is asked, and those there is no room for are turned away.
        pub challenge: Option<Switch<Challenge>>,
        /// How the requests of a load test are told from live ones. Left out: none is, and marks are taken off.
        pub dyed: Option<Dyed>,
        /// What `tidegate record` leaves out.
        pub recording: Option<Recording>,
        /// Bounds that hold for the whole process.
        pub bounds: Option<Bounds>,
    }
}

section! {
    /// How paths are brought to one form before they are matched, limited, rewritten, copied and forwarded. Always:
    /// `%41` becomes `A` and `%c3` becomes `%C3`; a broken escape, `%00`, an overlong UTF-8 sequence and a raw backslash
    /// are answered 400.
    pub struct Paths {
        /// `.` and `..`, plain or escaped. `resolve`: `/a/../b` is `/b`; above the root, and in disguise (`..;x`,
        /// `..%2f`), 400. `refuse`: 400. `keep`: they stay, and an endpoint may resolve them past your routes.
        #[schemars(extend("default" = "resolve"))]
        pub dot_segments: Option<At<DotSegmentsWord>>,
        /// Slashes in a row. `merge`: `//a` is `/a`. `keep`: they stay, for object stores and URLs within paths.
        #[schemars(extend("default" = "merge"))]
        pub slashes: Option<At<SlashesWord>>,
        /// `%2F` and `%5C`. `keep`: they are characters of a name, and match no `/`. `refuse`: 400. `decode`: they are
        /// slashes; right where endpoints unescape a path before they split it.
        #[schemars(extend("default" = "keep"))]
        pub escaped_slashes: Option<At<EscapedSlashesWord>>,
    }
}

section! {
    /// Allow and deny lists. Deny wins; without `allow` and `allow_files` everybody may come.
    pub struct Access {
        /// Networks that may come. Left out: everybody.
        pub allow: Option<Many<At<Network>>>,
        /// Networks that may not, whatever `allow` says.
        pub deny: Option<Many<At<Network>>>,
        /// Files with more of them: one address or network a line, `#` begins a comment. Followed as they change; may
        /// hold millions. With a bad line the change is refused.
        pub allow_files: Option<Many<At<FilePath>>>,
        /// The same for those that may not.
        pub deny_files: Option<Many<At<FilePath>>>,
    }
}

section! {
    /// A rate limit: a token bucket for each value of its keys.
    pub struct Limit {
        /// What tells buckets apart: one key or a list.
        #[schemars(extend("default" = "client_ip"))]
        pub key: Option<Many<At<TokenKey>>>,
        /// How many requests in which time.
        pub rate: At<Rate>,
        /// How many may come at once. Left out: as many as the rate allows in its window.
        pub burst: Option<At<Whole<1, 1_000_000_000>>>,
        /// The status of a refusal; or `challenge`: who hasn't shown that they are a person is asked to, and who has isn't
        /// held to this limit. What can't be asked is refused with 429.
        #[schemars(extend("default" = 429))]
        pub over: Option<At<OverLimit>>,
        /// What follows when refusals repeat: `ban 10m` after 20 refusals in 10 s, or `ban 10m after N in TIME`. With
        /// `up to 24h` each ban lasts twice as long as the one before, up to that. Where the key is `client_ip` alone,
        /// the address (IPv6: its /64) is banned from the whole gateway, connections included; else only this key of
        /// this limit.
        pub then: Option<At<BanFor>>,
        /// Count together with all gateways that share `redis` and name this limit the same. Each decides at once by
        /// itself and hears of the others soon after: between two tellings it may give out up to a burst too much,
        /// which is missing later. While Redis is gone, each gateway gives out the whole quota.
        #[schemars(extend("default" = false))]
        pub shared: Option<At<Flag>>,
    }
}

section! {
    /// The Redis (5 or later) through which gateways count their shared limits together. No request ever waits for it.
    pub struct Redis {
        /// Where it is.
        pub url: At<RedisUrl>,
        /// A file that holds its password and nothing else. Read anew for each connection.
        pub password_file: Option<At<FilePath>>,
        /// How often gateways tell each other what they gave out, from 10 ms to 10 s.
        #[schemars(extend("default" = "100ms"))]
        pub every: Option<At<Time>>,
    }
}

section! {
    /// What recordings of live requests (`tidegate record`) leave out.
    pub struct Recording {
        /// Names of header fields, query parameters, form fields and keys of JSON bodies whose values are taken out, besides
        /// credentials, cookies, and what has `password`, `secret`, `token`, `session` or the like in its name.
        pub redact: Option<Many<At<Text>>>,
    }
}

section! {
    /// How unknown visitors show that they are people. Who has shown it gets a signed cookie, and isn't asked again while it
    /// is valid.
    pub struct Challenge {
        /// `work`: a page whose script solves a small puzzle. `redirect`: a cookie and a redirect to the same place, which any
        /// client that keeps cookies passes.
        #[schemars(extend("default" = "work"))]
        pub mode: Option<At<ChallengeBy>>,
        /// How hard the puzzle is: each step doubles it. A laptop needs about a second for 18.
        #[schemars(extend("default" = 18))]
        pub work: Option<At<Whole<8, 28>>>,
        /// How long a passed challenge holds.
        #[schemars(extend("default" = "12h"))]
        pub valid: Option<At<Time>>,
        /// A file with the secret that signs cookies, at least 16 characters in a line. Up to three further lines are older
        /// secrets that are still accepted. Gateways that share it accept each other's cookies. Left out: a random one, kept
        /// in the state folder.
        pub secret: Option<At<FilePath>>,
        /// Networks that are never asked and count as known: monitoring, partners, offices.
        pub exempt: Option<Many<At<Network>>>,
    }
}

section! {
    /// Bounds that hold for the whole process.
    pub struct Bounds {
        /// Bytes that all shadow copies together may hold. Beyond it copies are dropped and counted.
        #[schemars(extend("default" = "64MiB"))]
        pub shadow_bytes: Option<At<Size>>,
        /// Keys that one limit remembers. Beyond it the stalest are forgotten.
        #[schemars(extend("default" = 200_000))]
        pub limit_keys: Option<At<Whole<1, 100_000_000>>>,
        /// Banned sources and networks, about 64 bytes each. Beyond it the ban that ends soonest is forgotten.
        #[schemars(extend("default" = 500_000))]
        pub bans: Option<At<Whole<1, 10_000_000>>>,
        /// Open client connections. Beyond it new ones are closed at once.
        #[schemars(extend("default" = 15_000))]
        pub connections: Option<At<Whole<1, 10_000_000>>>,
        /// Open client connections from one address. Beyond it new ones are closed at once.
        #[schemars(extend("default" = 10_000))]
        pub connections_per_source: Option<At<Whole<1, 10_000_000>>>,
        /// Open client connections from one network (IPv4 /24, IPv6 /48). Beyond it new ones are closed at once.
        #[schemars(extend("default" = 12_000))]
        pub connections_per_network: Option<At<Whole<1, 10_000_000>>>,
        /// TLS handshakes in progress. Beyond it the oldest is given up: an honest one takes milliseconds.
        #[schemars(extend("default" = 2_000))]
        pub handshakes: Option<At<Whole<1, 1_000_000>>>,
        /// TLS handshakes in progress from one address. Beyond it its oldest is given up.
        #[schemars(extend("default" = 500))]
        pub handshakes_per_source: Option<At<Whole<1, 1_000_000>>>,
        /// TLS handshakes in progress from one network (IPv4 /24, IPv6 /48). Beyond it its oldest is given up.
        #[schemars(extend("default" = 1_000))]
        pub handshakes_per_network: Option<At<Whole<1, 1_000_000>>>,
    }
}

/// The JSON Schema of the configuration (draft 2020-12).
pub(crate) fn schema() -> serde_json::Value {
    schema_of::<Config>("Tidegate's configuration")
}

/// The JSON Schema of `T` (draft 2020-12).
pub(crate) fn schema_of<T: schemars::JsonSchema>(title: &str) -> serde_json::Value {
    let mut schema = schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    schema.insert("title".into(), title.into());
    without_null(schema.to_value())
}

/// `schema` without the `null` that schemars allows for whatever is optional: a key is left out or has a value.
fn without_null(schema: Value) -> Value {
    let is_null = |value: &Value| *value == Value::Null || *value == "null" || *value == json!({"type": "null"});
    match schema {
        Value::Array(items) => Value::Array(items.into_iter().map(without_null).collect()),
        Value::Object(entries) => {
            let mut kept = Map::new();
            for (key, mut value) in entries {
                if let (Value::Array(items), "type" | "enum" | "anyOf") = (&mut value, key.as_str()) {
                    items.retain(|item| !is_null(item));
                    if let [only] = items.as_mut_slice()
                        && key != "enum"
                    {
                        match (key.as_str(), without_null(only.take())) {
                            ("anyOf", Value::Object(only)) => kept.extend(only),
                            (_, only) => drop(kept.insert(key, only)),
                        }
                        continue;
                    }
                }
                kept.insert(key, without_null(value));
            }
            Value::Object(kept)
        }
        other => other,
    }
}
