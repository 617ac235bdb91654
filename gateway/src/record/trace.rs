//! Trace context and request ids: what ties a request here to the same request elsewhere.
//!
//! The gateway reports no spans, so it forwards a valid `traceparent` as it is: putting itself in as the parent would
//! leave the trace with a parent that nobody ever reports. For the same reason it starts no trace: a made-up
//! `traceparent` with the sampled flag off would keep services with parent-based sampling from recording anything.
//! A malformed one isn't forwarded, nor is a `tracestate` that has no valid `traceparent` beside it (W3C Trace
//! Context §3.2.2, §3.3.1).

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::Rng;

/// Bytes of a request id that we take over from a trusted proxy. A longer one is replaced by our own.
const MAX_REQUEST_ID: usize = 128;

/// The trace that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// No `traceparent`. A `tracestate` is not forwarded.
    None,
    /// A `traceparent` that can't be valid. Neither it nor `tracestate` is forwarded.
    Invalid,
    /// A valid `traceparent`. Both headers are forwarded as they are.
    Within(TraceId),
}

/// The fields of W3C Trace Context.
pub const FIELDS: [HeaderName; 2] = [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];

impl Trace {
    /// Reads the trace of a request. More than one `traceparent` is invalid.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all("traceparent").iter();
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(value), None) => TraceId::parse(value.as_bytes()).map_or(Self::Invalid, Self::Within),
            (Some(_), Some(_)) => Self::Invalid,
        }
    }

    /// Whether the fields may be forwarded; else [`FIELDS`] must be removed.
    pub fn may_be_forwarded(self) -> bool {
        matches!(self, Self::Within(_))
    }

    /// The trace id, where there is one.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Within(id) => Some(id.as_str()),
            Self::None | Self::Invalid => None,
        }
    }
}

/// A trace id: 32 lower-case hex digits, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// The trace id of a `traceparent` value: `version "-" trace-id "-" parent-id "-" flags`.
    ///
    /// Strict, as W3C Trace Context §2.2 asks: lower-case digits only, no zero ids, version `ff` forbidden, version
    /// `00` exactly this long, later versions at least this long with a `-` before whatever follows.
    pub fn parse(value: &[u8]) -> Option<Self> {
        const LENGTH: usize = 55;
        let head = value.get(..LENGTH)?;
        let (version, trace, parent, flags) = (&head[..2], &head[3..35], &head[36..52], &head[53..]);

        let digits = [version, trace, parent, flags].iter().all(|field| field.iter().all(|b| is_digit(*b)));
        let dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
        let ids = [trace, parent].iter().all(|id| id.iter().any(|b| *b != b'0'));
        let end = match (version, value.get(LENGTH)) {
            (b"ff", _) => false,
            (b"00", rest) => rest.is_none(),
            (_, rest) => rest.is_none_or(|b| *b == b'-'),
        };

        (digits && dashes && ids && end).then(|| Self(trace.try_into().expect("the slice is 32 bytes long")))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("trace ids hold hex digits only")
    }
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The id of a request: the one that a trusted proxy gave it, or a new one of 128 random bits.
///
/// An id from anybody else is ignored, because a client that chooses ids can make its requests look like another's.
pub fn request_id(headers: &HeaderMap, peer_is_trusted: bool, dice: &mut impl Rng) -> HeaderValue {
    let given = headers.get("x-request-id").filter(|_| peer_is_trusted);
    match given {
        Some(id) if is_fine(id.as_bytes()) => id.clone(),
        _ => new_id(dice.random()),
    }
}

/// Whether an id is safe in logs and headers everywhere: 1 to 128 visible ASCII characters.
fn is_fine(id: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

fn new_id(bits: u128) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0_u8; 32];
    for (at, digit) in text.iter_mut().enumerate() {
        *digit = DIGITS[(bits >> (124 - 4 * at)) as usize & 0xf];
    }
    HeaderValue::from_bytes(&text).expect("hex digits are legal in a header")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn clean(headers: &mut HeaderMap) {
        if !Trace::of(headers).may_be_forwarded() {
            FIELDS.iter().for_each(|field| drop(headers.remove(field)));
        }
    }

    #[test]
    fn valid_traceparent_and_its_tracestate_are_forwarded_untouched() {
        let before = headers(&[("traceparent", VALID), ("tracestate", "a=b")]);
        let mut after = before.clone();

        let trace = Trace::of(&before);
        clean(&mut after);

        assert_eq!(trace.id(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(after, before);
    }

    #[test]
    fn malformed_traceparents_are_invalid() {
        let malformed = [
            "",
            "00",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ];

        for value in malformed {
            assert_eq!(Trace::of(&headers(&[("traceparent", value)])), Trace::Invalid, "{value:?}");
        }
    }

    #[test]
    fn later_versions_may_be_longer() {
        for value in [VALID.replacen("00", "01", 1), VALID.replacen("00", "cc", 1) + "-what-comes-next"] {
            let trace = Trace::of(&headers(&[("traceparent", &value)]));

            assert!(matches!(trace, Trace::Within(_)), "{value}");
        }
    }

    #[test]
    fn second_traceparent_makes_both_void_and_takes_tracestate_along() {
        let mut lines = headers(&[("traceparent", VALID), ("traceparent", VALID), ("tracestate", "a=b")]);

        clean(&mut lines);

        assert!(lines.is_empty());
    }

    #[test]
    fn tracestate_alone_is_not_forwarded() {
        let mut lines = headers(&[("tracestate", "a=b"), ("accept", "*/*")]);

        clean(&mut lines);

        assert_eq!(lines, headers(&[("accept", "*/*")]));
    }

    #[test]
    fn request_id_is_taken_from_trusted_peers_only() {
        let lines = headers(&[("x-request-id", "abc-123")]);
        let mut dice = SmallRng::seed_from_u64(1);

        assert_eq!(request_id(&lines, true, &mut dice), "abc-123");
        assert_ne!(request_id(&lines, false, &mut dice), "abc-123");
    }

    #[test]
    fn unfit_request_id_of_a_trusted_peer_is_replaced() {
        let mut dice = SmallRng::seed_from_u64(1);

        for unfit in ["", "two words", "ümlaut", &"x".repeat(MAX_REQUEST_ID + 1)] {
            let id = request_id(&headers(&[("x-request-id", unfit)]), true, &mut dice);

            assert_eq!(id.len(), 32, "{unfit:?} became {id:?}");
        }
    }

    proptest! {
        #[test]
        fn new_ids_spell_all_bits(bits: u128) {
            prop_assert_eq!(new_id(bits), format!("{bits:032x}"));
        }

        #[test]
        fn parsing_never_panics(bytes: Vec<u8>, cut in 0_usize..60) {
            let _ = TraceId::parse(&bytes);
            let _ = TraceId::parse(&VALID.as_bytes()[..cut.min(VALID.len())]);
        }
    }
}
