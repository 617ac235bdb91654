//! Fills templates: the values that make one request different from the next.
//!
//! Each thread has a [`Supply`] of its own; each visitor on their way through a flow has a [`Visit`], which is used
//! again for the next one.
//!
//! # Invariants
//!
//! - Filling allocates nothing but what `out` grows by.
//! - A value never leaves its place: in a target it is percent-encoded, in JSON text it is escaped, and what would break
//!   a header line is refused. So neither a row nor an answer can make a request of its own.
//! - Equal seeds and equal thread numbers give equal values; over all threads, sequential rows are all used before one
//!   is used again, and unique ones once.

use std::io::Write as _;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Feeder, Order, Piece, Step, Template, Value};

use crate::Failure;

/// Where a template's text goes, and so what its values must be safe for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The request target. Values are percent-encoded: before the `?` all but what a path may hold (`/` stays), behind it
    /// all but what one query value may hold. A value with which the target begins is part of a URL already: only what
    /// no URL holds is encoded.
    Target,
    /// A header's value. Values with line breaks or other control characters are refused.
    Header,
    /// Whole header lines, each with its CRLF, as they were recorded. Values stay as they are.
    Lines,
    /// A body or message. Values stay as they are.
    Text,
    /// A JSON body. Values within quotes are escaped as JSON text, others stay as they are.
    Json,
    /// A form's body (`application/x-www-form-urlencoded`). Values are percent-encoded like those of a query.
    Form,
}

impl Place {
    /// What the body of `step` is: a form where its content type says so, JSON where it begins like it, else text.
    pub fn of_body(step: &Step) -> Self {
        let is_form = step.headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("content-type")
                && value.fixed().is_some_and(|text| text.trim_start().starts_with("application/x-www-form-urlencoded"))
        });
        match &step.body {
            _ if is_form => Self::Form,
            Some(body) => Self::of_message(body),
            None => Self::Text,
        }
    }

    /// What a message is: JSON where it begins like it, else text.
    pub fn of_message(message: &Template) -> Self {
        match message.pieces.first() {
            Some(Piece::Text(text)) if text.trim_start().starts_with(['{', '[']) => Self::Json,
            _ => Self::Text,
        }
    }
}

/// Why a template could not be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfilled {
    /// A feeder whose rows are used once has no more.
    Dry,
    /// No step before has taken the value.
    NotTaken,
    /// A value holds what a header can't: a line break or another control character.
    BreaksHeader,
    /// The filled target doesn't begin with `/`.
    NoTarget,
}

impl Unfilled {
    /// The line of the taxonomy that it is counted in.
    pub fn failure(self) -> Failure {
        match self {
            Self::Dry => Failure::FeederDry,
            Self::NotTaken | Self::BreaksHeader | Self::NoTarget => Failure::Take,
        }
    }

    /// For people: what is wrong, as a sentence without a full stop.
    pub fn text(self) -> &'static str {
        match self {
            Self::Dry => "a feeder whose rows are used once has no more",
            Self::NotTaken => "a value that a step before should have taken is missing",
            Self::BreaksHeader => "a value for a header holds a line break or another control character",
            Self::NoTarget => "the filled target doesn't begin with /",
        }
    }
}

/// One thread's supply of values.
pub struct Supply {
    feeders: Arc<[Feeder]>,
    /// For each flow, the feeders that it takes a row of.
    wanted: Vec<Vec<usize>>,
    /// For each feeder, how many rows this thread has taken.
    taken: Vec<u64>,
    /// The number of this thread, and how many there are.
    thread: (u64, u64),
    dice: StdRng,
}

/// What one visitor carries along: their row of each feeder, and what they took from answers.
#[derive(Clone, Debug, Default)]
pub struct Visit {
    ordinal: u64,
    /// By feeder.
    rows: Vec<u32>,
    /// By take of the flow: the value, and whether there is one.
    taken: Vec<(bool, Vec<u8>)>,
}

