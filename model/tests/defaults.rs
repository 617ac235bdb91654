//! What the reference says about defaults is what happens when a key is left out.

use serde_json::{Value, json};
use tidegate_model::check::{SourceFile, check};
use tidegate_model::desired::Desired;
use tidegate_model::diagnostic::{Colour, render_all};
use tidegate_model::reference::schema;

/// A configuration that opens every section and writes only what is required.
fn skeleton() -> Value {
    json!({
        "version": 1,
        "listeners": {"web": {
            "bind": "0.0.0.0:8443",
            "certificates": [{"cert": "a.crt", "key": "a.key"}],
            "timeouts": {},
            "http2": {},
        }},
        "client_ip": {},
        "paths": {},
        "limits": {"some": {"rate": "50/s"}},
        "bounds": {},
        "services": {
            "app": {
                "health": {"path": "/"}, "eject": {}, "retry": {}, "timeouts": {}, "tls": {},
                "endpoints": [{"address": "127.0.0.1:1"}],
            },
        },
        "routes": [
            {
                "name": "split",
                "match": {},
                "limits": "some",
                "split": {"weights": {"app": 1}, "issue": {"cookie": "c"}},
                "cors": {"origins": ["*"]},
                "shadow": [{"to": "app"}],
            },
            {"name": "redirect", "match": {"path": "/r"}, "redirect": {"scheme": "https"}},
            {"name": "answer", "match": {"path": "/a"}, "answer": {}},
        ],
    })
}

/// Writes every default that `schema` knows into `value`, and counts them.
fn fill(value: &mut Value, schema: &Value, root: &Value) -> usize {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let name = name.trim_start_matches("#/$defs/");
        return fill(value, &root["$defs"][name], root);
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let fits = |choice: &&Value| {
            choice.get("$ref").is_some() && value.is_object() || choice.get("items").is_some() && value.is_array()
        };
        let choice = choices.iter().find(fits).cloned();
        return choice.map_or(0, |choice| fill(value, &choice, root));
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array_mut()) {
        return values.iter_mut().map(|value| fill(value, items, root)).sum();
    }
    let Some(entries) = value.as_object_mut() else { return 0 };
    let mut written = 0;
    if let Some(every) = schema.get("additionalProperties").filter(|every| every.is_object()) {
        written += entries.values_mut().map(|value| fill(value, every, root)).sum::<usize>();
    }
    for (key, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if let Some(value) = entries.get_mut(key) {
            written += fill(value, property, root);
        } else if let Some(default) = property.get("default").filter(|default| **default != json!({})) {
            entries.insert(key.clone(), default.clone());
            written += 1;
        }
    }
    written
}

fn desired(config: &Value) -> Desired {
    let text = config.to_string();
    let files = [SourceFile { path: "config.yaml".into(), text: text.clone() }];
    check(&files).unwrap_or_else(|problems| panic!("{text}\n{}", render_all(&problems, Colour::Off))).desired
}

#[test]
fn writing_a_default_down_changes_nothing() {
    let schema = schema();
    let bare = skeleton();
    let mut full = skeleton();
    let written = fill(&mut full, &schema, &schema);

    assert!(written >= 40, "only {written} defaults were written");
    assert_eq!(desired(&bare), desired(&full));
}

#[test]
fn leaving_sections_out_means_the_same_as_opening_them_empty() {
    let mut without = skeleton();
    for key in ["client_ip", "paths", "bounds"] {
        without.as_object_mut().expect("the skeleton is a mapping").remove(key);
    }
    for (section, keys) in
        [("services", ["eject", "retry", "timeouts"].as_slice()), ("listeners", &["timeouts", "http2"])]
    {
        for entry in without[section].as_object_mut().expect("this section is a mapping").values_mut() {
            for key in keys {
                entry.as_object_mut().expect("each entry is a mapping").remove(*key);
            }
        }
    }

    assert_eq!(desired(&without), desired(&skeleton()));
}
