//! `response.hlog`: histograms second by second in HdrHistogram's interval log, version 1.3, for its own tools
//! (`HistogramLogProcessor -i response.hlog -tag response`). Values are nanoseconds; the tags are `response`, `service`
//! and `lag`. The maximum in each line is in milliseconds, as those tools have it.
//!
//! The file is written while the run goes on, so memory stays flat however long that is.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};

/// Writes the log, line by line.
#[derive(Debug)]
pub struct Log<W: Write> {
    to: W,
    bytes: Vec<u8>,
}

impl<W: Write> Log<W> {
    /// Begins a log of a run that began at `began`, in Unix milliseconds.
    ///
    /// # Errors
    ///
    /// What `to` says.
    pub fn begin(mut to: W, name: &str, began: u64) -> io::Result<Self> {
        let seconds = began as f64 / 1e3;
        let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        writeln!(to, "#[{name}: nanoseconds, by tidegate {}]", env!("CARGO_PKG_VERSION"))?;
        writeln!(to, "#[Histogram log format version 1.3]")?;
        writeln!(to, "#[StartTime: {seconds:.3} (seconds since epoch)]")?;
        writeln!(to, "#[BaseTime: {seconds:.3} (seconds since epoch)]")?;
        writeln!(to, "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"")?;
        Ok(Self { to, bytes: Vec::new() })
    }

    /// Adds what `times` holds of `lasts` seconds from `at`, in seconds from the start. `tag` has neither `,` nor space.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn add(&mut self, tag: &str, at: f64, lasts: f64, times: &Histogram<u64>) -> io::Result<()> {
        if times.is_empty() {
            return Ok(());
        }
        self.bytes.clear();
        let written = V2DeflateSerializer::new().serialize(times, &mut self.bytes);
        written.map_err(|err| io::Error::other(err.to_string()))?;
        let (max, histogram) = (times.max() as f64 / 1e6, STANDARD.encode(&self.bytes));
        writeln!(self.to, "Tag={tag},{at:.3},{lasts:.3},{max:.3},{histogram}")
    }

    /// Everything is on its way.
    ///
    /// # Errors
    ///
    /// What the writer says.
    pub fn end(mut self) -> io::Result<W> {
        self.to.flush()?;
        Ok(self.to)
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn another_reader_of_the_format_finds_each_interval_and_the_same_histograms() {
        let mut times = Histogram::<u64>::new(3).unwrap();
        (1..1_000_u64).for_each(|n| times.record(n * 10_000).unwrap());
        let mut log = Log::begin(Vec::new(), "a name\nof two lines", 1_795_000_000_500).unwrap();

        for at in 0..3 {
            log.add("response", f64::from(at), 1.0, &times).unwrap();
            log.add("service", f64::from(at), 1.0, &Histogram::new(3).unwrap()).unwrap();
        }
        let text = log.end().unwrap();

        let entries: Vec<_> = IntervalLogIterator::new(&text).map(|it| it.unwrap()).collect();
        let read: Vec<_> = entries
            .iter()
            .filter_map(|it| if let LogEntry::Interval(it) = it { Some(it) } else { None })
            .map(|it| {
                let bytes = STANDARD.decode(it.encoded_histogram()).unwrap();
                let back: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
                (it.tag().map(|tag| tag.as_str().to_owned()), it.start_timestamp().as_secs(), back == times)
            })
            .collect();
        assert_eq!(read, [0, 1, 2].map(|at| (Some("response".to_owned()), at, true)));
    }
}
