//! Watches the frames of an HTTP/2 connection for abuse, as its bytes pass.
//!
//! Some frames cost a server more than they cost the client that sends them. Each kind has a bound on how often it may
//! come: a bucket that drains with time, and that honest work drains too (an answer earns window updates and pings,
//! a request earns half a reset). What is abused: resets (CVE-2023-44487), resets that the server is made to send
//! (CVE-2025-8671), PING, SETTINGS, empty DATA and PRIORITY floods (CVE-2019-9512 to 9518), CONTINUATION (CVE-2024-27316).
//!
//! # Invariants
//!
//! - How frames are cut into reads makes no difference to what is found.
//! - Nothing is allocated, and payloads aren't looked at.
//!
//! # Not here
//!
//! Whether frames are legal is the HTTP/2 library's business; what is done about abuse is `stream`'s.

use std::time::Duration;

use tidegate_model::desired::{Frequency, ListenerGuard};
use tidegate_model::time::Timestamp;

/// Bytes of a frame's head (RFC 9113 §4.1).
const HEAD: usize = 9;

/// Bytes of the client's preface, which comes before its first frame (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// CONTINUATION frames in one header block, at least. The library draws the same line (its
/// `calc_max_continuation_frames`), but doesn't count who crosses it.
const CONTINUATIONS: usize = 5;

/// The largest frame that we let clients send (RFC 9113 §6.5.2, the default).
const FRAME_SIZE: usize = 16 << 10;

/// Frame types (RFC 9113 §6).
mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// ENHANCE_YOUR_CALM (RFC 9113 §7).
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// What an HTTP/2 client overdoes. A closed set, so that it can be a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abuse {
    /// It resets most of the streams it opens.
    Resets,
    /// It makes us reset streams, by frames that are illegal on them.
    MadeResets,
    /// PING.
    Pings,
    /// SETTINGS.
    Settings,
    /// DATA that holds nothing and ends nothing.
    EmptyData,
    /// PRIORITY and unknown frames.
    Priorities,
    /// WINDOW_UPDATE.
    WindowUpdates,
    /// A header block of too many CONTINUATION frames.
    Continuations,
    /// A frame, or a header block, whose end doesn't come.
    Unfinished,
}

impl std::fmt::Display for Abuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the HTTP/2 client goes beyond a bound: {}", self.label())
    }
}

impl std::error::Error for Abuse {}

impl Abuse {
    /// All of them, for metrics.
    pub const ALL: [Self; 9] = [
        Self::Resets,
        Self::MadeResets,
        Self::Pings,
        Self::Settings,
        Self::EmptyData,
        Self::Priorities,
        Self::WindowUpdates,
        Self::Continuations,
        Self::Unfinished,
    ];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Resets => "http2_resets",
            Self::MadeResets => "http2_made_resets",
            Self::Pings => "http2_pings",
            Self::Settings => "http2_settings",
            Self::EmptyData => "http2_empty_data",
            Self::Priorities => "http2_priorities",
            Self::WindowUpdates => "http2_window_updates",
            Self::Continuations => "http2_continuations",
            Self::Unfinished => "http2_unfinished_frame",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct FrameWatch {
    /// Bytes left of the client's preface.
    preface: usize,
    inbound: Frames,
    outbound: Frames,
    /// When the frame or header block began that isn't complete. DATA doesn't count: bodies have a rate of their own.
    unfinished: Option<Timestamp>,
    /// Inside a header block: CONTINUATION frames so far.
    block: Option<usize>,
    max_continuations: usize,
    last_stream: u32,
    /// Payload bytes of DATA frames so far.
    data: u64,
    resets: Bucket,
    made_resets: Bucket,
    pings: Bucket,
    settings: Bucket,
    empty_data: Bucket,
    priorities: Bucket,
    window_updates: Bucket,
}

impl FrameWatch {
    /// Watches a connection from its preface on, with the bounds of its listener.
    pub fn new(guard: &ListenerGuard) -> Self {
        let bounds = &guard.http2;
        let full = guard.max_header_bytes / FRAME_SIZE;
        Self {
            preface: PREFACE,
            inbound: Frames::default(),
            outbound: Frames::default(),
            unfinished: None,
            block: None,
            max_continuations: (full + full / 4).max(CONTINUATIONS),
            last_stream: 0,
            data: 0,
            resets: Bucket::new(bounds.resets),
            made_resets: Bucket::new(bounds.resets),
            pings: Bucket::new(bounds.pings),
            settings: Bucket::new(bounds.settings),
            empty_data: Bucket::new(bounds.empty_data),
            priorities: Bucket::new(bounds.priorities),
            window_updates: Bucket::new(bounds.window_updates),
        }
    }

    /// Looks at bytes that the client has sent.
    ///
    /// # Errors
    ///
    /// The first thing that is overdone.
    pub fn inbound(&mut self, mut bytes: &[u8], now: Timestamp) -> Result<(), Abuse> {
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            if self.inbound.is_between() && self.block.is_none() {
                self.unfinished = Some(now);
            }
            match self.inbound.next(&mut bytes) {
                Step::Head(frame) => self.judge(frame, now)?,
                Step::Payload(kind::DATA, n) => self.data += n as u64,
                Step::Payload(..) => {}
            }
        }
        let may_rest = self.inbound.is_between() || self.inbound.in_payload_of(kind::DATA);
        if may_rest && self.block.is_none() {
            self.unfinished = None;
        }
        Ok(())
    }

