//! Reads feeders' files: CSV with a line of names in front, or JSON objects, one on each line.
//!
//! # Invariants
//!
//! - A table that comes out has at least one field and one row, names are unique, and every row has all fields.
//! - What is wrong is said with the line of the file where it is.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde_json::Value;
use tidegate_model::diagnostic::{EXCERPT_MAX, Place};
use tidegate_model::scenario::plan::Rows;
use tidegate_model::scenario::{BadFile, Table};

/// Bytes of one file. A larger one is refused: its rows are kept in memory.
pub const MAX_BYTES: u64 = 1 << 30;

/// Fields of one file. More are refused.
const MAX_FIELDS: usize = 1_000;

/// Reads the feeder's file at `path`. Files that end in `.jsonl` or `.ndjson` hold JSON, others CSV; `.tsv` is separated by
/// tabs, and a CSV file whose first line has no comma by its semicolons or tabs.
///
/// # Errors
///
/// The file can't be read, has no rows, names a field twice, or has a row that lacks one.
pub fn read(path: &Path) -> Result<Table, BadFile> {
    let file = File::open(path).map_err(|error| BadFile {
        help: (error.kind() == std::io::ErrorKind::NotFound)
            .then(|| format!("a relative path starts at the scenario's folder: {}", path.display())),
        ..bad(format!("it can't be read: {error}"))
    })?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(bad("it is a folder"));
    }
    if size > MAX_BYTES {
        return Err(bad(format!("it has {size} bytes, more than {MAX_BYTES}")));
    }
    let mut text = Vec::with_capacity(size as usize);
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(|error| bad(format!("it can't be read: {error}")))?;
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    let table = match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("jsonl" | "ndjson") => json(&text, path)?,
        extension => csv(&text, path, extension == Some("tsv"))?,
    };
    match table.rows.is_empty() {
        true => Err(bad("it has no rows")),
        false => Ok(table),
    }
}

fn csv(text: &[u8], path: &Path, tabs: bool) -> Result<Table, BadFile> {
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let delimiter = match () {
        () if tabs => b'\t',
        () if first.contains(&b',') => b',',
        () => [b';', b'\t'].into_iter().find(|byte| first.contains(byte)).unwrap_or(b','),
    };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text);
    let wrong = |error: csv::Error| match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(1, csv::Position::line);
            let label = format!("this row has {len} values, and the first line names {expected_len} fields");
            at("it is ragged", path, text, line, label).help_with("quote a value that holds a comma or a line break")
        }
        _ => bad(format!("it isn't CSV: {error}")),
    };
    let fields: Vec<String> = match reader.byte_headers() {
        Ok(names) => names.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect(),
        Err(error) => return Err(wrong(error)),
    };
    named(&fields, path, text)?;
    let mut rows = Rows::new(fields.len());
    let mut record = csv::ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(wrong)? {
        rows.push(record.iter());
    }
    Ok(Table { fields, rows })
}

fn named(fields: &[String], path: &Path, text: &[u8]) -> Result<(), BadFile> {
    if fields.iter().all(String::is_empty) {
        return Err(bad("it is empty").help_with("the first line names the fields: name,password"));
    }
    if fields.len() > MAX_FIELDS {
        return Err(bad(format!("it has {} fields, more than {MAX_FIELDS}", fields.len())));
    }
    if let Some(empty) = fields.iter().position(String::is_empty) {
        return Err(at("a field has no name", path, text, 1, format!("name {} is empty", empty + 1)));
    }
    let twin = fields.iter().enumerate().find(|(at, name)| fields[..*at].contains(name));
    match twin {
        Some((_, name)) => Err(at("two fields have one name", path, text, 1, format!("\"{name}\" is here twice"))),
        None => Ok(()),
    }
}

fn json(text: &[u8], path: &Path) -> Result<Table, BadFile> {
    let mut table: Option<Table> = None;
    for (number, line) in BufReader::new(text).split(b'\n').enumerate() {
        let line = line.map_err(|error| bad(format!("it can't be read: {error}")))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let number = number as u64 + 1;
        let wrong = |what: &str, label: String| at(what, path, text, number, label);
        let value: Value =
            serde_json::from_slice(&line).map_err(|error| wrong("a line isn't JSON", error.to_string()))?;
        let Value::Object(object) = value else {
            return Err(wrong("a line isn't a JSON object", "write {\"name\": \"ann\"}, one on each line".into()));
        };
        let table = table.get_or_insert_with(|| {
            let fields: Vec<String> = object.keys().cloned().collect();
            Table { rows: Rows::new(fields.len()), fields }
        });
        if table.fields.is_empty() {
            return Err(wrong("a line has no fields", "write {\"name\": \"ann\"}".into()));
        }
        let missing = table.fields.iter().find(|field| !object.contains_key(field.as_str()));
        if let Some(missing) = missing {
            return Err(wrong("it is ragged", format!("\"{missing}\" is missing, and the first line has it")));
        }
        let values = table.fields.iter().map(|field| match &object[field.as_str()] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        });
        let values: Vec<String> = values.collect();
        table.rows.push(values);
    }
    table.ok_or_else(|| bad("it is empty").help_with("write {\"name\": \"ann\"}, one on each line"))
}

