//! Pieces of ACME: directories, contacts, names that an authority can certify.

use super::{Host, Literal, Wrong};

/// The directory of Let's Encrypt, where certificates come from unless the configuration says otherwise.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// The URL of an ACME directory (RFC 8555 §7.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryUrl(pub String);

impl Literal for DirectoryUrl {
    const WHAT: &'static str = "the URL of an ACME directory";
    const CODE: &'static str = "bad-directory";
    const EXAMPLES: &'static [&'static str] = &[
        LETS_ENCRYPT,
        "https://acme-staging-v02.api.letsencrypt.org/directory",
        "https://ca.internal:9000/acme/directory",
    ];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write the whole URL, such as \"https://acme-staging-v02.api.letsencrypt.org/directory\"";
        let Some(rest) = text.strip_prefix("https://") else {
            let label = if text.starts_with("http://") {
                "a directory is reached by https only (RFC 8555 §6.1)"
            } else {
                "this isn't an https URL"
            };
            return Err(Wrong::new(label).help(FORM));
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let odd = text.chars().find(|char| char.is_control() || char.is_whitespace() || !char.is_ascii());
        if let Some(char) = odd {
            return Err(Wrong::new(format!("a URL can't hold {char:?}")).help(FORM));
        }
        if authority.contains('@') {
            return Err(Wrong::new("a directory has no user and password").help(FORM));
        }
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                if port.parse::<u16>().is_err() {
                    return Err(Wrong::new(format!("\"{port}\" isn't a port")).help(FORM));
                }
                host
            }
            _ => authority,
        };
        Host::parse(host).map_err(|wrong| Wrong::new(wrong.label).help(FORM))?;
        Ok(Self(text.to_owned()))
    }
}

/// Where an authority reaches whoever is responsible for an account: `mailto:ops@example.com` (RFC 8555 §7.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact(pub String);

impl Literal for Contact {
    const WHAT: &'static str = "a contact";
    const CODE: &'static str = "bad-contact";
    const EXAMPLES: &'static [&'static str] = &["mailto:ops@example.com"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write \"mailto:ops@example.com\"";
        let Some(address) = text.strip_prefix("mailto:") else {
            let bare = text.contains('@') && !text.contains(':');
            let help = if bare { format!("write \"mailto:{text}\"") } else { FORM.into() };
            return Err(Wrong::new("a contact begins with mailto:").help(help));
        };
        // RFC 8555 §7.3: one address, and no header fields.
        let one = !address.contains([',', '?', ' ', '"', '<', '>']) && address.chars().all(|char| !char.is_control());
        match address.split_once('@') {
            Some((user, host)) if one && !user.is_empty() && Host::parse(host).is_ok() => Ok(Self(text.to_owned())),
            _ => Err(Wrong::new("this isn't one mail address").help(FORM)),
        }
    }
}

/// A name that an authority can certify by HTTP-01 or TLS-ALPN-01, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertName(pub String);

impl Literal for CertName {
    const WHAT: &'static str = "a name for a certificate";
    const CODE: &'static str = "bad-certificate-name";
    const EXAMPLES: &'static [&'static str] = &["shop.example.com"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        if text.starts_with("*.") || text == "*" {
            let help = "list the names one by one, or bring a wildcard certificate as files: cert and key";
            let label = "a wildcard is certified by DNS-01 only, which this gateway doesn't speak";
            return Err(Wrong::new(label).help(help));
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if bare.parse::<std::net::IpAddr>().is_ok() {
            return Err(Wrong::new("this is an address; certificates are ordered for names only"));
        }
        let name = Host::parse(text)?.0;
        if name.contains('_') {
            return Err(Wrong::new("a certificate's name can't hold '_'"));
        }
        if name.len() > 253 - "_acme-challenge.".len() {
            return Err(Wrong::new("this name is too long for a certificate"));
        }
        Ok(Self(name))
    }
}
