//! From a tree to typed sections, reporting every problem on the way.
//!
//! A section is declared once, by [`section!`]: the struct, its decoder and (through
//! schemars) its schema and reference come from the same lines.
//!
//! # Invariants
//!
//! - Whatever decodes to `None` has been reported. What surrounds it goes on, so one
//!   slip doesn't hide the next.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::diagnostic::Diagnostic;
use crate::literal::Literal;
use crate::problems::{Problems, Span, did_you_mean};
use crate::yaml::{Key, Node, Value};

/// Something that is read from a node.
pub(crate) trait Decode: Sized {
    /// Reads it. `None` when that failed; the problem has been reported.
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self>;

    /// What it is when its key is missing. `None`: the key is required.
    fn absent() -> Option<Self> {
        None
    }
}

/// Where a node is in the configuration, for messages: `services.shop.health.every`.
#[derive(Clone, Copy)]
pub(crate) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

impl<'p> Path<'p> {
    pub(crate) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    pub(crate) fn key(&'p self, key: &'p str) -> Path<'p> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    fn index(&'p self, index: usize) -> Path<'p> {
        Path { parent: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.step, self.parent) {
            (Step::Root, _) => f.write_str("the configuration"),
            (Step::Key(key), Some(parent)) if !matches!(parent.step, Step::Root) => write!(f, "{parent}.{key}"),
            (Step::Key(key), _) => f.write_str(key),
            (Step::Index(index), Some(parent)) => write!(f, "{parent}[{index}]"),
            (Step::Index(index), None) => write!(f, "[{index}]"),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub span: Span,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Literal> Decode for At<T> {
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let Value::Scalar { text, .. } = &node.value else {
            wrong_kind(node, path, T::WHAT, example::<T>(), problems);
            return None;
        };
        match T::parse(text) {
            Ok(value) => Some(Self { value, span: node.span }),
            Err(wrong) if node.is_null() => {
                let mut diagnostic = Diagnostic::error("missing-value", format!("{path} has no value"));
                diagnostic.help = example::<T>().or(wrong.help);
                problems.add(node.span, format!("{} belongs here", T::WHAT), diagnostic);
                None
            }
            Err(wrong) => {
                let message = match path.step {
                    Step::Index(_) => format!("an item of {} isn't {}", path.parent.unwrap_or(&Path::ROOT), T::WHAT),
                    _ => format!("{path} isn't {}", T::WHAT),
                };
                let mut diagnostic = Diagnostic::error(T::CODE, message);
                diagnostic.help = wrong.help;
                problems.add(node.span, wrong.label, diagnostic);
                None
            }
        }
    }
}

fn example<T: Literal>() -> Option<String> {
    match T::EXAMPLES {
        [] => None,
        [one] => Some(format!("write \"{one}\"")),
        [first, second, ..] => Some(format!("write \"{first}\" or \"{second}\", for example")),
    }
}

fn wrong_kind(node: &Node, path: &Path<'_>, wanted: &str, help: Option<String>, problems: &mut Problems<'_>) {
    let mut diagnostic = Diagnostic::error("wrong-type", format!("{path} takes {wanted}, not {}", node.kind()));
    diagnostic.help = help;
    problems.add(node.span, format!("this is {}", node.kind()), diagnostic);
}

impl<T: Literal> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::WHAT.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = T::schema();
        if !T::EXAMPLES.is_empty() && schema.get("enum").is_none() {
            schema["examples"] = T::EXAMPLES.into();
        }
        schema["title"] = T::WHAT.into();
        Schema::try_from(schema).expect("a literal's schema is an object")
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        T::decode(node, path, problems).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match &node.value {
            Value::List(items) => Some(
                items.iter().enumerate().filter_map(|(at, item)| T::decode(item, &path.index(at), problems)).collect(),
            ),
            _ if node.is_null() => Some(Vec::new()),
            _ => {
                let help = match &node.value {
                    Value::Scalar { text, .. } => Some(format!("write [{text}]")),
                    _ => Some("begin each item with \"- \"".into()),
                };
                wrong_kind(node, path, "a list", help, problems);
                None
            }
        }
    }
}

/// One of something, or a list of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Many<T> {
    /// Them.
    pub items: Vec<T>,
    /// Where they were written.
    pub span: Span,
}

impl<T: Decode> Decode for Many<T> {
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let items = match &node.value {
            Value::List(_) => Vec::decode(node, path, problems)?,
            _ => vec![T::decode(node, path, problems)?],
        };
        Some(Self { items, span: node.span })
    }
}

