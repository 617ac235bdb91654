//! Makes sense of what an endpoint has sent: interim answers, the final head, its body.

use std::mem::MaybeUninit;

use super::{Answer, End, Flow, INTERIM};
use crate::carry::express::heads;
use crate::carry::express::heard::{self, Framing, Heard, MAX_HEADERS};
use crate::carry::express::reply::DRAIN_BYTES;
use crate::carry::express::upload::{LAST_CHUNK, frame};
use crate::carry::verdict::Failure;
use crate::clock;
use crate::door::framing::Body;

impl Flow<'_> {
    /// Makes sense of what was read. False when more has to come first.
    pub(super) fn digest(&mut self) -> Result<bool, End> {
        let Some(buffer) = &mut self.buffer else { return Ok(false) };
        let bytes = buffer.bytes();
        if bytes.is_empty() {
            return Ok(false);
        }
        match &mut self.answer {
            Answer::Head => self.head(),
            Answer::Body(Framing::Length(left)) => {
                self.piece = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= self.piece as u64;
                if *left == 0 {
                    self.answer = Answer::Complete;
                }
                Ok(true)
            }
            Answer::Body(Framing::Close) => {
                frame(&mut self.conn.down, bytes, true);
                self.sent += bytes.len() as u64;
                let all = bytes.len();
                buffer.consume(all);
                Ok(true)
            }
            Answer::Body(Framing::Chunked(chunks)) => {
                let (down, sent) = (&mut self.conn.down, &mut self.sent);
                let read = chunks.decode(bytes, |data| {
                    frame(down, data, true);
                    *sent += data.len() as u64;
                });
                let done = chunks.is_done();
                let Ok(read) = read else {
                    self.exchange.answer_broke(false, clock::now());
                    return Err(self.fail(Failure::Endpoint));
                };
                buffer.consume(read);
                if done {
                    self.conn.down.extend_from_slice(LAST_CHUNK);
                    self.answer = Answer::Complete;
                }
                Ok(true)
            }
            Answer::Complete => Ok(false),
        }
    }

    /// Reads the answer's head, once it is complete.
    fn head(&mut self) -> Result<bool, End> {
        let Some(buffer) = &mut self.buffer else { return Ok(false) };
        let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let nonsense = End::Broke { late: false, silent: false };
        let length = match heard::parse(&mut response, buffer.bytes(), &mut space) {
            Ok(Some(length)) => length,
            Ok(None) if buffer.make_room() => return Ok(false),
            Ok(None) | Err(_) => return Err(nonsense),
        };
        let heard = Heard::new(&response, &self.request.method).map_err(|_| nonsense)?;
        if heard.status < 200 {
            self.interim += 1;
            if self.interim > INTERIM {
                return Err(nonsense);
            }
            heads::interim(&mut self.conn.down, &heard);
            buffer.consume(length);
            return Ok(true);
        }
        if self.exchange.answer_began(heard.status, self.upload.is_repeatable(), clock::now()) {
            return Err(End::Unwanted);
        }
        // A long body that nobody has read is not waited for.
        let unread = !self.upload.done && matches!(self.stream.body(), Body::Length(length) if length > DRAIN_BYTES);
        self.goes_on = self.request.keeps_alive() && !self.exchange.last && !self.draining && !unread;
        self.keeps = heard.keeps && !(heard.has_body && matches!(heard.declared, Framing::Close));
        heads::to_client(&mut self.conn.down, &heard, self.request, self.exchange, self.goes_on);
        self.answer = match heard.declared {
            _ if !heard.has_body => Answer::Complete,
            Framing::Length(0) => Answer::Complete,
            framing => Answer::Body(framing),
        };
        buffer.consume(length);
        // What came along leaves with the head, or shows that there is no such answer.
        self.digest()?;
        Ok(true)
    }
}
