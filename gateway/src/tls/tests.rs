use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, date_time_ymd};
use tidegate_model::desired::{CertificateFiles, CertificateSource, ListenerTls};

use super::*;

fn write(folder: &Path, stem: &str, params: CertificateParams, key: &KeyPair) -> CertificateFiles {
    let cert = params.self_signed(key).unwrap();
    let files = CertificateFiles {
        cert: folder.join(format!("{stem}.crt")),
        key: folder.join(format!("{stem}.key")),
        ocsp: None,
    };
    fs::write(&files.cert, cert.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

fn made(folder: &Path, stem: &str, names: &[&str]) -> CertificateFiles {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    write(folder, stem, CertificateParams::new(names).unwrap(), &KeyPair::generate().unwrap())
}

fn load(certificates: Vec<CertificateFiles>) -> Result<CertTable, Vec<TlsProblem>> {
    let certificates = certificates.into_iter().map(CertificateSource::Files).collect();
    CertTable::load(&ListenerTls { certificates, only_tls13: false, clients: Vec::new() }, &Slots::default())
}

fn all(table: &CertTable, name: &str) -> Vec<usize> {
    table.candidates(Some(name)).collect()
}

fn text(problems: &[TlsProblem], folder: &Path) -> String {
    let lines: Vec<_> = problems.iter().map(|p| p.to_string().replace(&format!("{}/", folder.display()), "")).collect();
    lines.join("\n")
}

#[test]
fn every_problem_is_reported_at_once_and_says_what_to_try() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (one, two) = (made(at, "one", &["one.test"]), made(at, "two", &["two.test"]));
    let gone = CertificateFiles { cert: at.join("gone.crt"), key: at.join("gone.key"), ocsp: None };
    let swapped = CertificateFiles { cert: one.key.clone(), key: one.cert.clone(), ocsp: None };
    let mixed = CertificateFiles { cert: one.cert.clone(), key: two.key.clone(), ocsp: None };
    fs::write(at.join("torn.crt"), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    fs::write(at.join("noise.crt"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let torn = CertificateFiles { cert: at.join("torn.crt"), key: two.key.clone(), ocsp: None };
    let noise = CertificateFiles { cert: at.join("noise.crt"), key: two.key.clone(), ocsp: None };

    let problems = load(vec![one, gone, swapped, mixed, torn, noise, two]).unwrap_err();

    insta::assert_snapshot!(text(&problems, at), @"
    gone.crt: it can't be read: No such file or directory (os error 2) (check the path; it is relative to the configuration file)
    gone.key: it can't be read: No such file or directory (os error 2) (check the path; it is relative to the configuration file)
    one.key: it holds no certificate (it holds a private key: are cert and key swapped?)
    one.crt: it holds no private key (it holds a certificate: are cert and key swapped?)
    two.key: the key does not belong to the certificate one.crt (put the leaf certificate first in the chain, and name the key that it was made with)
    torn.crt: the file is cut off: a section has no end (write the file again, as PEM)
    noise.crt: the first certificate is no X.509 certificate (`openssl x509 -in FILE -text` shows one)
    ");
}

#[test]
fn a_certificate_out_of_date_is_served_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut old = CertificateParams::new(vec!["old.test".to_owned()]).unwrap();
    (old.not_before, old.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 2, 3));
    let mut early = CertificateParams::new(vec!["early.test".to_owned()]).unwrap();
    (early.not_before, early.not_after) = (date_time_ymd(3001, 1, 1), date_time_ymd(3002, 1, 1));
    let files = vec![write(folder.path(), "old", old, &key), write(folder.path(), "early", early, &key)];

    let table = load(files).unwrap();

    insta::assert_snapshot!(text(table.warnings(), folder.path()), @"
    old.crt: the certificate expired on Feb  3 00:00:00 2002 +00:00 (it is served all the same; renew it)
    early.crt: the certificate is valid only from Jan  1 00:00:00 3001 +00:00 (it is served all the same; check this machine's clock)
    ");
    assert_eq!((all(&table, "old.test"), all(&table, "early.test")), (vec![0], vec![1]));
}

#[test]
fn a_name_finds_its_exact_certificate_then_a_wildcard_then_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let table = load(vec![
        made(at, "first", &["first.test"]),
        made(at, "wild", &["*.shop.test"]),
        made(at, "exact", &["www.shop.test", "Shop.Test"]),
    ])
    .unwrap();

    let found = |name| table.candidates(name).next().unwrap();

    assert_eq!(found(Some("www.shop.test")), 2);
    assert_eq!(found(Some("shop.test")), 2);
    assert_eq!(found(Some("API.shop.test")), 1);
    assert_eq!(found(Some("a.b.shop.test")), 0);
    assert_eq!(found(Some("elsewhere.test")), 0);
    assert_eq!(found(None), 0);
}

#[test]
fn a_name_may_have_two_certificates_with_different_keys() {
    let folder = tempfile::tempdir().unwrap();
    let params = || CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();

    let table =
        load(vec![write(folder.path(), "256", params(), &p256), write(folder.path(), "384", params(), &p384)]).unwrap();

    assert_eq!(all(&table, "a.test"), [0, 1]);
}

#[test]
fn a_certificate_without_alternative_names_is_found_by_its_common_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Old.Test");
    let files = write(folder.path(), "cn", params, &KeyPair::generate().unwrap());

    let table = load(vec![made(folder.path(), "first", &["first.test"]), files]).unwrap();

    assert_eq!(all(&table, "old.test"), [1]);
}
