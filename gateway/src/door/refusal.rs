//! Why the door refuses a request, and the small answer that it gives.

/// What the Allow header of a 405 says. Other methods are carried too; endpoints know what they allow.
pub const ALLOWED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// A rule that a request breaks. A closed set, so that it can be a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The request line isn't `METHOD target HTTP/1.1`.
    RequestLine,
    /// The method isn't a token in capitals.
    Method,
    /// The method is longer than any we could know.
    LongMethod,
    /// CONNECT: we are no forward proxy.
    Connect,
    /// TRACE: it would show a page's script the cookies that it may not see.
    Trace,
    /// The target has none of the legal forms.
    Target,
    /// The request line is too long.
    LongTarget,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// A line ends with LF alone.
    BareLf,
    /// A header goes on in the next line.
    Folded,
    /// A header name is empty or has illegal characters, such as a space before its colon.
    HeaderName,
    /// A header value has illegal characters.
    HeaderValue,
    /// A header looks like one of the gateway's own, with underscores for dashes.
    Impostor,
    /// Connection names a header that is meant for every recipient.
    Nominated,
    /// A WebSocket's handshake has a body.
    UpgradeBody,
    /// Too many headers.
    TooManyHeaders,
    /// The head is too long.
    LongHead,
    /// Host is missing, repeated or illegal.
    Host,
    /// Content-Length is repeated, no number, or begins with a zero that some take for octal.
    ContentLength,
    /// Transfer-Encoding doesn't end with `chunked`, is repeated, or came with HTTP/1.0.
    TransferEncoding,
    /// A transfer coding other than `chunked`.
    Coding,
    /// Both Content-Length and Transfer-Encoding.
    BothLengths,
    /// The chunks of a body are malformed.
    BadChunking,
    /// The head took too long to arrive.
    Late,
    /// The body came more slowly than `min_body_rate`, or not at all for `timeouts.body`.
    SlowBody,
    /// The answer was taken more slowly than `min_send_rate`, or not at all for `timeouts.send`.
    SlowRead,
    /// Plain HTTP on a TLS port.
    PlainOnTls,
    /// HTTP/1 on a listener that speaks only HTTP/2.
    OnlyHttp2,
    /// A broken preface of HTTP/2 on a plain listener. It is told by frames, not by this answer.
    Preface,
}