impl Visit {
    /// Keeps a value that a step took; `take` counts over the steps of the flow.
    pub fn keep(&mut self, take: usize, value: &[u8]) {
        if self.taken.len() <= take {
            self.taken.resize_with(take + 1, Default::default);
        }
        let (there, kept) = &mut self.taken[take];
        *there = true;
        kept.clear();
        kept.extend_from_slice(value);
    }

    /// What was kept; `None` where nothing was.
    pub fn kept(&self, take: usize) -> Option<&[u8]> {
        self.taken.get(take).filter(|(there, _)| *there).map(|(_, value)| value.as_slice())
    }

    fn clear(&mut self, ordinal: u64, feeders: usize) {
        self.ordinal = ordinal;
        self.rows.clear();
        self.rows.resize(feeders, 0);
        for (there, _) in &mut self.taken {
            *there = false;
        }
    }
}

impl Supply {
    /// The supply of thread `thread` of `threads` (over all workers) of a run of `plan`. `feeders` are the plan's, shared
    /// between threads.
    pub fn new(plan: &Plan, feeders: Arc<[Feeder]>, thread: u32, threads: u32) -> Self {
        let wanted = plan.flows.iter().map(|flow| {
            let mut wanted: Vec<usize> = flow
                .steps
                .iter()
                .flat_map(|step| {
                    let headers = step.headers.iter().map(|(_, value)| value);
                    headers.chain([&step.target]).chain(&step.body).chain(&step.lines).chain(&step.messages)
                })
                .flat_map(Template::feeders)
                .collect();
            wanted.sort_unstable();
            wanted.dedup();
            wanted
        });
        Self {
            wanted: wanted.collect(),
            taken: vec![0; feeders.len()],
            feeders,
            thread: (u64::from(thread), u64::from(threads.max(1))),
            dice: StdRng::seed_from_u64(plan.seed ^ u64::from(thread).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        }
    }

    /// Begins the flow with index `flow` for the arrival `ordinal` (from 0, over all threads): takes a row of each feeder
    /// that it names. `given` is the row that a recorded arrival names, 0 otherwise.
    ///
    /// # Errors
    ///
    /// A feeder ran dry. Rows of other feeders may have been taken.
    pub fn begin(&mut self, visit: &mut Visit, flow: usize, ordinal: u64, given: u32) -> Result<(), Unfilled> {
        visit.clear(ordinal, self.feeders.len());
        for at in self.wanted.get(flow).into_iter().flatten().copied() {
            let Some(feeder) = self.feeders.get(at) else { continue };
            let rows = feeder.rows.len().max(1) as u64;
            let (thread, threads) = self.thread;
            let turn = self.taken[at].saturating_mul(threads).saturating_add(thread);
            let row = match feeder.order {
                Order::Sequential => turn % rows,
                Order::Unique if turn < rows => turn,
                Order::Unique => return Err(Unfilled::Dry),
                Order::Random => self.dice.random_range(0..rows),
                Order::Given => u64::from(given) % rows,
            };
            self.taken[at] += 1;
            visit.rows[at] = row as u32;
        }
        Ok(())
    }

    /// Appends `template`, filled for `visit` at `unix_millis`, to `out`.
    ///
    /// # Errors
    ///
    /// What can't be filled. `out` then ends in the middle; cut it back.
    pub fn fill(
        &mut self,
        template: &Template,
        place: Place,
        visit: &Visit,
        unix_millis: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfilled> {
        let start = out.len();
        let mut quotes = Quotes::default();
        for piece in &template.pieces {
            let value = match piece {
                Piece::Text(text) => {
                    quotes.walk(place, text.as_bytes());
                    out.extend_from_slice(text.as_bytes());
                    continue;
                }
                Piece::Value(value) => value,
            };
            let mut buffer = [0_u8; 40];
            let bytes = self.value(value, visit, unix_millis, &mut buffer)?;
            match place {
                Place::Text | Place::Lines => out.extend_from_slice(bytes),
                Place::Header if bytes.iter().any(|byte| *byte != b'\t' && (*byte < b' ' || *byte == 127)) => {
                    return Err(Unfilled::BreaksHeader);
                }
                Place::Header => out.extend_from_slice(bytes),
                Place::Target if out.len() == start => encode(bytes, in_url, true, out),
                Place::Target if out[start..].contains(&b'?') => encode(bytes, in_query, false, out),
                Place::Target => encode(bytes, in_path, false, out),
                Place::Form => encode(bytes, in_query, false, out),
                Place::Json if quotes.inside => escape(bytes, out),
                Place::Json => {
                    quotes.walk(place, bytes);
                    out.extend_from_slice(bytes);
                }
            }
        }
        match place {
            Place::Target if out.get(start) != Some(&b'/') => Err(Unfilled::NoTarget),
            _ => Ok(()),
        }
    }

    fn value<'v>(
        &'v mut self,
        value: &Value,
        visit: &'v Visit,
        unix_millis: u64,
        buffer: &'v mut [u8; 40],
    ) -> Result<&'v [u8], Unfilled> {
        let mut room = &mut buffer[..];
        let whole = room.len();
        // No number or UUID is longer than the buffer.
        let _ = match value {
            Value::Fed { feeder, field } => {
                let row = visit.rows.get(*feeder).copied().unwrap_or(0);
                return Ok(self.feeders.get(*feeder).map_or(&[][..], |feeder| feeder.rows.value(row as usize, *field)));
            }
            Value::Taken(take) => return visit.kept(*take).ok_or(Unfilled::NotTaken),
            Value::Ordinal => write!(room, "{}", visit.ordinal),
            Value::Random(from, to) => write!(room, "{}", self.dice.random_range(*from.min(to)..=*to.max(from))),
            Value::Uuid => {
                // RFC 9562 §5.4: version 4 in the 13th digit, variant 10 in front of the 17th.
                let bits = (self.dice.random::<u128>() & !(0xf000_u128 << 64 | 0xc000_u128 << 48))
                    | 0x4000_u128 << 64
                    | 0x8000_u128 << 48;
                let part = |shift: u32, digits: u32| (bits >> shift) & ((1_u128 << (digits * 4)) - 1);
                write!(
                    room,
                    "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                    part(96, 8),
                    part(80, 4),
                    part(64, 4),
                    part(48, 4),
                    part(0, 12)
                )
            }
            Value::UnixMillis => write!(room, "{unix_millis}"),
        };
        let left = room.len();
        Ok(&buffer[..whole - left])
    }
}

