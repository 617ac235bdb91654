//! The mark of dyed traffic, as text: what a load generator writes and the gateway reads.
//!
//! ```text
//! baggage: pt=spring-drill                                            names the run, for everybody (W3C Baggage)
//! x-pt: v1;spring-drill;1900000000;*;3q2-7w…                          proves it, to gateways
//!       │  │            │          │ └ base64url(HMAC-SHA-256(key, everything before the last ;)), unpadded
//!       │  │            │          └── hosts it is good for: *, or names joined by +: shop.example.com+*.internal
//!       │  │            └───────────── Unix seconds at which it ends
//!       │  └────────────────────────── the run's name
//!       └───────────────────────────── the version of this format
//! ```
//!
//! A mark is no nonce: it may be sent as often as wanted until it ends, and every gateway that has the key accepts it.
//! What bounds a stolen one is its end, its hosts and the key, which each environment has for itself.
//!
//! # Not here
//!
//! Cryptography: the gateway verifies (`guard::dyed`), the load generator signs (`mark`).

use std::fmt;
use std::time::Duration;

/// The header that proves a mark.
pub const HEADER: &str = "x-pt";

/// The header that carries the run's name from service to service (W3C Baggage).
pub const BAGGAGE: &str = "baggage";

/// The key of the run's name in it. Keys of baggage are case-sensitive.
pub const MEMBER: &str = "pt";

/// Bytes of a whole mark. A longer one is refused before anything of it is looked at.
pub const LONGEST: usize = 512;

/// Characters of a run's name. Names become log fields and baggage.
pub const LONGEST_RUN: usize = 64;

/// How far ahead a mark may end. One that ends later is refused, so that none is good for ever.
pub const FARTHEST: Duration = Duration::from_secs(24 * 3_600);

/// How much later still it may end, because clocks differ. An end that has passed has passed.
pub const SKEW: Duration = Duration::from_secs(60);

/// Characters of an unpadded base64url HMAC-SHA-256.
const TAG: usize = 43;

/// The shortest key, in bytes.
pub const SHORTEST_KEY: usize = 16;

/// Why a mark isn't believed. A closed set, so that it can be a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No keys are configured.
    NoKeys,
    /// There is a run's name, and nothing that proves it.
    Unsigned,
    /// There is more than one proof.
    Duplicate,
    /// It is longer than [`LONGEST`].
    Oversized,
    /// It isn't written as a mark is.
    Malformed,
    /// Its end has passed.
    Expired,
    /// Its end is more than [`FARTHEST`] ahead.
    TooFar,
    /// It is good for other hosts.
    OtherHost,
    /// No key has signed it.
    Signature,
}

impl Refusal {
    /// Every one, in the order of its discriminants.
    pub const ALL: [Self; 9] = [
        Self::NoKeys,
        Self::Unsigned,
        Self::Duplicate,
        Self::Oversized,
        Self::Malformed,
        Self::Expired,
        Self::TooFar,
        Self::OtherHost,
        Self::Signature,
    ];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoKeys => "no_keys",
            Self::Unsigned => "unsigned",
            Self::Duplicate => "duplicate",
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::Expired => "expired",
            Self::TooFar => "too_far",
            Self::OtherHost => "other_host",
            Self::Signature => "signature",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoKeys => "no keys are configured under dyed.keys",
            Self::Unsigned => "the run's name stands in baggage, but there is no x-pt that proves it",
            Self::Duplicate => "there is more than one x-pt",
            Self::Oversized => "it is longer than 512 bytes",
            Self::Malformed => "it isn't written \"v1;run;expiry;hosts;signature\"",
            Self::Expired => "it has expired",
            Self::TooFar => "it ends more than 24 hours ahead",
            Self::OtherHost => "it is for other hosts",
            Self::Signature => "no key has signed this",
        })
    }
}

/// A mark, cut into its parts. Nothing about it is proven yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark<'a> {
    /// The run's name, which [`is_run`].
    pub run: &'a str,
    /// Unix seconds at which it ends.
    pub expiry: u64,
    /// `*`, or the hosts that it is good for, joined by `+`.
    pub hosts: &'a str,
    /// What is signed: everything before the last `;`.
    pub signed: &'a str,
    /// The signature in unpadded base64url, 43 characters of its alphabet.
    pub tag: &'a str,
}

