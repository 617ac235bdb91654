//! Reads templates: text with places between `{{` and `}}`.
//!
//! # Invariants
//!
//! - Whatever a template names is there: a field of a feeder, a take of an earlier step, or one of [`BUILT_IN`].
//! - A problem points at the name within the text, also in block scalars.

use super::plan::{Piece, Template, Value};
use crate::diagnostic::Diagnostic;
use crate::problems::{Problems, Span, suggest};

/// Names that are always there.
pub(super) const BUILT_IN: [&str; 4] = ["uuid", "ordinal", "unix_ms", "random"];

/// What a template of one step may name.
pub(super) struct Scope<'s> {
    /// Feeders and their fields; `None` where the file could not be read.
    pub feeders: &'s [(String, Option<Vec<String>>)],
    /// Takes of the whole flow, in turn, each with the index of its step.
    pub takes: &'s [(String, usize)],
    /// The index of this step.
    pub step: usize,
}

/// Why a place isn't one: what is wrong, what stands under the caret, what to try.
struct Bad {
    code: &'static str,
    message: String,
    label: String,
    help: Option<String>,
}

impl Bad {
    fn new(code: &'static str, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { code, message: message.into(), label: label.into(), help: None }
    }

    fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// Reads `text`, which stands at `span`. What is wrong with it is reported, and left out of the result.
pub(super) fn parse(text: &str, span: Span, scope: &Scope<'_>, problems: &mut Problems<'_>) -> Template {
    let mut template = Template::default();
    let mut rest = text;
    let mut braces = 0;
    while let Some((before, after)) = rest.split_once("{{") {
        push_text(&mut template, before);
        let inside = after.trim_start();
        let indent = after.len() - inside.len();
        if let Some((quoted, behind)) = quoted(inside) {
            push_text(&mut template, quoted);
            braces += 1 + quoted.matches("{{").count();
            rest = behind;
            continue;
        }
        let Some((inside, behind)) = after.split_once("}}") else {
            let diagnostic = Diagnostic::error("bad-template", "a template isn't closed")
                .help("write }} behind the name, or {{ \"{{\" }} for the braces themselves");
            problems.add(locate(span, braces, 0, 2, problems), "opened here", diagnostic);
            return template;
        };
        let name = inside.trim();
        match value(name, scope) {
            Ok(value) => template.pieces.push(Piece::Value(value)),
            Err(bad) => {
                let mut diagnostic = Diagnostic::error(bad.code, bad.message);
                diagnostic.help = bad.help;
                let at = locate(span, braces, 2 + indent, name.chars().count(), problems);
                problems.add(at, bad.label, diagnostic);
            }
        }
        braces += 1;
        rest = behind;
    }
    push_text(&mut template, rest);
    template
}

fn push_text(template: &mut Template, text: &str) {
    match template.pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(last)) => last.push_str(text),
        _ => template.pieces.push(Piece::Text(text.to_owned())),
    }
}

/// A quoted text in a place, and what stands behind the place.
fn quoted(inside: &str) -> Option<(&str, &str)> {
    let quote = inside.chars().next().filter(|char| matches!(char, '"' | '\''))?;
    let (text, behind) = inside[1..].split_once(quote)?;
    Some((text, behind.trim_start().strip_prefix("}}")?))
}

