//! The configuration's reference: JSON Schema for editors, a page for people.
//!
//! Both are made from the declarations in `config`, so they can't tell anything else than
//! what is read; likewise those of load scenarios, from `scenario::written`. The committed files `docs/schema.json`,
//! `docs/configuration.md`, `docs/scenario.schema.json` and `docs/scenario.md` are kept fresh by a test.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The JSON Schema of a configuration file (draft 2020-12).
pub fn schema() -> Value {
    crate::config::schema()
}

/// The reference page, in Markdown.
pub fn reference() -> String {
    page(PREFACE, "Config", &schema())
}

/// The JSON Schema of a load scenario (draft 2020-12).
pub fn scenario_schema() -> Value {
    crate::scenario::written::schema()
}

/// The reference page of load scenarios, in Markdown.
pub fn scenario_reference() -> String {
    page(SCENARIO_PREFACE, "Scenario", &scenario_schema())
}

fn page(preface: &str, root: &str, schema: &Value) -> String {
    let mut page = Page { text: String::from(preface), seen: BTreeSet::new(), waiting: VecDeque::new() };
    page.section("Top level", root, schema);
    // Breadth first: what belongs together in a file stands together on the page.
    while let Some((path, name)) = page.waiting.pop_front() {
        if let Some(section) = schema.get("$defs").and_then(|defs| defs.get(&name)) {
            page.section(&path, &name, section);
        }
    }
    page.text
}

const PREFACE: &str = "\
# Configuration

<!-- Made from model/src/config; model/tests/reference.rs keeps it fresh. -->

A configuration is a YAML file, or a folder whose `*.yaml` files are read as one. It is strict: an unknown key, a
name that isn't defined or an impossible value is refused with its line and column, and what was in force stays in force.
`configs/` holds annotated examples; `tidegate check FILE` tells what is wrong with yours.

Lists of one may be written without brackets. Relative paths start at the folder of the file that names them. Text is taken
as it is written: `1.10`, `on` and `22:22` stay what they are. Anchors, aliases and `<<` work.

";

const SCENARIO_PREFACE: &str = "\
# Load scenarios

<!-- Made from model/src/scenario/written.rs; model/tests/reference.rs keeps it fresh. -->

A scenario is a YAML file that says what `tidegate load` sends, how fast, and what must hold. It is read as strictly as a
gateway's configuration: an unknown key, a name that isn't defined or an impossible value is refused with its line and
column, before anything is sent. `configs/load/` holds annotated examples; `tidegate load check FILE` tells what is wrong
with yours, and what it would send.

Lists of one may be written without brackets. Relative paths start at the folder of the file that names them.

## Templates

Targets, header values, bodies and messages may hold places that are filled anew for each request:

| Place | Becomes |
|---|---|
| `{{ users.name }}` | The field `name` of the feeder `users`. A visitor keeps their row for the whole flow. |
| `{{ token }}` | What a step before has taken under this name. |
| `{{ random(1, 5000) }}` | A random whole number; both ends are possible. |
| `{{ uuid }}` | A random UUID (RFC 9562, version 4). |
| `{{ ordinal }}` | The number of the arrival, from 0. |
| `{{ unix_ms }}` | Unix time in milliseconds. |
| `{{ \"{{\" }}` | The text between the quotes. |

Quote a text with a place when it stands within `{ }` or `[ ]`, or begins with `{`: `{get: \"/item/{{ uuid }}\"}`.
Values stay in their place: in a target they are percent-encoded (in the path all but `/`; a value with which a target begins
may bring a query along), within quotes of a JSON body they are escaped, in a form's body they are percent-encoded, and a
line break in a header's value fails the request.

";

struct Page {
    text: String,
    /// Sections that have been written, or wait to be.
    seen: BTreeSet<String>,
    waiting: VecDeque<(String, String)>,
}

impl Page {
    fn section(&mut self, path: &str, name: &str, section: &Value) {
        let _ = writeln!(self.text, "<a id=\"{}\"></a>\n\n## {path}\n", name.to_lowercase());
        let _ = writeln!(self.text, "{}\n", describe(section));
        let Some(properties) = section.get("properties").and_then(Value::as_object) else { return };
        let required = section.get("required").and_then(Value::as_array);
        let _ = writeln!(self.text, "| Key | Value | Default | Meaning |\n|---|---|---|---|");
        for (key, property) in properties {
            let needed = required.is_some_and(|required| required.iter().any(|name| name == key));
            let default = match property.get("default") {
                Some(default) => format!("`{}`", plain(default)),
                None if needed => "**required**".into(),
                None => String::new(),
            };
            let below = if path == "Top level" { key.clone() } else { format!("{path}.{key}") };
            let value = self.value(property, &below);
            let meaning = describe(property).replace('\n', " ").replace('|', "\\|");
            let _ = writeln!(self.text, "| `{key}` | {value} | {default} | {meaning} |");
        }
        self.text.push('\n');
    }

    /// What may stand at `path`; the sections it names are written later.
    fn value(&mut self, property: &Value, path: &str) -> String {
        if let Some(name) = property.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix("#/$defs/")) {
            if self.seen.insert(name.to_owned()) {
                self.waiting.push_back((path.to_owned(), name.to_owned()));
            }
            return format!("[{}](#{})", words(name), name.to_lowercase());
        }
        if let Some(choices) = property.get("anyOf").and_then(Value::as_array) {
            if let [one, list] = choices.as_slice()
                && list.get("items") == Some(one)
            {
                return format!("{}, or a list", self.value(one, path));
            }
            let choices: Vec<String> = choices.iter().map(|choice| self.value(choice, path)).collect();
            return choices.join(" or ");
        }
        if let Some(values) = property.get("enum").and_then(Value::as_array) {
            let values: Vec<String> = values.iter().map(|value| format!("`{}`", plain(value))).collect();
            return values.join(", ");
        }
        if let Some(only) = property.get("const") {
            return format!("`{}`", plain(only));
        }
        if let Some(items) = property.get("items") {
            return format!("list of {}", self.value(items, &format!("{path}[]")));
        }
        if let Some(value) = property.get("additionalProperties").filter(|value| value.is_object()) {
            return format!("mapping to {}", self.value(value, &format!("{path}.NAME")));
        }
        literal(property)
    }
}

/// A literal: its name, range and examples.
fn literal(property: &Value) -> String {
    let is_number = property.get("type").is_some_and(|kind| kind == "integer");
    let title =
        property.get("title").and_then(Value::as_str).unwrap_or(if is_number { "a whole number" } else { "a text" });
    let title = ["a ", "an "].iter().find_map(|article| title.strip_prefix(article)).unwrap_or(title);
    let title = title.trim_end_matches(" in its range");
    if let (Some(min), Some(max)) = (property.get("minimum"), property.get("maximum")) {
        return format!("{title}, {min} to {max}");
    }
    match property.get("examples").and_then(Value::as_array) {
        Some(examples) => {
            let examples: Vec<String> = examples.iter().map(|example| format!("`{}`", plain(example))).collect();
            format!("{title}: {}", examples.join(", "))
        }
        None => title.to_owned(),
    }
}

fn describe(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// `value` as it is written in YAML's flow style.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => format!("{{{}}}", entries_of(entries)),
        other => other.to_string(),
    }
}

fn entries_of(entries: &Map<String, Value>) -> String {
    let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key}: \"{}\"", plain(value))).collect();
    entries.join(", ")
}

/// `ListenerTimeouts` as `listener timeouts`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for char in name.chars() {
        if char.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(char.to_lowercase());
    }
    words
}
