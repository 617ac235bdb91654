//! YAML as a tree that remembers where everything stands.
//!
//! Scalars keep the text that was written. Nothing is guessed from it: `on`, `1.10`
//! and `22:22` stay what they are, and the type that reads them decides.
//!
//! # Invariants
//!
//! - Keys of a mapping are unique: a second one is reported with both places.
//! - A tree is at most [`MAX_DEPTH`] deep and has at most [`MAX_NODES`] nodes, aliases
//!   expanded, so a few lines of nested aliases can't fill the memory.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

use crate::diagnostic::Diagnostic;
use crate::problems::{Problems, Span};

/// Nesting of lists and mappings. A deeper file is refused.
pub const MAX_DEPTH: usize = 48;

/// Nodes in one file, aliases expanded. A larger file is refused.
pub const MAX_NODES: usize = 2_000_000;

/// Bytes of one file. A larger file is refused.
pub const MAX_BYTES: usize = 32 << 20;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text, unquoted.
    Scalar {
        /// The text.
        text: String,
        /// Whether it was written without quotes.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// The key of a mapping's entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Where it stands.
    pub span: Span,
    /// Its text.
    pub text: String,
}

impl Node {
    /// Whether nothing was written here: an empty value, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// With its article, for messages: `a list`.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Reads the file with index `file`. `None` when it is empty or can't be read at all.
pub fn parse(file: usize, problems: &mut Problems<'_>) -> Option<Node> {
    let source = problems.files().get(file)?;
    let start = Span { file: file as u32, line: 1, column: 1, length: 1 };
    if source.text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes, more than {MAX_BYTES}", source.text.len());
        problems.add(start, "", Diagnostic::error("file-too-large", message).help("split it into several files"));
        return None;
    }
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    let mut composer = Composer {
        events: Parser::new_from_str(text),
        file: file as u32,
        anchors: HashMap::new(),
        nodes: 0,
        open: Vec::new(),
        problems,
    };
    composer.document(text).ok().flatten()
}

/// Reading went on as far as it could; the problem has been reported.
struct Stopped;

struct Composer<'t, 'p, 'f> {
    events: Parser<'t, StrInput<'t>>,
    file: u32,
    /// Finished anchors: their node, and how many nodes it has.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    /// Lists and mappings that are still open.
    open: Vec<Span>,
    problems: &'p mut Problems<'f>,
}

impl<'t> Composer<'t, '_, '_> {
    fn document(&mut self, text: &str) -> Result<Option<Node>, Stopped> {
        let mut document = None;
        loop {
            let (event, span) = self.next(text)?;
            match event {
                Event::StreamEnd => return Ok(document),
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if document.is_some() => {
                    return self.stop(
                        span,
                        "a second document begins here",
                        Diagnostic::error("second-document", "a file holds one document")
                            .help("put it into a file of its own: a folder of files is one configuration"),
                    );
                }
                event => document = Some(self.node(event, span, 0, text)?),
            }
        }
    }