/// Whether the text so far ends within a JSON string.
#[derive(Default)]
struct Quotes {
    inside: bool,
    escaped: bool,
}

impl Quotes {
    fn walk(&mut self, place: Place, text: &[u8]) {
        if place != Place::Json {
            return;
        }
        for byte in text {
            match (byte, self.inside) {
                _ if self.escaped => self.escaped = false,
                (b'\\', true) => self.escaped = true,
                (b'"', inside) => self.inside = !inside,
                _ => {}
            }
        }
    }
}

/// What a URL may hold (RFC 3986 §2.2, §2.3), fragments aside: clients don't send them.
fn in_url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=".contains(&byte)
}

/// What a path may hold (RFC 3986 §3.3).
fn in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/@!$&'()*+,;=".contains(&byte)
}

/// What one value in a query may hold: what `encodeURIComponent` leaves alone.
fn in_query(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!'()*".contains(&byte)
}

/// Appends `bytes`, percent-encoded but for what `stays`, and, with `encoded`, for what is encoded already.
fn encode(bytes: &[u8], stays: fn(u8) -> bool, encoded: bool, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for (at, byte) in bytes.iter().copied().enumerate() {
        let is_escape =
            || byte == b'%' && bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if stays(byte) || encoded && is_escape() {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

/// Appends `bytes` as they stand within a JSON string (RFC 8259 §7).
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes.iter().copied() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..b' ' => {
                let _ = write!(out, "\\u{byte:04x}"); // Memory takes it.
            }
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests;