impl<'a> Mark<'a> {
    /// Cuts `text` into the parts of a mark.
    ///
    /// # Errors
    ///
    /// [`Refusal::Oversized`] or [`Refusal::Malformed`].
    pub fn parse(text: &'a [u8]) -> Result<Self, Refusal> {
        if text.len() > LONGEST {
            return Err(Refusal::Oversized);
        }
        let text = std::str::from_utf8(text).map_err(|_| Refusal::Malformed)?;
        let read = || {
            let (signed, tag) = text.rsplit_once(';')?;
            let mut parts = signed.split(';');
            let (version, run, expiry, hosts) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let legal = version == "v1" && parts.next().is_none() && is_run(run) && are_hosts(hosts) && is_tag(tag);
            let plain = !expiry.is_empty() && expiry.len() <= 12 && expiry.bytes().all(|byte| byte.is_ascii_digit());
            (legal && plain).then_some(Self { run, expiry: expiry.parse().ok()?, hosts, signed, tag })
        };
        read().ok_or(Refusal::Malformed)
    }

    /// Whether it is good for `host` (in lower case, without port) at `now` (Unix seconds), if somebody has signed it.
    ///
    /// # Errors
    ///
    /// [`Refusal::Expired`], [`Refusal::TooFar`] or [`Refusal::OtherHost`].
    pub fn holds(&self, host: &str, now: u64) -> Result<(), Refusal> {
        if self.expiry <= now {
            return Err(Refusal::Expired);
        }
        if self.expiry - now > (FARTHEST + SKEW).as_secs() {
            return Err(Refusal::TooFar);
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let takes = |pattern: &str| match pattern.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => host.strip_suffix(suffix).is_some_and(|front| !front.is_empty()),
            None => pattern == host,
        };
        if self.hosts.split('+').any(takes) { Ok(()) } else { Err(Refusal::OtherHost) }
    }
}

/// What is signed for a run that ends at `expiry` (Unix seconds), good for `hosts`; none: for every host.
///
/// # Errors
///
/// What can't be said in a mark, as a sentence.
pub fn to_sign(run: &str, expiry: u64, hosts: &[String]) -> Result<String, String> {
    if !is_run(run) {
        return Err(format!(
            "\"{run}\" can't name a run: letters, digits, -, _ and . are possible, {LONGEST_RUN} of them at most, a letter or digit in front"
        ));
    }
    let hosts = if hosts.is_empty() { "*".to_owned() } else { hosts.join("+").to_ascii_lowercase() };
    if !are_hosts(&hosts) {
        return Err(format!("\"{hosts}\" isn't a host: write shop.example.com, *.example.com or *"));
    }
    let text = format!("v1;{run};{expiry};{hosts}");
    if text.len() + 1 + TAG > LONGEST {
        return Err(format!("a mark has at most {LONGEST} bytes: name fewer hosts"));
    }
    Ok(text)
}

/// The whole mark: what was signed, and its signature in unpadded base64url.
pub fn complete(signed: &str, tag: &str) -> String {
    format!("{signed};{tag}")
}

/// The key in a file's `text`: its only line. `None` when it is shorter than [`SHORTEST_KEY`], or there are more lines.
pub fn key(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.next().filter(|line| line.len() >= SHORTEST_KEY && lines.next().is_none())
}