fn value(name: &str, scope: &Scope<'_>) -> Result<Value, Bad> {
    match name {
        "" => {
            let help = "name a field, such as {{ users.name }}, or write {{ uuid }} or {{ random(1, 9) }}";
            return Err(Bad::new("bad-template", "a template names nothing", "a name belongs here").help(help));
        }
        "uuid" => return Ok(Value::Uuid),
        "ordinal" => return Ok(Value::Ordinal),
        "unix_ms" => return Ok(Value::UnixMillis),
        _ if name == "random" || name.starts_with("random(") || name.starts_with("random ") => return random(name),
        _ => {}
    }
    if let Some((call, _)) = name.split_once('(') {
        let bad = Bad::new("unknown-name", format!("there is no function \"{call}\""), "only random(…) is one");
        return Err(bad.help("write {{ random(1, 5000) }}"));
    }
    if name.contains('|') {
        let bad = Bad::new("bad-template", "a template has no filters", "this is more than a name");
        return Err(bad.help("values are made safe for their place by themselves"));
    }
    if let Some(take) = scope.takes.iter().position(|(take, step)| take == name && *step < scope.step) {
        return Ok(Value::Taken(take));
    }
    if scope.takes.iter().any(|(take, _)| take == name) {
        let message = format!("\"{name}\" is used before it is taken");
        return Err(Bad::new("not-taken-yet", message, "no earlier step of this flow takes it")
            .help("move the step that takes it in front of this one"));
    }
    // Names may hold dots: the feeder is whichever name the text begins with.
    let feeder = scope.feeders.iter().enumerate().find_map(|(at, (feeder, fields))| {
        let field = name.strip_prefix(feeder.as_str())?;
        let field = if field.is_empty() { "" } else { field.strip_prefix('.')? };
        Some((at, feeder, fields, field.trim()))
    });
    if let Some((at, feeder, fields, field)) = feeder {
        let fields = match fields {
            Some(fields) => fields,
            // What is wrong with the file has been reported.
            None => return Ok(Value::Fed { feeder: at, field: 0 }),
        };
        let names = fields.iter().map(String::as_str);
        if field.is_empty() {
            let first = fields.first().map_or("name", String::as_str);
            let bad = Bad::new("which-field", format!("\"{feeder}\" is a feeder, not a value"), "the field is missing");
            return Err(bad.help(format!("write {{{{ {feeder}.{first} }}}}")));
        }
        return match fields.iter().position(|known| known == field) {
            Some(field) => Ok(Value::Fed { feeder: at, field }),
            None => {
                let message = format!("feeder \"{feeder}\" has no field \"{field}\"");
                let bad = Bad::new("unknown-field", message, "its file has no such field");
                Err(Bad { help: suggest(field, names), ..bad })
            }
        };
    }
    let takes = scope.takes.iter().filter(|(_, step)| *step < scope.step).map(|(take, _)| take.clone());
    let fields = scope
        .feeders
        .iter()
        .flat_map(|(feeder, fields)| fields.iter().flatten().map(move |field| format!("{feeder}.{field}")));
    let known: Vec<String> = takes.chain(fields).chain(BUILT_IN.map(str::to_owned)).collect();
    let message = format!("a template names \"{name}\", which isn't defined");
    let bad = Bad::new("unknown-name", message, "nothing has this name");
    Err(Bad { help: suggest(name, known.iter().map(String::as_str)), ..bad })
}

fn random(text: &str) -> Result<Value, Bad> {
    let wrong = |label: String| {
        Bad::new("bad-template", "random takes two whole numbers", label).help("write {{ random(1, 5000) }}")
    };
    let inside = text["random".len()..].trim().strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    let numbers = inside.ok_or_else(|| wrong("the brackets are missing".into()))?;
    let Some((from, to)) = numbers.split_once(',') else {
        return Err(wrong("the second number is missing".into()));
    };
    let number = |text: &str| {
        let text = text.trim();
        text.parse::<i64>().map_err(|_| wrong(format!("\"{text}\" isn't a whole number")))
    };
    let (from, to) = (number(from)?, number(to)?);
    if from > to {
        return Err(wrong(format!("{from} is more than {to}")));
    }
    Ok(Value::Random(from, to))
}

/// Where, within the scalar at `span`, the `length` characters stand that begin `offset` behind its `nth` pair of braces.
fn locate(span: Span, nth: usize, offset: usize, length: usize, problems: &Problems<'_>) -> Span {
    /// Lines of a block scalar that are searched. Behind them the whole scalar is pointed at.
    const LINES: usize = 1_000;
    let Some(file) = problems.files().get(span.file as usize) else { return span };
    let text = file.text.strip_prefix('\u{feff}').unwrap_or(&file.text);
    let mut seen = 0;
    for (at, line) in text.lines().enumerate().skip(span.line.saturating_sub(1) as usize).take(LINES) {
        let skip = if at + 1 == span.line as usize { span.column.saturating_sub(1) as usize } else { 0 };
        let start = line.char_indices().nth(skip).map_or(line.len(), |(at, _)| at);
        for (found, _) in line[start..].match_indices("{{") {
            if seen == nth {
                let column = skip + line[start..start + found].chars().count() + offset + 1;
                return Span {
                    line: at as u32 + 1,
                    column: column as u32,
                    length: length.max(1) as u32,
                    file: span.file,
                };
            }
            seen += 1;
        }
    }
    span
}
