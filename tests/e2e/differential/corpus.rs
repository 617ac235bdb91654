//! Reads `cases/*.txt`.
//!
//! ```text
//! # The family's title
//! # Why, for cases that don't say it themselves. May go on over several lines.
//!
//! === name of a case
//! GET /a HTTP/1.1
//! Host: a
//!
//! > forwarded GET /a
//! > why
//! ```
//!
//! A line ends with CR LF on the wire, unless a backslash stands at its end. `\r`, `\n`, `\t`, `\0`, `\\` and `\x7f`
//! are bytes. `{3*ab}` is `ababab`. A case that begins with `h2` is an HTTP/2 request: its header lines in order, an
//! empty line, its DATA. One that begins with `answer METHOD` is what the endpoint answers; it closes the connection
//! where the last line is `(close)`.

use std::path::Path;

/// What a case is about.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// A client sends this over HTTP/1.
    Http1(Vec<u8>),
    /// A client sends these header lines and this body as one HTTP/2 stream.
    Http2(Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>),
    /// The endpoint answers this to a request with this method, and perhaps closes then.
    Answer {
        /// The method asked with.
        method: String,
        /// Its answer.
        bytes: Vec<u8>,
        /// Whether it closes behind it.
        close: bool,
    },
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its place among all.
    pub index: usize,
    /// The title of its file.
    pub family: String,
    /// What it is called.
    pub name: String,
    /// What happens.
    pub bytes: Bytes,
    /// What this gateway does.
    pub expected: String,
    /// Why, where that is more than its family's reason.
    pub why: String,
    /// Its family's reason.
    pub shared: String,
}

/// Reads the corpus, in the order of its files' names.
pub fn load() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/differential/cases");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut parts = text.split("\n=== ");
        let intro = parts.next().unwrap();
        let mut comments = intro.lines().filter_map(|line| line.strip_prefix("# "));
        let family = comments.next().expect("a file begins with its title").to_owned();
        let shared = comments.collect::<Vec<_>>().join(" ");
        for part in parts {
            cases.push(case(cases.len(), &family, &shared, part));
        }
    }
    cases
}

fn case(index: usize, family: &str, shared: &str, text: &str) -> Case {
    let (name, rest) = text.split_once('\n').expect("a case has a name and bytes");
    let mut lines: Vec<&str> = rest.lines().collect();
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    let notes_from =
        lines.iter().position(|line| line.starts_with("> ")).unwrap_or_else(|| panic!("{name}: no outcome"));
    let mut notes = lines[notes_from..].iter().map(|line| line.strip_prefix("> ").unwrap_or_default());
    let expected = notes.next().expect("a case has an outcome").to_owned();
    let why = notes.collect::<Vec<_>>().join(" ");
    let wire = &lines[..notes_from];
    let bytes = match wire.first() {
        Some(&"h2") => http2(&wire[1..]),
        Some(first) if first.starts_with("answer ") => {
            let close = wire.last() == Some(&"(close)");
            let method = first["answer ".len()..].to_owned();
            Bytes::Answer { method, bytes: bytes(&wire[1..wire.len() - usize::from(close)]), close }
        }
        _ => Bytes::Http1(bytes(wire)),
    };
    Case { index, family: family.to_owned(), name: name.to_owned(), bytes, expected, why, shared: shared.to_owned() }
}

fn http2(lines: &[&str]) -> Bytes {
    let end = lines.iter().position(|line| line.is_empty()).unwrap_or(lines.len());
    let field = |line: &&str| {
        if let Some(value) = line.strip_prefix(": ") {
            return (Vec::new(), unescape(value));
        }
        let (name, value) = match line[1..].split_once(": ") {
            Some((name, value)) => (format!("{}{name}", &line[..1]), value),
            None => (line.trim_end_matches(':').to_owned(), ""),
        };
        (unescape(&name), unescape(value))
    };
    let body = lines.get(end + 1..).unwrap_or_default();
    Bytes::Http2(lines[..end].iter().map(field).collect(), unescape(&body.join("\n")))
}

fn bytes(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let goes_on = line.ends_with('\\') && !line.ends_with("\\\\");
        bytes.extend(unescape(if goes_on { &line[..line.len() - 1] } else { line }));
        if !goes_on {
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'{'
            && let Some(repeated) = repeated(&mut rest)
        {
            bytes.extend(repeated);
        } else if byte == b'\\' {
            let (&kind, after) = rest.split_first().expect("an escape has a letter");
            rest = after;
            bytes.push(match kind {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'x' => {
                    let (hex, after) = rest.split_at(2);
                    rest = after;
                    u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).expect("two hexadecimal digits")
                }
                other => other,
            });
        } else {
            bytes.push(byte);
        }
    }
    bytes
}

/// `3*ab}` as `ababab`; leaves `rest` alone where it isn't that.
fn repeated(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let end = rest.iter().position(|byte| *byte == b'}')?;
    let (times, what) = std::str::from_utf8(&rest[..end]).ok()?.split_once('*')?;
    let times: usize = times.parse().ok()?;
    let made = unescape(what).repeat(times);
    *rest = &rest[end + 1..];
    Some(made)
}
