//! Changes to heads on their way: configured edits, and what a proxy has to say about itself.

use http::header::{COOKIE, FORWARDED, SET_COOKIE, VARY};
use http::response::Parts;
use http::{HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::decide::{Forwarding, Plan, client};
use crate::exchange::Exchange;
use crate::guard::dyed::{BAGGAGE, Found, MARK};
use crate::record::trace;
use crate::snapshot::ReadyEdits;

/// Names a request in logs on both sides of the gateway.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

static FORWARDED_LINE: HeaderName = FORWARDED;
static COOKIE_LINE: HeaderName = COOKIE;

/// A head whose lines can be changed. `'a` is how long borrowed lines live.
pub trait Head<'a> {
    /// Replaces every line of this name.
    ///
    /// # Errors
    ///
    /// Too many headers.
    fn set(&mut self, name: &'a HeaderName, value: &'a HeaderValue) -> Result<()>;
    /// Adds a line.
    ///
    /// # Errors
    ///
    /// Too many headers.
    fn add(&mut self, name: &'a HeaderName, value: &'a HeaderValue) -> Result<()>;
    /// Removes every line of this name.
    fn remove(&mut self, name: &HeaderName);
}

impl Head<'_> for RequestHeader {
    fn set(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()> {
        self.insert_header(name.clone(), value.clone())
    }
    fn add(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()> {
        self.append_header(name.clone(), value.clone()).map(drop)
    }
    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

impl Head<'_> for ResponseHeader {
    fn set(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()> {
        self.insert_header(name.clone(), value.clone())
    }
    fn add(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<()> {
        self.append_header(name.clone(), value.clone()).map(drop)
    }
    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

/// Applies configured edits: removed, then set, then added.
///
/// # Errors
///
/// Too many headers.
pub fn apply<'a>(head: &mut impl Head<'a>, edits: &'a ReadyEdits) -> Result<()> {
    for name in &edits.remove {
        head.remove(name);
    }
    for (name, value) in &edits.set {
        head.set(name, value)?;
    }
    for (name, value) in &edits.add {
        head.add(name, value)?;
    }
    Ok(())
}

/// Makes a request's head the one that the endpoint gets: who asked for what, the request's id, a trace only where it
/// is valid, cookies but for the gateway's own, a mark of dyed traffic only where it was verified, and what the route says. Target and Host are rewritten by the carrier, which also strips what concerns
/// one connection only.
///
/// # Errors
///
/// Too many headers.
pub fn to_endpoint<'a>(
    head: &mut impl Head<'a>,
    exchange: &'a Exchange,
    plan: &'a Plan,
    told: &'a Forwarding,
) -> Result<()> {
    head.set(&client::X_FORWARDED_FOR, &told.x_forwarded_for)?;
    head.set(&client::X_FORWARDED_PROTO, &told.x_forwarded_proto)?;
    match &told.x_forwarded_host {
        Some(host) => head.set(&client::X_FORWARDED_HOST, host)?,
        None => head.remove(&client::X_FORWARDED_HOST),
    }
    head.set(&FORWARDED_LINE, &told.forwarded)?;
    head.remove(&client::CLIENT_CERT_CHAIN);
    match &told.client_cert {
        Some(certificate) => head.set(&client::CLIENT_CERT, certificate)?,
        None => head.remove(&client::CLIENT_CERT),
    }
    if !exchange.trace.may_be_forwarded() {
        trace::FIELDS.iter().for_each(|field| head.remove(field));
    }
    if let Some(cookies) = &plan.cookies {
        head.remove(&COOKIE_LINE);
        cookies.iter().try_for_each(|line| head.add(&COOKIE_LINE, line))?;
    }
    match &exchange.mark {
        Found::Nothing => {}
        Found::Dyed(dye) => {
            head.set(&BAGGAGE, &dye.baggage)?;
            head.set(&MARK, &dye.mark)?;
        }
        Found::Refused { baggage, .. } => {
            head.remove(&MARK);
            match baggage {
                Some(rest) => head.set(&BAGGAGE, rest)?,
                None => head.remove(&BAGGAGE),
            }
        }
    }
    if let Some(id) = &exchange.id {
        head.set(&REQUEST_ID, id)?;
    }
    apply(head, &exchange.route(plan).request_headers)
}

/// Makes an endpoint's answer the one that the client gets: the request's id, what the route says, and what was
/// decided on the way.
///
/// # Errors
///
/// Too many headers.
pub fn to_client<'a>(head: &mut impl Head<'a>, exchange: &'a Exchange, plan: &'a Plan) -> Result<()> {
    if let Some(id) = &exchange.id {
        head.set(&REQUEST_ID, id)?;
    }
    apply(head, &exchange.route(plan).response_headers)?;
    for (name, value) in &plan.answer_headers {
        // These two add to what the endpoint says; the others are the gateway's to say.
        if name == SET_COOKIE || name == VARY {
            head.add(name, value)?;
        } else {
            head.set(name, value)?;
        }
    }
    Ok(())
}

/// Gives each value of `answer` memory of its own. What came from an endpoint lies in the buffer that it was read into,
/// and the header table of an HTTP/2 connection (RFC 7541 §2.3.2) remembers some 60 values: without this it keeps as
/// many buffers.
///
/// # Errors
///
/// Never for a status that is valid.
pub fn detach(answer: &mut ResponseHeader) -> Result<()> {
    let empty = ResponseHeader::build_no_case(answer.status, None)?;
    let mut parts = Parts::from(std::mem::replace(answer, empty));
    for value in parts.headers.values_mut() {
        if let Ok(mut own) = HeaderValue::from_bytes(value.as_bytes()) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
    *answer = parts.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_detached_answer_says_the_same_and_holds_nothing_of_the_buffer_it_came_in() {
        let buffer = Bytes::from(b"one two".to_vec());
        let mut answer = ResponseHeader::build_no_case(201, None).unwrap();
        for part in [0..3, 4..7] {
            let value = HeaderValue::from_maybe_shared(buffer.slice(part)).unwrap();
            answer.append_header("x-part", value).unwrap();
        }

        detach(&mut answer).unwrap();

        let parts: Vec<_> = answer.headers.get_all("x-part").iter().collect();
        assert_eq!(answer.status, 201);
        assert_eq!(parts, ["one", "two"]);
        assert!(buffer.is_unique());
    }
}