impl<T: JsonSchema> JsonSchema for Many<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}, or a list", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({"anyOf": [one, {"type": "array", "items": one}]})
    }
}

/// A mapping from names to things, in the order it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Table<K, T> {
    /// Them. A name stays known when what it names was refused, so that nothing else seems to dangle.
    pub entries: Vec<(At<K>, Option<T>)>,
    /// Where they were written.
    pub span: Span,
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Self {
        Self { entries: Vec::new(), span: Span::default() }
    }
}

impl<K: Literal + Eq + Hash, T: Decode> Decode for Table<K, T> {
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            _ if node.is_null() => &[],
            _ => {
                let help = match &node.value {
                    Value::List(_) => "write \"name: …\" instead of \"- …\"",
                    _ => "write \"name: …\", one on each line",
                };
                wrong_kind(node, path, "a mapping", Some(help.into()), problems);
                return None;
            }
        };
        let mut table = Self { entries: Vec::with_capacity(entries.len()), span: node.span };
        for (key, value) in entries {
            let decoded = T::decode(value, &path.key(&key.text), problems);
            match K::parse(&key.text) {
                Ok(name) => table.entries.push((At { value: name, span: key.span }, decoded)),
                Err(wrong) => {
                    let mut diagnostic = Diagnostic::error(K::CODE, format!("a key of {path} isn't {}", K::WHAT));
                    diagnostic.help = wrong.help;
                    problems.add(key.span, wrong.label, diagnostic);
                }
            }
        }
        table.refuse_twins(problems);
        Some(table)
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl<K: Eq + Hash, T> Table<K, T> {
    /// Reports keys that differ as text and mean the same: `X-User` and `x-user`.
    fn refuse_twins(&self, problems: &mut Problems<'_>) {
        let mut seen: HashMap<&K, Span> = HashMap::with_capacity(self.entries.len());
        for (key, _) in &self.entries {
            let Some(first) = seen.insert(&key.value, key.span) else { continue };
            let diagnostic = Diagnostic::error("duplicate-key", "two keys mean the same").help("keep one of them");
            problems.add_with(key.span, "again here", (first, "first here"), diagnostic);
        }
    }
}

impl<K, T: JsonSchema> JsonSchema for Table<K, T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("name → {}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({"type": "object", "additionalProperties": value})
    }
}

/// A section, or `off`.
#[derive(Clone, Debug, PartialEq)]
pub enum Switch<T> {
    /// Written `off`.
    Off,
    /// The section.
    On(T),
}

impl<T: Decode> Decode for Switch<T> {
    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, .. } if text == "off" => Some(Self::Off),
            Value::Scalar { text, .. } if !node.is_null() => {
                let diagnostic = Diagnostic::error("wrong-type", format!("{path} takes a mapping or off, not text"))
                    .help("write its keys below it, or off");
                problems.add(node.span, format!("\"{text}\" isn't possible here"), diagnostic);
                None
            }
            _ => T::decode(node, path, problems).map(Self::On),
        }
    }
}

impl<T: JsonSchema> JsonSchema for Switch<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}, or off", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let section = generator.subschema_for::<T>();
        json_schema!({"anyOf": [section, {"const": "off"}]})
    }
}

/// The entries of a section, taken one by one.
pub(crate) struct Fields<'n, 'p> {
    entries: &'n [(Key, Node)],
    path: &'p Path<'p>,
    /// Where the section was written.
    pub(crate) span: Span,
    /// Errors that had been found before this section.
    errors_before: usize,
    /// Keys that unknown ones were probably meant to be: they aren't reported as missing too.
    meant: Vec<&'static str>,
}

impl<'n, 'p> Fields<'n, 'p> {
    /// Opens a section, and reports keys that aren't among `known`.
    pub(crate) fn open(
        node: &'n Node,
        path: &'p Path<'p>,
        known: &[&'static str],
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let errors_before = problems.errors();
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            _ if node.is_null() => &[],
            _ => {
                let keys = known.iter().take(4).copied().collect::<Vec<_>>().join(", ");
                let more = if known.len() > 4 { ", …" } else { "" };
                let help = format!("its keys are: {keys}{more}");
                wrong_kind(node, path, "a mapping", Some(help), problems);
                return None;
            }
        };
        let mut meant = Vec::new();
        for (key, _) in entries {
            if known.contains(&key.text.as_str()) {
                continue;
            }
            let place = match path.step {
                Step::Root => "at the top level".into(),
                _ => format!("in {path}"),
            };
            let mut diagnostic = Diagnostic::error("unknown-key", format!("there is no key \"{}\" {place}", key.text));
            if problems.wants_hints() {
                let (key, help) = unknown_key_help(&key.text, known);
                meant.extend(key);
                diagnostic.help = Some(help);
            }
            problems.add(key.span, "this key is unknown", diagnostic);
        }
        Some(Self { entries, path, span: node.span, errors_before, meant })
    }

