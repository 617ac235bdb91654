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
//! # Not here
//!
//! A run that lasts longer than its mark must sign a new one in time; a mark may end 24 hours ahead at most.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidegate_model::mark;

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
    fn what_cannot_be_said_is_not_signed() {
        let signer = Signer::read("0123456789abcdef").unwrap();

        assert!(signer.sign("two words", 1, &[]).is_err());
        assert!(Signer::read("short").is_none());
    }
}
