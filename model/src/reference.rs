//! The configuration's reference: JSON Schema for editors, a page for people.

/// The JSON Schema of a configuration file (draft 2020-12).
pub fn schema() -> serde_json::Value {
    crate::config::schema()
}
