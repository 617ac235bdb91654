//! Tells dyed traffic from live traffic: believes marks that a key of ours has signed, and takes off all others.
//!
//! The gateway is the only one who says what is dyed. Whatever a client writes into `x-pt` or under `pt` in `baggage`
//! reaches an endpoint only when it was verified here; see [`tidegate_model::mark`] for what is written.
//!
//! # Invariants
//!
//! - A request whose mark isn't believed goes on as live traffic, and nothing of the mark goes with it.
//! - A request without either header costs two look-ups.
//! - What is cheap is asked first: a forged mark costs an HMAC for each key only when all else about it is right.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tidegate_model::mark::{self, Mark, Refusal};

/// Proves a mark.
pub static MARK: HeaderName = HeaderName::from_static(mark::HEADER);
/// Names the run.
pub static BAGGAGE: HeaderName = HeaderName::from_static(mark::BAGGAGE);

/// The keys that marks are signed with.
#[derive(Clone)]
pub struct Keys(Vec<hmac::Key>);

impl Keys {
    /// A key for each of `keys`.
    pub fn new<'k>(keys: impl IntoIterator<Item = &'k str>) -> Self {
        Self(keys.into_iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())).collect())
    }

    /// Reads the mark in `text`, for a request to `host` at `now` (Unix seconds).
    ///
    /// # Errors
    ///
    /// Why it isn't believed.
    pub fn verify<'a>(&self, text: &'a [u8], host: &str, now: u64) -> Result<Mark<'a>, Refusal> {
        let mark = Mark::parse(text)?;
        mark.holds(host, now)?;
        let tag = URL_SAFE_NO_PAD.decode(mark.tag).map_err(|_| Refusal::Malformed)?;
        // Compares in constant time. Which key it was is no secret.
        let signed = self.0.iter().any(|key| hmac::verify(key, mark.signed.as_bytes(), &tag).is_ok());
        if signed { Ok(mark) } else { Err(Refusal::Signature) }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// What a request's headers say of dyed traffic.
#[derive(Debug, Default)]
pub enum Found {
    /// Nothing.
    #[default]
    Nothing,
    /// Something that isn't believed.
    Refused {
        /// Why.
        why: Refusal,
        /// Baggage without it; `None` when nothing else was in it.
        baggage: Option<HeaderValue>,
    },
    /// It is dyed.
    Dyed(Box<Dye>),
}

/// What is known of a dyed request.
#[derive(Debug)]
pub struct Dye {
    /// The run's name.
    pub run: Box<str>,
    /// The mark, for the next gateway.
    pub mark: HeaderValue,
    /// Baggage, with the run's name in front.
    pub baggage: HeaderValue,
}

impl Found {
    /// Looks for a mark in `headers` of a request to `host` at `now` (Unix seconds).
    pub fn read(headers: &HeaderMap, host: &str, keys: Option<&Keys>, now: impl FnOnce() -> u64) -> Self {
        let marked = headers.contains_key(&MARK);
        if !marked && !headers.contains_key(&BAGGAGE) {
            return Self::Nothing;
        }
        let lines = || headers.get_all(&BAGGAGE).iter().map(HeaderValue::as_bytes);
        if !marked && !lines().any(mark::names_a_run) {
            return Self::Nothing;
        }
        match believe(headers, host, keys, now).and_then(|(mark, text)| {
            let baggage = HeaderValue::try_from(mark::baggage(Some(mark.run), lines()));
            let baggage = baggage.map_err(|_| Refusal::Malformed)?;
            Ok(Dye { run: mark.run.into(), mark: text.clone(), baggage })
        }) {
            Ok(dye) => Self::Dyed(Box::new(dye)),
            Err(why) => {
                let rest = mark::baggage(None, lines());
                let baggage = (!rest.is_empty()).then(|| HeaderValue::try_from(rest).ok()).flatten();
                Self::Refused { why, baggage }
            }
        }
    }

    /// The run's name, where the request is dyed.
    pub fn run(&self) -> Option<&str> {
        match self {
            Self::Dyed(dye) => Some(&dye.run),
            Self::Nothing | Self::Refused { .. } => None,
        }
    }

    /// Whether the request is dyed.
    pub fn is_dyed(&self) -> bool {
        matches!(self, Self::Dyed(_))
    }
}

/// The mark in `headers`, and the line it stands in.
fn believe<'h>(
    headers: &'h HeaderMap,
    host: &str,
    keys: Option<&Keys>,
    now: impl FnOnce() -> u64,
) -> Result<(Mark<'h>, &'h HeaderValue), Refusal> {
    let keys = keys.ok_or(Refusal::NoKeys)?;
    let mut lines = headers.get_all(&MARK).iter();
    let line = lines.next().ok_or(Refusal::Unsigned)?;
    if lines.next().is_some() {
        return Err(Refusal::Duplicate);
    }
    Ok((keys.verify(line.as_bytes(), host, now())?, line))
}

/// Counts marks that weren't believed, by reason.
#[derive(Debug)]
pub struct Refused {
    family: IntCounterVec,
    /// In the order of the reasons' discriminants.
    counters: [IntCounter; Refusal::ALL.len()],
}

