//! Finds the generations that a command is about: in which folder, and which of them.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use jiff::{Timestamp, Zoned};
use tidegate_gateway::source::history::{Archive, Record};
use tidegate_gateway::source::state;

use crate::when;

/// Where generations are kept, for the help of every command that reads them.
pub const WHERE: &str = "\
Generations are kept in --state, else in a folder of the configuration's own below $STATE_DIRECTORY (systemd), \
$XDG_STATE_HOME/tidegate or ~/.local/state/tidegate; services under /var/lib/tidegate are found too. No gateway \
need run.";

/// Which configuration's generations.
#[derive(clap::Args)]
pub struct Place {
    /// The gateway's configuration [default: the only one that has generations]
    #[arg(long, short, value_name = "FILE|FOLDER")]
    pub config: Option<PathBuf>,
    /// Where its generations are kept, if the gateway was told by --state
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
}

impl Place {
    /// The archive, with at least one file that looks like a generation in it.
    pub fn archive(&self) -> anyhow::Result<Archive> {
        let folder = match (&self.config, &self.state) {
            (_, Some(state)) => state.clone(),
            (Some(config), None) => state::find(&std::path::absolute(config)?, None),
            (None, None) => {
                let known = state::known();
                let list = || known.iter().map(|folder| format!("\n  {}", folder.display())).collect::<String>();
                match known.as_slice() {
                    [only] => only.clone(),
                    [] => bail!("no generations are kept in the usual place; name the configuration by --config"),
                    _ => bail!("several configurations have generations; name one by --config:{}", list()),
                }
            }
        };
        let archive = Archive::at(folder);
        let shown = archive.folder().display();
        let entries = archive.entries().with_context(|| format!("generations in {shown} can't be listed"))?;
        if entries.is_empty() {
            bail!(
                "no generations are kept in {shown}; has a gateway run with this configuration, and the same --state?"
            );
        }
        Ok(archive)
    }
}

/// The generation that `phrase` means: a number, or a moment in which it was in force.
pub fn find(archive: &Archive, phrase: &str) -> anyhow::Result<Record> {
    let Ok(number) = phrase.parse::<u64>() else {
        return in_force_at(archive, when::parse(phrase, &Zoned::now())?);
    };
    let entries = archive.entries()?;
    let Some(entry) = entries.iter().find(|entry| entry.generation.0 == number) else {
        let numbers =
            entries.first().zip(entries.last()).map(|(oldest, newest)| (oldest.generation, newest.generation));
        match numbers {
            Some((only, newest)) if only == newest => bail!("generation {number} isn't kept; there is only {only}"),
            Some((oldest, newest)) => bail!("generation {number} isn't kept; there are {oldest} to {newest}"),
            None => bail!("generation {number} isn't kept; there are none"),
        }
    };
    archive.read(entry).with_context(|| format!("generation {number} in {}", entry.path.display()))
}

fn in_force_at(archive: &Archive, moment: Timestamp) -> anyhow::Result<Record> {
    let mut oldest = None;
    for record in archive.newest_first()? {
        if record.at <= moment {
            return Ok(record);
        }
        oldest = Some(record);
    }
    let oldest = oldest.context("no generation can be read")?;
    let (since, oldest) = (local(oldest.at), oldest.generation);
    bail!("nothing is kept from {}; the oldest is generation {oldest}, in force since {since}", local(moment));
}

/// `2026-11-17 12:00:03`, in the local time zone.
pub fn local(at: Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %T").to_string()
}

/// `3m`, `2h`, `5d`: how long ago `at` was.
pub fn age(at: Timestamp, now: Timestamp) -> String {
    let seconds = (now.as_second() - at.as_second()).max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_told_in_its_largest_unit_and_never_negative() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| age(Timestamp::from_second(1_000_000 - seconds).unwrap(), now);

        assert_eq!([ago(-5), ago(59), ago(60), ago(3_600), ago(172_800)], ["0s", "59s", "1m", "1h", "2d"]);
    }
}
