//! Reads an answer as it comes: where its head ends, how long its body is (RFC 9112, section 6.3), and whether the
//! connection may be used again. Bodies are counted; they are kept only for steps that look at them.

use http::{HeaderMap, HeaderName, HeaderValue};
use tidegate_model::scenario::plan::BODY_KEPT;

use super::chunked::Chunked;
use crate::Failure;
use crate::engine::fault::Fault;

/// Bytes of a head. Beyond it the answer is malformed.
const HEAD: usize = 65_536;

/// Fields of a head. Beyond it the answer is malformed.
const FIELDS: usize = 128;

/// Interim answers (1xx) before the real one. Beyond it the answer is malformed.
const INTERIM: u32 = 16;

/// What came back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its header fields; empty unless the step looks at answers.
    pub headers: HeaderMap,
    /// The first [`BODY_KEPT`] bytes of its body; empty unless the step looks at answers.
    pub body: Vec<u8>,
    /// The length of its body as it was carried, without chunk sizes.
    pub length: u64,
}

/// What is kept of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Whether the header fields are.
    pub head: bool,
    /// Whether the body is, up to [`BODY_KEPT`] bytes.
    pub body: bool,
}

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    state: State,
    /// The part of a head that came so far, where it came in parts.
    partial: Vec<u8>,
    interim: u32,
    /// Whether it answers a HEAD.
    bodiless: bool,
    /// Bytes that the body may have.
    at_most: u64,
    keeps: Keeps,
    /// Whether the connection may be used again once the answer is complete.
    reusable: bool,
    answer: Answer,
}

#[derive(Debug)]
enum State {
    Head,
    Length(u64),
    Chunked(Chunked),
    /// The end of the connection is the end of the body.
    Close,
    Done,
}

/// How the body of an answer is framed.
struct Framing {
    length: Option<u64>,
    chunked: bool,
    coded: bool,
    reusable: bool,
}

impl Reader {
    /// For an answer to a HEAD or to something else, whose body may have `at_most` bytes.
    pub fn new(bodiless: bool, at_most: u64, keeps: Keeps) -> Self {
        Self {
            state: State::Head,
            partial: Vec::new(),
            interim: 0,
            bodiless,
            at_most,
            keeps,
            reusable: false,
            answer: Answer::default(),
        }
    }

    /// Whether nothing of it has come.
    pub fn is_untouched(&self) -> bool {
        matches!(self.state, State::Head) && self.partial.is_empty() && self.interim == 0
    }

    /// Reads on. Whether the answer is complete.
    ///
    /// # Errors
    ///
    /// When it is not HTTP, or its body is longer than is allowed.
    pub fn feed(&mut self, mut input: &[u8]) -> Result<bool, Fault> {
        while !input.is_empty() {
            let taken = match &mut self.state {
                State::Head => self.head(input)?,
                State::Length(left) => {
                    let piece = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= piece as u64;
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    body(&mut self.answer, self.keeps.body, self.at_most, &input[..piece])?;
                    piece
                }
                State::Chunked(chunked) => {
                    let (answer, keep, at_most) = (&mut self.answer, self.keeps.body, self.at_most);
                    let taken = chunked.feed(input, &mut |content| body(answer, keep, at_most, content))?;
                    if chunked.is_done() {
                        self.state = State::Done;
                    }
                    taken
                }
                State::Close => {
                    body(&mut self.answer, self.keeps.body, self.at_most, input)?;
                    input.len()
                }
                State::Done => {
                    // More than was asked for. What it belongs to nobody knows.
                    self.reusable = false;
                    break;
                }
            };
            input = &input[taken..];
        }
        Ok(matches!(self.state, State::Done))
    }

    /// The target closed the connection.
    ///
    /// # Errors
    ///
    /// When the answer is not complete.
    pub fn end(&mut self) -> Result<(), Fault> {
        match self.state {
            State::Done | State::Close => Ok(()),
            State::Head if self.is_untouched() => Err(Fault::new(Failure::Reset, "closed before the answer")),
            State::Head => Err(Fault::new(Failure::Reset, "closed within the answer's head")),
            State::Length(_) | State::Chunked(_) => Err(Fault::new(Failure::Reset, "closed within the answer's body")),
        }
    }

    /// The answer, and whether the connection may be used again.
    pub fn done(self) -> (Answer, bool) {
        (self.answer, self.reusable)
    }

    /// Reads a head, from the bytes kept and those that came. Returns how many of the latter it took.
    fn head(&mut self, input: &[u8]) -> Result<usize, Fault> {
        if self.partial.is_empty() {
            return if let Some(length) = self.parse(input)? {
                Ok(length)
            } else {
                self.partial.extend_from_slice(input);
                Ok(input.len())
            };
        }
        let before = self.partial.len();
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(input);
        if let Some(length) = self.parse(&all)? {
            return Ok(length - before);
        }
        self.partial = all;
        Ok(input.len())
    }

    /// Reads a head that may be incomplete. Returns its length.
    fn parse(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let parsed = head.parse(bytes).map_err(|err| Fault::new(Failure::Malformed, err.to_string()))?;
        let httparse::Status::Complete(length) = parsed else {
            if bytes.len() > HEAD {
                return Err(Fault::new(Failure::Malformed, "the answer's head is longer than 64 KiB"));
            }
            return Ok(None);
        };
        let status = head.code.unwrap_or(0);
        if (100..200).contains(&status) && status != 101 {
            self.interim += 1;
            if self.interim > INTERIM {
                return Err(Fault::new(Failure::Malformed, "more than 16 interim answers"));
            }
            return Ok(Some(length));
        }
        let framing = framing(&head)?;
        self.answer.status = status;
        self.reusable = framing.reusable;
        if self.keeps.head {
            self.answer.headers = kept(head.headers);
        }
        self.state = if self.bodiless || matches!(status, 101 | 204 | 304) {
            State::Done
        } else if framing.chunked {
            State::Chunked(Chunked::new())
        } else if framing.coded {
            self.close()
        } else {
            match framing.length {
                Some(0) => State::Done,
                Some(length) if length > self.at_most => return Err(too_long(self.at_most)),
                Some(length) => State::Length(length),
                None => self.close(),
            }
        };
        Ok(Some(length))
    }

