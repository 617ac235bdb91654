//! Header names that a client may not use, because an endpoint could take them for the gateway's word.

/// Headers that frame a message, name its host, or tell endpoints what the gateway knows about the client.
const OURS: [&[u8]; 12] = [
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-real-ip",
    b"x-pt",
    b"baggage",
    b"x-request-id",
];

/// Tells whether `name` is one of ours with an underscore in place of a dash. CGI, WSGI and PHP hand both to an
/// application under one name, so it would see the client's value beside the gateway's, or instead of it.
pub fn is_impostor(name: &[u8]) -> bool {
    name.contains(&b'_') && OURS.iter().any(|ours| is_spelt(name, ours))
}

/// Tells whether a Connection header may name `option`, and so ask us to remove that header. Those that
/// are meant for every recipient may not be named (RFC 9110 §7.6.1).
pub fn may_be_nominated(option: &[u8]) -> bool {
    !OURS.iter().any(|ours| is_spelt(option, ours))
}

fn is_spelt(name: &[u8], ours: &[u8]) -> bool {
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == ours.len() && name.iter().map(plain).eq(ours.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_underscore_makes_an_impostor_of_our_names_and_of_no_other() {
        for name in ["X_Forwarded_For", "x-forwarded_for", "Content_Length", "TRANSFER_ENCODING"] {
            assert!(is_impostor(name.as_bytes()), "{name}");
        }
        for name in ["X-Forwarded-For", "api_key", "x_forwarded_fo", "Host", "_"] {
            assert!(!is_impostor(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn connection_may_name_what_is_meant_for_one_hop() {
        for option in ["close", "keep-alive", "upgrade", "TE", "x-hop"] {
            assert!(may_be_nominated(option.as_bytes()), "{option}");
        }
        for option in ["Content-Length", "transfer-encoding", "host", "X-Forwarded-For"] {
            assert!(!may_be_nominated(option.as_bytes()), "{option}");
        }
    }
}
