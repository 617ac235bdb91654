//! PROXY headers: never a panic, never a length beyond the input, and the same answer however the bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_gateway::door::proxy_header::parse;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    if let Ok(Some((_, length))) = &whole {
        assert!(*length <= bytes.len());
        for end in 0..*length {
            assert!(matches!(parse(&bytes[..end]), Ok(None)), "a header is complete only with its last byte");
        }
    }
});
