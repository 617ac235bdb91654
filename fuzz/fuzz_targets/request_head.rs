//! Request heads: scanning byte by byte and all at once agree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_gateway::door::head::{HeadLimits, HeadScanner};

fuzz_target!(|bytes: &[u8]| {
    let limits = HeadLimits { bytes: 4_096, headers: 32 };
    let whole = HeadScanner::default().scan(bytes, limits);

    let mut scanner = HeadScanner::default();
    let mut piecewise = Ok(None);
    for end in 0..=bytes.len() {
        piecewise = scanner.scan(&bytes[..end], limits);
        if !matches!(piecewise, Ok(None)) {
            break;
        }
    }

    assert_eq!(whole.is_ok(), piecewise.is_ok());
    if let (Ok(whole), Ok(piecewise)) = (whole, piecewise) {
        assert_eq!(whole, piecewise);
    }
});
