//! Sections: mappings with known keys.
//!
//! A section is declared once, by [`section!`]: the struct, its decoder and (through
//! schemars) its schema and reference come from the same lines.

use super::decode::{Decode, Path, wrong_kind};
use crate::diagnostic::Diagnostic;
use crate::problems::{Problems, Span, did_you_mean};
use crate::yaml::{Key, Node, Value};

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
            let place = if path.is_root() { "at the top level".into() } else { format!("in {path}") };
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
                    let message = match self.path.is_root() {
                        true => format!("the key \"{name}\" is missing at the top level"),
                        false => format!("{} lacks the key \"{name}\"", self.path),
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
        ("vus", "visitors"),
        ("users", "visitors"),
        ("duration", "for"),
        ("rps", "rate"),
        ("qps", "rate"),
        ("scenarios", "flows"),
        ("requests", "flows"),
        ("url", "get"),
        ("checks", "check"),
        ("assert", "check"),
        ("expect", "check"),
        ("extract", "take"),
        ("capture", "take"),
        ("pause", "think"),
        ("sleep", "think"),
        ("data", "feeders"),
        ("base_url", "target"),
        ("thinktime", "think"),
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
                const KEYS: &[&str] = &[$($crate::config::section::bare(stringify!($field))),*];
                let fields = $crate::config::section::Fields::open(node, path, KEYS, problems)?;
                $(let $field = fields.take::<$type>($crate::config::section::bare(stringify!($field)), problems);)*
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
