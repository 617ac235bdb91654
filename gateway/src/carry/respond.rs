//! Writes the answers that the gateway gives by itself, in the client's own terms.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::edit;
use crate::decide::{Answer, HeaderLines};
use crate::snapshot::ReadyEdits;

/// Writes `answer`. A gRPC client gets it as a trailers-only gRPC status, since it wouldn't understand
/// anything else (gRPC over HTTP/2, "Responses").
///
/// `own` are lines that every answer gets; `edits` are the route's.
///
/// # Errors
///
/// The client is gone.
pub async fn respond(
    session: &mut Session,
    answer: &Answer,
    own: HeaderLines,
    edits: Option<&ReadyEdits>,
) -> Result<()> {
    let head_only = session.req_header().method == http::Method::HEAD;
    let is_grpc =
        session.req_header().headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let status = if is_grpc && answer.status >= 400 { 200 } else { answer.status };
    let mut head = ResponseHeader::build(status, Some(answer.headers.len() + 4))?;
    for (name, value) in answer.headers.iter().chain(&own) {
        head.append_header(name.clone(), value.clone())?;
    }
    if let Some(edits) = edits {
        edit::apply(&mut head, edits)?;
    }
    if status != answer.status {
        return respond_grpc(session, head, answer).await;
    }
    // 204 and 304 have no body and so no length (RFC 9110 §8.6).
    let bodiless = matches!(answer.status, 204 | 304);
    if !bodiless {
        head.insert_header(CONTENT_LENGTH, answer.body.len())?;
    }
    let body = if head_only || bodiless { Bytes::new() } else { answer.body.clone() };
    session.write_response_header(Box::new(head), body.is_empty()).await?;
    session.write_response_body(Some(body), true).await
}

async fn respond_grpc(session: &mut Session, mut head: ResponseHeader, answer: &Answer) -> Result<()> {
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))?;
    head.insert_header("grpc-status", grpc_status(answer.status))?;
    let message: String =
        answer.body.iter().filter(|b| (0x20..0x7f).contains(*b) && **b != b'%').map(|b| *b as char).collect();
    head.insert_header("grpc-message", message)?;
    session.write_response_header(Box::new(head), true).await?;
    session.write_response_body(None, true).await
}

/// The gRPC status for an HTTP status (gRPC, "HTTP to gRPC Status Code Mapping").
fn grpc_status(status: u16) -> &'static str {
    match status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}
