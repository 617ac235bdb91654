use minijinja::{AutoEscape, Environment};

use super::*;
use crate::outcome::{Judged, Verdict};
use crate::report::{compare, sample};

/// What breaks out of an element, an attribute, a script, a style and a template.
const EVIL: &str = "</script><img src=x onerror=alert(1)>\" onfocus=alert(2) '{{ 7*7 }}<!-- \u{2028} ]]>";

#[test]
fn template_is_escaped_by_its_name() {
    assert_eq!(minijinja::default_auto_escape_callback("report.html"), AutoEscape::Html);
    assert!(Environment::new().render_named_str("x.html", "{{ 1 }}", context! {}).is_ok());
}

#[test]
fn names_and_examples_from_scenarios_and_servers_stay_text() {
    let mut run = sample::run(30);
    run.name = EVIL.to_owned();
    run.load = EVIL.to_owned();
    run.model = EVIL.to_owned();
    run.verdict = Verdict::Failed { reasons: vec![EVIL.to_owned()] };
    run.thresholds.push(Judged { text: EVIL.to_owned(), seen: EVIL.to_owned(), holds: false });
    run.generator.workers = vec![EVIL.to_owned()];
    for step in &mut run.steps {
        step.name = EVIL.to_owned();
        step.request = EVIL.to_owned();
        step.tally.examples.values_mut().for_each(|text| *text = EVIL.to_owned());
    }
    for series in &mut run.target {
        series.what = EVIL.to_owned();
        series.of = EVIL.to_owned();
        series.unit = EVIL.to_owned();
    }

    let page = page(&run, Some(&compare::compare(&run, &run)));

    let (text, rest) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = rest.split_once("</script>").unwrap();
    assert!(!page.contains("<img") && !text.contains("\" onfocus"), "markup got through");
    assert!(!data.contains(['<', '>', '&']) && data.contains("onfocus"), "the data can be taken for markup");
    assert_eq!(page.matches("</script>").count(), 3, "a script ended early");
    assert!(!page.contains("49<"), "a template was filled twice");
    assert!(page.contains("&lt;img"), "the names are gone");
}

#[test]
fn page_loads_nothing_and_lets_only_its_own_scripts_run() {
    let page = page(&sample::run(30), None);

    let policy = page.split("Content-Security-Policy\" content=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    let addresses = ["src=\"http", "href=\"http", "url(http", "@import", "<link", "fetch(", "XMLHttpRequest"];
    assert!(addresses.iter().all(|it| !page.contains(it)), "the page asks for something");
    for script in page.split("<script>").skip(1) {
        let script = script.split("</script>").next().unwrap();
        assert!(policy.contains(&hash(script)), "a script that the policy doesn't know");
    }
}

#[test]
fn every_verdict_has_its_card_in_words() {
    let mut run = sample::run(30);
    let mut word = |verdict: Verdict| {
        run.verdict = verdict;
        card::card(&run).word
    };

    let words = [
        word(Verdict::Passed),
        word(Verdict::Failed { reasons: vec![] }),
        word(Verdict::GeneratorLimited { reasons: vec![] }),
        word(Verdict::Stopped { reason: String::new(), at: 3.0 }),
        word(Verdict::Interrupted { at: 3.0 }),
    ];

    assert_eq!(words, ["Passed", "Failed", "Can't tell: generator-limited", "Stopped early", "Interrupted"]);
}

#[test]
fn empty_run_has_a_page_too() {
    let page = page(&sample::empty(), None);

    assert!(page.contains("No request was due."), "{page}");
}

#[test]
fn long_run_keeps_its_page_small() {
    let mut hour = sample::run(60);
    hour.seconds =
        (0..3_600).map(|at| crate::outcome::Second { at, ..hour.seconds[at as usize % 60].clone() }).collect();
    let mut day = hour.clone();
    day.seconds =
        (0..86_400).map(|at| crate::outcome::Second { at, ..hour.seconds[at as usize % 60].clone() }).collect();

    let (hour, day) = (page(&hour, None).len(), page(&day, None).len());

    println!("a page of an hour has {hour} bytes, of a day {day}");
    assert!(hour < 3_000_000 && day < 3_000_000, "{hour} {day}");
}

/// Not a test of anything: writes pages to look at. `SHOW=/tmp/pages cargo test -p tidegate-loadgen -- --ignored pages`.
#[test]
#[ignore = "writes files to look at"]
fn pages_to_look_at() {
    let folder = std::path::PathBuf::from(std::env::var_os("SHOW").unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    let run = sample::run(120);
    let mut calm = sample::run(12);
    calm.verdict = Verdict::Passed;
    calm.thresholds.iter_mut().for_each(|it| it.holds = true);
    let mut limited = sample::run(60);
    limited.verdict =
        Verdict::GeneratorLimited { reasons: vec!["its lag at p99 was 4.2 ms, more than 1 ms".to_owned()] };
    let comparison = compare::compare(&sample::seeded(120, 7, 0.8), &run);

    for (name, page) in [
        ("failed", page(&run, Some(&comparison))),
        ("passed", page(&calm, None)),
        ("limited", page(&limited, None)),
        ("empty", page(&sample::empty(), None)),
    ] {
        std::fs::write(folder.join(name).with_extension("html"), page).unwrap();
    }
}
