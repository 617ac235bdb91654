//! `junit.xml`: what a CI server shows. Each threshold is a test case; two more say whether the generator kept up and
//! whether the run went on to its end.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::outcome::{Outcome, Verdict};

/// Writes the document.
///
/// # Errors
///
/// When it can't be put into words, which XML has for all but control characters; those are left out.
pub fn document(outcome: &Outcome) -> Result<String, quick_junit::SerializeError> {
    let mut suite = TestSuite::new(format!("load test {}", outcome.name));
    suite.set_time(Duration::from_nanos(outcome.took));
    let kept_up = match &outcome.verdict {
        Verdict::GeneratorLimited { reasons } => Some((NonSuccessKind::Error, reasons.join("; "))),
        _ => None,
    };
    suite.add_test_case(case(outcome, "the generator kept up", kept_up));
    let ended = match &outcome.verdict {
        Verdict::Stopped { reason, .. } => Some((NonSuccessKind::Failure, reason.clone())),
        Verdict::Interrupted { at } => Some((NonSuccessKind::Error, format!("interrupted after {at:.0} s"))),
        _ => None,
    };
    suite.add_test_case(case(outcome, "the run went on to its end", ended));
    for threshold in &outcome.thresholds {
        let broken = (!threshold.holds).then(|| (NonSuccessKind::Failure, format!("it was {}", threshold.seen)));
        suite.add_test_case(case(outcome, &threshold.text, broken));
    }
    let mut report = Report::new("tidegate load");
    report.add_test_suite(suite);
    report.to_string()
}

fn case(outcome: &Outcome, name: &str, broken: Option<(NonSuccessKind, String)>) -> TestCase {
    let status = match broken {
        None => TestCaseStatus::success(),
        Some((kind, message)) => {
            let mut status = TestCaseStatus::non_success(kind);
            status.set_message(message);
            status
        }
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(format!("load.{}", outcome.name));
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn each_threshold_is_a_case_and_names_are_escaped() {
        let mut run = sample::run(40);
        run.name = "a & b </testsuite><x y=\"\u{1}\">".to_owned();

        let text = document(&run).unwrap();

        assert_eq!(text.matches("<testcase ").count(), 2 + run.thresholds.len(), "{text}");
        assert_eq!(text.matches("<failure ").count(), run.thresholds.iter().filter(|it| !it.holds).count(), "{text}");
        assert!(text.contains("a &amp; b &lt;/testsuite") && !text.contains('\u{1}'), "{text}");
    }

    #[test]
    fn doubt_in_the_generator_is_an_error_and_a_stop_a_failure() {
        let mut run = sample::run(5);
        run.thresholds.clear();
        run.verdict = Verdict::GeneratorLimited { reasons: vec!["late".to_owned()] };
        let limited = document(&run).unwrap();
        run.verdict = Verdict::Stopped { reason: "errors".to_owned(), at: 3.0 };
        let stopped = document(&run).unwrap();

        assert!(limited.contains("<error message=\"late\"") && !limited.contains("<failure"), "{limited}");
        assert!(stopped.contains("<failure message=\"errors\"") && !stopped.contains("<error "), "{stopped}");
    }
}