    fn close(&mut self) -> State {
        self.reusable = false;
        State::Close
    }
}

fn framing(head: &httparse::Response<'_, '_>) -> Result<Framing, Fault> {
    let mut framing = Framing { length: None, chunked: false, coded: false, reusable: head.version == Some(1) };
    for field in head.headers.iter() {
        let has = |word: &[u8]| field.value.split(|&b| b == b',').any(|v| v.trim_ascii().eq_ignore_ascii_case(word));
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(field.value).ok().and_then(|text| text.trim().parse().ok());
            let Some(length) = length else {
                return Err(Fault::new(Failure::Malformed, "Content-Length is no number"));
            };
            if framing.length.is_some_and(|before| before != length) {
                return Err(Fault::new(Failure::Malformed, "two values of Content-Length"));
            }
            framing.length = Some(length);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            framing.coded = true;
            framing.chunked = has(b"chunked");
        } else if field.name.eq_ignore_ascii_case("connection") {
            if has(b"close") {
                framing.reusable = false;
            } else if has(b"keep-alive") {
                framing.reusable = true;
            }
        }
    }
    Ok(framing)
}

fn kept(fields: &[httparse::Header<'_>]) -> HeaderMap {
    fields
        .iter()
        .filter_map(|field| {
            Some((HeaderName::from_bytes(field.name.as_bytes()).ok()?, HeaderValue::from_bytes(field.value).ok()?))
        })
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

/// Counts a piece of a body, and keeps it where it is looked at.
fn body(answer: &mut Answer, keep: bool, at_most: u64, piece: &[u8]) -> Result<(), Fault> {
    answer.length += piece.len() as u64;
    if answer.length > at_most {
        return Err(too_long(at_most));
    }
    if keep {
        let room = BODY_KEPT - answer.body.len().min(BODY_KEPT);
        answer.body.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    Ok(())
}

fn too_long(at_most: u64) -> Fault {
    Fault::new(Failure::TooLong, format!("the answer's body has more than {at_most} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], step: usize, bodiless: bool) -> (Result<bool, Fault>, Answer, bool) {
        let mut reader = Reader::new(bodiless, 1_000, Keeps { head: true, body: true });
        let mut done = Ok(false);
        for piece in bytes.chunks(step) {
            done = reader.feed(piece);
            if done.is_err() {
                break;
            }
        }
        let (answer, reusable) = reader.done();
        (done, answer, reusable)
    }

    #[test]
    fn an_answer_is_read_the_same_in_any_pieces() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: 1\r\nA: 2\r\nContent-Length: 5\r\n\r\nhello";

        for step in 1..bytes.len() {
            let (done, answer, reusable) = read(bytes, step, false);

            assert_eq!(done, Ok(true), "{step}");
            assert_eq!((answer.status, answer.body.as_slice(), answer.length), (200, &b"hello"[..], 5), "{step}");
            assert_eq!((answer.headers.get_all("a").iter().count(), reusable), (2, true), "{step}");
        }
    }

    #[test]
    fn a_body_ends_as_its_framing_says() {
        let cases: [(&str, bool, bool, u64, bool); 9] = [
            // Head and body; whether it answers a HEAD; complete; its length; reusable.
            ("HTTP/1.1 204 No Content\r\n\r\n", false, true, 0, true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", false, true, 0, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true, true, 0, true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", false, true, 3, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", false, true, 3, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", false, true, 3, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: Keep-Alive\r\n\r\nabc", false, true, 3, true),
            ("HTTP/1.1 200 OK\r\n\r\nabc", false, false, 3, false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", false, true, 3, false),
        ];

        for (text, bodiless, complete, length, reusable) in cases {
            let (done, answer, again) = read(text.as_bytes(), 10_000, bodiless);

            assert_eq!((done, answer.length, again), (Ok(complete), length, reusable), "{text}");
        }
    }

    #[test]
    fn what_is_not_http_or_too_long_is_said_to_be() {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(HEAD + 1));
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17);
        let cases = [
            ("SSH-2.0-OpenSSH_9.2\r\n", Failure::Malformed),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Failure::Malformed),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Failure::Malformed),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", Failure::TooLong),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Failure::Malformed),
            (&endless, Failure::Malformed),
            (&interim, Failure::Malformed),
        ];

        for (text, failure) in cases {
            let (done, ..) = read(text.as_bytes(), 1_000, false);

            assert_eq!(done.map_err(|fault| fault.failure), Err(failure), "{text:.60}");
        }
    }

    #[test]
    fn a_close_is_the_end_of_a_body_only_where_nothing_else_is() {
        let ends = |text: &str| {
            let mut reader = Reader::new(false, 1_000, Keeps::default());
            reader.feed(text.as_bytes()).unwrap();
            reader.end().map_err(|fault| fault.failure)
        };

        assert_eq!(ends("HTTP/1.1 200 OK\r\n\r\nabc"), Ok(()));
        assert_eq!(ends("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"), Err(Failure::Reset));
        assert_eq!(ends("HTTP/1.1 2"), Err(Failure::Reset));
        assert_eq!(ends(""), Err(Failure::Reset));
    }
}
