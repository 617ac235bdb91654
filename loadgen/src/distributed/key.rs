//! How coordinator and worker know each other: by one secret that both have, and nothing else to set up.
//!
//! TLS 1.3 hides what they say; certificates are made on the spot and believed. Then each proves that it has the key, with an
//! HMAC over this very connection's exported keying material (RFC 5705; the channel binding "tls-exporter" of RFC 9266). Somebody
//! in the middle has two connections with different material, so a proof that is passed on is worth nothing.

use std::path::Path;

use anyhow::{Context as _, ensure};
use aws_lc_rs::hmac;

/// The shortest key, in bytes.
pub const SHORTEST: usize = 16;

/// The label and the length of the exported material (RFC 9266 §4).
const LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Bytes of exported material.
const MATERIAL: usize = 32;

/// Bytes of a proof.
pub const PROOF: usize = 32;

/// Which side proves. A side's proof is no proof of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that has the plan.
    Coordinator,
    /// The one that sends.
    Worker,
}

/// The secret that a coordinator shares with its workers.
#[derive(Clone, Debug)]
pub struct Key(hmac::Key);

impl Key {
    /// Reads the file's text, without white space around it.
    ///
    /// # Errors
    ///
    /// It can't be read, or is shorter than [`SHORTEST`].
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read the key {}", path.display()))?;
        Self::new(text.trim().as_bytes())
            .with_context(|| format!("the key in {} is too short; make one with: openssl rand -hex 32", path.display()))
    }

    /// A key of these bytes.
    ///
    /// # Errors
    ///
    /// It is shorter than [`SHORTEST`].
    pub fn new(bytes: &[u8]) -> anyhow::Result<Self> {
        ensure!(bytes.len() >= SHORTEST, "{} bytes, of {SHORTEST} at least", bytes.len());
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// What `side` shows on a connection with this material.
    pub fn prove(&self, side: Side, material: &[u8]) -> [u8; PROOF] {
        let mut proof = [0; PROOF];
        proof.copy_from_slice(hmac::sign(&self.0, &said(side, material)).as_ref());
        proof
    }

    /// Whether `side` has shown the right thing. Takes as long whatever it is.
    pub fn accepts(&self, side: Side, material: &[u8], proof: &[u8]) -> bool {
        hmac::verify(&self.0, &said(side, material), proof).is_ok()
    }
}

fn said(side: Side, material: &[u8]) -> Vec<u8> {
    let who: &[u8] = match side {
        Side::Coordinator => b"tidegate load coordinator\0",
        Side::Worker => b"tidegate load worker\0",
    };
    [who, material].concat()
}

/// What both sides of a connection can compute, and nobody else.
///
/// # Errors
///
/// The handshake isn't complete.
pub fn material<Data>(connection: &rustls::ConnectionCommon<Data>) -> anyhow::Result<[u8; MATERIAL]> {
    Ok(connection.export_keying_material([0; MATERIAL], LABEL, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_side_its_connection_and_its_key_only() {
        let (key, other) = (Key::new(&[7; 32]).unwrap(), Key::new(&[8; 32]).unwrap());

        let proof = key.prove(Side::Worker, b"material");

        assert!(key.accepts(Side::Worker, b"material", &proof));
        assert!(!key.accepts(Side::Coordinator, b"material", &proof));
        assert!(!key.accepts(Side::Worker, b"another", &proof));
        assert!(!other.accepts(Side::Worker, b"material", &proof));
    }

    #[test]
    fn a_short_key_is_refused() {
        assert!(Key::new(&[7; SHORTEST - 1]).is_err());
    }
}
