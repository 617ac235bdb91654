//! A load in one sentence, as people would say it.

use std::time::Duration;

use tidegate_model::scenario::plan::{Load, Spacing, Stage};

/// Says what a load is.
pub fn load(load: &Load) -> String {
    match load {
        Load::Open { stages, spacing, .. } => {
            let stages: Vec<String> = stages.iter().map(stage).collect();
            let random = if *spacing == Spacing::Poisson { ", at random moments" } else { "" };
            format!("{}{random}", stages.join(", then "))
        }
        Load::Closed { visitors, lasts } => {
            let s = if *visitors == 1 { "" } else { "s" };
            format!("{visitors} visitor{s} for {}, each asking again when answered (closed model)", time(*lasts))
        }
        Load::Recorded { arrivals, .. } => {
            let lasts = arrivals.last().map(|arrival| arrival.at).unwrap_or_default();
            format!("{} arrivals as they were recorded, over {}", arrivals.len(), time(lasts))
        }
    }
}

fn stage(stage: &Stage) -> String {
    let Stage { lasts, from, to } = stage;
    if (from - to).abs() < f64::EPSILON {
        return format!("{}/s for {}", number(*from), time(*lasts));
    }
    format!("from {}/s to {}/s within {}", number(*from), number(*to), time(*lasts))
}

/// With as many decimals as matter.
fn number(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// In the unit that people would take.
fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        1.0..120.0 => format!("{} s", number(seconds)),
        120.0..7_200.0 => format!("{} min", number(seconds / 60.0)),
        7_200.0.. => format!("{} h", number(seconds / 3_600.0)),
        _ => format!("{} ms", number(seconds * 1_000.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_said_in_a_sentence() {
        let stage = |seconds, from, to| Stage { lasts: Duration::from_secs(seconds), from, to };
        let stages = vec![stage(30, 0.0, 500.0), stage(600, 500.0, 500.0)];

        let open = load(&Load::Open { stages, spacing: Spacing::Poisson, most_in_flight: 1 });
        let closed = load(&Load::Closed { visitors: 50, lasts: Duration::from_millis(1_500) });

        assert_eq!(open, "from 0/s to 500/s within 30 s, then 500/s for 10 min, at random moments");
        assert_eq!(closed, "50 visitors for 1.5 s, each asking again when answered (closed model)");
    }
}
