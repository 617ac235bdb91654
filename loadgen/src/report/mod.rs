//! What people and programs read afterwards: a page, and files for other tools. All of it is made from the
//! [`Outcome`](crate::Outcome) alone, so a `result.json` can be turned into a report again.

pub mod compare;
pub mod files;
pub mod hlog;
pub mod html;
pub mod junit;
#[cfg(test)]
pub(crate) mod sample;
pub mod seconds;
pub mod summary;
pub mod words;