fn bad(what: impl Into<String>) -> BadFile {
    BadFile { what: what.into(), at: None, help: None }
}

fn at(what: &str, path: &Path, text: &[u8], line: u64, label: String) -> BadFile {
    let excerpt = text.split(|byte| *byte == b'\n').nth(line.saturating_sub(1) as usize).unwrap_or_default();
    let excerpt: String = String::from_utf8_lossy(excerpt).trim_end().chars().take(EXCERPT_MAX).collect();
    let length = excerpt.chars().count().max(1);
    let place = Place { file: path.to_owned(), line: line as usize, column: 1, length, excerpt };
    BadFile { at: Some((place, label)), ..bad(what) }
}

trait Help {
    fn help_with(self, help: &str) -> Self;
}

impl Help for BadFile {
    fn help_with(self, help: &str) -> Self {
        Self { help: Some(help.to_owned()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<Table, BadFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn row(table: &Table, row: usize) -> Vec<String> {
        let value = |field| String::from_utf8_lossy(table.rows.value(row, field)).into_owned();
        (0..table.fields.len()).map(value).collect()
    }

    #[test]
    fn csv_keeps_quoted_commas_and_line_breaks() {
        let table = read_text("u.csv", "\u{feff}name,note\nann,\"a, b\"\nbob,\"two\nlines\"\n").unwrap();

        assert_eq!(table.fields, ["name", "note"]);
        assert_eq!(
            (row(&table, 0), row(&table, 1)),
            (vec!["ann".into(), "a, b".into()], vec!["bob".into(), "two\nlines".into()])
        );
    }

    #[test]
    fn semicolons_and_tabs_separate_where_there_is_no_comma() {
        let semicolons = read_text("u.csv", "name;note\nann;x\n").unwrap();
        let tabs = read_text("u.tsv", "name\tnote, more\nann\tx\n").unwrap();

        assert_eq!((semicolons.fields.len(), row(&semicolons, 0)), (2, vec!["ann".into(), "x".into()]));
        assert_eq!(tabs.fields, ["name", "note, more"]);
    }

    #[test]
    fn json_objects_may_have_their_keys_in_any_order() {
        let table =
            read_text("u.jsonl", "{\"name\":\"ann\",\"age\":7}\n\n{\"age\":null,\"name\":\"bob\",\"x\":1}\n").unwrap();

        assert_eq!(table.fields, ["name", "age"]);
        assert_eq!(
            (row(&table, 0), row(&table, 1)),
            (vec!["ann".into(), "7".into()], vec!["bob".into(), String::new()])
        );
    }

    #[test]
    fn a_file_that_is_no_table_is_refused_with_its_line() {
        for (name, text, what, line) in [
            ("u.csv", "", "it is empty", None),
            ("u.csv", "name\n", "it has no rows", None),
            ("u.csv", "name,age\nann,7\nbob\n", "it is ragged", Some(3)),
            ("u.csv", "name,,age\nann,7,8\n", "a field has no name", Some(1)),
            ("u.csv", "name,name\nann,7\n", "two fields have one name", Some(1)),
            ("u.jsonl", "\n", "it is empty", None),
            ("u.jsonl", "{\"a\":1}\n[1]\n", "a line isn't a JSON object", Some(2)),
            ("u.jsonl", "{\"a\":1}\n{\"b\":1}\n", "it is ragged", Some(2)),
            ("u.jsonl", "{\"a\":\n", "a line isn't JSON", Some(1)),
            ("u.jsonl", "{}\n", "a line has no fields", Some(1)),
        ] {
            let refused = read_text(name, text).unwrap_err();

            let seen = refused.at.as_ref().map(|(place, _)| place.line);
            assert_eq!((refused.what.as_str(), seen), (what, line), "{text:?}");
        }
    }

    #[test]
    fn a_missing_file_is_said_to_be_missing() {
        let refused = read(Path::new("/nowhere/users.csv")).unwrap_err();

        assert!(refused.what.starts_with("it can't be read: "), "{refused:?}");
        assert!(refused.help.is_some_and(|help| help.contains("/nowhere/users.csv")));
    }
}
