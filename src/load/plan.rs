//! `tidegate load plan`: from page views a day to a rate, for people who know nothing else.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tidegate_loadgen::estimate::{self, GROWTH, PEAK_HOURS, PEAK_SHARE, REQUESTS_PER_VIEW, SAFETY, Site};
use tidegate_loadgen::feeders;
use tidegate_model::check::SourceFile;
use tidegate_model::literal::Literal as _;
use tidegate_model::scenario::word::UrlOrPath;
use tidegate_model::scenario::{Checked, check};

use super::{Sending, send};
use crate::print;

/// Work out which rate to test with, from the page views of a day
///
/// Every step of the arithmetic is shown. What you don't know is assumed, and the reason is said.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidegate load plan --daily-views 2000000
  tidegate load plan --daily-views 2000000 --requests-per-view 30 --peak-share 20% --peak-hours 2 --growth 2x --safety 1.5
  tidegate load plan --daily-views 50000 --url https://shop.example.com/ --write peak.yaml
  tidegate load plan --daily-views 50000 --run http://127.0.0.1:8080/")]
pub struct Args {
    /// Page views a day
    #[arg(long, value_name = "N", value_parser = amount)]
    daily_views: f64,
    /// Requests that one view sends to the target, those that caches answer left out [default: 30]
    #[arg(long, value_name = "N", value_parser = amount)]
    requests_per_view: Option<f64>,
    /// Share of a day's views that falls into the busiest hours [default: 20%]
    #[arg(long, value_name = "PERCENT", value_parser = share)]
    peak_share: Option<f64>,
    /// How many hours these are [default: 2]
    #[arg(long, value_name = "HOURS", value_parser = hours)]
    peak_hours: Option<f64>,
    /// How many times as many views are expected [default: 2x]
    #[arg(long, value_name = "TIMES", value_parser = times)]
    growth: Option<f64>,
    /// How far above that the test goes [default: 1.5x]
    #[arg(long, value_name = "TIMES", value_parser = times)]
    safety: Option<f64>,
    /// Test this URL with the rate now
    #[arg(long, value_name = "URL", conflicts_with_all = ["url", "write"])]
    run: Option<String>,
    /// Write a scenario that tests --url with the rate
    #[arg(long, value_name = "FILE", requires = "url")]
    write: Option<PathBuf>,
    /// What the scenario asks for
    #[arg(long, value_name = "URL", requires = "write")]
    url: Option<String>,
    #[command(flatten)]
    sending: Sending,
}

fn amount(text: &str) -> Result<f64, String> {
    let plain = text.replace(['_', ','], "");
    let (number, scale) = match plain.strip_suffix(['k', 'K', 'm', 'M']) {
        Some(number) if plain.ends_with(['k', 'K']) => (number, 1e3),
        Some(number) => (number, 1e6),
        None => (plain.as_str(), 1.0),
    };
    match number.parse::<f64>().map(|number| number * scale) {
        Ok(number) if number > 0.0 && number <= 1e13 => Ok(number),
        _ => Err("expected a number such as 2000000, 2_000_000 or 2m".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match number {
        Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err("expected a percentage such as 20%".into()),
    }
}

fn hours(text: &str) -> Result<f64, String> {
    match text.strip_suffix('h').unwrap_or(text).parse::<f64>() {
        Ok(hours) if hours > 0.0 && hours <= 24.0 => Ok(hours),
        _ => Err("expected a number of hours up to 24".into()),
    }
}

fn times(text: &str) -> Result<f64, String> {
    match text.strip_suffix(['x', '×']).unwrap_or(text).parse::<f64>() {
        Ok(times) if times > 0.0 && times <= 1_000.0 => Ok(times),
        _ => Err("expected a number such as 1.5 or 2x".into()),
    }
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let site = Site {
        daily_views: args.daily_views,
        requests_per_view: args.requests_per_view.unwrap_or(REQUESTS_PER_VIEW.value),
        peak_share: args.peak_share.unwrap_or(PEAK_SHARE.value),
        peak_hours: args.peak_hours.unwrap_or(PEAK_HOURS.value),
        growth: args.growth.unwrap_or(GROWTH.value),
        safety: args.safety.unwrap_or(SAFETY.value),
    };
    let given = [&args.requests_per_view, &args.peak_share, &args.peak_hours, &args.growth, &args.safety];
    let mut out = io::stdout().lock();
    write!(out, "{}", site.arithmetic(given.map(Option::is_none)))?;
    let rate = estimate::rounded(site.rate());
    if let Some(url) = &args.run {
        writeln!(out)?;
        drop(out);
        let text = scenario(&site, url)?;
        return match check(&SourceFile { path: "peak.yaml".into(), text }, &mut feeders::read) {
            Ok(Checked { plan, .. }) => send(plan, &args.sending),
            Err(problems) => {
                print::tell(&problems);
                Ok(ExitCode::from(2))
            }
        };
    }
    match (&args.write, &args.url) {
        (Some(path), Some(url)) => {
            let mut file = std::fs::File::create_new(path)
                .with_context(|| format!("{} can't be made (an older one is never overwritten)", path.display()))?;
            file.write_all(scenario(&site, url)?.as_bytes())
                .with_context(|| format!("{} can't be written", path.display()))?;
            writeln!(out, "\nwrote {0}; next: tidegate load check {0}", path.display())?;
        }
        _ => writeln!(
            out,
            "\nnext: tidegate load https://YOUR-SITE/ -r {rate} -d 10m\n      (or add --run URL, or --url URL --write FILE)"
        )?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The scenario that asks for `url` at the site's rate.
fn scenario(site: &Site, url: &str) -> anyhow::Result<String> {
    let parsed = UrlOrPath::parse(url).map_err(|wrong| anyhow::anyhow!("the URL \"{url}\": {}", wrong.label))?;
    let Some(origin) = parsed.origin else { bail!("the URL \"{url}\" must begin with http:// or https://") };
    Ok(site.scenario(&origin.to_string(), &parsed.target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        assert_eq!([amount("2_000_000"), amount("2,000,000"), amount("2m")], [Ok(2e6), Ok(2e6), Ok(2e6)]);
        assert_eq!((share("20%"), hours("2h"), times("2x")), (Ok(0.2), Ok(2.0), Ok(2.0)));
        assert!(amount("0").is_err() && amount("many").is_err() && amount("NaN").is_err());
        assert!(share("20").is_err() && share("120%").is_err() && hours("25").is_err() && times("-1").is_err());
    }
}
