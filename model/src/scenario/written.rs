//! A scenario as it is written.
//!
//! Each section is one struct; doc comments are what people read in the reference. Values know where they stand, so that
//! `check` can point at them.
//!
//! # Not here
//!
//! What values mean together, and defaults: `check`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::word::{
    Address, ArrivalRate, Condition, Filled, JsonQuery, OrderWord, RequestLine, RunName, ScenarioVersion, Share,
    SpacingWord, StopCondition, TakeFrom, ThinkTime, UrlOrPath, WholeUrl,
};
use crate::config::decode::{Decode, Path};
use crate::config::section::section;
use crate::config::{At, Many, Table, ValueMatch};
use crate::literal::{
    ExpectStatus, FilePath, Flag, HeaderName, Host, HostMatch, Name, RegexText, Size, Text, Time, Whole,
};
use crate::problems::Problems;
use crate::yaml::{Node, Value};

section! {
    /// What a load test sends, how fast, and what must hold.
    pub struct Scenario {
        /// The version of this format: 1.
        pub version: At<ScenarioVersion>,
        /// What people call it, in the report's title. Left out: the name of the file.
        pub name: Option<At<Text>>,
        /// Where requests go whose URL is only a path: `https://shop.example.com`.
        pub target: Option<At<WholeUrl>>,
        /// How many visitors come, and when.
        pub load: Load,
        /// How requests are carried.
        pub client: Option<Client>,
        /// Files of rows that templates take values from, by name.
        #[schemars(default)]
        pub feeders: Table<Name, Feeder>,
        /// What visitors do. Each arrival takes one of them, by weight.
        pub flows: Vec<FlowOrStep>,
        /// What must hold at the end, such as `errors < 0.1%` or `item.p99 < 200ms`. One that doesn't: exit code 3.
        pub thresholds: Option<Many<At<Condition>>>,
        /// What ends the run early, such as `errors > 20% over 10s`.
        pub stop: Option<Many<At<StopCondition>>>,
        /// What this scenario may never do, whatever else it says.
        pub interlocks: Option<Interlocks>,
        /// How its requests are marked, so that a gateway can tell them from visitors' (dyed traffic).
        pub mark: Option<Mark>,
        /// What all dice start from: equal seeds, equal requests.
        #[schemars(extend("default" = 1))]
        pub seed: Option<At<Whole<0, { u32::MAX as u64 }>>>,
    }
}

section! {
    /// How many visitors come, and when: exactly one of `rate`, `stages` and `visitors`.
    pub struct Load {
        /// Flows that begin in a time, such as `500/s`, however slow the target is (open model). Needs `for`.
        pub rate: Option<At<ArrivalRate>>,
        /// For how long: with `rate` or `visitors`.
        pub r#for: Option<At<Time>>,
        /// A rate that changes, stage by stage (open model). It begins at 0.
        pub stages: Option<Vec<Stage>>,
        /// Visitors at once, each beginning anew when they are done (closed model). Such visitors wait for a slow target, so
        /// latencies look better than those of visitors who come on their own.
        pub visitors: Option<At<Whole<1, 100_000>>>,
        /// How arrivals lie within the rate: `even`, or `poisson`, as independent visitors come.
        #[schemars(extend("default" = "even"))]
        pub spacing: Option<At<SpacingWord>>,
        /// Flows that may be under way at once. What is due beyond it is counted as unsent.
        #[schemars(extend("default" = 10_000))]
        pub most_in_flight: Option<At<Whole<1, 1_000_000>>>,
    }
}

section! {
    /// A stage: the rate goes evenly `to` its value `over` a time, and is held there.
    pub struct Stage {
        /// The rate at its end. Left out: as it was.
        pub to: Option<At<ArrivalRate>>,
        /// How long it takes to get there. Left out: at once.
        pub over: Option<At<Time>>,
        /// How long it stays there.
        pub hold: Option<At<Time>>,
    }
}

section! {
    /// How requests are carried.
    pub struct Client {
        /// Whether HTTP/2 is spoken: by ALPN over TLS, with prior knowledge otherwise. `false`: HTTP/1.1.
        #[schemars(extend("default" = false))]
        pub http2: Option<At<Flag>>,
        /// Connections at most, over all threads and hosts. Left out beside `load.visitors`: one for each of them.
        #[schemars(extend("default" = 1_000))]
        pub connections: Option<At<Whole<1, 1_000_000>>>,
        /// Requests at once on one HTTP/2 connection.
        #[schemars(extend("default" = 100))]
        pub streams: Option<At<Whole<1, 10_000>>>,
        /// Whether connections are kept; `false`: each request has one of its own.
        #[schemars(extend("default" = true))]
        pub keep_alive: Option<At<Flag>>,
        /// Threads that send. Left out: one for each core.
        pub threads: Option<At<Whole<1, 1_024>>>,
        /// Local addresses that connections come from, in turn. One address has about 28000 ports for one target.
        pub sources: Option<Many<At<Address>>>,
        /// Addresses that host names stand for in this run, in front of DNS: `shop.example.com: 10.0.0.7`.
        #[schemars(default)]
        pub resolve: Table<Host, At<Address>>,
        /// How long an answer may take, from the send to its last byte. Steps may have their own.
        #[schemars(extend("default" = "10s"))]
        pub timeout: Option<At<Time>>,
        /// How long a connection may take, its TLS handshake included.
        #[schemars(extend("default" = "5s"))]
        pub connect_timeout: Option<At<Time>>,
        /// A PEM file of CA certificates that are trusted besides the system's.
        pub ca: Option<At<FilePath>>,
        /// Whether any certificate will do. Only for tests of your own.
        #[schemars(extend("default" = false))]
        pub insecure: Option<At<Flag>>,
        /// Header fields of every request; a step's own win.
        #[schemars(default)]
        pub headers: Table<HeaderName, At<Filled>>,
    }
}

