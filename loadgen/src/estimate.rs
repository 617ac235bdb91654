//! From page views a day to the rate to test with, every step of the arithmetic shown.
//!
//! For people who know their page views and nothing else. Whatever isn't given has a default, and each default says why.

use std::fmt::Write as _;

/// What is known about a site.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Site {
    /// Page views a day. More than 0.
    pub daily_views: f64,
    /// Requests that one view sends to the target.
    pub requests_per_view: f64,
    /// The share of a day's views that falls into the busiest hours, from 0 to 1.
    pub peak_share: f64,
    /// How many hours these are. More than 0, at most 24.
    pub peak_hours: f64,
    /// How many times as many are expected.
    pub growth: f64,
    /// How far above that the test goes.
    pub safety: f64,
}

/// A default, and its reason.
pub struct Default {
    /// The value.
    pub value: f64,
    /// Why.
    pub reason: &'static str,
}

/// Requests for each view.
pub const REQUESTS_PER_VIEW: Default = Default {
    value: 30.0,
    reason: "a common page makes about 70 requests, and more than half of them go to other hosts or stay in caches",
};

/// The share of the busiest hours.
pub const PEAK_SHARE: Default =
    Default { value: 0.2, reason: "evenings are busy: an even day would have 8.3% in two hours" };

/// How many hours are the busiest.
pub const PEAK_HOURS: Default = Default { value: 2.0, reason: "a peak that lasts, not a single minute" };

/// Growth.
pub const GROWTH: Default = Default { value: 2.0, reason: "a campaign, or two good years" };

/// Safety.
pub const SAFETY: Default =
    Default { value: 1.5, reason: "the worst minute of a peak is busier than its mean, and one instance may be away" };

impl Site {
    /// Requests a second on an average day, averaged over the whole of it.
    pub fn mean(&self) -> f64 {
        self.daily_views * self.requests_per_view / 86_400.0
    }

    /// Requests a second in today's busiest hours.
    pub fn peak(&self) -> f64 {
        self.daily_views * self.requests_per_view * self.peak_share / (self.peak_hours * 3_600.0)
    }

    /// Requests a second to test with: growth and safety included.
    pub fn rate(&self) -> f64 {
        self.peak() * self.growth * self.safety
    }

    /// The arithmetic, line by line; ends with a line break. `is_default` tells which of requests per view, share, hours, growth
    /// and safety nobody gave, in this order: their reasons are said.
    pub fn arithmetic(&self, is_default: [bool; 5]) -> String {
        let why = |at: usize, default: &Default| match is_default[at] {
            true => format!("   (assumed: {})", default.reason),
            false => String::new(),
        };
        let hours =
            if self.peak_hours == 1.0 { "hour".to_owned() } else { format!("{} hours", plain(self.peak_hours)) };
        let day = self.daily_views * self.requests_per_view;
        let lines = [
            (' ', plain(self.daily_views), "page views a day".to_owned()),
            ('×', plain(self.requests_per_view), format!("requests for each view{}", why(0, &REQUESTS_PER_VIEW))),
            ('=', plain(day), format!("requests a day, {} a second on average", plain(self.mean()))),
            (
                '×',
                format!("{}%", plain(self.peak_share * 100.0)),
                format!("of them in the busiest {hours}{}", why(1, &PEAK_SHARE)),
            ),
            ('÷', plain(self.peak_hours * 3_600.0), format!("seconds{}", why(2, &PEAK_HOURS))),
            ('=', plain(self.peak()), "requests a second at today's peak".into()),
            ('×', plain(self.growth), format!("growth{}", why(3, &GROWTH))),
            ('×', plain(self.safety), format!("safety{}", why(4, &SAFETY))),
            ('=', plain(self.rate()), "requests a second: the rate to test with".into()),
        ];
        let width = lines.iter().map(|(_, number, _)| number.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (sign, number, what) in lines {
            let _ = writeln!(text, "{sign} {number:>width$}  {what}");
        }
        text
    }

    /// A scenario that asks `target` (an origin) for `path` at this rate, after a minute's climb.
    pub fn scenario(&self, target: &str, path: &str) -> String {
        let rate = rounded(self.rate());
        let (target, path) = (serde_json::Value::from(target), serde_json::Value::from(path));
        format!(
            "# {} page views a day; made by `tidegate load plan`, which shows the arithmetic.
version: 1
name: peak
target: {target}
load:
  stages:
    - {{to: {rate}/s, over: 1m}}
    - {{hold: 10m}}
# One page stands for all: add the others, with weights as they are visited.
flows:
  - name: front
    get: {path}
thresholds: [\"errors < 0.1%\", \"p99 < 500ms\"]
stop: \"errors > 20% over 10s\"
interlocks: {{max_rate: {rate}/s}}
",
            plain(self.daily_views)
        )
    }
}

/// A rate, rounded up to a whole number; below ten, to a tenth.
pub fn rounded(rate: f64) -> f64 {
    // What floating point adds to a whole number is no reason to round up.
    let up = |number: f64| (number - 1e-6).ceil().max(0.0);
    if rate >= 10.0 { up(rate) } else { (up(rate * 10.0) / 10.0).max(0.1) }
}

/// A number for people: thousands apart, digits behind the point only where it is small.
fn plain(number: f64) -> String {
    let text = match number {
        _ if number.abs() >= 100.0 || number.fract().abs() < 1e-9 => format!("{number:.0}"),
        _ if number.abs() >= 1.0 => format!("{number:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        _ => format!("{number:.3}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    };
    let (whole, part) = text.split_once('.').map_or((text.as_str(), None), |(whole, part)| (whole, Some(part)));
    let mut apart = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            apart.push(',');
        }
        apart.push(digit);
    }
    part.map_or(apart.clone(), |part| format!("{apart}.{part}"))
}

#[cfg(test)]
mod tests {
    use tidegate_model::check::SourceFile;
    use tidegate_model::scenario::check;

    use super::*;

    const SHOP: Site = Site {
        daily_views: 2_000_000.0,
        requests_per_view: 30.0,
        peak_share: 0.2,
        peak_hours: 2.0,
        growth: 2.0,
        safety: 1.5,
    };

    #[test]
    fn each_line_of_the_arithmetic_follows_from_those_before() {
        let text = SHOP.arithmetic([false, true, true, false, false]);

        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_rate_is_rounded_up_but_not_by_floating_point() {
        assert_eq!(rounded(SHOP.rate()), 5_000.0);
        assert_eq!((rounded(12.2), rounded(0.42), rounded(0.0001)), (13.0, 0.5, 0.1));
    }

    #[test]
    fn the_scenario_that_is_written_is_accepted() {
        let file = SourceFile { path: "peak.yaml".into(), text: SHOP.scenario("https://shop.example.com", "/?a=b") };

        let checked = check(&file, &mut |path| panic!("there is no feeder {}", path.display()));

        let checked = checked.expect("it is accepted");
        assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
    }
}
