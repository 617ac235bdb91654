//! What a failure means: whether the request may be sent again, and what the client is told.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;
use tidegate_model::desired::Methods;

use crate::decide::{Answer, HeaderLines, Plan, Reason, ready};

/// Marks an answer whose status asks for another try.
pub const RETRY_STATUS: ErrorType = ErrorType::Custom("status asks for a retry");

/// Tries on kept-alive connections that turn out to be closed, before such a close counts as a failure.
pub const STALE_TRIES: u32 = 3;

/// Whether the request can be sent once more: its method allows it, and its body is still at hand.
pub fn may_repeat(session: &Session, methods: &Methods) -> bool {
    !session.as_ref().retry_buffer_truncated() && ready::allows(methods, &session.req_header().method)
}

/// The answer for an exchange that failed; `None` when the client is gone or has part of an answer already.
pub fn answer_for(session: &Session, error: &Error, reason: Option<Reason>, plan: Option<&Plan>) -> Option<Answer> {
    if session.response_written().is_some_and(|r| !r.status.is_informational() || r.status == 101) {
        return None;
    }
    let (status, reason, body) = match (error.esource(), error.etype()) {
        (_, ErrorType::HTTPStatus(413)) => {
            (413, Reason::BodyTooLarge, "request body is larger than this route allows\n")
        }
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => {
            (408, Reason::ClientLate, "the request's body did not arrive in time\n")
        }
        (
            ErrorSource::Downstream,
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed | ErrorType::WriteTimedout,
        ) => return None,
        (ErrorSource::Downstream, _) => (400, Reason::BadRequest, "the request is malformed\n"),
        (ErrorSource::Upstream, _) => match reason {
            Some(Reason::Unreachable) => {
                (503, Reason::Unreachable, "no endpoint could be reached; try again shortly\n")
            }
            Some(Reason::Late) => (504, Reason::Late, "the endpoint did not answer in time\n"),
            _ => (502, Reason::Broken, "the endpoint broke off, or its answer made no sense\n"),
        },
        _ => (500, Reason::Internal, "the gateway failed\n"),
    };
    let mut headers = HeaderLines::new();
    headers.push((http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8")));
    Some(Answer {
        status,
        reason,
        route: plan.map(|p| p.route),
        client: plan.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |p| p.client),
        headers,
        body: Bytes::from_static(body.as_bytes()),
    })
}
