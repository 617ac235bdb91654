//! Routes: what they match, what they do.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::Access;
use super::decode::{At, Decode, Many, Path, Table};
use super::section::section;
use crate::diagnostic::Diagnostic;
use crate::literal::{
    BodyOver, ChallengeWhen, CompareWhat, ContentType, CookieName, DyedRule, Flag, HeaderName, HeaderValue, Host,
    HostMatch, JsonPath, Literal, Method, MethodClass, Name, Origin, PathMatch, Port, PriorityOf, RedirectStatus,
    RegexText, RewritePath, Sample, Scheme, Size, Target, Text, Time, TokenKey, WeightOf, Whole,
};
use crate::problems::{Problems, Span};
use crate::yaml::{Node, Value};

section! {
    /// A route: which requests it takes, and what happens to them. It has exactly one of `to`, `split`, `redirect` and `answer`.
    pub struct Route {
        /// Its name, in metrics, logs and `tidegate explain`.
        pub name: At<Name>,
        /// Which requests it takes. Everything given must hold. Left out: every request.
        pub r#match: Option<Match>,
        /// Limits by name, asked in this order.
        pub limits: Option<Many<At<Name>>>,
        /// Goes to this service, or this version of it: `shop`, `shop/v1`.
        pub to: Option<At<Target>>,
        /// Goes to one of several versions, by weight.
        pub split: Option<Split>,
        /// Sends the client elsewhere.
        pub redirect: Option<Redirect>,
        /// Answers without asking anybody.
        pub answer: Option<Answer>,
        /// Changes to host and path before the request goes upstream.
        pub rewrite: Option<Rewrite>,
        /// Changes to request headers.
        pub request_headers: Option<HeaderEdits>,
        /// Changes to response headers.
        pub response_headers: Option<HeaderEdits>,
        /// Cross-origin policy: answers preflights, and says who may read answers.
        pub cors: Option<Cors>,
        /// Overrides of the service's deadlines.
        pub timeouts: Option<RouteTimeouts>,
        /// Bytes in a request body. Beyond it: 413. Left out: no bound.
        pub max_body: Option<At<Size>>,
        /// Who may use this route, after the global lists.
        pub access: Option<Access>,
        /// What is given up first when there isn't room for everybody: `low` before `normal` before `high`.
        #[schemars(extend("default" = "normal"))]
        pub priority: Option<At<PriorityOf>>,
        /// When unknown visitors must show that they are people: `always`, in an `attack`, or `never`.
        #[schemars(extend("default" = "attack"))]
        pub challenge: Option<At<ChallengeWhen>>,
        /// Copies requests to other versions. Clients never wait for a copy.
        pub shadow: Option<Many<Shadow>>,
    }
}

section! {
    /// Which requests a route takes. Everything given must hold.
    pub struct Match {
        /// Hosts without port: `shop.example.com`, `*.example.com` (one or more labels in front), or `*`. Left out: every host.
        pub host: Option<Many<At<HostMatch>>>,
        /// The path: `/login` is this path only, `/shop/**` is `/shop` and everything below it, `~ regex` is a regular expression
        /// over the path.
        #[schemars(extend("default" = "/**"))]
        pub path: Option<At<PathMatch>>,
        /// `true`: dyed requests only; or those of one run, by its name. Dyed requests go to the routes that ask for them
        /// before all others, whatever host and path those are for.
        pub dyed: Option<At<DyedRule>>,
        /// Methods. Left out: every method.
        pub method: Option<Many<At<Method>>>,
        /// Headers that must be there, by name.
        #[schemars(default)]
        pub headers: Table<HeaderName, ValueMatch>,
        /// Query parameters that must be there, by name.
        #[schemars(default)]
        pub query: Table<Text, ValueMatch>,
        /// Cookies that must be there, by name.
        #[schemars(default)]
        pub cookies: Table<CookieName, ValueMatch>,
    }
}

/// What a header, parameter or cookie must be.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch {
    /// This value.
    Exact(At<Text>),
    /// Matched by this regular expression.
    Regex(At<RegexText>),
    /// Anything, as long as it is there.
    Present,
}

