use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

use tempfile::TempDir;

use super::*;
use crate::source::history::Archive;

/// A folder with a configuration and a state folder, and what was applied.
struct Bench {
    temp: TempDir,
    applied: Rc<RefCell<Vec<u64>>>,
    refuse: Rc<RefCell<bool>>,
}

impl Bench {
    fn with(text: &str) -> Self {
        let bench =
            Self { temp: tempfile::tempdir().unwrap(), applied: Rc::default(), refuse: Rc::new(RefCell::new(false)) };
        bench.write(text);
        bench
    }

    fn write(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.temp.path().join("edge.yaml")
    }

    fn open(&self) -> Source {
        Source::open(&self.config(), Some(&self.temp.path().join("state")), Metrics::new()).unwrap()
    }

    fn apply(&self) -> impl Apply + use<> {
        let (applied, refuse) = (Rc::clone(&self.applied), Rc::clone(&self.refuse));
        move |desired: Arc<Desired>, _: &_| {
            if *refuse.borrow() {
                return Err(vec![Diagnostic::error("port-in-use", "port 80 is in use")]);
            }
            applied.borrow_mut().push(desired.generation.0);
            Ok(())
        }
    }

    /// Generations on disk with their reasons, oldest first.
    fn kept(&self) -> Vec<(u64, Reason)> {
        let archive = Archive::at(self.temp.path().join("state"));
        let mut kept: Vec<_> =
            archive.newest_first().unwrap().map(|record| (record.generation.0, record.reason)).collect();
        kept.reverse();
        kept
    }
}

fn answering(text: &str) -> String {
    format!(
        "version: 1\nlisteners: {{web: {{bind: \"127.0.0.1:8080\"}}}}\n\
         routes:\n  - {{name: all, match: {{path: /**}}, answer: {{status: 200, body: \"{text}\"}}}}\n"
    )
}

#[test]
fn changed_text_is_applied_and_kept_under_the_next_number() {
    let bench = Bench::with(&answering("one"));
    let (mut source, mut apply) = (bench.open(), bench.apply());
    source.first(&mut apply).unwrap();

    bench.write(&answering("two"));
    let outcome = source.reload(Reason::File, &mut apply);

    assert_eq!((outcome.result, outcome.generation), (Verdict::Published, Generation(2)));
    assert_eq!(*bench.applied.borrow(), [1, 2]);
    assert_eq!(bench.kept(), [(1, Reason::Start), (2, Reason::File)]);
}

#[test]
fn unchanged_text_is_no_new_generation_even_when_asked_for() {
    let bench = Bench::with(&answering("one"));
    let (mut source, mut apply) = (bench.open(), bench.apply());
    source.first(&mut apply).unwrap();

    let outcome = source.reload(Reason::Command, &mut apply);

    assert_eq!((outcome.result, outcome.generation), (Verdict::Unchanged, Generation(1)));
    assert_eq!(*bench.applied.borrow(), [1]);
}

#[test]
fn refused_change_leaves_everything_as_it_was_and_uses_no_number() {
    let bench = Bench::with(&answering("one"));
    let (mut source, mut apply) = (bench.open(), bench.apply());
    source.first(&mut apply).unwrap();
    *bench.refuse.borrow_mut() = true;
    bench.write(&answering("two"));

    let refused = source.reload(Reason::File, &mut apply);
    let note = source.status().note();
    *bench.refuse.borrow_mut() = false;
    let accepted = source.reload(Reason::Command, &mut apply);

    assert_eq!((refused.result, refused.generation), (Verdict::Refused, Generation(1)));
    assert!(refused.diagnostics.contains("port 80 is in use"), "{}", refused.diagnostics);
    assert!(refused.diagnostics.contains("generation 1 stays in force"), "{}", refused.diagnostics);
    assert_eq!(note.as_deref(), Some("serving generation 1; the configuration on disk is refused (1 error)"));
    assert_eq!((accepted.result, accepted.generation), (Verdict::Published, Generation(2)));
    assert_eq!(source.status().note(), None);
    assert_eq!(bench.kept(), [(1, Reason::Start), (2, Reason::Command)]);
}

#[test]
fn going_back_to_the_text_in_force_ends_a_refusal_without_a_generation() {
    let bench = Bench::with(&answering("one"));
    let (mut source, mut apply) = (bench.open(), bench.apply());
    source.first(&mut apply).unwrap();
    fs::write(bench.config(), b"\xff").unwrap();
    assert_eq!(source.reload(Reason::File, &mut apply).result, Verdict::Refused);

    bench.write(&answering("one"));
    let outcome = source.reload(Reason::File, &mut apply);

    assert_eq!((outcome.result, outcome.generation), (Verdict::Unchanged, Generation(1)));
    assert_eq!(source.status().note(), None);
}

#[test]
fn restart_with_the_same_text_keeps_its_number_and_another_text_takes_the_next() {
    let bench = Bench::with(&answering("one"));
    let mut apply = bench.apply();
    bench.open().first(&mut apply).unwrap();

    let same = bench.open().first(&mut apply).unwrap().desired.generation;
    bench.write(&answering("two"));
    let other = bench.open().first(&mut apply).unwrap().desired.generation;

    assert_eq!((same, other), (Generation(1), Generation(2)));
}

