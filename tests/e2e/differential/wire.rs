//! Clients that send bytes as they are, and read answers without trusting them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The client's half of the HTTP/2 preface, and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// One answer to an HTTP/1 request.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body, and whether it is whole.
    pub body: (Vec<u8>, bool),
}

/// Sends `bytes`, and returns everything that came until the other side closed, or patience ended.
pub async fn say(address: SocketAddr, bytes: &[u8], patience: Duration) -> Vec<u8> {
    let Ok(mut stream) = TcpStream::connect(address).await else { return Vec::new() };
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(patience, stream.read_to_end(&mut said)).await;
    said
}

/// The final answers in what a server said to requests with these methods.
pub fn answers(mut said: &[u8], method: &str) -> Vec<Answer> {
    let mut all = Vec::new();
    while let Some(end) = said.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&said[..end]).into_owned();
        said = &said[end + 4..];
        let Some(status) = head.get(9..12).and_then(|status| status.parse::<u16>().ok()) else { break };
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let value = |name: &str| {
            head.lines().find_map(|line| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)))
        };
        let (body, rest) = if method == "HEAD" || matches!(status, 204 | 304) {
            ((Vec::new(), true), said)
        } else if value("transfer-encoding").is_some() {
            chunks(said)
        } else if let Some(length) = value("content-length").and_then(|(_, length)| length.trim().parse::<usize>().ok())
        {
            let n = length.min(said.len());
            ((said[..n].to_vec(), n == length), &said[n..])
        } else {
            ((said.to_vec(), true), &said[said.len()..])
        };
        said = rest;
        all.push(Answer { status, body });
    }
    all
}

fn chunks(mut said: &[u8]) -> ((Vec<u8>, bool), &[u8]) {
    let mut body = Vec::new();
    loop {
        let Some(end) = said.windows(2).position(|window| window == b"\r\n") else { return ((body, false), &[]) };
        let size = String::from_utf8_lossy(&said[..end]).into_owned();
        let Ok(size) = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16) else {
            return ((body, false), &[]);
        };
        said = &said[end + 2..];
        if size == 0 {
            let end = said.windows(2).position(|window| window == b"\r\n").map_or(said.len(), |at| at + 2);
            return ((body, true), &said[end..]);
        }
        if said.len() < size + 2 {
            return ((body, false), &[]);
        }
        body.extend_from_slice(&said[..size]);
        said = &said[size + 2..];
    }
}

/// Sends one HTTP/2 request, and returns its status, or how it was refused.
pub async fn say_http2(
    address: SocketAddr,
    fields: &[(Vec<u8>, Vec<u8>)],
    body: &[u8],
    patience: Duration,
) -> Result<u16, &'static str> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10); // Literal, never indexed, with its name (RFC 7541 §6.2.3).
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    let mut bytes = PREFACE.to_vec();
    let end_stream = u8::from(body.is_empty());
    frame(&mut bytes, 1, 0x4 | end_stream, &block);
    if !body.is_empty() {
        frame(&mut bytes, 0, 0x1, body);
    }
    let Ok(mut stream) = TcpStream::connect(address).await else { return Err("closed") };
    let _ = stream.write_all(&bytes).await;
    let mut said = Vec::new();
    let ended = tokio::time::timeout(patience, async {
        loop {
            // The connection may stay open: the answer to the stream is what counts.
            if let Some(outcome) = read_frames(&said) {
                return outcome;
            }
            if !matches!(stream.read_buf(&mut said).await, Ok(1..)) {
                return Err("closed");
            }
        }
    });
    ended.await.unwrap_or(Err("silence"))
}

/// An integer of 7 bits (RFC 7541 §5.1).
fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return block.push(length as u8);
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    block.push(rest as u8);
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, payload: &[u8]) {
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
    bytes.extend_from_slice(payload);
}

/// What became of our stream, as far as it can be told yet.
fn read_frames(mut said: &[u8]) -> Option<Result<u16, &'static str>> {
    while let [a, b, c, kind, flags, rest @ ..] = said {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some(stream) = rest.get(..4) else { break };
        let Some(payload) = rest.get(4..4 + length) else { break };
        let ours = stream[3] == 1;
        match kind {
            1 if ours => {
                let pad = if flags & 0x8 == 0 { 0 } else { 1 };
                let priority = if flags & 0x20 == 0 { 0 } else { 5 };
                match status(&payload[pad + priority..]) {
                    Some(100..=199) => {}
                    Some(status) => return Some(Ok(status)),
                    None => return Some(Err("headers without a status")),
                }
            }
            3 if ours => return Some(Err("reset")),
            // NO_ERROR says only that the connection ends.
            7 if payload.get(4..8) != Some(&[0; 4]) => return Some(Err("goaway")),
            _ => {}
        }
        said = &rest[4 + length..];
    }
    None
}

/// `:status`, which is the first field of every answer.
fn status(mut block: &[u8]) -> Option<u16> {
    while let [size, rest @ ..] = block
        && size & 0xe0 == 0x20
    {
        block = rest; // A change of the table's size.
    }
    let (&first, rest) = block.split_first()?;
    if first & 0x80 != 0 {
        return [200, 204, 206, 304, 400, 404, 500].get(usize::from(first & 0x7f).checked_sub(8)?).copied();
    }
    let (&length, rest) = rest.split_first()?;
    let text = rest.get(..usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return std::str::from_utf8(text).ok()?.parse().ok();
    }
    // Huffman codes of digits (RFC 7541, appendix B): 0 to 2 have five bits, the others six.
    let bits: Vec<u8> = text.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let number =
            |n: usize| bits.get(at..at + n).map(|bits| bits.iter().fold(0, |all, bit| all * 2 + u16::from(*bit)));
        let (digit, width) = match number(5)? {
            digit @ 0..=2 => (digit, 5),
            _ => (number(6)?.checked_sub(0b01_1001)? + 3, 6),
        };
        status = status * 10 + digit;
        at += width;
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_in_every_form() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8c]), Some(400));
        assert_eq!(status(&[0x48, 3, b'4', b'3', b'1']), Some(431));
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
    }
}
