//! What visitors carry: signed questions, and signed passes for those who answered one.
//!
//! Both are checked without remembering anything: an HMAC-SHA-256 (RFC 2104), cut to 128 bits (NIST SP 800-107 §5.3.3), over
//! everything they say and over whom it is said to. A question names the time it was asked at and its difficulty; a pass the
//! time it ends at.
//!
//! # Invariants
//!
//! - Both are bound to the visitor's network and to the host: carried elsewhere, they are worth nothing.
//! - A pass that was given for less work isn't worth more work.
//! - Tags are compared in constant time.

use std::fmt::Write;

use aws_lc_rs::{constant_time, hmac};
use sha2::{Digest, Sha256};

use crate::decide::key::Network;

/// Seconds in which a question must be answered.
const ANSWER_WITHIN: u64 = 600;

/// Seconds that two gateways' clocks may differ by.
const SKEW: u64 = 30;

/// Bytes of a tag.
const TAG: usize = 16;

/// The shortest secret, in bytes: enough for a passphrase nobody guesses.
pub const SHORTEST_SECRET: usize = 16;

/// Secrets that are read from one file: the one that signs, and those that are still accepted.
const SECRETS: usize = 4;

/// The keys that sign. The first one does; all of them are accepted, so that a secret can be replaced.
#[derive(Clone)]
pub struct Keys(Vec<hmac::Key>);

/// Whom a token is for.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The visitor's network.
    pub network: Network,
    /// The host that was asked for.
    pub host: &'a str,
}

impl Keys {
    /// The keys that `text` has, one a line: the first signs, the next three are still accepted. `None` when a line is
    /// shorter than [`SHORTEST_SECRET`], or there is none.
    pub fn read(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(SECRETS).collect();
        let good = !lines.is_empty() && lines.iter().all(|line| line.len() >= SHORTEST_SECRET);
        good.then(|| Self(lines.iter().map(|line| hmac::Key::new(hmac::HMAC_SHA256, line.as_bytes())).collect()))
    }

    /// A question of `bits` bits, asked at `now` (Unix seconds).
    pub fn question(&self, holder: Holder<'_>, bits: u8, now: u64) -> String {
        let said = format!("{now:x}.{bits}");
        let tag = hex(&tag(&self.0[0], b"question", &said, holder));
        format!("{said}.{tag}")
    }

    /// Whether `answer` answers `question`, and `question` is ours, and was asked of this holder not long ago.
    pub fn is_answered(&self, question: &str, answer: &str, holder: Holder<'_>, now: u64) -> Option<u8> {
        let (said, given) = question.rsplit_once('.')?;
        let (asked, bits) = said.split_once('.')?;
        let (asked, bits) = (u64::from_str_radix(asked, 16).ok()?, bits.parse::<u8>().ok()?);
        let fresh = asked <= now + SKEW && now <= asked.saturating_add(ANSWER_WITHIN);
        let short = answer.len() <= 20 && answer.bytes().all(|byte| byte.is_ascii_digit());
        (fresh && short && self.signed(b"question", said, given, holder) && works(question, answer, bits))
            .then_some(bits)
    }

    /// A pass until `until` (Unix seconds) for somebody who did `bits` of work; 0 for a redirect.
    pub fn pass(&self, holder: Holder<'_>, bits: u8, until: u64) -> String {
        let said = format!("{until:x}.{bits}");
        let tag = hex(&tag(&self.0[0], b"pass", &said, holder));
        format!("{said}.{tag}")
    }

    /// Whether `pass` is this holder's, still holds, and was given for at least `bits` of work.
    pub fn admits(&self, pass: &[u8], holder: Holder<'_>, bits: u8, now: u64) -> bool {
        let read = || {
            let (said, given) = std::str::from_utf8(pass).ok()?.rsplit_once('.')?;
            let (until, done) = said.split_once('.')?;
            let (until, done) = (u64::from_str_radix(until, 16).ok()?, done.parse::<u8>().ok()?);
            Some(now < until && done >= bits && self.signed(b"pass", said, given, holder))
        };
        read().unwrap_or(false)
    }

    fn signed(&self, kind: &[u8], said: &str, given: &str, holder: Holder<'_>) -> bool {
        let Some(given) = unhex(given) else { return false };
        // Every key is tried, so that the time tells nothing of which one it was.
        self.0.iter().fold(false, |found, key| {
            found | constant_time::verify_slices_are_equal(&tag(key, kind, said, holder), &given).is_ok()
        })
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// Lengths go before what varies in length, so that no two messages run into each other.
fn tag(key: &hmac::Key, kind: &[u8], said: &str, holder: Holder<'_>) -> [u8; TAG] {
    let mut context = hmac::Context::with_key(key);
    for part in [kind, said.as_bytes(), holder.network.as_bytes(), holder.host.as_bytes()] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut cut = [0; TAG];
    cut.copy_from_slice(&context.sign().as_ref()[..TAG]);
    cut
}

/// Whether SHA-256 of `question:answer` begins with `bits` zero bits (hashcash, Back 2002).
fn works(question: &str, answer: &str, bits: u8) -> bool {
    let digest = Sha256::new().chain_update(question).chain_update(":").chain_update(answer).finalize();
    let first = u64::from_be_bytes(digest[..8].try_into().expect("SHA-256 has 32 bytes"));
    first.leading_zeros() >= u32::from(bits)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // Writing to a String can't fail.
        text
    })
}

