//! From a tree to typed values, reporting every problem on the way.
//!
//! Sections, with their keys, are in `section`.
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
use crate::problems::{Problems, Span};
use crate::yaml::{Node, Value};

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
    Root(&'static str),
    Key(&'p str),
    Index(usize),
}

impl<'p> Path<'p> {
    pub(crate) const ROOT: Path<'static> = Path { parent: None, step: Step::Root("the configuration") };

    /// The root of something else, with its article: `the scenario`.
    pub(crate) fn root(what: &'static str) -> Path<'static> {
        Path { parent: None, step: Step::Root(what) }
    }

    pub(crate) fn key(&'p self, key: &'p str) -> Path<'p> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    /// Whether this is the whole configuration.
    pub(super) fn is_root(&self) -> bool {
        matches!(self.step, Step::Root(_))
    }

    fn index(&'p self, index: usize) -> Path<'p> {
        Path { parent: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.step, self.parent) {
            (Step::Root(what), _) => f.write_str(what),
            (Step::Key(key), Some(parent)) if !matches!(parent.step, Step::Root(_)) => write!(f, "{parent}.{key}"),
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

/// Reports a node that is a list where text belongs, and the like.
pub(crate) fn wrong_kind(
    node: &Node,
    path: &Path<'_>,
    wanted: &str,
    help: Option<String>,
    problems: &mut Problems<'_>,
) {
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
        /// Up to this many keys are compared one by one: that is cheaper than hashing.
        const SMALL: usize = 8;
        let mut seen: HashMap<&K, Span> = HashMap::new();
        for (at, (key, _)) in self.entries.iter().enumerate() {
            let first = match self.entries.len() {
                ..=SMALL => {
                    let twin = self.entries[..at].iter().find(|(earlier, _)| earlier.value == key.value);
                    twin.map(|(earlier, _)| earlier.span)
                }
                _ => seen.insert(&key.value, key.span),
            };
            let Some(first) = first else { continue };
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