section! {
    /// What a value must be: exactly one of these.
    pub struct ValueRule {
        /// This value. A plain text in place of the mapping means the same.
        pub exact: Option<At<Text>>,
        /// A regular expression that is found in the value; `^` and `$` anchor it.
        pub regex: Option<At<RegexText>>,
        /// `true`: any value, as long as it is there.
        pub present: Option<At<Flag>>,
    }
}

impl Decode for ValueMatch {
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        if !matches!(node.value, Value::Map(_)) && !node.is_null() {
            return At::decode(node, path, problems).map(Self::Exact);
        }
        let rule = ValueRule::decode(node, path, problems)?;
        match (rule.exact, rule.regex, rule.present) {
            (Some(exact), None, None) => Some(Self::Exact(exact)),
            (None, Some(regex), None) => Some(Self::Regex(regex)),
            (None, None, Some(present)) if present.value.0 => Some(Self::Present),
            (None, None, Some(present)) => {
                let diagnostic = Diagnostic::error("bad-match", format!("{path} can't ask for absence"))
                    .help("a route without this condition takes what the others leave");
                problems.add(present.span, "only true is possible", diagnostic);
                None
            }
            _ if rule.damaged => None,
            _ => {
                let diagnostic =
                    Diagnostic::error("bad-match", format!("{path} takes one of exact, regex and present"))
                        .help("write a plain value, {regex: \"…\"} or {present: true}");
                problems.add(rule.span, "exactly one belongs here", diagnostic);
                None
            }
        }
    }
}

impl JsonSchema for ValueMatch {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ValueMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let short = generator.subschema_for::<At<Text>>();
        let long = generator.subschema_for::<ValueRule>();
        json_schema!({"anyOf": [short, long]})
    }
}

section! {
    /// A weighted split: canary and A/B are one mechanism.
    pub struct Split {
        /// What people are recognised by; the first one present counts. Left out: each request by itself.
        pub stick_by: Option<Many<At<TokenKey>>>,
        /// Keeps two experiments independent of each other. Left out: the route's name.
        pub salt: Option<At<Text>>,
        /// Relative weights by version: `shop/v1: 95`. `drain` or 0 keeps a version for people who hold its cookie, `off` doesn't.
        pub weights: Table<Target, At<WeightOf>>,
        /// A cookie that the gateway gives to people it can't recognise.
        pub issue: Option<Issue>,
    }
}

section! {
    /// A cookie that the gateway gives to people it can't recognise.
    pub struct Issue {
        /// Its name.
        pub cookie: At<CookieName>,
        /// How long it lasts.
        #[schemars(extend("default" = "30d"))]
        pub max_age: Option<At<Time>>,
    }
}

section! {
    /// Where a client is sent. What is left out stays as it was; the query is kept.
    pub struct Redirect {
        /// `http` or `https`.
        pub scheme: Option<At<Scheme>>,
        /// Host without port.
        pub host: Option<At<Host>>,
        /// Port. Left out: the scheme's own, where the scheme changes.
        pub port: Option<At<Port>>,
        /// The whole path becomes this.
        pub path: Option<At<RewritePath>>,
        /// The prefix that the route matched becomes this.
        pub prefix: Option<At<RewritePath>>,
        /// 301, 302, 303, 307 or 308.
        #[schemars(extend("default" = 302))]
        pub status: Option<At<RedirectStatus>>,
    }
}

section! {
    /// An answer that the gateway gives by itself.
    pub struct Answer {
        /// Its status.
        #[schemars(extend("default" = 200))]
        pub status: Option<At<Whole<200, 599>>>,
        /// Its Content-Type.
        #[schemars(extend("default" = "text/plain; charset=utf-8"))]
        pub content_type: Option<At<ContentType>>,
        /// Its body.
        #[schemars(extend("default" = ""))]
        pub body: Option<At<Text>>,
    }
}

section! {
    /// Changes to host and path.
    pub struct Rewrite {
        /// The new Host.
        pub host: Option<At<Host>>,
        /// The whole path becomes this.
        pub path: Option<At<RewritePath>>,
        /// The prefix that the route matched becomes this.
        pub prefix: Option<At<RewritePath>>,
    }
}

section! {
    /// Changes to headers: first removed, then set, then added.
    pub struct HeaderEdits {
        /// Replaces whatever was there.
        #[schemars(default)]
        pub set: Table<HeaderName, At<HeaderValue>>,
        /// One more line.
        #[schemars(default)]
        pub add: Table<HeaderName, At<HeaderValue>>,
        /// Names that are removed.
        pub remove: Option<Many<At<HeaderName>>>,
    }
}

