//! Signs the mark of dyed traffic: what tells gateways and services that a request belongs to a load test.
//!
//! The text is [`tidegate_model::mark`]'s; the gateway verifies it with the same key.
//!
//! ```
//! # fn main() -> Result<(), String> {
//! let signer = tidegate_loadgen::mark::Signer::read("0123456789abcdef0123456789abcdef\n").ok_or("no key")?;
//! let mark = signer.sign("spring-drill", 1_900_000_000, &[])?;
//! assert!(mark.starts_with("v1;spring-drill;1900000000;*;"));
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//!
//! - A run is marked from its first request to its last: one that would outlive its mark isn't begun.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidegate_model::mark;
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::{Piece, Step, Template};

/// How long a run's mark outlives its schedule: requests that are under way then are still dyed at the next gateway.
const AFTERWARDS: Duration = Duration::from_secs(600);

/// `plan` as it is sent: marked, where it says so, and as it stands where it isn't, or was marked by a coordinator.
///
/// # Errors
///
/// As [`dye`].
pub fn dyed(plan: &Plan, now: u64) -> anyhow::Result<Cow<'_, Plan>> {
    let Some(mark) = &plan.mark else { return Ok(Cow::Borrowed(plan)) };
    if plan.steps().all(|step| is_marked(step, &mark.run, now)) {
        return Ok(Cow::Borrowed(plan));
    }
    let mut plan = plan.clone();
    dye(&mut plan, now)?;
    Ok(Cow::Owned(plan))
}

/// Whether `step` carries a mark of `run` that still holds, whoever signed it.
fn is_marked(step: &Step, run: &str, now: u64) -> bool {
    step.headers.iter().any(|(name, value)| {
        let [Piece::Text(text)] = &value.pieces[..] else { return false };
        let mark = mark::Mark::parse(text.as_bytes());
        name == mark::HEADER && mark.is_ok_and(|mark| mark.run == run && mark.expiry > now)
    })
}

/// Marks every request of `plan`, where it says so, with a proof that is signed once, at `now` (Unix seconds), and is good
/// for every host. What a step says of `x-pt` itself gives way; its other baggage stays.
///
/// # Errors
///
/// The key can't be read, or the run lasts longer than a mark may.
pub fn dye(plan: &mut Plan, now: u64) -> anyhow::Result<()> {
    let Some(mark) = &plan.mark else { return Ok(()) };
    let lasts = plan.lasts() + AFTERWARDS;
    if lasts > mark::FARTHEST {
        bail!("a mark is good for 24 hours at most: a dyed run can last 23h50m");
    }
    let file = mark.key.display();
    let text = std::fs::read_to_string(&mark.key).with_context(|| format!("could not read the key {file}"))?;
    let signer =
        Signer::read(&text).with_context(|| format!("{file} holds no key: one line of at least 16 characters"))?;
    let proof = signer.sign(&mark.run, now + lasts.as_secs(), &[]).map_err(|sentence| anyhow!(sentence))?;
    let name = format!("{}={}", mark::MEMBER, mark.run);
    for step in plan.flows.iter_mut().flat_map(|flow| &mut flow.steps) {
        step.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(mark::HEADER));
        for (field, value) in [(mark::BAGGAGE, &name), (mark::HEADER, &proof)] {
            step.headers.push((field.to_owned(), Template { pieces: vec![Piece::Text(value.clone())] }));
        }
    }
    Ok(())
}

/// A key that nobody guesses: 256 bits in base64url.
pub fn new_key(dice: &mut (impl rand::Rng + rand::CryptoRng)) -> String {
    URL_SAFE_NO_PAD.encode(dice.random::<[u8; 32]>())
}

/// Signs with one key.
#[derive(Clone)]
pub struct Signer(hmac::Key);

impl Signer {
    /// With the key in `text`, a key file's. `None` when it isn't one line of at least 16 characters.
    pub fn read(text: &str) -> Option<Self> {
        mark::key(text).map(|key| Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))
    }

    /// The `x-pt` header for `run` until `expiry` (Unix seconds), good for `hosts`; none: for every host.
    ///
    /// # Errors
    ///
    /// What can't be said in a mark, as a sentence.
    pub fn sign(&self, run: &str, expiry: u64, hosts: &[String]) -> Result<String, String> {
        let signed = mark::to_sign(run, expiry, hosts)?;
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, signed.as_bytes()));
        Ok(mark::complete(&signed, &tag))
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_openssl_computes() {
        let signer = Signer::read("0123456789abcdef").unwrap();

        let mark = signer.sign("drill", 1_900_000_000, &[]).unwrap();

        // printf 'v1;drill;1900000000;*' | openssl dgst -sha256 -hmac 0123456789abcdef -binary | basenc --base64url
        assert_eq!(mark, "v1;drill;1900000000;*;_GpHVqB-gIRXHjiAzrI3XdLaPgNC11FodX5SNP9yOJw");
    }

    #[test]
    fn every_request_of_a_marked_plan_carries_name_and_proof() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("pt.key");
        std::fs::write(&key, "0123456789abcdef\n").unwrap();
        let mut plan = crate::report::sample::plan();
        plan.mark = Some(tidegate_model::scenario::plan::Mark { run: "drill".into(), key: key.clone() });
        let own = ("X-PT".to_owned(), Template { pieces: vec![Piece::Text("own".into())] });
        plan.flows[0].steps[0].headers.push(own);

        dye(&mut plan, 1_900_000_000).unwrap();

        for step in plan.steps() {
            let proofs: Vec<_> = step.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-pt")).collect();
            let [(_, proof)] = proofs[..] else { panic!("{proofs:?}") };
            let [Piece::Text(proof)] = &proof.pieces[..] else { panic!("{proof:?}") };
            let read = mark::Mark::parse(proof.as_bytes()).unwrap();
            assert_eq!((read.run, read.holds("any.host", 1_900_000_000)), ("drill", Ok(())));
            assert!(read.expiry >= 1_900_000_000 + plan.lasts().as_secs(), "it outlives the run");
            let baggage = ("baggage".to_owned(), Template { pieces: vec![Piece::Text("pt=drill".into())] });
            assert!(step.headers.contains(&baggage));
        }
        std::fs::remove_file(key).unwrap();
        assert!(matches!(dyed(&plan, 1_900_000_000), Ok(Cow::Borrowed(_))), "a worker needs no key");
        assert!(dye(&mut plan, 1_900_000_000).unwrap_err().to_string().contains("could not read the key"));
    }

    #[test]
    fn what_cannot_be_said_is_not_signed() {
        let signer = Signer::read("0123456789abcdef").unwrap();

        assert!(signer.sign("two words", 1, &[]).is_err());
        assert!(Signer::read("short").is_none());
    }
}
