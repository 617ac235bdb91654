//! What people and programs read afterwards.

#[cfg(test)]
pub(crate) mod sample;
pub mod words;
