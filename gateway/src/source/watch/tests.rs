use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// Far beyond any settling time, and the polls of these tests never fall due before it.
const PATIENCE: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_secs(3_600);

/// A folder with `edge.yaml` in it, its links resolved so that events name the same paths.
fn folder() -> (TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().canonicalize().unwrap();
    fs::write(path.join("edge.yaml"), "one").unwrap();
    (temp, path)
}

async fn reported(watch: &mut Watch) {
    timeout(PATIENCE, watch.changed()).await.expect("the change is reported");
}

/// Nothing is reported for twice the longest settling time after `before`. The one kind of test that must wait: a
/// report that comes later still would be missed, one that comes is never excused.
async fn only_reports(watch: &mut Watch, before: impl FnOnce()) {
    before();
    let quiet = timeout(SETTLE_MAX * 2, watch.changed()).await;
    assert!(quiet.is_err(), "something was reported that isn't a change");
}

#[tokio::test]
async fn write_in_place_is_reported() {
    let (_temp, path) = folder();
    let mut watch = Watch::with(&path.join("edge.yaml"), NEVER, true);

    fs::write(path.join("edge.yaml"), "two").unwrap();

    reported(&mut watch).await;
}

#[tokio::test]
async fn rename_over_the_file_is_reported_each_time() {
    let (_temp, path) = folder();
    let mut watch = Watch::with(&path.join("edge.yaml"), NEVER, true);

    for text in ["two", "three", "four"] {
        fs::write(path.join("4913"), text).unwrap();
        fs::rename(path.join("4913"), path.join("edge.yaml")).unwrap();

        reported(&mut watch).await;
    }
}

#[tokio::test]
async fn deletion_and_return_are_both_reported() {
    let (_temp, path) = folder();
    let mut watch = Watch::with(&path.join("edge.yaml"), NEVER, true);

    fs::remove_file(path.join("edge.yaml")).unwrap();
    reported(&mut watch).await;

    fs::write(path.join("edge.yaml"), "two").unwrap();
    reported(&mut watch).await;
}

#[tokio::test]
async fn file_that_does_not_exist_yet_is_reported_when_it_arrives() {
    let (_temp, path) = folder();
    let mut watch = Watch::with(&path.join("later.yaml"), NEVER, true);

    fs::write(path.join("later.yaml"), "one").unwrap();

    reported(&mut watch).await;
}

#[tokio::test]
async fn link_swapped_above_the_file_is_reported_as_kubernetes_does_it() {
    let (_temp, path) = folder();
    for (revision, text) in [("..2026_1", "one"), ("..2026_2", "two"), ("..2026_3", "three")] {
        fs::create_dir(path.join(revision)).unwrap();
        fs::write(path.join(revision).join("shop.yaml"), text).unwrap();
    }
    symlink("..2026_1", path.join("..data")).unwrap();
    symlink("..data/shop.yaml", path.join("shop.yaml")).unwrap();
    let mut of_file = Watch::with(&path.join("shop.yaml"), NEVER, true);
    let mut of_folder = Watch::with(&path, NEVER, true);

    for revision in ["..2026_2", "..2026_3"] {
        symlink(revision, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();

        reported(&mut of_file).await;
        reported(&mut of_folder).await;
    }
}

#[tokio::test]
async fn change_behind_a_link_to_another_folder_is_reported() {
    let (_temp, path) = folder();
    let (_elsewhere, target) = folder();
    symlink(target.join("edge.yaml"), path.join("linked.yaml")).unwrap();
    let mut watch = Watch::with(&path.join("linked.yaml"), NEVER, true);

    fs::write(target.join("edge.yaml"), "two").unwrap();

    reported(&mut watch).await;
}

#[tokio::test]
async fn file_added_to_and_removed_from_a_folder_is_reported() {
    let (_temp, path) = folder();
    let mut watch = Watch::with(&path, NEVER, true);

    fs::write(path.join("more.yaml"), "one").unwrap();
    reported(&mut watch).await;

    fs::remove_file(path.join("more.yaml")).unwrap();
    reported(&mut watch).await;
}

#[tokio::test]
async fn folder_replaced_by_another_is_followed() {
    let (_temp, path) = folder();
    fs::create_dir(path.join("conf")).unwrap();
    fs::write(path.join("conf/a.yaml"), "one").unwrap();
    let mut watch = Watch::with(&path.join("conf"), NEVER, true);

    fs::create_dir(path.join("next")).unwrap();
    fs::write(path.join("next/a.yaml"), "two").unwrap();
    fs::rename(path.join("conf"), path.join("old")).unwrap();
    fs::rename(path.join("next"), path.join("conf")).unwrap();
    reported(&mut watch).await;

    fs::write(path.join("conf/a.yaml"), "three").unwrap();
    reported(&mut watch).await;
}

#[tokio::test]
async fn referenced_file_is_reported_only_while_it_is_referenced() {
    let (_temp, path) = folder();
    let (_certs, certs) = folder();
    let mut watch = Watch::with(&path.join("edge.yaml"), NEVER, true);

    assert!(watch.refer_to(vec![certs.join("shop.crt")]));
    fs::write(certs.join("shop.crt"), "pem").unwrap();
    reported(&mut watch).await;

    assert!(watch.refer_to(Vec::new()));
    only_reports(&mut watch, || fs::write(certs.join("shop.crt"), "other").unwrap()).await;
}

#[tokio::test]
async fn reading_and_neighbours_are_not_changes() {
    let (_temp, path) = folder();
    let mut watch = Watch::with(&path.join("edge.yaml"), NEVER, true);

    only_reports(&mut watch, || {
        fs::read(path.join("edge.yaml")).unwrap();
        fs::write(path.join(".edge.yaml.swp"), "x").unwrap();
        fs::write(path.join("access.log"), "x").unwrap();
    })
    .await;
}

#[tokio::test]
async fn burst_is_one_report() {
    let (_temp, path) = folder();
    let mut watch = Watch::with(&path.join("edge.yaml"), NEVER, true);

    for nth in 0..100 {
        fs::write(path.join("edge.yaml"), format!("{nth}")).unwrap();
    }

    reported(&mut watch).await;
    only_reports(&mut watch, || ()).await;
}

#[tokio::test]
async fn report_that_nobody_waited_for_is_not_lost() {
    let (_temp, path) = folder();
    let mut watch = Watch::with(&path.join("edge.yaml"), NEVER, true);
    fs::write(path.join("edge.yaml"), "two").unwrap();

    let cut_short = timeout(SETTLE / 5, watch.changed()).await;

    assert!(cut_short.is_err());
    reported(&mut watch).await;
}

#[tokio::test]
async fn change_is_found_by_polling_where_the_kernel_says_nothing() {
    let (_temp, path) = folder();
    let mut watch = Watch::with(&path, Duration::from_millis(20), false);

    fs::write(path.join("edge.yaml"), "longer than before").unwrap();
    reported(&mut watch).await;

    fs::write(path.join("more.yaml"), "one").unwrap();
    reported(&mut watch).await;

    only_reports(&mut watch, || ()).await;
}
