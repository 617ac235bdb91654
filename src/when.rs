//! Moments as people say them: `yesterday 14:00`, `10 minutes ago`, `2026-11-17T12:00`.
//!
//! Without an offset, the local time zone is meant (`TZ`, else the system's).

use anyhow::{Context as _, bail};
use jiff::civil::{DateTime, Time, Weekday};
use jiff::{Span, Timestamp, ToSpan as _, Zoned};

/// What [`parse`] understands, for help texts and errors.
pub const FORMS: &str = "\"2026-11-17T12:00\", \"2026-11-17\", \"14:30\", \"10 minutes ago\", \"yesterday\", \
                         \"yesterday 14:00\", \"last tuesday\"";

/// The moment that `phrase` means at `now`. Never in the future.
///
/// A date alone is its midnight, a time alone the latest such time. A day alone (`yesterday`, `last tuesday`) is
/// that day at the present time of day.
///
/// # Errors
///
/// If it isn't understood, or lies in the future.
pub fn parse(phrase: &str, now: &Zoned) -> anyhow::Result<Timestamp> {
    let words = phrase.trim().to_ascii_lowercase();
    let moment = instant(&words)
        .or_else(|| ago(&words, now))
        .or_else(|| day_and_time(&words, now))
        .with_context(|| format!("\"{phrase}\" isn't a moment; write {FORMS}"))?;
    if moment > now.timestamp() {
        bail!("\"{phrase}\" lies in the future");
    }
    Ok(moment)
}

/// With an offset: `2026-11-17T12:00:00Z`.
fn instant(words: &str) -> Option<Timestamp> {
    words.to_ascii_uppercase().parse().ok()
}

/// `2h 30m ago`, `an hour ago`.
fn ago(words: &str, now: &Zoned) -> Option<Timestamp> {
    let span = words.strip_suffix("ago")?.trim();
    let span = match span.split_once(' ') {
        Some(("a" | "an" | "one", unit)) => format!("1 {unit}"),
        _ => span.to_owned(),
    };
    let span: Span = span.parse().ok()?;
    Some(now.checked_sub(span).ok()?.timestamp())
}

fn day_and_time(words: &str, now: &Zoned) -> Option<Timestamp> {
    let civil = |moment: DateTime| Some(moment.to_zoned(now.time_zone().clone()).ok()?.timestamp());
    if let Ok(moment) = words.to_ascii_uppercase().parse::<DateTime>() {
        return civil(moment); // Also a date alone.
    }
    if let Some(time) = time(words) {
        let today = now.date().to_datetime(time);
        return civil(if today > now.datetime() { today.checked_sub(1.day()).ok()? } else { today });
    }
    let mut words = words.strip_prefix("last ").unwrap_or(words).splitn(2, ' ');
    let day = match words.next()? {
        "today" => now.date(),
        "yesterday" => now.date().yesterday().ok()?,
        name => now.date().nth_weekday(-1, weekday(name)?).ok()?,
    };
    let time = match words.next() {
        Some(said) => time(said.trim_start_matches("at ").trim())?,
        None => now.time(),
    };
    civil(day.to_datetime(time))
}

/// `14:30` or `14:30:05`.
fn time(words: &str) -> Option<Time> {
    let looks = words.contains(':') && words.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    // A lone digit for the hour is what people type.
    let padded = if words.find(':') == Some(1) { format!("0{words}") } else { words.to_owned() };
    if looks { padded.parse().ok() } else { None }
}

fn weekday(name: &str) -> Option<Weekday> {
    Some(match name {
        "monday" => Weekday::Monday,
        "tuesday" => Weekday::Tuesday,
        "wednesday" => Weekday::Wednesday,
        "thursday" => Weekday::Thursday,
        "friday" => Weekday::Friday,
        "saturday" => Weekday::Saturday,
        "sunday" => Weekday::Sunday,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Sunday in winter; UTC+1.
    fn at(phrase: &str) -> String {
        let now: Zoned = "2026-11-22T10:30:00+01:00[+01:00]".parse().unwrap();
        match parse(phrase, &now) {
            Ok(moment) => moment.to_zoned(now.time_zone().clone()).strftime("%a %F %T").to_string(),
            Err(err) => format!("refused: {err}"),
        }
    }

    #[test]
    fn phrases_mean_moments_in_the_local_zone() {
        let phrases = [
            ("2026-11-17T12:00", "Tue 2026-11-17 12:00:00"),
            ("2026-11-17 12:00:30", "Tue 2026-11-17 12:00:30"),
            ("2026-11-17", "Tue 2026-11-17 00:00:00"),
            ("2026-11-17T12:00:00Z", "Tue 2026-11-17 13:00:00"),
            ("09:00", "Sun 2026-11-22 09:00:00"),
            ("9:00", "Sun 2026-11-22 09:00:00"),
            ("23:50", "Sat 2026-11-21 23:50:00"),
            ("10 minutes ago", "Sun 2026-11-22 10:20:00"),
            ("10m ago", "Sun 2026-11-22 10:20:00"),
            ("2h 30m ago", "Sun 2026-11-22 08:00:00"),
            ("an hour ago", "Sun 2026-11-22 09:30:00"),
            ("3 days ago", "Thu 2026-11-19 10:30:00"),
            ("1 week ago", "Sun 2026-11-15 10:30:00"),
            ("Yesterday", "Sat 2026-11-21 10:30:00"),
            ("yesterday 14:00", "Sat 2026-11-21 14:00:00"),
            ("yesterday at 14:00", "Sat 2026-11-21 14:00:00"),
            ("today 08:15", "Sun 2026-11-22 08:15:00"),
            ("last tuesday", "Tue 2026-11-17 10:30:00"),
            ("last sunday 20:00", "Sun 2026-11-15 20:00:00"),
        ];

        for (phrase, moment) in phrases {
            assert_eq!(at(phrase), moment, "{phrase}");
        }
    }

    #[test]
    fn future_and_nonsense_are_refused() {
        assert_eq!(at("2026-11-23"), "refused: \"2026-11-23\" lies in the future");
        assert_eq!(at("today 20:00"), "refused: \"today 20:00\" lies in the future");
        for nonsense in ["", "soon", "ago", "10 bananas ago", "last", "yesterday 25:00", "2026-13-01", "41"] {
            assert!(at(nonsense).contains("isn't a moment"), "{nonsense}: {}", at(nonsense));
        }
    }
}