section! {
    /// Rows that templates take values from.
    pub struct Feeder {
        /// A CSV file, whose first line names the fields, or a file of JSON objects, one on each line (`.jsonl`, `.ndjson`).
        pub file: At<FilePath>,
        /// Which row is next: `sequential` (from the first to the last, and round again), `random`, or `unique` (each once; an
        /// arrival that finds none left fails as "feeder ran dry").
        #[schemars(extend("default" = "sequential"))]
        pub order: Option<At<OrderWord>>,
    }
}

/// A flow: several steps, or one step that is a flow by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum FlowOrStep {
    /// Several steps.
    Flow(Flow),
    /// One step.
    Step(Box<Step>),
}

impl Decode for FlowOrStep {
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match &node.value {
            Value::Map(entries) if entries.iter().any(|(key, _)| key.text == "steps") => {
                Flow::decode(node, path, problems).map(Self::Flow)
            }
            _ => Step::decode(node, path, problems).map(|step| Self::Step(Box::new(step))),
        }
    }
}

impl JsonSchema for FlowOrStep {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "FlowOrStep".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let step = generator.subschema_for::<Step>();
        let flow = generator.subschema_for::<Flow>();
        json_schema!({"anyOf": [step, flow]})
    }
}

section! {
    /// Several steps that one visitor takes in turn. A step that fails ends the flow.
    pub struct Flow {
        /// Its name.
        pub name: At<Name>,
        /// Its share of the arrivals, among the weights of all flows.
        #[schemars(extend("default" = 1))]
        pub weight: Option<At<Share>>,
        /// The steps, in turn.
        pub steps: Vec<Step>,
    }
}

section! {
    /// One request. It has exactly one of `get`, `head`, `post`, `put`, `patch`, `delete`, `options` and `send`.
    pub struct Step {
        /// Its name, in the report and in thresholds.
        pub name: At<Name>,
        /// For a step that is a flow by itself: its share of the arrivals.
        #[schemars(extend("default" = 1))]
        pub weight: Option<At<Share>>,
        /// Gets this path (at the scenario's `target`) or URL.
        pub get: Option<At<UrlOrPath>>,
        /// Asks for its head alone.
        pub head: Option<At<UrlOrPath>>,
        /// Posts to it.
        pub post: Option<At<UrlOrPath>>,
        /// Puts to it.
        pub put: Option<At<UrlOrPath>>,
        /// Patches it.
        pub patch: Option<At<UrlOrPath>>,
        /// Deletes it.
        pub delete: Option<At<UrlOrPath>>,
        /// Asks for its options.
        pub options: Option<At<UrlOrPath>>,
        /// Any other method, and the path or URL: `PURGE /item/7`.
        pub send: Option<At<RequestLine>>,
        /// Header fields.
        #[schemars(default)]
        pub headers: Table<HeaderName, At<Filled>>,
        /// The body.
        pub body: Option<At<Filled>>,
        /// What the answer must be like. Left out: a status below 400.
        pub check: Option<Check>,
        /// What is taken from the answer for later steps, by name: `token: json $.token`.
        #[schemars(default)]
        pub take: Table<Name, At<TakeFrom>>,
        /// How long the visitor thinks afterwards: `2s`, or `1s..3s` for anything in between.
        pub think: Option<At<ThinkTime>>,
        /// How long its answer may take. Left out: `client.timeout`.
        pub timeout: Option<At<Time>>,
    }
}

section! {
    /// What an answer must be like. Everything given must hold.
    pub struct Check {
        /// Statuses: `200`, `2xx`, `200-399`.
        #[schemars(extend("default" = "100-399"))]
        pub status: Option<Many<At<ExpectStatus>>>,
        /// Header fields that must be there, by name.
        #[schemars(default)]
        pub headers: Table<HeaderName, ValueMatch>,
        /// A regular expression that is found in the first MiB of the body.
        pub body: Option<At<RegexText>>,
        /// What JSON paths (RFC 9535) find in the body: `$.items[0].name: tee`, or `{present: true}` for anything.
        #[schemars(default)]
        pub json: Table<JsonQuery, ValueMatch>,
        /// Bytes that the body has at most.
        pub at_most: Option<At<Size>>,
    }
}

section! {
    /// What this scenario may never do, whatever else it says.
    pub struct Interlocks {
        /// The only hosts that it may send to: `shop.example.com`, `*.test`. Left out: those that it names itself.
        pub hosts: Option<Many<At<HostMatch>>>,
        /// The highest rate of requests that it may plan.
        pub max_rate: Option<At<ArrivalRate>>,
    }
}

section! {
    /// How requests are marked.
    pub struct Mark {
        /// The run's name in the mark.
        pub run: At<RunName>,
        /// The file of the key that signs it; the gateway has the same.
        pub key: At<FilePath>,
    }
}

/// The JSON Schema of a scenario (draft 2020-12).
pub(crate) fn schema() -> serde_json::Value {
    crate::config::schema_of::<Scenario>("A load scenario of Tidegate")
}
