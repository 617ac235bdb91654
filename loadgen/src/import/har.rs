//! HTTP archives (HAR 1.2), as browsers save them.

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde::Deserialize;
use tidegate_model::scenario::recording::Request;
use url::Url;

use super::Gather;

#[derive(Deserialize)]
struct Archive {
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    started_date_time: String,
    /// Milliseconds from the start to the last byte.
    #[serde(default)]
    time: f64,
    request: Asked,
    response: Option<Answered>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<Field>,
    post_data: Option<PostData>,
}

#[derive(Deserialize)]
struct Answered {
    #[serde(default)]
    status: i64,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct PostData {
    #[serde(default)]
    text: String,
}

/// Reads `text` into `gather`, in the order of the file.
///
/// # Errors
///
/// It isn't a HAR file, or has a time or URL that isn't one.
pub(super) fn read(text: &[u8], gather: &mut Gather) -> anyhow::Result<()> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let archive: Archive = serde_json::from_slice(text)?;
    let mut first: Option<String> = None;
    for (at, entry) in archive.log.entries.into_iter().enumerate() {
        let url = Url::parse(&entry.request.url).with_context(|| format!("entry {} has no URL", at + 1))?;
        if !matches!(url.scheme(), "http" | "https") {
            gather.odd += 1; // data:, blob: and the like never reached a server.
            continue;
        }
        let time: Timestamp = entry
            .started_date_time
            .parse()
            .with_context(|| format!("entry {}: \"{}\" isn't a time", at + 1, entry.started_date_time))?;
        let Ok(at_us) = u64::try_from(time.as_microsecond()) else { bail!("entry {} is before 1970", at + 1) };
        let origin = url.origin().ascii_serialization();
        let first = first.get_or_insert_with(|| origin.clone());
        if *first != origin && !gather.choice.all_hosts {
            gather.elsewhere += 1;
            continue;
        }
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut request = Request {
            at_us,
            method: entry.request.method,
            origin,
            target,
            status: entry.response.map_or(0, |answer| u64::try_from(answer.status).unwrap_or(0)),
            ..Request::default()
        };
        // Names like ":authority" are HTTP/2's own.
        let fields = entry.request.headers.into_iter().filter(|field| !field.name.starts_with(':'));
        request.headers = fields.map(|field| (field.name.to_lowercase(), field.value)).collect();
        if let Some(body) = entry.request.post_data {
            request.set_body(body.text.as_bytes());
        }
        let took = if entry.time.is_finite() { entry.time.clamp(0.0, 86_400_000.0) } else { 0.0 };
        request.took_us = (took * 1e3) as u64;
        gather.add(request)?;
    }
    Ok(())
}