    fn next(&mut self, text: &str) -> Result<(Event<'t>, Span), Stopped> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                let length = match span.end.line() == span.start.line() {
                    true => span.end.col().saturating_sub(span.start.col()),
                    false => usize::MAX >> 33,
                };
                Ok((event, self.span(span.start.line(), span.start.col(), length)))
            }
            Some(Err(error)) => {
                let marker = error.marker();
                let span = self.span(marker.line(), marker.col(), 1);
                let mut diagnostic = Diagnostic::error("bad-yaml", "this isn't YAML");
                let line = text.lines().nth(marker.line().saturating_sub(1)).unwrap_or("");
                diagnostic.help = syntax_help(line, error.info());
                if let Some(open) = self.open.last().copied().filter(|_| error.info().contains("parsing a flow")) {
                    self.problems.add_with(span, error.info(), (open, "opened here"), diagnostic);
                    return Err(Stopped);
                }
                self.stop(span, error.info(), diagnostic)
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn span(&self, line: usize, column: usize, length: usize) -> Span {
        Span { file: self.file, line: line as u32, column: column as u32 + 1, length: length.max(1) as u32 }
    }

    fn stop<T>(&mut self, span: Span, label: impl Into<String>, diagnostic: Diagnostic) -> Result<T, Stopped> {
        self.problems.add(span, label, diagnostic);
        Err(Stopped)
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize, text: &str) -> Result<Node, Stopped> {
        if depth > MAX_DEPTH {
            let message = format!("lists and mappings are nested more than {MAX_DEPTH} deep");
            return self.stop(span, "", Diagnostic::error("too-deep", message));
        }
        self.count(1, span)?;
        let before = self.nodes;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                let plain = style == ScalarStyle::Plain;
                (Node { span, value: Value::Scalar { text: text.into_owned(), plain } }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                self.open.push(span.part(0, 1));
                let mut items = Vec::new();
                loop {
                    match self.next(text)? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1, text)?),
                    }
                }
                self.open.pop();
                (Node { span: span.part(0, 1), value: Value::List(items) }, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                self.open.push(span.part(0, 1));
                let entries = self.entries(depth, text)?;
                self.open.pop();
                let first = entries.first().map(|(key, _)| key.span);
                // A block mapping starts where its first key does; a flow mapping at its brace.
                let span =
                    first.filter(|key| (key.line, key.column) == (span.line, span.column)).unwrap_or(span.part(0, 1));
                (Node { span, value: Value::Map(entries) }, anchor)
            }
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    let diagnostic = Diagnostic::error("bad-alias", "an alias stands inside the value it repeats");
                    return self.stop(span, "", diagnostic);
                };
                self.count(size, span)?;
                (node, 0)
            }
            _ => return self.stop(span, "", Diagnostic::error("bad-yaml", "this isn't YAML")),
        };
        if anchor > 0 {
            let size = self.nodes - before + 1;
            self.count(size, span)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    /// Reads a mapping to its end: refuses a key that comes twice, and unfolds `<<`.
    fn entries(&mut self, depth: usize, text: &str) -> Result<Vec<(Key, Node)>, Stopped> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<Node> = Vec::new();
        let mut index = KeyIndex::default();
        loop {
            let key = match self.next(text)? {
                (Event::MappingEnd, _) => break,
                (event, span) => self.node(event, span, depth + 1, text)?,
            };
            let (event, span) = self.next(text)?;
            let value = self.node(event, span, depth + 1, text)?;
            let Value::Scalar { text, plain } = key.value else {
                let diagnostic = Diagnostic::error("bad-key", "a list or mapping can't be a key")
                    .help("quote a text that begins with [ or {");
                self.problems.add(key.span, "this is used as a key", diagnostic);
                continue;
            };
            if plain && text == "<<" {
                merged.push(value);
                continue;
            }
            if let Some(first) = index.find(&entries, &text) {
                let first = entries[first].0.span;
                let diagnostic = Diagnostic::error("duplicate-key", format!("key \"{text}\" is written twice"))
                    .help("keep one of them");
                self.problems.add_with(key.span, "again here", (first, "first here"), diagnostic);
                continue;
            }
            index.add(&text, entries.len());
            entries.push((Key { span: key.span, text }, value));
        }
        for node in merged {
            let sources = match node.value {
                Value::List(items) => items,
                _ => vec![node],
            };
            for source in sources {
                let Value::Map(source_entries) = source.value else {
                    let diagnostic = Diagnostic::error("bad-merge", "\"<<\" takes a mapping, or a list of them");
                    self.problems.add(source.span, "", diagnostic);
                    continue;
                };
                for (key, value) in source_entries {
                    if index.find(&entries, &key.text).is_none() {
                        index.add(&key.text, entries.len());
                        entries.push((key, value));
                    }
                }
            }
        }
        Ok(entries)
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Stopped> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        let message = format!("the file has more than {MAX_NODES} values, aliases counted each time");
        self.stop(span, "", Diagnostic::error("file-too-large", message))
    }

    fn refuse_tag(&mut self, tag: Option<&saphyr_parser::Tag>, span: Span) {
        let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) else { return };
        let message = format!("YAML tag \"{}{}\" means nothing here", tag.handle, tag.suffix);
        self.problems.add(span, "", Diagnostic::error("bad-tag", message).help("remove it, or quote the text"));
    }
}

/// Finds keys without walking long mappings again and again.
#[derive(Default)]
struct KeyIndex(HashMap<String, usize>);

impl KeyIndex {
    /// Up to this many keys are compared one by one: that is cheaper than hashing.
    const SMALL: usize = 16;

    fn find(&mut self, entries: &[(Key, Node)], text: &str) -> Option<usize> {
        if entries.len() < Self::SMALL {
            return entries.iter().position(|(key, _)| key.text == text);
        }
        if self.0.is_empty() {
            self.0 = entries.iter().enumerate().map(|(at, (key, _))| (key.text.clone(), at)).collect();
        }
        self.0.get(text).copied()
    }

    fn add(&mut self, text: &str, at: usize) {
        if !self.0.is_empty() {
            self.0.insert(text.to_owned(), at);
        }
    }
}

/// What to try when a line isn't YAML.
fn syntax_help(line: &str, info: &str) -> Option<String> {
    let indent: String = line.chars().take_while(|char| char.is_whitespace()).collect();
    if indent.contains('\t') || info.contains("tab") {
        return Some("YAML is indented with spaces, not tabs".into());
    }
    if line.contains("{{") {
        return Some("quote a text that holds {{ … }}".into());
    }
    if info.contains("unknown anchor") {
        return Some("quote a text that begins with *; an alias needs its & anchor further up".into());
    }
    if info.contains("parsing a flow") {
        return Some("a comma or a closing bracket is missing".into());
    }
    if info.contains("quoted scalar") {
        return Some("a closing quote is missing".into());
    }
    let value = line.split_once(": ").map_or(line, |(_, value)| value).trim();
    if value.starts_with(['*', '&', '%', '@', '`', '!', '|', '>']) {
        return Some(format!("quote a text that begins with {}", &value[..1]));
    }
    if value.contains(": ") {
        return Some("quote a text that holds \": \"".into());
    }
    None
}