    /// Whether something in this section was refused: what seems to be missing may only be misspelt.
    pub(crate) fn damaged(&self, problems: &Problems<'_>) -> bool {
        problems.errors() > self.errors_before
    }

    /// Reads one field. `None` when it was refused, or is required and missing; that has been reported.
    pub(crate) fn take<T: Decode>(&self, name: &'static str, problems: &mut Problems<'_>) -> Option<T> {
        match self.entries.iter().find(|(key, _)| key.text == name) {
            Some((_, node)) => match T::decode(node, &self.path.key(name), problems) {
                Some(value) => Some(value),
                // It has been reported; what is optional needn't take the section along.
                None => T::absent(),
            },
            None => {
                let absent = T::absent();
                if absent.is_none() && !self.meant.contains(&name) {
                    let message = match self.path.step {
                        Step::Root => format!("the key \"{name}\" is missing at the top level"),
                        _ => format!("{} lacks the key \"{name}\"", self.path),
                    };
                    problems.add(
                        self.span,
                        format!("\"{name}\" is missing here"),
                        Diagnostic::error("missing-key", message),
                    );
                }
                absent
            }
        }
    }
}

/// The key that was probably meant, and what to try.
fn unknown_key_help(written: &str, known: &[&'static str]) -> (Option<&'static str>, String) {
    /// What other proxies call it.
    const ELSEWHERE: &[(&str, &str)] = &[
        ("listen", "bind"),
        ("address", "bind"),
        ("hosts", "host"),
        ("hostname", "host"),
        ("server_name", "host"),
        ("paths", "path"),
        ("prefix", "path"),
        ("methods", "method"),
        ("method", "methods"),
        ("header", "headers"),
        ("cookie", "cookies"),
        ("queries", "query"),
        ("upstreams", "services"),
        ("upstream", "to"),
        ("backends", "services"),
        ("backend", "to"),
        ("clusters", "services"),
        ("service", "to"),
        ("proxy_pass", "to"),
        ("targets", "endpoints"),
        ("servers", "endpoints"),
        ("interval", "every"),
        ("rate_limit", "limits"),
        ("limit", "limits"),
        ("mirror", "shadow"),
        ("healthcheck", "health"),
        ("health_check", "health"),
        ("retries", "retry"),
        ("timeout", "timeouts"),
        ("rules", "routes"),
        ("weight", "weights"),
        ("sticky", "stick_by"),
        ("code", "status"),
        ("certs", "certificates"),
    ];
    let elsewhere = ELSEWHERE.iter().find(|(theirs, ours)| *theirs == written && known.contains(ours));
    match elsewhere {
        Some((_, ours)) => (Some(ours), format!("here it is called \"{ours}\"")),
        None => match did_you_mean(written, known.iter().copied()) {
            Some(meant) => (Some(meant), format!("did you mean \"{meant}\"?")),
            None => (None, format!("there are: {}", known.join(", "))),
        },
    }
}

/// Declares a section of the configuration: its struct, its decoder and its schema.
///
/// The doc comment of a field becomes its description in the schema and the reference.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
            /// Where it was written.
            #[schemars(skip)]
            pub span: $crate::problems::Span,
            /// Whether something in it was refused: what seems to be missing may only be misspelt.
            #[schemars(skip)]
            pub damaged: bool,
        }

        impl $crate::config::decode::Decode for $name {
            fn decode(
                node: &$crate::yaml::Node,
                path: &$crate::config::decode::Path<'_>,
                problems: &mut $crate::problems::Problems<'_>,
            ) -> Option<Self> {
                const KEYS: &[&str] = &[$($crate::config::decode::bare(stringify!($field))),*];
                let fields = $crate::config::decode::Fields::open(node, path, KEYS, problems)?;
                $(let $field = fields.take::<$type>($crate::config::decode::bare(stringify!($field)), problems);)*
                let damaged = fields.damaged(problems);
                Some(Self { $($field: $field?,)* span: fields.span, damaged })
            }
        }
    };
}

pub(crate) use section;

/// `name` without the `r#` that keywords need in Rust.
pub(crate) const fn bare(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}