#[test]
fn broken_file_at_start_is_replaced_by_the_newest_generation_that_can_be_applied() {
    let bench = Bench::with(&answering("one"));
    let mut apply = bench.apply();
    bench.open().first(&mut apply).unwrap();
    fs::remove_file(bench.config()).unwrap();

    let mut source = bench.open();
    let first = source.first(&mut apply).unwrap();

    assert_eq!(first.desired.generation, Generation(1));
    assert_eq!(first.fallback.unwrap()[0].code, "missing-file");
    assert!(source.status().note().unwrap().contains("refused"));

    bench.write(&answering("two"));
    let mended = source.reload(Reason::File, &mut apply);

    assert_eq!((mended.result, mended.generation), (Verdict::Published, Generation(2)));
}

#[test]
fn broken_file_without_history_refuses_to_start() {
    let bench = Bench::with(&answering("one"));
    fs::remove_file(bench.config()).unwrap();

    let problems = bench.open().first(&mut bench.apply()).unwrap_err();

    assert_eq!(problems[0].code, "missing-file");
}

#[test]
fn gateway_serves_where_its_history_cannot_be_written() {
    let bench = Bench::with(&answering("one"));
    let (mut source, mut apply) = (bench.open(), bench.apply());
    source.first(&mut apply).unwrap();
    fs::remove_dir_all(bench.temp.path().join("state")).unwrap();

    bench.write(&answering("two"));
    let outcome = source.reload(Reason::File, &mut apply);

    assert_eq!((outcome.result, outcome.generation), (Verdict::Published, Generation(2)));
    assert!(source.status().note().unwrap().contains("not kept"), "{:?}", source.status().note());
}

#[test]
fn state_folder_that_cannot_exist_is_no_reason_not_to_serve() {
    let bench = Bench::with(&answering("one"));
    let state = bench.config().join("below-a-file");

    let mut source = Source::open(&bench.config(), Some(&state), Metrics::new()).unwrap();
    let first = source.first(&mut bench.apply()).unwrap();

    assert_eq!(first.desired.generation, Generation(1));
    assert!(source.status().note().is_some());
}

#[test]
fn panic_while_applying_is_a_refusal() {
    let bench = Bench::with(&answering("one"));
    let mut source = bench.open();
    source.first(&mut bench.apply()).unwrap();
    bench.write(&answering("two"));

    let outcome = source.reload(Reason::File, &mut |_: Arc<Desired>, _: &_| panic!("a bug, in a test"));

    assert_eq!((outcome.result, outcome.generation), (Verdict::Refused, Generation(1)));
    assert_eq!(source.reload(Reason::Command, &mut bench.apply()).result, Verdict::Published);
}

#[test]
fn loop_applies_a_change_on_disk_answers_requests_and_ends_with_its_senders() {
    let bench = Bench::with(&answering("one"));
    let mut source = bench.open();
    source.first(&mut bench.apply()).unwrap();
    let (applied, seen) = std::sync::mpsc::channel();
    let (requests, inbox) = mpsc::channel(1);
    let looped = std::thread::spawn(move || {
        let apply = move |desired: Arc<Desired>, _: &_| {
            applied.send(desired.generation).unwrap();
            Ok(())
        };
        source.run(apply, inbox)
    });

    bench.write(&answering("two"));
    let published = seen.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    let (reply, answer) = tokio::sync::oneshot::channel();
    requests.blocking_send(ReloadRequest { reason: Reason::Command, reply }).unwrap();
    let outcome = answer.blocking_recv().unwrap();
    drop(requests);

    assert_eq!(published, Generation(2));
    assert_eq!((outcome.result, outcome.generation), (Verdict::Unchanged, Generation(2)));
    looped.join().unwrap().unwrap();
}

#[test]
fn replaced_certificate_is_applied_under_a_number_of_its_own() {
    let tls = "version: 1\nlisteners: {web: {bind: \"127.0.0.1:8443\", certificates: [{cert: a.crt, key: a.key}]}}\n\
               routes: [{name: all, match: {path: /**}, answer: {status: 200}}]\n";
    let bench = Bench::with(tls);
    let certificate = bench.temp.path().join("a.crt");
    fs::write(&certificate, "one").unwrap();
    let (mut source, mut apply) = (bench.open(), bench.apply());
    source.first(&mut apply).unwrap();

    fs::write(&certificate, "two").unwrap();
    let replaced = source.reload(Reason::File, &mut apply);
    let again = source.reload(Reason::File, &mut apply);

    assert_eq!(source.references(), [certificate, bench.temp.path().join("a.key")]);
    assert_eq!((replaced.result, replaced.generation), (Verdict::Published, Generation(2)));
    assert_eq!(again.result, Verdict::Unchanged);
    assert_eq!(bench.kept(), [(1, Reason::Start), (2, Reason::Certificates)]);
}

#[test]
fn refused_certificate_is_tried_again_as_soon_as_it_changes() {
    let tls = "version: 1\nlisteners: {web: {bind: \"127.0.0.1:8443\", certificates: [{cert: a.crt, key: a.key}]}}\n\
               routes: [{name: all, match: {path: /**}, answer: {status: 200}}]\n";
    let bench = Bench::with(&answering("one"));
    let (mut source, mut apply) = (bench.open(), bench.apply());
    source.first(&mut apply).unwrap();
    bench.write(tls);
    *bench.refuse.borrow_mut() = true;
    assert_eq!(source.reload(Reason::File, &mut apply).result, Verdict::Refused);
    *bench.refuse.borrow_mut() = false;

    let untouched = source.reload(Reason::File, &mut apply);
    fs::write(bench.temp.path().join("a.crt"), "pem").unwrap();
    let arrived = source.reload(Reason::File, &mut apply);

    assert_eq!(untouched.result, Verdict::Refused);
    assert_eq!((arrived.result, arrived.generation), (Verdict::Published, Generation(2)));
}