fn unhex(text: &str) -> Option<[u8; TAG]> {
    let mut bytes = [0; TAG];
    if text.len() != 2 * TAG || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn keys(text: &str) -> Keys {
        Keys::read(text).unwrap()
    }

    fn holder<'a>(address: &str, host: &'a str) -> Holder<'a> {
        Holder { network: Network::of(address.parse().unwrap(), 64), host }
    }

    /// Does the work as a browser would.
    pub(crate) fn solve(question: &str) -> String {
        let bits = question.split('.').nth(1).unwrap().parse().unwrap();
        (0_u64..).map(|n| n.to_string()).find(|answer| works(question, answer, bits)).unwrap()
    }

    #[test]
    fn a_pass_admits_its_holder_until_it_ends() {
        let keys = keys("a secret of some length");
        let visitor = holder("2001:db8::1", "shop.example.com");
        let pass = keys.pass(visitor, 18, NOW + 60);
        let admits = |who, bits, now| keys.admits(pass.as_bytes(), who, bits, now);

        assert!(admits(visitor, 18, NOW) && admits(holder("2001:db8::2", "shop.example.com"), 10, NOW));
        assert!(!admits(visitor, 18, NOW + 60), "it has ended");
        assert!(!admits(visitor, 19, NOW), "more work is asked for now");
        assert!(!admits(holder("2001:db8:0:1::1", "shop.example.com"), 18, NOW), "it is somebody else's");
        assert!(!admits(holder("2001:db8::1", "other.example.com"), 18, NOW), "it is for another host");
    }

    #[test]
    fn an_answered_question_is_worth_nothing_elsewhere_or_later() {
        let keys = keys("a secret of some length");
        let visitor = holder("192.0.2.7", "h");
        let question = keys.question(visitor, 8, NOW);
        let answer = solve(&question);
        let answered = |question: &str, answer: &str, who, now| keys.is_answered(question, answer, who, now);

        assert_eq!(answered(&question, &answer, visitor, NOW + 5), Some(8));
        assert_eq!(answered(&question, &answer, holder("192.0.2.8", "h"), NOW), None);
        assert_eq!(answered(&question, &answer, visitor, NOW + ANSWER_WITHIN + 1), None);
        assert_eq!(answered(&question.replace(".8.", ".0."), &answer, visitor, NOW), None, "the difficulty is signed");
        let wrong = (0_u64..).map(|n| n.to_string()).find(|answer| !works(&question, answer, 8)).unwrap();
        assert_eq!(answered(&question, &wrong, visitor, NOW), None);
    }

    #[test]
    fn a_question_is_no_pass() {
        let keys = keys("a secret of some length");
        let visitor = holder("192.0.2.7", "h");

        let question = keys.question(visitor, 18, NOW + 60);

        assert!(!keys.admits(question.as_bytes(), visitor, 0, NOW));
    }

    #[test]
    fn a_replaced_secret_is_accepted_and_a_dropped_one_is_not() {
        let visitor = holder("192.0.2.7", "h");
        let pass = keys("the first of the secrets").pass(visitor, 18, NOW + 60);

        let both = keys("the second of the secrets\nthe first of the secrets\n");
        let only = keys("the second of the secrets");

        assert!(both.admits(pass.as_bytes(), visitor, 18, NOW));
        assert!(!only.admits(pass.as_bytes(), visitor, 18, NOW));
        assert!(only.admits(both.pass(visitor, 0, NOW + 1).as_bytes(), visitor, 0, NOW), "the first one signs");
    }

    #[test]
    fn short_secrets_are_refused() {
        for text in ["", "\n\n", "too short", "a secret of some length\nshort"] {
            assert!(Keys::read(text).is_none(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_change_of_a_pass_admits_anybody(at in 0_usize..40, byte in any::<u8>()) {
            let keys = keys("a secret of some length");
            let visitor = holder("192.0.2.7", "h");
            let pass = keys.pass(visitor, 18, NOW + 60).into_bytes();
            let mut changed = pass.clone();
            let at = at % changed.len();
            changed[at] = byte;
            let upper_case = changed.eq_ignore_ascii_case(&pass);

            prop_assume!(!upper_case);
            prop_assert!(!keys.admits(&changed, visitor, 0, NOW));
        }

        #[test]
        fn garbage_is_neither_a_pass_nor_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..80), text in ".{0,60}") {
            let keys = keys("a secret of some length");
            let visitor = holder("192.0.2.7", "h");

            prop_assert!(!keys.admits(&bytes, visitor, 0, NOW));
            prop_assert_eq!(keys.is_answered(&text, &text, visitor, NOW), None);
        }
    }
}
