//! Who a client is, by its certificate.

use std::fmt;

use http::HeaderValue;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Bytes of a certificate that is told to endpoints. Theirs is the bound for headers, often 8 KiB; a larger one is
/// known to the log only.
const MAX_TOLD: usize = 6 << 10;

/// A client's certificate, which was verified.
#[derive(Clone)]
pub struct ClientIdentity {
    /// Its subject, as `CN=alice, O=Example`. Empty if the certificate names only alternative names.
    pub subject: String,
    /// The value of `Client-Cert` (RFC 9440 §2.2): the certificate as a byte sequence of structured fields.
    pub header: Option<HeaderValue>,
}

impl ClientIdentity {
    /// Reads the leaf of a chain that was verified.
    pub fn of(leaf: &CertificateDer<'_>) -> Self {
        let subject = X509Certificate::from_der(leaf).map(|(_, leaf)| leaf.subject().to_string()).unwrap_or_default();
        Self { subject, header: (leaf.len() <= MAX_TOLD).then(|| header(leaf)) }
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientIdentity({})", self.subject)
    }
}

/// `:base64:`, with padding (RFC 8941 §3.3.5).
fn header(der: &[u8]) -> HeaderValue {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(der.len().div_ceil(3) * 4 + 2);
    text.push(b':');
    for chunk in der.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { letter } else { b'=' });
        }
    }
    text.push(b':');
    HeaderValue::from_maybe_shared(text).expect("invariant: base64 is legal in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_as_a_byte_sequence_of_structured_fields() {
        // The test vectors of RFC 4648 §10.
        for (bytes, expected) in [
            ("", "::"),
            ("f", ":Zg==:"),
            ("fo", ":Zm8=:"),
            ("foo", ":Zm9v:"),
            ("foob", ":Zm9vYg==:"),
            ("fooba", ":Zm9vYmE=:"),
            ("foobar", ":Zm9vYmFy:"),
        ] {
            assert_eq!(header(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn a_huge_certificate_is_not_told_to_endpoints() {
        let huge = CertificateDer::from(vec![0x30; MAX_TOLD + 1]);

        assert!(ClientIdentity::of(&huge).header.is_none());
    }
}
