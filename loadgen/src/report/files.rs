//! The folder that a run leaves behind (`--out DIR`): `report.html`, `result.json`, `seconds.csv`, `response.hlog`,
//! `junit.xml`. Files of an earlier run in it are replaced.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hdrhistogram::Histogram;

use super::compare::Comparison;
use super::{hlog, html, junit, seconds};
use crate::outcome::Outcome;

/// The folder, while the run goes on.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    log: hlog::Log<BufWriter<File>>,
}

impl Files {
    /// Makes the folder, so that a run doesn't start whose results could not be kept.
    ///
    /// # Errors
    ///
    /// When the folder or a file in it can't be made.
    pub fn create(folder: &Path, name: &str, began_unix_millis: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
        let path = folder.join("response.hlog");
        let make = || hlog::Log::begin(BufWriter::new(File::create(&path)?), name, began_unix_millis);
        let log = make().with_context(|| format!("can't write {}", path.display()))?;
        Ok(Self { folder: folder.to_owned(), log })
    }

    /// One more second, with the times of what ended in it.
    ///
    /// # Errors
    ///
    /// When the disk is full, say.
    pub fn beat(&mut self, second: u32, response: &Histogram<u64>, service: &Histogram<u64>) -> anyhow::Result<()> {
        let mut add = |tag, times| self.log.add(tag, f64::from(second), 1.0, times);
        add("response", response).and_then(|()| add("service", service)).context("can't write response.hlog")
    }

    /// Writes everything else.
    ///
    /// # Errors
    ///
    /// When a file can't be written.
    pub fn end(mut self, outcome: &Outcome, baseline: Option<&Comparison>) -> anyhow::Result<()> {
        if let Some(lag) = outcome.generator.lag.whole() {
            self.log.add("lag", 0.0, outcome.took as f64 / 1e9, &lag).context("can't write response.hlog")?;
        }
        self.log.end().context("can't write response.hlog")?;
        let write = |name: &str, text: &[u8]| {
            fs::write(self.folder.join(name), text).with_context(|| format!("can't write {name}"))
        };
        let mut rows = Vec::new();
        seconds::write(outcome, &mut rows).context("can't write seconds.csv")?;
        write("seconds.csv", &rows)?;
        let mut json = Vec::new();
        serde_json::to_writer(&mut json, outcome)?;
        writeln!(json)?;
        write("result.json", &json)?;
        write("junit.xml", junit::document(outcome)?.as_bytes())?;
        write("report.html", html::page(outcome, baseline).as_bytes())
    }
}

/// Reads the `result.json` of an earlier run.
///
/// # Errors
///
/// When it can't be read, or is of a format that isn't known.
pub fn read(path: &Path) -> anyhow::Result<Outcome> {
    let inside = |path: &Path| if path.is_dir() { path.join("result.json") } else { path.to_owned() };
    let path = inside(path);
    let text = fs::read(&path).with_context(|| format!("can't read the baseline {}", path.display()))?;
    let outcome: Outcome =
        serde_json::from_slice(&text).with_context(|| format!("{} isn't the result.json of a run", path.display()))?;
    anyhow::ensure!(
        outcome.version == 1,
        "{} is of version {}, and this tidegate knows version 1",
        path.display(),
        outcome.version
    );
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn folder_holds_every_file_and_gives_the_outcome_back() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("runs/1");
        let run = sample::run(30);
        let mut files = Files::create(&place, &run.name, run.began).unwrap();
        let times = run.all.response.whole().unwrap();
        (0..30).for_each(|second| files.beat(second, &times, &times).unwrap());

        files.end(&run, None).unwrap();

        let mut names: Vec<_> =
            fs::read_dir(&place).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["junit.xml", "report.html", "response.hlog", "result.json", "seconds.csv"]);
        for path in [place.clone(), place.join("result.json")] {
            let back = read(&path).unwrap();
            assert_eq!((&back.verdict, &back.thresholds, &back.seconds), (&run.verdict, &run.thresholds, &run.seconds));
            assert_eq!(back.all.response.whole(), Some(times.clone()));
        }
    }

    #[test]
    fn baseline_that_is_none_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.json");
        fs::write(&path, "{}").unwrap();

        let said = format!("{:#}", read(&path).unwrap_err());

        assert!(said.contains("other.json") && said.contains("isn't the result.json"), "{said}");
    }
}
