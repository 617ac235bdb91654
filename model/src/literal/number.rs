//! Numbers: whole ones in a range, sizes, percentages.

use serde_json::{Value, json};

use super::{Literal, Wrong, split_number};

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Literal for Whole<MIN, MAX> {
    const WHAT: &'static str = "a whole number in its range";
    const CODE: &'static str = "bad-number";
    const EXAMPLES: &'static [&'static str] = &[];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let range = || format!("write a number from {MIN} to {MAX}");
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<u64>() {
            Ok(number) if digits && (MIN..=MAX).contains(&number) => Ok(Self(number)),
            Ok(number) if digits && number < MIN => Err(Wrong::new(format!("this is less than {MIN}")).help(range())),
            Ok(_) if digits => Err(Wrong::new(format!("this is more than {MAX}")).help(range())),
            Err(_) if digits => Err(Wrong::new(format!("this is more than {MAX}")).help(range())),
            _ if text.starts_with('-') && text[1..].parse::<f64>().is_ok() => {
                Err(Wrong::new("this can't be negative").help(range()))
            }
            _ => Err(Wrong::new("this isn't a whole number").help(range())),
        }
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A TCP port.
pub type Port = Whole<1, 65_535>;

/// A whole percentage from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Literal for Percent<MIN, MAX> {
    const WHAT: &'static str = "a percentage in its range";
    const CODE: &'static str = "bad-percentage";
    const EXAMPLES: &'static [&'static str] = &["20%"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let hundredths = parse_percent(text)?;
        if hundredths % 100 != 0 {
            return Err(Wrong::new("only whole percentages are possible here"));
        }
        in_range(hundredths, MIN, MAX)?;
        Ok(Self(hundredths / 100))
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9]+ ?%$"})
    }
}

/// A share of requests that are copied, in hundredths of a percent: at most 500 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample(pub u32);

impl Literal for Sample {
    const WHAT: &'static str = "a percentage in its range";
    const CODE: &'static str = "bad-percentage";
    const EXAMPLES: &'static [&'static str] = &["10%", "0.5%", "200%"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        let hundredths = parse_percent(text)?;
        in_range(hundredths, 0, 500)?;
        Ok(Self(hundredths as u32))
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,2})? ?%$"})
    }
}

fn in_range(hundredths: u64, min: u64, max: u64) -> Result<(), Wrong> {
    if (min * 100..=max * 100).contains(&hundredths) {
        return Ok(());
    }
    let label =
        if hundredths > max * 100 { format!("this is more than {max}%") } else { format!("this is less than {min}%") };
    Err(Wrong::new(label).help(format!("write a percentage from {min}% to {max}%")))
}

/// Reads `12.5%` as hundredths of a percent.
fn parse_percent(text: &str) -> Result<u64, Wrong> {
    let Some(number) = text.strip_suffix('%').map(str::trim_end) else {
        let label = match text.parse::<f64>() {
            Ok(_) => "the % is missing",
            Err(_) => "this isn't a percentage",
        };
        let number = if label.starts_with("the") { text } else { "10" };
        return Err(Wrong::new(label).help(format!("write \"{number}%\"")));
    };
    if number.starts_with('-') {
        return Err(Wrong::new("a percentage can't be negative"));
    }
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return Err(Wrong::new("this isn't a percentage").help("write \"10%\""));
    }
    if part.trim_end_matches('0').len() > 2 {
        return Err(Wrong::new("a hundredth of a percent is the smallest step"));
    }
    let part = format!("{part:0<2}");
    let read = |text: &str| text.parse::<u64>().expect("these are at most nine digits");
    Ok(read(whole) * 100 + read(&part[..2]))
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// No size is larger: a terabyte of body or buffer is a slip of the pen.
const LARGEST: u64 = 1 << 40;

impl Literal for Size {
    const WHAT: &'static str = "a size";
    const CODE: &'static str = "bad-size";
    const EXAMPLES: &'static [&'static str] = &["64KiB", "1MiB", "10MB"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write a number and a unit: \"64KiB\", \"1MiB\", \"1GiB\", or \"512B\" for bytes";
        let wrong = |label: &str| Wrong::new(label).help(FORM);
        let text = text.trim();
        if text.starts_with('-') {
            return Err(wrong("a size can't be negative"));
        }
        let (number, unit) = split_number(text);
        if number.is_empty() {
            return Err(wrong("this isn't a size"));
        }
        let value: f64 = number.parse().map_err(|_| wrong("this isn't a number"))?;
        let unit = unit.trim();
        let scale: u64 = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "k" | "K" | "m" | "M" | "g" | "G" => {
                let unit = unit.to_uppercase();
                let label = format!("\"{unit}\" could mean {unit}iB or {unit}B");
                return Err(Wrong::new(label).help(format!("write \"{number}{unit}iB\"")));
            }
            _ => return Err(wrong(&format!("\"{unit}\" isn't a unit of size"))),
        };
        let bytes = value * scale as f64;
        if bytes > LARGEST as f64 {
            return Err(Wrong::new("this is more than 1024GiB"));
        }
        if bytes.fract() != 0.0 {
            return Err(Wrong::new("this isn't a whole number of bytes"));
        }
        Ok(Self(bytes as u64))
    }

    fn schema() -> Value {
        json!({"type": ["string", "integer"]})
    }
}
