//! Lengths of time on the command line.

use std::time::Duration;

/// Reads `20s`, `2m`, `1h`, `500ms` or a plain number of seconds.
pub fn read(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a duration such as 20s, 2m or 1h".to_owned())?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("unknown unit {unit:?}: use ms, s, m or h")),
    };
    let millis = number.checked_mul(millis).filter(|&millis| millis <= 86_400_000 * 7);
    millis.map(Duration::from_millis).ok_or_else(|| "longer than a week".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_and_without_a_unit() {
        let read: Vec<_> = ["20s", "20", "2m", "1h", "500ms"].iter().map(|text| read(text)).collect();

        let seconds = Duration::from_secs;
        assert_eq!(
            read,
            [Ok(seconds(20)), Ok(seconds(20)), Ok(seconds(120)), Ok(seconds(3600)), Ok(Duration::from_millis(500))]
        );
    }

    #[test]
    fn a_duration_that_makes_no_sense_is_refused() {
        for text in ["", "s", "-1s", "1d", "1.5s", "99999999999999999999s", "9999h"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
