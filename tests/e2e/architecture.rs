//! The crate map that ARCHITECTURE.md draws, held by reading `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The crates of the workspace that a role may import. A new role is added here and to the map.
const MAY_IMPORT: [(&str, &[&str]); 4] = [
    ("tidegate-model", &[]),
    ("tidegate-gateway", &["tidegate-model"]),
    ("tidegate-loadgen", &["tidegate-model"]),
    ("tidegate", &["tidegate-gateway", "tidegate-loadgen", "tidegate-model"]),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Names of the packages that each package needs to run, by package name.
fn needs(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let name_of: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let name = name_of[node["id"].as_str().unwrap()];
        for dependency in node["deps"].as_array().unwrap() {
            let normal = dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
            if normal {
                let needed = name_of[dependency["pkg"].as_str().unwrap()];
                needs.entry(name.to_owned()).or_default().insert(needed.to_owned());
            }
        }
    }
    needs
}

fn everything_below<'a>(root: &'a str, needs: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(name) = open.pop() {
        for needed in needs.get(name).into_iter().flatten() {
            if found.insert(needed.as_str()) {
                open.push(needed);
            }
        }
    }
    found
}

#[test]
fn crates_import_only_what_the_map_allows() {
    let metadata = metadata();
    let needs = needs(&metadata);

    let ours: BTreeMap<&str, BTreeSet<&str>> = needs
        .iter()
        .filter(|(name, _)| name.starts_with("tidegate"))
        .map(|(name, needed)| {
            (name.as_str(), needed.iter().map(String::as_str).filter(|needed| needed.starts_with("tidegate")).collect())
        })
        .collect();

    let allowed = MAY_IMPORT.into_iter().map(|(name, imports)| (name, imports.iter().copied().collect())).collect();
    assert_eq!(ours, allowed);
}

#[test]
fn the_model_knows_neither_pingora_nor_tokio() {
    let metadata = metadata();
    let needs = needs(&metadata);

    let below = everything_below("tidegate-model", &needs);

    assert!(below.contains("serde"), "the graph was not read: {below:?}");
    let forbidden: Vec<_> =
        below.into_iter().filter(|name| name.starts_with("pingora") || name.starts_with("tokio")).collect();
    assert_eq!(forbidden, [""; 0]);
}

#[test]
fn only_the_gateway_knows_pingora() {
    let metadata = metadata();
    let needs = needs(&metadata);

    let knowing: Vec<&str> = needs
        .iter()
        .filter(|(name, needed)| {
            name.starts_with("tidegate") && needed.iter().any(|needed| needed.starts_with("pingora"))
        })
        .map(|(name, _)| name.as_str())
        .collect();

    assert_eq!(knowing, ["tidegate-gateway"]);
}