section! {
    /// Cross-origin policy (the Fetch standard's CORS protocol).
    pub struct Cors {
        /// Origins: `https://shop.example.com`, `https://*.example.com`, or `*`.
        pub origins: Many<At<Origin>>,
        /// Methods; `*` allows every method.
        #[schemars(extend("default" = ["GET", "HEAD", "POST"]))]
        pub methods: Option<Many<At<Method>>>,
        /// Request headers; `*` allows all of them. Left out: only those that need no permission.
        pub headers: Option<Many<At<HeaderName>>>,
        /// Response headers that scripts may read; `*` allows all of them.
        pub expose: Option<Many<At<HeaderName>>>,
        /// Whether cookies may come along.
        #[schemars(extend("default" = false))]
        pub credentials: Option<At<Flag>>,
        /// How long browsers may remember a preflight. Left out: as long as they like.
        pub max_age: Option<At<Time>>,
    }
}

section! {
    /// Overrides of the service's deadlines. What is left out stays as the service has it.
    pub struct RouteTimeouts {
        /// TCP connect and TLS handshake.
        pub connect: Option<At<Time>>,
        /// From the request being sent to the first byte of the answer.
        pub first_byte: Option<At<Time>>,
        /// Between two reads of the answer.
        pub idle: Option<At<Time>>,
        /// The whole exchange, retries included.
        pub total: Option<At<Time>>,
    }
}

section! {
    /// A copy of live requests to another version. Its answers never reach a client.
    pub struct Shadow {
        /// Where the copies go: `shop/next`.
        pub to: At<Target>,
        /// Copies, as a share of requests: 0% to 500%. 200% sends two copies of each.
        #[schemars(extend("default" = "100%"))]
        pub sample: Option<At<Sample>>,
        /// Bytes of a body that are copied.
        #[schemars(extend("default" = "1MiB"))]
        pub body: Option<At<Size>>,
        /// What happens to a copy whose body is longer: `skip` doesn't send it, `truncate` sends it without the rest.
        #[schemars(extend("default" = "skip"))]
        pub over: Option<At<BodyOver>>,
        /// Copies in flight. Beyond it they are dropped and counted.
        #[schemars(extend("default" = 64))]
        pub max_in_flight: Option<At<Whole<1, 100_000>>>,
        /// The whole copy, connect included.
        #[schemars(extend("default" = "5s"))]
        pub timeout: Option<At<Time>>,
        /// Methods that are copied: `safe`, `idempotent`, `any`, or a list.
        #[schemars(extend("default" = "safe"))]
        pub methods: Option<MethodSet>,
        /// Headers that mark a copy, so that the shadow can tell.
        #[schemars(extend("default" = {"x-shadow": "1"}))]
        pub mark: Option<Table<HeaderName, At<HeaderValue>>>,
        /// What is compared with the main answer: `status`, `body`, `latency`. Left out: the shadow's answer is thrown away.
        pub compare: Option<Many<At<CompareWhat>>>,
        /// JSON paths that a comparison of bodies leaves out: `$.time`, `items[*].id`.
        pub ignore: Option<Many<At<JsonPath>>>,
    }
}

/// A set of methods: by name, or as a list.
#[derive(Clone, Debug, PartialEq)]
pub enum MethodSet {
    /// `safe`, `idempotent` or `any`.
    Class(At<MethodClass>),
    /// Exactly these.
    Only(Vec<At<Method>>, Span),
}

impl Decode for MethodSet {
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, .. } => match Method::parse(text) {
                // `GET` alone is a list of one; words in lower case are classes.
                Ok(method) if text.chars().all(|char| char.is_ascii_uppercase()) => {
                    Some(Self::Only(vec![At { value: method, span: node.span }], node.span))
                }
                _ => At::decode(node, path, problems).map(Self::Class),
            },
            _ => Vec::decode(node, path, problems).map(|list| Self::Only(list, node.span)),
        }
    }
}

impl JsonSchema for MethodSet {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "MethodSet".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let class = generator.subschema_for::<At<MethodClass>>();
        let method = generator.subschema_for::<At<Method>>();
        json_schema!({"anyOf": [class, method, {"type": "array", "items": method}]})
    }
}
