//! HTTP/2 by hand: frames as bytes, for clients that no library would let one be.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Frame types (RFC 9113 §6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// Of HEADERS behind which nothing comes.
pub const WHOLE: u8 = END_HEADERS | END_STREAM;

/// ENHANCE_YOUR_CALM (RFC 9113 §7).
pub const CALM: u32 = 0xb;

/// `GET http://x/` and `POST http://x/` in HPACK: indexed fields of the static table, and a literal authority.
pub const GET: &[u8] = b"\x82\x86\x84\x41\x01x";
pub const POST: &[u8] = b"\x83\x86\x84\x41\x01x";

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A plain connection that speaks HTTP/2 by prior knowledge, with its preface and these SETTINGS sent.
pub async fn open(address: SocketAddr, settings: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(frame(SETTINGS, 0, 0, settings));
    stream.write_all(&hello).await.unwrap();
    stream
}

/// What a server says until it closes.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Why it says GOAWAY, where it does.
    pub goaway: Option<u32>,
    /// Why it resets streams.
    pub resets: Vec<u32>,
}

/// Reads frames until the server closes.
pub async fn listen(mut stream: impl AsyncReadExt + Unpin) -> Said {
    let mut said = Said::default();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            GOAWAY => said.goaway = Some(code(4)),
            RST_STREAM => said.resets.push(code(0)),
            _ => {}
        }
    }
    said
}
