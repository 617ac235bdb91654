//! What is taken out of a request before anybody sees it.
//!
//! A secret is known by its name: of a header field, a query parameter, a field of a form, a key in a JSON body.
//!
//! # Invariants
//!
//! - Fields that carry credentials by definition are always taken out; nobody can ask for them.
//! - What isn't secret comes out byte for byte, save a JSON body that held a secret: that one is written anew.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::Value;
use tidegate_model::scenario::recording::{REDACTED, SECRET_FIELDS};

/// A name that holds one of these, whatever its case and dashes, is that of a secret.
const WORDS: [&str; 10] =
    ["password", "passwd", "secret", "token", "apikey", "credential", "session", "jwt", "cvv", "cardnumber"];

/// Names of what is taken out.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// In lower case.
    names: BTreeSet<String>,
}

impl Secrets {
    /// The names that are always secret, and `more`.
    pub fn new(more: impl IntoIterator<Item = String>) -> Self {
        let own = SECRET_FIELDS.iter().map(|name| (*name).to_owned());
        Self { names: own.chain(more.into_iter().map(|name| name.to_ascii_lowercase())).collect() }
    }

    /// Every name that was given, and the words that make a secret of any name that holds them, as `*word*`.
    pub fn names(&self) -> Vec<String> {
        self.names.iter().cloned().chain(WORDS.iter().map(|word| format!("*{word}*"))).collect()
    }

    /// Whether what is called `name` is secret.
    pub fn holds(&self, name: &str) -> bool {
        let name = name.trim().to_ascii_lowercase();
        let plain: String = name.chars().filter(|char| !matches!(char, '-' | '_' | '.')).collect();
        self.names.contains(&name) || WORDS.iter().any(|word| plain.contains(word))
    }

    /// A header field's value, or what stands in its place.
    pub fn field<'v>(&self, name: &str, value: &'v str) -> &'v str {
        if self.holds(name) { REDACTED } else { value }
    }

    /// Path and query, without secret parameters.
    pub fn target(&self, target: &str) -> String {
        match target.split_once('?') {
            Some((path, query)) => format!("{path}?{}", self.pairs(query)),
            None => target.to_owned(),
        }
    }

    /// A body of the content type `kind`.
    pub fn body<'b>(&self, kind: &str, body: &'b [u8]) -> Cow<'b, [u8]> {
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind == "application/x-www-form-urlencoded"
            && let Ok(text) = std::str::from_utf8(body)
        {
            return Cow::Owned(self.pairs(text).into_bytes());
        }
        if (kind == "application/json" || kind.ends_with("+json"))
            && let Ok(mut value) = serde_json::from_slice::<Value>(body)
            && self.clean(&mut value)
        {
            return Cow::Owned(serde_json::to_vec(&value).unwrap_or_default());
        }
        Cow::Borrowed(body)
    }

    /// `a=1&b=2` without secret values.
    fn pairs(&self, text: &str) -> String {
        let pairs = text.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if self.holds(&unescaped(name)) => Cow::Owned(format!("{name}={REDACTED}")),
            _ => Cow::Borrowed(pair),
        });
        pairs.collect::<Vec<_>>().join("&")
    }

    /// Takes secrets out of `value`, and tells whether there were any. serde_json bounds how deep a value is.
    fn clean(&self, value: &mut Value) -> bool {
        match value {
            Value::Object(entries) => entries.iter_mut().fold(false, |found, (name, value)| {
                if self.holds(name) {
                    *value = Value::String(REDACTED.into());
                    return true;
                }
                self.clean(value) || found
            }),
            // Every one, so no `any`.
            Value::Array(items) => items.iter_mut().filter_map(|item| self.clean(item).then_some(())).count() > 0,
            _ => false,
        }
    }
}

/// `name` as the application reads it, so that `pass%77ord` hides nothing.
fn unescaped(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| name.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