impl Default for Refused {
    fn default() -> Self {
        let opts = Opts::new(
            "tidegate_dyed_refused_total",
            "Requests whose mark of dyed traffic was taken off because it was not believed, by reason.",
        );
        let family = IntCounterVec::new(opts, &["reason"]).expect("the family's name and label are valid");
        let counters = Refusal::ALL.map(|why| family.with_label_values(&[why.label()]));
        Self { family, counters }
    }
}

impl Refused {
    /// Shows the counts on `registry`.
    ///
    /// # Errors
    ///
    /// `registry` has the family already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.family.clone()))
    }

    /// Counts one.
    pub fn count(&self, why: Refusal) {
        self.counters[why as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const KEY: &str = "a key of some length";

    fn sign(key: &str, run: &str, expiry: u64, hosts: &[&str]) -> String {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let signed = mark::to_sign(run, expiry, &hosts).unwrap();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), signed.as_bytes());
        mark::complete(&signed, &URL_SAFE_NO_PAD.encode(tag))
    }

    fn read(lines: &[(&'static str, &str)], keys: &[&'static str]) -> Found {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let keys = (!keys.is_empty()).then(|| Keys::new(keys.iter().copied()));
        Found::read(&headers, "shop.example.com", keys.as_ref(), || NOW)
    }

    fn why(found: &Found) -> Refusal {
        match found {
            Found::Refused { why, .. } => *why,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_signed_mark_dyes_the_request_and_rewrites_its_baggage() {
        let text = sign(KEY, "drill", NOW + 60, &[]);

        let Found::Dyed(dye) = read(&[("baggage", "a=1,pt=forged"), ("x-pt", &text), ("baggage", "b=2")], &[KEY])
        else {
            panic!("not dyed");
        };

        assert_eq!((&*dye.run, dye.mark.to_str().unwrap()), ("drill", &*text));
        assert_eq!(dye.baggage, "pt=drill,a=1,b=2");
    }

    #[test]
    fn a_mark_needs_no_baggage_and_any_key_will_do() {
        let text = sign(KEY, "drill", NOW + 60, &["*.example.com"]);

        assert_eq!(read(&[("x-pt", &text)], &["the key that signs now", KEY]).run(), Some("drill"));
    }

    #[test]
    fn what_is_not_believed_is_taken_off_and_the_reason_told() {
        let good = sign(KEY, "drill", NOW + 60, &[]);
        let cases = [
            (vec![("baggage", "pt=drill")], Refusal::Unsigned),
            (vec![("x-pt", good.clone()), ("x-pt", good.clone())].into_iter().map(leak).collect(), Refusal::Duplicate),
            (vec![leak(("x-pt", sign("another key, unknown", "drill", NOW + 60, &[])))], Refusal::Signature),
            (vec![leak(("x-pt", good.replace("drill", "drift")))], Refusal::Signature),
            (vec![leak(("x-pt", good.replace(&(NOW + 60).to_string(), &(NOW + 61).to_string())))], Refusal::Signature),
            (vec![leak(("x-pt", sign(KEY, "drill", NOW, &[])))], Refusal::Expired),
            (vec![leak(("x-pt", sign(KEY, "drill", NOW + 200_000, &[])))], Refusal::TooFar),
            (vec![leak(("x-pt", sign(KEY, "drill", NOW + 60, &["other.example.com"])))], Refusal::OtherHost),
            (vec![("x-pt", "nonsense")], Refusal::Malformed),
            (vec![leak(("x-pt", "v".repeat(600)))], Refusal::Oversized),
        ];
        for (lines, expected) in cases {
            assert_eq!(why(&read(&lines, &[KEY])), expected, "{lines:?}");
        }
        assert_eq!(why(&read(&[leak(("x-pt", good))], &[])), Refusal::NoKeys);
    }

    fn leak((name, value): (&'static str, String)) -> (&'static str, &'static str) {
        (name, value.leak())
    }

    #[test]
    fn other_baggage_stays_when_a_forged_mark_goes() {
        let Found::Refused { baggage, .. } = read(&[("baggage", "a=1, pt=x"), ("baggage", "b=2")], &[KEY]) else {
            panic!("believed");
        };
        let Found::Refused { baggage: none, .. } = read(&[("baggage", "pt=x")], &[KEY]) else { panic!("believed") };

        assert_eq!((baggage.unwrap(), none), (HeaderValue::from_static("a=1,b=2"), None));
    }

    #[test]
    fn baggage_that_names_no_run_is_left_alone() {
        assert!(matches!(read(&[("baggage", "a=1,ptx=2")], &[KEY]), Found::Nothing));
        assert!(matches!(read(&[("baggage", "a=1")], &[]), Found::Nothing));
    }

    proptest! {
        #[test]
        fn no_changed_mark_is_believed(at in 0_usize..200, byte in 0x21_u8..0x7f) {
            let good = sign(KEY, "drill", NOW + 60, &[]);
            let mut changed = good.clone().into_bytes();
            let at = at % changed.len();
            changed[at] = byte;

            prop_assume!(changed != good.as_bytes());
            prop_assert!(Keys::new([KEY]).verify(&changed, "h", NOW).is_err());
        }
    }
}
