//! Makes sense of what an endpoint has sent, for an HTTP/2 client: interim answers, the final head, its body.

use std::mem::MaybeUninit;

use bytes::Bytes;

use super::Flow;
use crate::carry::express::flow::{Answer, End, INTERIM};
use crate::carry::express::heard::{self, Framing, Heard, MAX_HEADERS};
use crate::carry::express::streams::heads;
use crate::carry::verdict::Failure;
use crate::clock;

impl Flow<'_> {
    /// Makes sense of what was read. False when more has to come first.
    pub(super) fn digest(&mut self) -> Result<bool, End> {
        let Some(buffer) = &mut self.buffer else { return Ok(false) };
        let bytes = buffer.bytes();
        if bytes.is_empty() {
            return Ok(false);
        }
        let taken = match &mut self.answer {
            Answer::Head => return self.head(),
            Answer::Complete => return Ok(false),
            Answer::Body(Framing::Length(left)) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                self.piece = Bytes::copy_from_slice(&bytes[..n]);
                *left -= n as u64;
                if *left == 0 {
                    self.answer = Answer::Complete;
                }
                n
            }
            Answer::Body(Framing::Close) => {
                self.piece = Bytes::copy_from_slice(bytes);
                bytes.len()
            }
            Answer::Body(Framing::Chunked(chunks)) => {
                let mut data = Vec::with_capacity(bytes.len());
                let read = chunks.decode(bytes, |some| data.extend_from_slice(some));
                let done = chunks.is_done();
                let Ok(read) = read else {
                    self.exchange.answer_broke(false, clock::now());
                    return Err(self.fail(Failure::Endpoint));
                };
                self.piece = data.into();
                if done {
                    self.answer = Answer::Complete;
                }
                read
            }
        };
        buffer.consume(taken);
        Ok(true)
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
        let heard = Heard::new(&response, &self.session.req_header().method).map_err(|_| nonsense)?;
        if heard.status < 200 {
            self.interim += 1;
            if self.interim > INTERIM {
                return Err(nonsense);
            }
            // A session has no way to say it.
            buffer.consume(length);
            return Ok(true);
        }
        let head = heads::to_client(&heard, &buffer.bytes()[..length], self.exchange).map_err(|_| nonsense)?;
        if self.exchange.answer_began(heard.status, self.upload.is_repeatable(), clock::now()) {
            return Err(End::Unwanted);
        }
        self.keeps = heard.keeps && !(heard.has_body && matches!(heard.declared, Framing::Close));
        self.answer = match heard.declared {
            _ if !heard.has_body => Answer::Complete,
            Framing::Length(0) => Answer::Complete,
            framing => Answer::Body(framing),
        };
        buffer.consume(length);
        // An endpoint that answers early has what it needs.
        (*self.body, self.client_late) = (None, None);
        // What came along leaves with the head, or shows that there is no such answer.
        self.digest()?;
        let last = self.piece.is_empty() && matches!(self.answer, Answer::Complete);
        self.session.write_response_header(head, last).map_err(|_| End::Gone)?;
        self.writer = self.session.take_response_body_writer();
        self.ended = last;
        Ok(true)
    }
}
