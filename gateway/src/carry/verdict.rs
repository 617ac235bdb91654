//! What a failure means: whether the request may be sent again, and what the client is told.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{TRANSFER_ENCODING, UPGRADE};
use http::{StatusCode, Version};
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::decide::{Answer, Reason};
use crate::exchange::Exchange;

/// Marks an answer whose status asks for another try.
pub const RETRY_STATUS: ErrorType = ErrorType::Custom("status asks for a retry");

/// Why an exchange has failed while its client is still there to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request's body is longer than its route allows.
    BodyTooLarge,
    /// The request's body did not arrive in time.
    ClientLate,
    /// The request is malformed.
    BadRequest,
    /// It lies with the endpoint; the exchange's reason says how.
    Endpoint,
    /// The gateway is at fault.
    Internal,
}

impl Failure {
    /// What the client is told.
    pub fn answer(self, exchange: &Exchange) -> Answer {
        let (status, reason, body) = match (self, exchange.reason) {
            (Self::BodyTooLarge, _) => (413, Reason::BodyTooLarge, "request body is larger than this route allows\n"),
            (Self::ClientLate, _) => (408, Reason::ClientLate, "the request's body did not arrive in time\n"),
            (Self::BadRequest, _) => (400, Reason::BadRequest, "the request is malformed\n"),
            (Self::Endpoint, Some(Reason::ClientLate)) => return Self::ClientLate.answer(exchange),
            (Self::Endpoint, Some(Reason::Unreachable)) => {
                (503, Reason::Unreachable, "no endpoint could be reached; try again shortly\n")
            }
            (Self::Endpoint, Some(Reason::Late)) => (504, Reason::Late, "the endpoint did not answer in time\n"),
            (Self::Endpoint, _) => (502, Reason::Broken, "the endpoint broke off, or its answer made no sense\n"),
            (Self::Internal, _) => (500, Reason::Internal, "the gateway failed\n"),
        };
        let plan = exchange.plan.as_deref();
        let client = plan.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |plan| plan.client);
        let mut answer = Answer::text(status, reason, client, body);
        answer.route = plan.map(|plan| plan.route);
        answer
    }
}

/// Whether a request asks for the only upgrade that is carried.
pub fn asks_for_websocket(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_11
        && request.headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether an endpoint's answer has one meaning, as far as Pingora leaves that open: it switches protocols only where the
/// client asked for it, and no coding but `chunked` in HTTP/1.1 hides its end (RFC 9112 §6.1).
pub fn is_sound(answer: &ResponseHeader, upgrade: bool) -> bool {
    let mut codings = answer.headers.get_all(TRANSFER_ENCODING).iter();
    let framed = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            answer.version == Version::HTTP_11 && coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
        }
        _ => false,
    };
    framed && (answer.status != StatusCode::SWITCHING_PROTOCOLS || upgrade)
}

/// Whether the request can be sent once more: its method allows it, and its body is still at hand.
pub fn may_repeat(session: &Session, exchange: &Exchange) -> bool {
    !session.as_ref().retry_buffer_truncated() && exchange.allows_repeating(&session.req_header().method)
}

/// Whether the door gave up waiting for the client.
fn is_too_slow(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}

/// What Pingora's error means; `None` when the client is gone or has part of an answer already.
pub fn failure(session: &Session, error: &Error) -> Option<Failure> {
    if session.response_written().is_some_and(|r| !r.status.is_informational() || r.status == 101) {
        return None;
    }
    match (error.esource(), error.etype()) {
        (_, ErrorType::HTTPStatus(413)) => Some(Failure::BodyTooLarge),
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Failure::ClientLate),
        (ErrorSource::Downstream, ErrorType::ReadError) if is_too_slow(error) => Some(Failure::ClientLate),
        (
            ErrorSource::Downstream,
            ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::ConnectionClosed
            | ErrorType::WriteTimedout
            // It has reset its stream.
            | ErrorType::H2Error,
        ) => None,
        (ErrorSource::Downstream, _) => Some(Failure::BadRequest),
        (ErrorSource::Upstream, _) => Some(Failure::Endpoint),
        _ => Some(Failure::Internal),
    }
}
