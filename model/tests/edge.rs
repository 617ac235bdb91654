//! The shared example means what it says.

use tidegate_model::check::{SourceFile, check};
use tidegate_model::desired::{Action, Key, Weight};

#[test]
fn every_line_of_the_shared_example_arrives_in_desired() {
    let text = include_str!("../../configs/edge.yaml").to_owned();

    let checked = check(&[SourceFile { path: "/etc/tidegate/edge.yaml".into(), text }]).expect("the example is valid");

    insta::with_settings!({omit_expression => true}, {
        insta::assert_debug_snapshot!("edge", checked.desired);
    });
}

#[test]
fn a_folder_is_read_as_one_configuration() {
    let file = |name: &str, text: &str| SourceFile { path: format!("/etc/tidegate/{name}").into(), text: text.into() };
    let files = [
        file("a.yaml", "version: 1\nlisteners: {web: {bind: \"0.0.0.0:80\"}}\nroutes: [{name: one, to: app}]\n"),
        file("b.yaml", ""),
        file(
            "sub/c.yaml",
            "services: {app: {endpoints: [\"unix:app.sock\"]}}\nroutes: [{name: two, match: {path: /2}, to: app}]\n",
        ),
    ];

    let checked = check(&files).expect("together they are valid");

    let names: Vec<&str> = checked.desired.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    let endpoint = &checked.desired.services[0].versions[0].endpoints[0];
    assert_eq!(endpoint.address.to_string(), "unix:/etc/tidegate/sub/app.sock");
    assert_eq!(checked.warnings, []);
}

#[test]
fn anchors_aliases_and_merges_are_unfolded() {
    let text = "
version: 1
listeners: {web: {bind: \"0.0.0.0:80\"}}
services:
  a: &base
    balance: hash cookie:uid
    keep_idle: 7
    endpoints: [\"127.0.0.1:1\"]
  b: {<<: *base, keep_idle: 9}
routes:
  - {name: r, split: {weights: {a: 3, b: drain}}}
";

    let checked = check(&[SourceFile { path: "a.yaml".into(), text: text.into() }]).expect("this is valid");

    let services = &checked.desired.services;
    assert_eq!(services[1].balance, tidegate_model::desired::Balance::Hash(Key::Cookie("uid".into())));
    assert_eq!((services[0].keep_idle, services[1].keep_idle), (7, 9));
    assert_eq!(services[1].versions, services[0].versions);
    let Action::Forward(split) = &checked.desired.routes[0].action else { panic!("the route forwards") };
    assert_eq!(split.arms.iter().map(|arm| arm.weight).collect::<Vec<_>>(), [Weight::Share(3), Weight::Drain]);
    assert_eq!(split.salt, "r");
}

#[test]
fn what_is_accepted_but_odd_is_a_warning() {
    let text = "
version: 1
client_ip: {trusted: [0.0.0.0/0]}
limits: {idle: {rate: 1/s}}
services:
  used: {tls: {insecure: true}, endpoints: []}
  idle: {endpoints: []}
routes:
  - {name: r, match: {path: /r}, to: used}
  - {name: a, answer: {}, timeouts: {total: 1s}}
";

    let checked = check(&[SourceFile { path: "odd.yaml".into(), text: text.into() }]).expect("this is valid");

    let text = tidegate_model::diagnostic::render_all(&checked.warnings, tidegate_model::diagnostic::Colour::Off);
    insta::with_settings!({omit_expression => true}, {
        insta::assert_snapshot!("warnings", text);
    });
}

#[test]
fn places_tell_where_ports_and_files_were_written() {
    let text = include_str!("../../configs/edge.yaml").to_owned();

    let checked = check(&[SourceFile { path: "edge.yaml".into(), text }]).expect("the example is valid");

    for (key, line) in [
        ("admin.bind", 5),
        ("listeners.web.bind", 8),
        ("listeners.tls.certificates.0.cert", 13),
        ("services.shop.versions.v1.endpoints.1", 29),
    ] {
        assert_eq!(checked.places.of(key).map(|place| place.line), Some(line), "{key}");
    }
    assert_eq!(checked.places.of("listeners.nobody.bind"), None);
}