impl Refusal {
    /// All of them, for metrics.
    pub const ALL: [Self; 29] = [
        Self::RequestLine,
        Self::Method,
        Self::LongMethod,
        Self::Connect,
        Self::Trace,
        Self::Target,
        Self::LongTarget,
        Self::Version,
        Self::BareLf,
        Self::Folded,
        Self::HeaderName,
        Self::HeaderValue,
        Self::Impostor,
        Self::Nominated,
        Self::UpgradeBody,
        Self::TooManyHeaders,
        Self::LongHead,
        Self::Host,
        Self::ContentLength,
        Self::TransferEncoding,
        Self::Coding,
        Self::BothLengths,
        Self::BadChunking,
        Self::Late,
        Self::SlowBody,
        Self::SlowRead,
        Self::PlainOnTls,
        Self::OnlyHttp2,
        Self::Preface,
    ];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::RequestLine => "request_line",
            Self::Method => "method",
            Self::LongMethod => "long_method",
            Self::Connect => "connect",
            Self::Trace => "trace",
            Self::Target => "target",
            Self::LongTarget => "long_target",
            Self::Version => "version",
            Self::BareLf => "bare_lf",
            Self::Folded => "folded_header",
            Self::HeaderName => "header_name",
            Self::HeaderValue => "header_value",
            Self::Impostor => "impostor_header",
            Self::Nominated => "connection_header",
            Self::UpgradeBody => "upgrade_body",
            Self::TooManyHeaders => "too_many_headers",
            Self::LongHead => "long_head",
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::Coding => "unknown_coding",
            Self::BothLengths => "both_lengths",
            Self::BadChunking => "bad_chunking",
            Self::Late => "late",
            Self::SlowBody => "slow_body",
            Self::SlowRead => "slow_read",
            Self::PlainOnTls => "plain_on_tls",
            Self::OnlyHttp2 => "only_http2",
            Self::Preface => "http2_preface",
        }
    }

    /// The answer's status.
    pub fn status(self) -> u16 {
        self.status_line()[..3].parse().expect("invariant: a status line begins with its number")
    }

    /// The status line's number and phrase.
    const fn status_line(self) -> &'static str {
        match self {
            Self::LongMethod | Self::Coding => "501 Not Implemented",
            Self::Connect | Self::Trace => "405 Method Not Allowed",
            Self::LongTarget => "414 URI Too Long",
            Self::Version | Self::OnlyHttp2 => "505 HTTP Version Not Supported",
            Self::TooManyHeaders | Self::LongHead => "431 Request Header Fields Too Large",
            Self::Late | Self::SlowBody | Self::SlowRead => "408 Request Timeout",
            _ => "400 Bad Request",
        }
    }

    /// One sentence for whoever reads the answer.
    pub const fn text(self) -> &'static str {
        match self {
            Self::RequestLine => "The request line is malformed.",
            Self::Method => "The method is malformed.",
            Self::LongMethod => "The method is unknown.",
            Self::Connect => "CONNECT is not served here.",
            Self::Trace => "TRACE is not served here.",
            Self::Target => "The request target is malformed.",
            Self::LongTarget => "The request line is too long.",
            Self::Version => "HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here.",
            Self::BareLf => "A header line does not end with CRLF.",
            Self::Folded => "A header is folded over several lines.",
            Self::HeaderName => "A header name is malformed.",
            Self::HeaderValue => "A header value is malformed.",
            Self::Impostor => "A header has underscores where only dashes are taken.",
            Self::Nominated => "Connection names a header that is not its to name.",
            Self::UpgradeBody => "A WebSocket handshake has no body.",
            Self::TooManyHeaders => "There are too many headers.",
            Self::LongHead => "The headers are too long.",
            Self::Host => "Exactly one valid Host header is needed.",
            Self::ContentLength => "Content-Length is malformed or repeated.",
            Self::TransferEncoding => "Transfer-Encoding is malformed.",
            Self::Coding => "The transfer coding is unknown.",
            Self::BothLengths => "Content-Length and Transfer-Encoding exclude each other.",
            Self::BadChunking => "The chunked body is malformed.",
            Self::Late => "The request took too long to arrive.",
            Self::SlowBody => "The body arrives too slowly.",
            Self::SlowRead => "The answer is taken too slowly.",
            Self::PlainOnTls => "This port speaks TLS: use https.",
            Self::OnlyHttp2 => "This port speaks only HTTP/2.",
            Self::Preface => "The HTTP/2 preface is malformed.",
        }
    }

    /// The whole answer, after which the connection closes.
    pub fn answer(self) -> String {
        // RFC 9110 §15.5.6 wants an Allow header with a 405.
        let allow = if self.status() == 405 { format!("Allow: {ALLOWED}\r\n") } else { String::new() };
        let (status, text) = (self.status_line(), self.text());
        let length = text.len() + 1;
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n{text}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_a_whole_response_that_closes() {
        for refusal in Refusal::ALL {
            let answer = refusal.answer();

            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut headers);
            let head = response.parse(answer.as_bytes()).unwrap().unwrap();
            let value = |name| response.headers.iter().find(|h| h.name == name).map(|h| h.value);
            assert_eq!(value("Connection"), Some(&b"close"[..]), "{refusal:?}");
            assert_eq!(value("Content-Length"), Some((answer.len() - head).to_string().as_bytes()), "{refusal:?}");
        }
    }

    #[test]
    fn labels_tell_refusals_apart() {
        let mut labels: Vec<_> = Refusal::ALL.iter().map(|r| r.label()).collect();
        labels.sort_unstable();
        labels.dedup();

        assert_eq!(labels.len(), Refusal::ALL.len());
    }
}
