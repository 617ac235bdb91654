//! The committed schema and reference page are what the code says.
//!
//! `UPDATE=1 cargo test -p tidegate-model --test reference` writes them anew.

use std::path::Path;

use tidegate_model::reference::{reference, scenario_reference, scenario_schema, schema};

fn fresh(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("docs/ is a folder")).expect("docs/ can be made");
        std::fs::write(&path, made).expect("docs/ can be written");
    }

    let committed = std::fs::read_to_string(&path).unwrap_or_default();

    assert!(committed == made, "docs/{name} is stale: UPDATE=1 cargo test -p tidegate-model --test reference");
}

#[test]
fn the_committed_schema_is_what_the_code_says() {
    fresh("schema.json", &format!("{:#}\n", schema()));
}

#[test]
fn the_committed_reference_is_what_the_code_says() {
    fresh("configuration.md", &reference());
}

#[test]
fn the_committed_schema_of_scenarios_is_what_the_code_says() {
    fresh("scenario.schema.json", &format!("{:#}\n", scenario_schema()));
}

#[test]
fn the_committed_reference_of_scenarios_is_what_the_code_says() {
    fresh("scenario.md", &scenario_reference());
}
