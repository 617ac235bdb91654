//! Numbers for people: the same on the terminal, in the report and in reasons.

/// Nanoseconds with three digits that matter: `412 µs`, `12.3 ms`, `1.25 s`, `2 min 5 s`.
pub fn time(nanos: u64) -> String {
    time_with(nanos as f64, 3)
}

/// Nanoseconds with five digits that matter.
pub fn precise_time(nanos: f64) -> String {
    time_with(nanos, 5)
}

fn time_with(nanos: f64, digits: usize) -> String {
    // What would be rounded up to the next unit is written in it.
    let edge = 1.0 - 0.5 * 10f64.powi(-(digits as i32));
    match nanos {
        n if !n.is_finite() => "-".to_owned(),
        n if n < 1e3 * edge => format!("{} ns", digits_of(n, digits)),
        n if n < 1e6 * edge => format!("{} µs", digits_of(n / 1e3, digits)),
        n if n < 1e9 * edge => format!("{} ms", digits_of(n / 1e6, digits)),
        n if n < 120e9 => format!("{} s", digits_of(n / 1e9, digits)),
        n => span((n / 1e9).round() as u64),
    }
}

/// Whole seconds: `45 s`, `2 min 5 s`, `1 h 3 min`.
pub fn span(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let parts = [(hours, "h"), (minutes, "min"), (if hours > 0 { 0 } else { rest }, "s")];
    let said: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}")).collect();
    if said.is_empty() { "0 s".to_owned() } else { said.join(" ") }
}

/// A share from 0 to 1 in percent; never `0 %` for something, nor `100 %` for less than all.
pub fn share(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        p if !p.is_finite() => "-".to_owned(),
        p if p > 0.0 && p < 0.001 => "<0.001 %".to_owned(),
        p if p < 100.0 && p > 99.999 => ">99.999 %".to_owned(),
        p if p > 99.0 && p < 100.0 => format!("{} %", trim(format!("{p:.3}"))),
        p => format!("{} %", digits_of(p, 3)),
    }
}

/// A share with five digits that matter.
pub fn precise_share(share: f64) -> String {
    if share.is_finite() { format!("{} %", digits_of(share * 100.0, 5)) } else { "-".to_owned() }
}

/// A number with five digits that matter, thousands apart.
pub fn precise(number: f64) -> String {
    digits_of(number, 5)
}

/// A rate with three digits that matter, thousands apart: `0.25/s`, `12.3/s`, `12,345/s`.
pub fn rate(per_second: f64) -> String {
    if per_second.is_finite() { format!("{}/s", digits_of(per_second, 3)) } else { "-".to_owned() }
}

/// A count, thousands apart: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in binary units: `512 B`, `1.5 KiB`, `3.2 GiB`.
pub fn bytes(number: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = number;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", digits_of(value, 3), UNITS[unit])
}

/// A number with at least `digits` digits that matter; whole parts are never rounded.
fn digits_of(number: f64, digits: usize) -> String {
    let magnitude = if number.abs() < 1e-9 { 0 } else { number.abs().log10().floor() as i32 };
    let decimals = (digits as i32 - 1 - magnitude).clamp(0, 9) as usize;
    let text = trim(format!("{number:.decimals$}"));
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let (whole, part) = text.split_once('.').map_or((text, None), |(whole, part)| (whole, Some(part)));
    let whole = whole.parse().map_or_else(|_| whole.to_owned(), count);
    part.map_or_else(|| format!("{sign}{whole}"), |part| format!("{sign}{whole}.{part}"))
}

/// Without needless zeros at the end.
pub(crate) fn trim(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_the_unit_that_people_would_choose() {
        let said = [0, 950, 412_300, 999_999, 1_230_000, 12_345_678, 999_950_000, 1_250_000_000, 125_000_000_000];

        let said = said.map(time);

        assert_eq!(said, ["0 ns", "950 ns", "412 µs", "1 ms", "1.23 ms", "12.3 ms", "1 s", "1.25 s", "2 min 5 s"]);
    }

    #[test]
    fn a_share_is_never_rounded_to_nothing_or_to_all() {
        let said = [0.0, 0.000_001, 0.001_234, 0.5, 0.999_9, 0.999_999_9, 1.0].map(share);

        assert_eq!(said, ["0 %", "<0.001 %", "0.123 %", "50 %", "99.99 %", ">99.999 %", "100 %"]);
    }

    #[test]
    fn thousands_stand_apart_and_whole_parts_are_not_rounded() {
        assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([rate(0.25), rate(12.345), rate(12_345.6)], ["0.25/s", "12.3/s", "12,346/s"]);
        assert_eq!([bytes(512.0), bytes(1536.0), bytes(1_048_575.0)], ["512 B", "1.5 KiB", "1 MiB"]);
        assert_eq!(span(3_780), "1 h 3 min");
    }
}
