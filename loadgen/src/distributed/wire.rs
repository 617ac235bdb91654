//! What coordinator and worker say to each other: JSON in frames of a 32-bit length (big-endian) and so many bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_model::scenario::Plan;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::Failure;
use crate::collect::Moment;
use crate::record::Counts;
use crate::total::histogram;

/// Bytes of one frame. A longer one ends the connection.
pub const MOST: usize = 512 << 20;

/// Bytes of the first frames, before the other side has proved itself.
pub const MOST_UNPROVED: usize = 1 << 10;

/// A frame that has begun must be whole within this time.
const FRAME: Duration = Duration::from_secs(60);

/// What a coordinator says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToWorker {
    /// Prepare this.
    Job {
        /// What to send.
        plan: Box<Plan>,
        /// Files that the plan names, by their paths in it.
        files: BTreeMap<String, Vec<u8>>,
        /// The worker's number.
        part: u64,
        /// How many workers there are.
        parts: u64,
    },
    /// Say [`ToCoordinator::Pong`]; how long that takes is how far the clocks may be apart.
    Ping,
    /// Begin so many nanoseconds from now.
    Go {
        /// Nanoseconds.
        after: u64,
    },
    /// Begin nothing more.
    End,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToCoordinator {
    /// First of all.
    Hello {
        /// Its version; the coordinator's must be the same.
        version: String,
        /// Cores that it has.
        cores: u32,
        /// Whether it runs something already.
        busy: bool,
    },
    /// It is prepared.
    Ready,
    /// It can't do the job.
    Refused {
        /// Why, for people.
        why: String,
    },
    /// It is there.
    Pong,
    /// A second is over.
    Second(Part),
    /// The run is over.
    Done {
        /// The most memory that was resident, in bytes.
        memory: u64,
    },
}

/// A second of a worker's run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    /// Its number, from 0.
    pub second: u32,
    /// By step.
    pub steps: Vec<StepPart>,
    /// The generator's lag.
    pub lag: Packed,
    /// Flows under way at its end.
    pub in_flight: u64,
    /// Connections open at its end.
    pub connections: u64,
    /// Share of a core that the busiest thread used.
    pub cpu: f64,
}

/// A second of one step.
#[derive(Debug, Serialize, Deserialize)]
pub struct StepPart {
    counts: Counts,
    good: u64,
    failures: BTreeMap<Failure, u64>,
    statuses: BTreeMap<u16, u64>,
    examples: BTreeMap<Failure, String>,
    response: Packed,
    service: Packed,
    open: Vec<u64>,
}

/// A whole histogram: HdrHistogram V2, base64. Empty text: nothing in it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Packed(String);

impl Packed {
    /// Packs it.
    pub fn new(times: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        if times.is_empty() || V2Serializer::new().serialize(times, &mut bytes).is_err() {
            return Self::default();
        }
        Self(STANDARD.encode(bytes))
    }

    /// Unpacks it.
    ///
    /// # Errors
    ///
    /// It isn't one, or has other bounds than ours.
    pub fn open(&self) -> anyhow::Result<Histogram<u64>> {
        let mut times = histogram();
        if self.0.is_empty() {
            return Ok(times);
        }
        let bytes = STANDARD.decode(&self.0)?;
        let read: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).context("not a histogram")?;
        ensure!(read.sigfig() == times.sigfig() && read.high() <= times.high(), "a histogram of other bounds");
        times.add(&read).context("a histogram of other bounds")?;
        Ok(times)
    }
}

impl StepPart {
    /// Packs a second.
    pub fn new(moment: &Moment) -> Self {
        Self {
            counts: moment.counts,
            good: moment.good,
            failures: moment.failures.clone(),
            statuses: moment.statuses.clone(),
            examples: moment.examples.clone(),
            response: Packed::new(&moment.response),
            service: Packed::new(&moment.service),
            open: moment.open.clone(),
        }
    }

    /// Unpacks it.
    ///
    /// # Errors
    ///
    /// A histogram isn't one.
    pub fn open(self) -> anyhow::Result<Moment> {
        Ok(Moment {
            counts: self.counts,
            good: self.good,
            failures: self.failures,
            statuses: self.statuses,
            examples: self.examples,
            response: self.response.open()?,
            service: self.service.open()?,
            open: self.open,
        })
    }
}

/// Writes a frame.
///
/// # Errors
///
/// The other side is gone, takes too long, or the message is too long.
pub async fn send<M: Serialize>(to: &mut (impl AsyncWrite + Unpin), message: &M) -> anyhow::Result<()> {
    send_bytes(to, &serde_json::to_vec(message)?).await
}

/// Writes a frame of these bytes.
///
/// # Errors
///
/// As [`send`].
pub async fn send_bytes(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> anyhow::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length as usize <= MOST);
    let Some(length) = length else { bail!("a message of {} bytes is too long (at most {MOST})", bytes.len()) };
    let write = async {
        to.write_all(&length.to_be_bytes()).await?;
        to.write_all(bytes).await?;
        to.flush().await
    };
    timeout(FRAME, write).await.context("the other side reads too slowly")??;
    Ok(())
}

/// Reads a frame. Waits for its beginning as long as it takes.
///
/// # Errors
///
/// The other side is gone, takes too long, or says what makes no sense.
pub async fn receive<M: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<M> {
    let bytes = receive_bytes(from, MOST).await?;
    serde_json::from_slice(&bytes).context("the other side can't be understood")
}

/// Reads a frame of at most `most` bytes.
///
/// # Errors
///
/// As [`receive`].
pub async fn receive_bytes(from: &mut (impl AsyncRead + Unpin), most: usize) -> anyhow::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await.context("the other side is gone")?;
    let length = u32::from_be_bytes(length) as usize;
    ensure!(length <= most, "a frame of {length} bytes is too long (at most {most})");
    // Room is made as bytes come: a length alone costs nothing.
    let mut bytes = Vec::new();
    let read = timeout(FRAME, from.take(length as u64).read_to_end(&mut bytes)).await;
    read.context("the other side is too slow")?.context("the other side is gone")?;
    ensure!(bytes.len() == length, "the other side is gone in the middle of a frame");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_the_wire_bucket_for_bucket() {
        let mut times = histogram();
        (1..200_u64).for_each(|n| times.saturating_record(n.pow(5)));

        assert_eq!(Packed::new(&times).open().unwrap(), times);
        assert_eq!(Packed::default().open().unwrap(), histogram());
    }

    #[test]
    fn a_histogram_of_other_bounds_is_refused() {
        let mut coarse = Histogram::<u64>::new_with_bounds(1, 1_000, 1).unwrap();
        coarse.record(5).unwrap();

        assert!(Packed::new(&coarse).open().is_err());
        assert!(Packed("no base64!".into()).open().is_err());
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_or_cut_off_is_refused() {
        let mut sent = Vec::new();
        send_bytes(&mut sent, b"hello").await.unwrap();

        assert_eq!(receive_bytes(&mut &sent[..], 5).await.unwrap(), b"hello");
        assert!(receive_bytes(&mut &sent[..], 4).await.is_err());
        assert!(receive_bytes(&mut &sent[..7], 5).await.is_err());
    }
}
