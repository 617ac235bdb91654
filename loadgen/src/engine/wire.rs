//! A request as it goes over the wire (RFC 9112): bytes where nothing in it is filled, else pieces around what is.

use tidegate_model::scenario::plan::{Client, Origin, Step, Template};

use crate::fill::{Place, Supply, Unfilled, Visit};

/// A request of HTTP/1.1.
#[derive(Debug)]
pub enum Wire {
    /// The same each time.
    Fixed(Vec<u8>),
    /// Filled each time.
    Filled(Box<Pieces>),
}

/// What a request is filled from.
#[derive(Debug)]
pub struct Pieces {
    method: Vec<u8>,
    target: Template,
    /// From the version to the fields that are always the same.
    fixed: Vec<u8>,
    /// Each with its colon.
    fields: Vec<(Vec<u8>, Template)>,
    lines: Option<Template>,
    body: Option<(Template, Place)>,
}

impl Wire {
    /// Makes what can be made beforehand.
    pub fn new(step: &Step, client: &Client) -> Self {
        let pieces = Pieces::new(step, client);
        let fixed = |template: &Template| template.fixed().is_some();
        let all =
            step.headers.iter().map(|(_, value)| value).chain([&step.target]).chain(&step.body).chain(&step.lines);
        if !{ all }.all(fixed) {
            return Self::Filled(Box::new(pieces));
        }
        let mut bytes = Vec::new();
        let text = |template: &Template| template.fixed().unwrap_or_default().as_bytes().to_vec();
        bytes.extend([pieces.method.as_slice(), &text(&pieces.target), &pieces.fixed].concat());
        for (name, value) in &pieces.fields {
            bytes.extend([name.as_slice(), &text(value), b"\r\n"].concat());
        }
        bytes.extend(pieces.lines.as_ref().map(text).unwrap_or_default());
        let body = pieces.body.as_ref().map(|(body, _)| text(body));
        if let Some(body) = &body {
            bytes.extend(format!("Content-Length: {}\r\n", body.len()).into_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body.unwrap_or_default());
        Self::Fixed(bytes)
    }
}

impl Pieces {
    fn new(step: &Step, client: &Client) -> Self {
        let has = |name: &str| step.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let mut fixed = " HTTP/1.1\r\n".to_owned();
        if !has("host") {
            fixed += &format!("Host: {}\r\n", authority(&step.origin));
        }
        // What replays send has its own.
        if !has("user-agent") && step.lines.is_none() {
            fixed += concat!("User-Agent: tidegate-load/", env!("CARGO_PKG_VERSION"), "\r\n");
        }
        if !client.keep_alive {
            fixed += "Connection: close\r\n";
        }
        if step.body.is_none() && ["POST", "PUT", "PATCH"].contains(&step.method.as_str()) {
            fixed += "Content-Length: 0\r\n";
        }
        Self {
            method: format!("{} ", step.method).into_bytes(),
            target: step.target.clone(),
            fixed: fixed.into_bytes(),
            fields: step
                .headers
                .iter()
                .map(|(name, value)| (format!("{name}: ").into_bytes(), value.clone()))
                .collect(),
            lines: step.lines.clone(),
            body: step.body.clone().map(|body| (body, Place::of_body(step))),
        }
    }

    /// Writes the request of one visitor to `out`, whose room is used again, as that of `body` is.
    ///
    /// # Errors
    ///
    /// What can't be filled.
    pub fn fill(
        &self,
        supply: &mut Supply,
        visit: &Visit,
        unix_millis: u64,
        out: &mut Vec<u8>,
        body: &mut Vec<u8>,
    ) -> Result<(), Unfilled> {
        out.clear();
        body.clear();
        out.extend_from_slice(&self.method);
        // The filler looks at where the target begins.
        supply.fill(&self.target, Place::Target, visit, unix_millis, out)?;
        out.extend_from_slice(&self.fixed);
        for (name, value) in &self.fields {
            out.extend_from_slice(name);
            supply.fill(value, Place::Header, visit, unix_millis, out)?;
            out.extend_from_slice(b"\r\n");
        }
        if let Some(lines) = &self.lines {
            supply.fill(lines, Place::Lines, visit, unix_millis, out)?;
        }
        if let Some((template, place)) = &self.body {
            supply.fill(template, *place, visit, unix_millis, body)?;
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        Ok(())
    }
}

/// The origin as a Host field has it: without the port where that is the scheme's.
pub fn authority(origin: &Origin) -> String {
    let host = if origin.host.contains(':') { format!("[{}]", origin.host) } else { origin.host.clone() };
    if origin.port == if origin.tls { 443 } else { 80 } { host } else { format!("{host}:{}", origin.port) }
}
