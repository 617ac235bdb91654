//! A recording as a body of JSON lines, written as requests come.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, header};
use hyper::body::{Body, Frame};
use tidegate_model::scenario::recording::{End, Head, LINE_BYTES, Request, write_line};
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::reel::Taken;
use super::{Recorder, Session};
use crate::clock;

/// Bytes of lines that are written at once.
const PIECE: usize = 64 << 10;

/// How far a recording is.
enum Stage {
    /// Its first line is to be written.
    Head,
    /// Requests come in.
    Open,
    /// Everything was written.
    Over,
}

/// The lines of a recording. Dropped, it ends the recording.
pub struct Lines {
    recorder: Arc<Recorder>,
    session: Arc<Session>,
    inbox: mpsc::Receiver<Arc<Taken>>,
    end: Pin<Box<Sleep>>,
    stage: Stage,
    written: u64,
}

impl Lines {
    pub(super) fn new(recorder: Arc<Recorder>, session: Arc<Session>, inbox: mpsc::Receiver<Arc<Taken>>) -> Self {
        let end = tokio::time::sleep_until(clock::instant(session.began + session.wish.lasts));
        Self { recorder, session, inbox, end: Box::pin(end), stage: Stage::Head, written: 0 }
    }

    fn head(&self) -> Vec<u8> {
        let wish = &self.session.wish;
        let mut head = Head::new(self.session.began_unix);
        head.of = wish.route.clone().unwrap_or_default();
        head.redacted = wish.secrets.names();
        head.body_cap = wish.body_cap;
        let mut out = Vec::new();
        write_line(&head, &mut out);
        out
    }

    /// Writes one request; one whose line would be too long goes without its body.
    fn write(&mut self, taken: &Taken, out: &mut Vec<u8>) {
        let wish = &self.session.wish;
        let mut request = Request {
            at_us: micros(taken.at.since(self.session.began)),
            method: taken.method.as_str().to_owned(),
            origin: origin(taken.https, &taken.authority),
            target: wish.secrets.target(&taken.target),
            headers: fields(&taken.headers)
                .map(|(name, value)| (name.to_owned(), wish.secrets.field(name, value).to_owned()))
                .collect(),
            cut: taken.cut,
            status: u64::from(taken.status),
            took_us: micros(taken.took),
            ..Request::default()
        };
        // Another recording may keep more of it than this one.
        if taken.body.len() as u64 > wish.body_cap {
            request.cut = taken.body.len() as u64;
        } else {
            let kind = taken.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            request.set_body(&wish.secrets.body(kind, &taken.body));
        }
        let before = out.len();
        write_line(&request, out);
        if out.len() - before > LINE_BYTES {
            out.truncate(before);
            request.cut = taken.body.len() as u64;
            request.set_body(b"");
            write_line(&request, out);
        }
        self.written += 1;
    }

    fn last(&self) -> Vec<u8> {
        let end = End {
            end: true,
            took_us: micros(clock::now().since(self.session.began)),
            requests: self.written,
            lost: self.session.lost.load(Relaxed),
        };
        let mut out = Vec::new();
        write_line(&end, &mut out);
        out
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = |bytes: Vec<u8>| Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
        match self.stage {
            Stage::Head => {
                self.stage = Stage::Open;
                return piece(self.head());
            }
            Stage::Over => return Poll::Ready(None),
            Stage::Open => {}
        }
        let mut out = Vec::new();
        while out.len() < PIECE
            && let Poll::Ready(Some(taken)) = self.inbox.poll_recv(cx)
        {
            self.write(&taken, &mut out);
        }
        if !out.is_empty() {
            return piece(out);
        }
        ready!(self.end.as_mut().poll(cx));
        self.recorder.end(&self.session); // What is still on its way was not there in time.
        self.stage = Stage::Over;
        piece(self.last())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.recorder.end(&self.session);
    }
}

/// The fields that a replay sends again: without the host, which stands in the origin, and what concerns one connection.
fn fields(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    const LEFT_OUT: [&str; 11] = [
        "host",
        "content-length",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "expect",
    ];
    let kept = headers.iter().filter(|(name, _)| !LEFT_OUT.contains(&name.as_str()));
    kept.filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?)))
}

/// `https://shop.example.com:8443`, without the scheme's own port.
fn origin(https: bool, authority: &str) -> String {
    if authority.is_empty() {
        return String::new();
    }
    let (scheme, own) = if https { ("https", ":443") } else { ("http", ":80") };
    format!("{scheme}://{}", authority.strip_suffix(own).unwrap_or(authority))
}

fn micros(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
