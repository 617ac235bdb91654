//! Certificates that the gateway orders by itself.

use super::decode::{At, Many};
use super::section::section;
use crate::literal::{AcmeChallenge, Contact, DirectoryUrl, FilePath, Flag, Time};

section! {
    /// Where certificates are ordered, by ACME (RFC 8555).
    pub struct Acme {
        /// The authority's directory.
        #[schemars(extend("default" = "https://acme-v02.api.letsencrypt.org/directory"))]
        pub directory: Option<At<DirectoryUrl>>,
        /// Whether you accept the authority's terms of service: must be `true`, since an account is opened in your name.
        pub accept_terms: Option<At<Flag>>,
        /// Where the authority writes to when something is wrong with the account: `mailto:ops@example.com`.
        pub contact: Option<Many<At<Contact>>>,
        /// Folder of the account's key, certificates and pending challenges. Gateways that share it order each
        /// certificate once, and answer challenges for each other.
        pub store: At<FilePath>,
        /// PEM file of the authorities to trust when the directory is asked. Left out: the system's.
        pub ca: Option<At<FilePath>>,
        /// How a name is shown to be ours, what to try first in front: `http-01` is asked on port 80, `tls-alpn-01` on
        /// port 443. After a failure the next one is tried. Left out: whichever has a listener on its port, else both.
        pub challenge: Option<Many<At<AcmeChallenge>>>,
        /// How long before its end a certificate is renewed, but never in the first half of its life. Left out: when a
        /// third of its life is left, or when the authority suggests it (RFC 9773).
        pub renew_before: Option<At<Time>>,
    }
}