    /// Looks at bytes that are sent to the client.
    ///
    /// # Errors
    ///
    /// When the client makes us send too many resets.
    pub fn outbound(&mut self, mut bytes: &[u8], now: Timestamp) -> Result<(), Abuse> {
        let mut made = Ok(());
        while !bytes.is_empty() {
            let Step::Head(frame) = self.outbound.next(&mut bytes) else { continue };
            match frame.kind {
                kind::DATA | kind::HEADERS => {
                    self.pings.earn(1.0);
                    self.window_updates.earn(4.0);
                }
                kind::RST_STREAM => made = made.and(self.made_resets.take(now, Abuse::MadeResets)),
                _ => {}
            }
        }
        made
    }

    fn judge(&mut self, frame: Frame, now: Timestamp) -> Result<(), Abuse> {
        match frame.kind {
            kind::HEADERS => {
                if frame.stream > self.last_stream {
                    self.last_stream = frame.stream;
                    self.resets.earn(0.5);
                    self.made_resets.earn(0.5);
                    self.priorities.earn(4.0);
                }
                self.block = (frame.flags & END_HEADERS == 0).then_some(0);
            }
            kind::CONTINUATION => {
                let count = self.block.unwrap_or(0) + 1;
                self.block = (frame.flags & END_HEADERS == 0).then_some(count);
                if self.block.is_some() && count > self.max_continuations {
                    return Err(Abuse::Continuations);
                }
            }
            kind::DATA if frame.length == 0 && frame.flags & END_STREAM == 0 => {
                self.empty_data.take(now, Abuse::EmptyData)?;
            }
            kind::DATA => {}
            kind::RST_STREAM => self.resets.take(now, Abuse::Resets)?,
            kind::SETTINGS => self.settings.take(now, Abuse::Settings)?,
            kind::PING => self.pings.take(now, Abuse::Pings)?,
            kind::WINDOW_UPDATE => self.window_updates.take(now, Abuse::WindowUpdates)?,
            _ => self.priorities.take(now, Abuse::Priorities)?,
        }
        Ok(())
    }

    /// When the frame or header block began whose end is missing.
    pub fn unfinished(&self) -> Option<Timestamp> {
        self.unfinished
    }

    /// Payload bytes of DATA frames that the client has sent.
    pub fn data(&self) -> u64 {
        self.data
    }

    /// A GOAWAY with ENHANCE_YOUR_CALM, unless we are in the middle of sending a frame.
    pub fn goaway(&self) -> Option<[u8; HEAD + 8]> {
        if !self.outbound.is_between() {
            return None;
        }
        let mut frame = [0; HEAD + 8];
        frame[2] = 8;
        frame[3] = kind::GOAWAY;
        frame[HEAD..HEAD + 4].copy_from_slice(&self.last_stream.to_be_bytes());
        frame[HEAD + 4..].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        Some(frame)
    }
}

/// What a frame's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    length: u32,
    stream: u32,
}

/// What the next bytes are.
enum Step {
    /// The last of a frame's head, or a part of it that is not the last.
    Head(Frame),
    /// So many bytes of the payload of a frame of this type, or of a head that isn't complete.
    Payload(u8, usize),
}

/// The type of a head that isn't complete: none.
const NO_KIND: u8 = u8::MAX;

/// Cuts bytes into frames.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD],
    /// Bytes of `head` that are there.
    have: usize,
    /// The type of the current frame.
    kind: u8,
    /// Bytes left of its payload.
    left: usize,
}

impl Frames {
    /// Takes some of `bytes`, which isn't empty.
    fn next(&mut self, bytes: &mut &[u8]) -> Step {
        if self.left > 0 {
            let n = self.left.min(bytes.len());
            self.left -= n;
            *bytes = &bytes[n..];
            return Step::Payload(self.kind, n);
        }
        let n = (HEAD - self.have).min(bytes.len());
        self.head[self.have..self.have + n].copy_from_slice(&bytes[..n]);
        self.have += n;
        *bytes = &bytes[n..];
        if self.have < HEAD {
            return Step::Payload(NO_KIND, n);
        }
        self.have = 0;
        let [a, b, c, kind, flags, s0, s1, s2, s3] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        (self.kind, self.left) = (kind, length as usize);
        // The first bit is reserved (RFC 9113 §4.1).
        Step::Head(Frame { kind, flags, length, stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff })
    }

    /// Behind the end of a frame and before the next.
    fn is_between(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    fn in_payload_of(&self, kind: u8) -> bool {
        self.left > 0 && self.kind == kind
    }
}

/// A bucket that fills with each frame, and drains with time. What is earned may drain it below empty, by as much as
/// it holds.
#[derive(Debug)]
struct Bucket {
    /// What one frame fills, in seconds of draining.
    cost: f32,
    /// What it holds.
    size: f32,
    level: f32,
    at: Timestamp,
}

impl Bucket {
    fn new(often: Frequency) -> Self {
        let size = often.window.as_secs_f32();
        Self { cost: size / often.count as f32, size, level: 0.0, at: Timestamp::ZERO }
    }

    fn take(&mut self, now: Timestamp, abuse: Abuse) -> Result<(), Abuse> {
        let passed: Duration = now.since(std::mem::replace(&mut self.at, now));
        // Time drains to empty and not below: that is for honest work.
        if self.level > 0.0 {
            self.level = (self.level - passed.as_secs_f32()).max(0.0);
        }
        self.level += self.cost;
        // Half a frame of slack, for what rounding adds up to.
        if self.level > self.size + self.cost / 2.0 { Err(abuse) } else { Ok(()) }
    }

    fn earn(&mut self, frames: f32) {
        self.level = (self.level - frames * self.cost).max(-self.size);
    }
}

#[cfg(test)]
mod tests;
