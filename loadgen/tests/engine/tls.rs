//! TLS: a certificate that isn't trusted is told from a handshake that fails, and one that is trusted works.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::NamedTempFile;
use tidegate_loadgen::{Failure, StartError};
use tidegate_model::scenario::Plan;
use tidegate_model::scenario::plan::Origin;

use crate::kit::{OK, adds_up, failures, plan, rate, run, server};

/// A target with a certificate for `name` that it made itself, and a file of that certificate.
fn target(name: &str) -> (SocketAddr, NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(made.cert.pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    let (address, _) = server(move |stream| serve(stream, Arc::clone(&config)));
    (address, file)
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>) {
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
    let mut head = Vec::new();
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte) {
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(OK).is_err() {
                return;
            }
        }
    }
}

fn against(address: SocketAddr, host: &str) -> Plan {
    let origin = Origin { tls: true, host: host.to_owned(), port: address.port() };
    let mut plan = plan(origin, rate(100.0, 0.2));
    plan.client.resolve.insert(host.to_owned(), address.ip());
    plan
}

#[test]
fn a_certificate_of_a_ca_that_the_plan_names_is_trusted() {
    let (address, file) = target("shop.test");
    let mut plan = against(address, "shop.test");
    plan.client.ca = Some(file.path().to_owned());

    let outcome = run(&plan);

    adds_up(&outcome);
    assert_eq!(outcome.all.good, 20, "{:?}", outcome.all);
}

#[test]
fn an_unknown_certificate_and_one_for_another_name_are_not_trusted() {
    let (address, file) = target("shop.test");
    let unknown = against(address, "shop.test");
    let mut other = against(address, "bank.test");
    other.client.ca = Some(file.path().to_owned());

    for plan in [unknown, other] {
        let outcome = run(&plan);

        adds_up(&outcome);
        assert_eq!(failures(&outcome), [(Failure::Certificate, 20)], "{:?}", outcome.all.examples);
    }
}

#[test]
fn an_insecure_plan_believes_any_certificate() {
    let (address, _) = target("shop.test");
    let mut plan = against(address, "bank.test");
    plan.client.insecure = true;

    let outcome = run(&plan);

    adds_up(&outcome);
    assert_eq!(outcome.all.good, 20, "{:?}", outcome.all);
}

#[test]
fn a_ca_file_that_is_not_there_is_told_before_the_start() {
    let mut plan = against("127.0.0.1:1".parse().unwrap(), "shop.test");
    plan.client.ca = Some("/nonexistent/ca.pem".into());

    let refused = tidegate_loadgen::run(&plan, &Default::default(), &mut |_| ());

    assert!(matches!(refused, Err(StartError::Ca { .. })), "{refused:?}");
}
