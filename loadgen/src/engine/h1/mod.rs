//! HTTP/1.1, as lean as it gets: a request that is bytes already, one write, and an answer that is counted while it
//! passes through a buffer which the whole thread shares.

mod answer;
mod chunked;
mod exchange;

pub use answer::{Answer, Keeps, Reader};
pub use exchange::{Exchange, exchange};