/// Whether `text` can name a run: it is safe in logs, labels and baggage.
pub fn is_run(text: &str) -> bool {
    (1..=LONGEST_RUN).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn are_hosts(text: &str) -> bool {
    text.split('+').all(|pattern| {
        let name = match pattern.strip_prefix('*') {
            Some("") => return true,
            Some(rest) => rest.strip_prefix('.').unwrap_or_default(),
            None => pattern,
        };
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.:[]".contains(&byte);
        !name.is_empty() && name.bytes().all(legal)
    })
}

fn is_tag(text: &str) -> bool {
    text.len() == TAG && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Whether a line of baggage names a run, truly or not.
pub fn names_a_run(line: &[u8]) -> bool {
    members(line).any(is_ours)
}

/// All `lines` of baggage as one, in their order, with `run` in front and without what else names a run. Empty when
/// nothing is left.
pub fn baggage<'l>(run: Option<&str>, lines: impl Iterator<Item = &'l [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(run) = run {
        out.extend_from_slice(MEMBER.as_bytes());
        out.push(b'=');
        out.extend_from_slice(run.as_bytes());
    }
    for member in lines.flat_map(members).filter(|member| !is_ours(member)) {
        if !out.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(member);
    }
    out
}

/// The members of a line, without the whitespace around them; empty ones left out.
fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Whether `member` is under our key. One without a value is as well: some reader may make something of it.
fn is_ours(member: &[u8]) -> bool {
    let end = member.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(member.len());
    member[..end].trim_ascii() == MEMBER.as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn tag() -> String {
        "A".repeat(TAG)
    }

    fn mark(run: &str, expiry: u64, hosts: &[&str]) -> String {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        complete(&to_sign(run, expiry, &hosts).unwrap(), &tag())
    }

    fn holds(text: &str, host: &str, now: u64) -> Result<(), Refusal> {
        Mark::parse(text.as_bytes())?.holds(host, now)
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let text = mark("spring-drill_1.2", NOW, &["shop.example.com", "*.internal"]);

        let read = Mark::parse(text.as_bytes()).unwrap();

        assert_eq!((read.run, read.expiry, read.hosts), ("spring-drill_1.2", NOW, "shop.example.com+*.internal"));
        assert_eq!(read.signed, "v1;spring-drill_1.2;1800000000;shop.example.com+*.internal");
        assert_eq!(read.tag, tag());
    }

    #[test]
    fn a_mark_holds_until_its_end_and_not_too_long() {
        let day = FARTHEST.as_secs();

        assert_eq!(holds(&mark("r", NOW + 1, &[]), "h", NOW), Ok(()));
        assert_eq!(holds(&mark("r", NOW, &[]), "h", NOW), Err(Refusal::Expired));
        assert_eq!(holds(&mark("r", NOW + day + SKEW.as_secs(), &[]), "h", NOW), Ok(()));
        assert_eq!(holds(&mark("r", NOW + day + SKEW.as_secs() + 1, &[]), "h", NOW), Err(Refusal::TooFar));
    }

    #[test]
    fn a_mark_is_good_for_its_hosts_only() {
        let text = mark("r", NOW + 9, &["shop.example.com", "*.internal"]);
        let good = |host: &str| holds(&text, host, NOW).is_ok();

        assert!(good("shop.example.com") && good("shop.example.com.") && good("cart.internal") && good("a.b.internal"));
        assert!(!good("www.example.com") && !good("internal") && !good("evilinternal") && !good(""));
    }

    #[test]
    fn what_is_no_mark_is_refused() {
        let good = mark("r", NOW, &[]);
        let tag = tag();
        for bad in [
            String::new(),
            "v1".into(),
            good.replace("v1", "v2"),
            good.replace(";r;", ";;"),
            good.replace(";r;", ";r,x;"),
            good.replace(";r;", ";-r;"),
            good.replace(";*;", ";;"),
            good.replace(";*;", ";*x;"),
            good.replace(";*;", ";A.example;"),
            good.replace(";*;", ";*;*;"),
            good.replace("1800000000", "+1800000000"),
            good.replace("1800000000", "99999999999999999999"),
            good.replace(&tag, &tag[1..]),
            good.replace(&tag, &format!("{}=", &tag[1..])),
            format!("{good}, {good}"),
            format!(" {good}"),
        ] {
            assert_eq!(Mark::parse(bad.as_bytes()), Err(Refusal::Malformed), "{bad}");
        }
        assert_eq!(Mark::parse(&[b'v'; LONGEST + 1]), Err(Refusal::Oversized));
    }

    #[test]
    fn what_cannot_be_said_is_not_composed() {
        let hosts = |host: &str| vec![host.to_owned()];

        assert!(to_sign("", 1, &[]).is_err() && to_sign("a b", 1, &[]).is_err());
        assert!(to_sign(&"r".repeat(LONGEST_RUN + 1), 1, &[]).is_err());
        assert!(to_sign("r", 1, &hosts("a;b")).is_err() && to_sign("r", 1, &hosts("")).is_err());
        assert!(to_sign("r", 1, &hosts(&"h".repeat(LONGEST))).is_err());
        assert_eq!(to_sign("r", 1, &hosts("Shop.Example.com")).unwrap(), "v1;r;1;shop.example.com");
    }

    #[test]
    fn baggage_keeps_its_other_members_in_their_order() {
        let lines = [&b"a=1;p=x , pt=forged,b=2"[..], b"", b"pt = forged ; q", b"ptx=3,pt", b"PT=4"];

        let dyed = baggage(Some("run"), lines.into_iter());
        let stripped = baggage(None, lines.into_iter());

        assert_eq!(String::from_utf8(dyed).unwrap(), "pt=run,a=1;p=x,b=2,ptx=3,PT=4");
        assert_eq!(String::from_utf8(stripped).unwrap(), "a=1;p=x,b=2,ptx=3,PT=4");
        assert!(baggage(None, [&b"pt=x"[..]].into_iter()).is_empty());
    }

    #[test]
    fn a_key_is_one_long_line() {
        assert_eq!(key("\n 0123456789abcdef \n"), Some("0123456789abcdef"));
        for bad in ["", "short", "0123456789abcdef\n0123456789abcdef"] {
            assert_eq!(key(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_at_all_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Mark::parse(&bytes).map(|mark| mark.holds("h", NOW));

            prop_assert!(!names_a_run(&baggage(None, [&bytes[..]].into_iter())));
        }

        #[test]
        fn baggage_names_exactly_the_run_it_was_given(line in "[a-c,=; pt]{0,40}") {
            let dyed = baggage(Some("run"), [line.as_bytes()].into_iter());

            let ours: Vec<_> = members(&dyed).filter(|member| is_ours(member)).collect();
            prop_assert_eq!(ours, [b"pt=run"]);
        }
    }
}
