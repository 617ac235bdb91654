//! The commands that people type, through the real binary: what they print, and how they exit.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use tempfile::TempDir;
use tidegate_gateway::source::files;
use tidegate_gateway::source::history::{History, Kept, Reason, Record};
use tidegate_model::desired::Generation;

/// Far beyond what anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration, and a state folder.
struct Bench {
    temp: TempDir,
    admin: String,
}

impl Bench {
    fn new() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { temp: tempfile::tempdir().unwrap(), admin: free.to_string() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// A configuration whose only route answers `body`.
    fn answering(&self, body: &str) -> String {
        format!(
            "version: 1\nadmin: {{bind: \"{}\"}}\nlisteners: {{web: {{bind: \"127.0.0.1:0\"}}}}\nroutes:\n  \
             - {{name: all, match: {{path: /**}}, answer: {{status: 200, body: \"{body}\"}}}}\n",
            self.admin
        )
    }

    fn write(&self, text: &str) {
        fs::write(self.path("edge.yaml"), text).unwrap();
    }

    fn config(&self) -> String {
        fs::read_to_string(self.path("edge.yaml")).unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        command(args).current_dir(self.temp.path()).output().unwrap()
    }

    /// As [`Bench::run`], for commands that read generations.
    fn kept(&self, args: &[&str]) -> Output {
        self.run(&[args, &["--config", "edge.yaml", "--state", "state"]].concat())
    }

    /// Keeps `text` as a generation that was accepted at `at`.
    fn keep(&self, generation: u64, at: &str, text: &str) {
        let source = self.path("edge.yaml");
        let kept = vec![Kept { path: source.clone(), text: text.into() }];
        let mut record = Record {
            generation: Generation(generation),
            at: at.parse().unwrap(),
            reason: if generation == 1 { Reason::Start } else { Reason::File },
            source,
            sha256: String::new(),
            references: String::new(),
            files: kept,
        };
        record.sha256 = files::digest(&record.source, &record.sources());
        History::open(&self.path("state")).unwrap().keep(&record).unwrap();
    }

    /// Starts a gateway, and waits until it answers a reload with exit code `ready`: 0, or 2 where the file is broken.
    fn gateway(&self, ready: i32) -> Gateway {
        let log = fs::File::create(self.path("log")).unwrap();
        let child = command(&["gateway", "--config", "edge.yaml", "--state", "state", "--drain", "0"])
            .current_dir(self.temp.path())
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let gateway = Gateway(child);
        let answers = || self.run(&["reload", "--admin", &self.admin]).status.code() == Some(ready);
        self.eventually("the gateway answers", answers);
        gateway
    }

    fn eventually(&self, what: &str, done: impl Fn() -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !done() {
            let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(Instant::now() < give_up, "waited in vain until {what}; the gateway's log:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Output with this bench's paths and ports as words.
    fn neutral(&self, text: &[u8]) -> String {
        let temp = self.temp.path().display().to_string();
        String::from_utf8_lossy(text).replace(&temp, "FOLDER").replace(&self.admin, "ADMIN")
    }
}

/// Killed when dropped.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(args).env("COLUMNS", "100").env("TZ", "UTC").env_remove("STATE_DIRECTORY").env_remove("RUST_LOG");
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a run looked like to whoever typed it.
fn seen(bench: &Bench, output: &Output) -> String {
    let (out, err) = (bench.neutral(&output.stdout), bench.neutral(&output.stderr));
    format!("exit {}\n-- stdout\n{out}-- stderr\n{err}", output.status.code().unwrap())
}

const SHOP: &str = r#"version: 1
listeners: {web: {bind: "127.0.0.1:8080"}}
limits: {per_ip: {key: client_ip, rate: 50/s}}
services:
  shop: {versions: {v1: {endpoints: ["127.0.0.1:9001"]}, v2: {endpoints: ["127.0.0.1:9011"]}}}
routes:
  - {name: login, match: {host: shop.example.com, path: /login, method: POST}, to: shop/v1}
  - name: shop
    match: {host: shop.example.com, path: /**}
    limits: [per_ip]
    split: {stick_by: ["cookie:uid"], weights: {shop/v1: 95, shop/v2: 5}}
"#;

#[test]
fn help_of_every_command_says_what_it_does_and_shows_examples() {
    for name in ["check", "explain", "reload", "bans", "certs", "history", "diff", "restore", "schema", "completions"] {
        let output = command(&[name, "--help"]).output().unwrap();

        assert!(stdout(&output).contains("Examples:"), "{name}");
        assert_snapshot!(format!("help-{name}"), stdout(&output));
    }
}

#[test]
fn unknown_command_is_refused_with_exit_code_2() {
    let output = command(&["chekc"]).output().unwrap();

    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("check"), "{}", stderr(&output));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&command(&["completions", shell]).output().unwrap());

        for name in
            ["gateway", "check", "explain", "reload", "upgrade", "bans", "certs", "history", "diff", "restore", "top"]
        {
            assert!(script.contains(name), "{shell} doesn't complete {name}");
        }
    }
}

#[test]
fn schema_is_json_and_a_reader_that_goes_away_is_no_failure() {
    let schema: serde_json::Value = serde_json::from_slice(&command(&["schema"]).output().unwrap().stdout).unwrap();
    assert!(schema["properties"]["routes"].is_object(), "{schema:#}");

    let mut child = command(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();

    assert!(output.status.success());
    assert_eq!(stderr(&output), "");
}

#[test]
fn check_says_how_much_it_found_good() {
    let bench = Bench::new();
    bench.write(SHOP);

    let output = bench.run(&["check", "edge.yaml"]);

    assert_snapshot!("check-ok", seen(&bench, &output));
}

#[test]
fn check_reports_every_problem_of_a_folder_and_exits_with_2() {
    let bench = Bench::new();
    fs::create_dir(bench.path("conf")).unwrap();
    fs::write(bench.path("conf/a.yaml"), SHOP.replace("to: shop/v1", "to: shopp/v1")).unwrap();
    fs::write(bench.path("conf/b.yaml"), "version: 1\nlimitz: {}\n").unwrap();

    let output = bench.run(&["check", "conf"]);

    assert_snapshot!("check-folder", seen(&bench, &output));
}

#[test]
fn check_finds_a_missing_certificate_unless_told_not_to_look() {
    let bench = Bench::new();
    bench.write(&SHOP.replace("8080\"", "8443\", certificates: [{cert: a.crt, key: a.key}]"));

    let looked = bench.run(&["check", "edge.yaml"]);
    let not_looked = bench.run(&["check", "--no-files", "edge.yaml"]);

    assert_snapshot!("check-missing-certificate", seen(&bench, &looked));
    assert_eq!(not_looked.status.code(), Some(0), "{}", stderr(&not_looked));
}

#[test]
fn check_as_json_holds_the_same() {
    let bench = Bench::new();
    bench.write(&SHOP.replace("limits: [per_ip]", "limits: [per_up]"));

    let output = bench.run(&["check", "--json", "edge.yaml"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();

    assert_eq!(output.status.code(), Some(2));
    assert_eq!(report["ok"], false);
    assert_eq!(report["diagnostics"][0]["at"]["line"], 10, "{report:#}");
}

#[test]
fn check_of_something_that_is_not_there_names_it() {
    let bench = Bench::new();

    let output = bench.run(&["check", "gone.yaml"]);

    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("gone.yaml does not exist"), "{}", stderr(&output));
}

#[test]
fn explain_names_the_route_the_arm_and_the_nearest_losers() {
    let bench = Bench::new();
    bench.write(SHOP);
    let config = ["explain", "--config", "edge.yaml"];

    let login = bench.run(&[&config[..], &["-X", "POST", "https://shop.example.com/login"]].concat());
    let sticky = bench.run(&[&config[..], &["-H", "Cookie: uid=42", "shop.example.com/cart?x=1"]].concat());
    let nobody = bench.run(&[&config[..], &["https://other.example.com/"]].concat());

    assert_snapshot!("explain", format!("{}{}{}", stdout(&login), stdout(&sticky), stdout(&nobody)));
}

#[test]
fn explain_asks_about_the_path_in_its_normal_form_and_tells_of_one_that_has_none() {
    let bench = Bench::new();
    bench.write(SHOP);
    let config = ["explain", "--config", "edge.yaml"];

    let plain = bench.run(&[&config[..], &["-X", "POST", "https://shop.example.com/login"]].concat());
    let winding = bench.run(&[&config[..], &["-X", "POST", "https://shop.example.com//x/%2e%2e/%6cogin"]].concat());
    let bad = bench.run(&[&config[..], &["https://shop.example.com/x/..;/login"]].concat());

    assert_eq!(stdout(&winding), stdout(&plain));
    assert!(stdout(&bad).contains("answered 400: the path holds a dot segment"), "{}", stdout(&bad));
}

#[test]
fn history_and_diff_tell_what_a_change_did() {
    let bench = Bench::new();
    bench.keep(1, "2026-11-17T12:00:00Z", SHOP);
    bench.keep(2, "2026-11-18T12:00:00Z", &SHOP.replace("95, shop/v2: 5", "80, shop/v2: 20"));
    bench.keep(3, "2026-11-19T12:00:00Z", SHOP);

    let history = bench.kept(&["history"]);
    let diff = bench.kept(&["diff", "1", "2"]);

    // The age column depends on today.
    let ageless: Vec<String> = stdout(&history).lines().map(|line| format!("{}{}", &line[..31], &line[37..])).collect();
    assert_snapshot!("history", ageless.join("\n"));
    assert_snapshot!("diff", seen(&bench, &diff));
}

#[test]
fn restore_without_a_gateway_puts_the_text_back_and_loses_nothing() {
    let bench = Bench::new();
    bench.keep(1, "2026-11-17T12:00:00Z", SHOP);
    bench.keep(2, "2026-11-18T12:00:00Z", &SHOP.replace("95", "80"));
    bench.write("never: in force\n");

    let restored = bench.kept(&["restore", "--to", "2026-11-17T18:00"]);
    let again = bench.kept(&["restore", "1"]);

    assert!(restored.status.success() && again.status.success(), "{}{}", stderr(&restored), stderr(&again));
    assert_eq!(bench.config(), SHOP);
    let copies: Vec<_> = fs::read_dir(bench.path("state/replaced")).unwrap().flatten().collect();
    assert_eq!(copies.len(), 1);
    assert_eq!(fs::read_to_string(copies[0].path().join("edge.yaml")).unwrap(), "never: in force\n");
    assert!(stdout(&again).contains("already"), "{}", stdout(&again));
}

#[test]
fn restore_refuses_what_isnt_kept_and_what_it_couldnt_serve() {
    let bench = Bench::new();
    bench.write(SHOP);
    bench.keep(1, "2026-11-17T12:00:00Z", "version: 1\nroutes: 7\n");

    let unknown = bench.kept(&["restore", "9"]);
    let before = bench.kept(&["restore", "--to", "2026-01-01"]);
    let broken = bench.kept(&["restore", "1"]);

    assert_snapshot!("restore-unknown", seen(&bench, &unknown));
    assert_snapshot!("restore-too-early", seen(&bench, &before));
    assert_eq!(broken.status.code(), Some(2));
    assert_eq!(bench.config(), SHOP);
}

#[test]
fn restore_of_a_folder_brings_back_each_file_and_removes_the_others() {
    let bench = Bench::new();
    let conf = bench.path("conf");
    fs::create_dir(&conf).unwrap();
    let kept = |name: &str, text: &str| Kept { path: conf.join(name), text: text.into() };
    let (head, routes) = SHOP.split_at(SHOP.find("services").unwrap());
    let mut record = Record {
        generation: Generation(1),
        at: "2026-11-17T12:00:00Z".parse().unwrap(),
        reason: Reason::Start,
        source: conf.clone(),
        sha256: String::new(),
        references: String::new(),
        files: vec![kept("a.yaml", head), kept("b.yaml", routes)],
    };
    record.sha256 = files::digest(&record.source, &record.sources());
    History::open(&bench.path("state")).unwrap().keep(&record).unwrap();
    fs::write(conf.join("b.yaml"), "changed: true").unwrap();
    fs::write(conf.join("c.yaml"), "new: true").unwrap();
    fs::write(conf.join("notes.txt"), "mine").unwrap();

    let output = bench.run(&["restore", "1", "--config", "conf", "--state", "state"]);

    assert!(output.status.success(), "{}", stderr(&output));
    let read = |name: &str| fs::read_to_string(conf.join(name)).ok();
    assert_eq!((read("a.yaml").as_deref(), read("b.yaml").as_deref()), (Some(head), Some(routes)));
    assert_eq!((read("c.yaml"), read("notes.txt").as_deref()), (None, Some("mine")));
}

#[test]
fn reload_tells_what_came_of_it() {
    let bench = Bench::new();
    bench.write(&bench.answering("one"));
    let _gateway = bench.gateway(0);

    let unchanged = bench.kept(&["reload"]);
    bench.write("version: 1\nroutes: 7\n");
    let refused = bench.kept(&["reload"]);
    let elsewhere = bench.run(&["reload", "--admin", "127.0.0.1:1"]);

    assert_eq!(stdout(&unchanged), "unchanged: generation 1 is in force\n");
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("generation 1 stays in force"), "{}", stderr(&refused));
    assert_eq!(elsewhere.status.code(), Some(1));
    assert!(stderr(&elsewhere).contains("no gateway answered"), "{}", stderr(&elsewhere));
}

#[test]
fn bans_are_listed_added_and_removed_and_outlive_a_killed_gateway() {
    let bench = Bench::new();
    bench.write(&bench.answering("hello"));
    let gateway = bench.gateway(0);
    let bans = |args: &[&str]| bench.run(&[&["bans"], args, &["--admin", bench.admin.as_str()]].concat());

    let none = bans(&[]);
    let added = bans(&["add", "203.0.113.9/24", "2001:db8::/64", "--for", "2h", "--reason", "scraper"]);
    let refused = bans(&["add", "nobody"]);
    let held = bans(&["203.0.113.200", "--json"]);
    let mistaken = bans(&["remove", "203.0.113.200"]);
    let removed = bans(&["remove", "2001:db8::/64"]);
    let kept = || fs::read_to_string(bench.path("state/bans")).is_ok_and(|text| text.contains("free 2001:db8::/64"));
    bench.eventually("the journal holds the last change", kept);
    drop(gateway); // Killed, not stopped.
    let _again = bench.gateway(0);
    let listed = stdout(&bans(&[]));

    assert_eq!(stdout(&none), "nobody is banned\n");
    assert_eq!(stdout(&added), "ok: 203.0.113.0/24 is banned for 2h\nok: 2001:db8::/64 is banned for 2h\n");
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    let held: serde_json::Value = serde_json::from_slice(&held.stdout).unwrap();
    assert_eq!((held["bans"].as_array().unwrap().len(), &held["bans"][0]["reason"]), (1, &"scraper".into()));
    assert_eq!(mistaken.status.code(), Some(1));
    assert!(stderr(&mistaken).contains("203.0.113.0/24"), "{}", stderr(&mistaken));
    assert_eq!(stdout(&removed), "ok: 2001:db8::/64 is free\n");
    assert!(listed.contains("203.0.113.0/24") && listed.contains("1h59m"), "{listed}");
    assert!(!listed.contains("2001:db8") && !listed.contains('\x1b'), "{listed}");
}

#[test]
fn restore_with_a_gateway_comes_into_force_as_a_new_generation() {
    let bench = Bench::new();
    bench.write(&bench.answering("one"));
    let _gateway = bench.gateway(0);
    bench.write(&bench.answering("two"));
    bench.eventually("generation 2 is kept", || stdout(&bench.kept(&["history"])).contains("\n         2 "));

    let restored = bench.kept(&["restore", "1"]);

    assert!(restored.status.success(), "{}", stderr(&restored));
    assert!(stdout(&restored).ends_with("generation 3 is in force, with that text\n"), "{}", stdout(&restored));
    assert_eq!(bench.config(), bench.answering("one"));
}

#[test]
fn gateway_killed_between_changes_starts_from_its_last_good_generation_and_counts_on() {
    let bench = Bench::new();
    bench.write(&bench.answering("0"));
    let gateway = bench.gateway(0);
    for nth in 1..=20 {
        bench.write(&bench.answering(&nth.to_string()));
        assert!(bench.kept(&["reload"]).status.success());
    }
    drop(gateway); // By SIGKILL.
    bench.write("broken: [\n");

    let _gateway = bench.gateway(2);

    let log = fs::read_to_string(bench.path("log")).unwrap();
    assert!(log.contains("configuration refused") && log.contains("last good generation"), "{log}");
    bench.write(&bench.answering("mended"));
    bench.eventually("generation 22 is in force", || {
        stdout(&bench.kept(&["reload"])).contains("generation 22 is in force")
    });
}

#[test]
fn second_gateway_on_one_history_is_refused() {
    let bench = Bench::new();
    bench.write(&bench.answering("one"));
    let _gateway = bench.gateway(0);

    let second = bench.run(&["gateway", "--config", "edge.yaml", "--state", "state"]);

    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("another gateway keeps its generations in"), "{}", stderr(&second));
}
