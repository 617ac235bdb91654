//! `/record`: what somebody wants to record, read from the query. What `tidegate record` talks to.
//!
//! ```text
//! POST /record?for_ms=60000&route=shop&sample=10000&body_max=65536&redact=x-customer&redact=email
//! ```

use std::time::Duration;

use tidegate_model::desired::Desired;

use crate::recording::{LARGEST_BODY, LONGEST, Secrets, WHOLE, Wish};

/// Bytes of a body that are kept where nothing was said.
const BODY: u64 = 64 << 10;

/// Names to be taken out that one recording may add.
const NAMES: usize = 64;

/// What `query` asks for.
///
/// # Errors
///
/// What is wrong with it, as a sentence.
pub(super) fn wish(query: &str, desired: &Desired) -> Result<Wish, String> {
    let (mut route, mut lasts, mut sample, mut body_cap, mut names) = (None, None, WHOLE, BODY, Vec::new());
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let number = || value.parse::<u64>().map_err(|_| format!("{name} takes a number, not {value:?}\n"));
        match name {
            "route" => route = Some(value.to_owned()),
            "for_ms" => lasts = Some(Duration::from_millis(number()?)),
            "sample" => sample = u32::try_from(number()?).unwrap_or(u32::MAX),
            "body_max" => body_cap = number()?,
            "redact" if names.len() < NAMES => names.push(value.to_owned()),
            _ => return Err(format!("there is no {name} here, or too many of them\n")),
        }
    }
    let lasts = lasts.filter(|span| !span.is_zero() && *span <= LONGEST);
    let lasts = lasts.ok_or_else(|| format!("for_ms is from 1 to {}\n", LONGEST.as_millis()))?;
    if !(1..=WHOLE).contains(&sample) {
        return Err(format!("sample is in hundredths of a percent, from 1 to {WHOLE}\n"));
    }
    if body_cap > LARGEST_BODY {
        return Err(format!("body_max is {LARGEST_BODY} bytes at most\n"));
    }
    if let Some(route) = &route
        && !desired.routes.iter().any(|known| known.name == *route)
    {
        return Err(format!("there is no route {route:?}; /routes lists them\n"));
    }
    let secrets = Secrets::new(desired.redact.iter().cloned().chain(names));
    Ok(Wish { route, lasts, sample, body_cap, secrets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_and_bounded() {
        let read = |query: &str| wish(query, &Desired::default());

        let good = read("for_ms=5000&sample=100&body_max=10&redact=email").unwrap();

        assert_eq!((good.lasts, good.sample, good.body_cap), (Duration::from_secs(5), 100, 10));
        assert!(good.secrets.holds("E-Mail") || good.secrets.holds("EMAIL"));
        for bad in [
            "",
            "for_ms=0",
            "for_ms=3600001",
            "for_ms=x",
            "for_ms=1&sample=0",
            "for_ms=1&sample=10001",
            "for_ms=1&body_max=99999999999",
            "for_ms=1&route=nowhere",
            "for_ms=1&colour=red",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
